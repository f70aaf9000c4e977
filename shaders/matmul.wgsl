// Matrix products.  y[i] = op(a[i]) op(b[i]) + bias: op(a) is [m, k], op(b) is [k, n], y is [products, m, n], bias is
// [n], op an optional transposition. Sums are f32 whatever the dtype.
//
// The ladder, slowest first; docs/wgpu.md has its times:
//
//   matmul_naive                   one thread a result, 2 loads a multiply-add                     (read this first)
//   matmul_workgroup_tile          16 x 16 tiles in workgroup memory: 16 times fewer loads from buffers, but 2 barriers
//   matmul_register_tile           8 x 8 sums a thread, operands by vec4: 1 load of 4 numbers for 16 multiply-adds
//   matmul_register_tile_strided   the same for sizes that are no multiple of 4: one number a load
//   matmul_subgroup_tile           matmul_subgroup.wgsl: 8 threads share what they load
//   matmul_split_sum               adds the parts of a split k, in order
//
// A register tile reads its operands straight from the buffers, without workgroup memory: neighbouring threads read the
// same rows of a and columns of b, which a GPU's first-level cache hands out, and a CPU's does at no cost, where a
// barrier would make it save and restore every thread's sums.

alias Storage = f32;

// Which of the two axes of an operand is contiguous.
override A_BY_K: bool = true;
override B_BY_K: bool = false;
override WORKGROUP: u32 = 64;

const TILE: u32 = 16;  // of matmul_workgroup_tile

// Element (mn, k) of an operand of product i is x[i * product + mn * mn_stride + k * k_stride].
struct Params {
    m: u32,
    n: u32,
    k: u32,
    products: u32,
    splits: u32,   // parts of k, each with results of its own in `partials`
    split_k: u32,  // terms of a part, a multiple of 4
    tiles_m: u32,
    tiles_n: u32,
    a_product: u32,
    a_m: u32,
    a_k: u32,
    b_product: u32,
    b_n: u32,
    b_k: u32,
    has_bias: u32,
}

// Each buffer twice, as numbers and as vectors of 4; an entry point uses one of the two.
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<Storage>;
@group(0) @binding(1) var<storage, read> a4: array<vec4<Storage>>;
@group(0) @binding(2) var<storage, read> b: array<Storage>;
@group(0) @binding(2) var<storage, read> b4: array<vec4<Storage>>;
@group(0) @binding(3) var<storage, read> bias: array<Storage>;
@group(0) @binding(3) var<storage, read> bias4: array<vec4<Storage>>;
@group(0) @binding(4) var<storage, read_write> y: array<Storage>;
@group(0) @binding(4) var<storage, read_write> y4: array<vec4<Storage>>;
@group(0) @binding(5) var<storage, read_write> partials: array<f32>;  // [splits, products, m, n]
@group(0) @binding(5) var<storage, read_write> partials4: array<vec4<f32>>;

// What a tile computes: `rows` x `columns` results from (m, n) of a product, over the terms [k_begin, k_end).
struct Tile {
    m: u32,
    n: u32,
    k_begin: u32,
    k_end: u32,
    split: u32,
    product: u32,
}

// Tile number `index`, columns fastest; its product is `params.products` or more beyond the last one.
fn tile_of(index: u32, rows: u32, columns: u32) -> Tile {
    let row = index / params.tiles_n;
    let part = row / params.tiles_m;
    let product = part / params.splits;
    let split = part - product * params.splits;
    let k_begin = split * params.split_k;
    return Tile(
        (row - part * params.tiles_m) * rows,
        (index - row * params.tiles_n) * columns,
        k_begin,
        min(params.k, k_begin + params.split_k),
        split,
        product,
    );
}

fn group_index(group: vec3<u32>, groups: vec3<u32>) -> u32 {
    return group.y * groups.x + group.x;
}

// Writes one result; no split.
fn write(tile: Tile, row: u32, column: u32, sum: f32) {
    var result = sum;
    if (params.has_bias != 0u) {
        result += f32(bias[column]);
    }
    y[(tile.product * params.m + row) * params.n + column] = Storage(result);
}

@compute @workgroup_size(WORKGROUP)
fn matmul_naive(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                @builtin(local_invocation_index) local: u32) {
    let tile = tile_of(group_index(group, groups) * WORKGROUP + local, 1u, 1u);
    if (tile.product >= params.products) {
        return;
    }
    let row = tile.product * params.a_product + tile.m * params.a_m;
    let column = tile.product * params.b_product + tile.n * params.b_n;
    var sum = 0.0;
    for (var k = 0u; k < params.k; k++) {
        sum += f32(a[row + k * params.a_k]) * f32(b[column + k * params.b_k]);
    }
    write(tile, tile.m, tile.n, sum);
}

var<workgroup> slice_a: array<array<f32, TILE>, TILE>;  // [m][k]
var<workgroup> slice_b: array<array<f32, TILE>, TILE>;  // [k][n]

@compute @workgroup_size(TILE, TILE)
fn matmul_workgroup_tile(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                         @builtin(local_invocation_id) local: vec3<u32>) {
    let tile = tile_of(group_index(group, groups), TILE, TILE);
    if (tile.product >= params.products) {
        return;
    }
    let row = tile.m + local.y;
    let column = tile.n + local.x;
    var sum = 0.0;
    for (var k = 0u; k < params.k; k += TILE) {
        var from_a = 0.0;
        var from_b = 0.0;
        if (row < params.m && k + local.x < params.k) {
            from_a = f32(a[tile.product * params.a_product + row * params.a_m + (k + local.x) * params.a_k]);
        }
        if (column < params.n && k + local.y < params.k) {
            from_b = f32(b[tile.product * params.b_product + column * params.b_n + (k + local.y) * params.b_k]);
        }
        slice_a[local.y][local.x] = from_a;
        slice_b[local.y][local.x] = from_b;
        workgroupBarrier();
        for (var i = 0u; i < TILE; i++) {
            sum += slice_a[local.y][i] * slice_b[i][local.x];
        }
        workgroupBarrier();
    }
    if (row < params.m && column < params.n) {
        write(tile, row, column, sum);
    }
}

// Where 4 rows of a (or columns of b) from `first` begin, in vectors: one position a row if k is contiguous, one a step
// of k if not. Rows beyond the last one are read as the last one, and their results are not written.
fn places(by_k: bool, start: u32, first: u32, extent: u32, mn_stride: u32, k_stride: u32) -> vec4<u32> {
    let steps = vec4<u32>(0u, 1u, 2u, 3u);
    let by_row = min(vec4<u32>(first) + steps, vec4<u32>(extent - 1u)) * mn_stride;
    let by_step = vec4<u32>(min(first, extent - min(extent, 4u))) + steps * k_stride;
    return (vec4<u32>(start) + select(by_step, by_row, by_k)) / 4u;
}

// 4 rows of a x 4 terms: column q holds term q of all rows.
fn block_of_a(at: vec4<u32>) -> mat4x4<f32> {
    let x = mat4x4<f32>(vec4<f32>(a4[at.x]), vec4<f32>(a4[at.y]), vec4<f32>(a4[at.z]), vec4<f32>(a4[at.w]));
    if (A_BY_K) {
        return transpose(x);
    }
    return x;
}

// 4 terms x 4 columns of b: column q holds term q of all columns.
fn block_of_b(at: vec4<u32>) -> mat4x4<f32> {
    let x = mat4x4<f32>(vec4<f32>(b4[at.x]), vec4<f32>(b4[at.y]), vec4<f32>(b4[at.z]), vec4<f32>(b4[at.w]));
    if (B_BY_K) {
        return transpose(x);
    }
    return x;
}

// c + a b, with c[i] row i of the result.
fn multiply_add(c: mat4x4<f32>, a: mat4x4<f32>, b: mat4x4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(
        c[0] + a[0].x * b[0] + a[1].x * b[1] + a[2].x * b[2] + a[3].x * b[3],
        c[1] + a[0].y * b[0] + a[1].y * b[1] + a[2].y * b[2] + a[3].y * b[3],
        c[2] + a[0].z * b[0] + a[1].z * b[1] + a[2].z * b[2] + a[3].z * b[3],
        c[3] + a[0].w * b[0] + a[1].w * b[1] + a[2].w * b[2] + a[3].w * b[3],
    );
}

// 4 neighbouring results, or those of this part of k.
fn write4(tile: Tile, row: u32, column: u32, sums: vec4<f32>) {
    if (row >= params.m || column >= params.n) {
        return;
    }
    if (params.splits > 1u) {
        let at = (tile.split * params.products + tile.product) * params.m + row;
        partials4[(at * params.n + column) / 4u] = sums;
        return;
    }
    var results = sums;
    if (params.has_bias != 0u) {
        results += vec4<f32>(bias4[column / 4u]);
    }
    y4[((tile.product * params.m + row) * params.n + column) / 4u] = vec4<Storage>(results);
}

fn write_block(tile: Tile, row: u32, column: u32, c: mat4x4<f32>) {
    write4(tile, row, column, c[0]);
    write4(tile, row + 1u, column, c[1]);
    write4(tile, row + 2u, column, c[2]);
    write4(tile, row + 3u, column, c[3]);
}

@compute @workgroup_size(WORKGROUP)
fn matmul_register_tile(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                        @builtin(local_invocation_index) local: u32) {
    let tile = tile_of(group_index(group, groups) * WORKGROUP + local, 8u, 8u);
    if (tile.product >= params.products) {
        return;
    }
    let start_a = tile.product * params.a_product + tile.k_begin * params.a_k;
    let start_b = tile.product * params.b_product + tile.k_begin * params.b_k;
    var at_a0 = places(A_BY_K, start_a, tile.m, params.m, params.a_m, params.a_k);
    var at_a1 = places(A_BY_K, start_a, tile.m + 4u, params.m, params.a_m, params.a_k);
    var at_b0 = places(B_BY_K, start_b, tile.n, params.n, params.b_n, params.b_k);
    var at_b1 = places(B_BY_K, start_b, tile.n + 4u, params.n, params.b_n, params.b_k);
    var c00 = mat4x4<f32>();
    var c01 = mat4x4<f32>();
    var c10 = mat4x4<f32>();
    var c11 = mat4x4<f32>();
    for (var k = tile.k_begin; k < tile.k_end; k += 4u) {
        let a0 = block_of_a(at_a0);
        let a1 = block_of_a(at_a1);
        let b0 = block_of_b(at_b0);
        let b1 = block_of_b(at_b1);
        c00 = multiply_add(c00, a0, b0);
        c01 = multiply_add(c01, a0, b1);
        c10 = multiply_add(c10, a1, b0);
        c11 = multiply_add(c11, a1, b1);
        at_a0 += vec4<u32>(params.a_k);  // 4 terms are a_k vectors
        at_a1 += vec4<u32>(params.a_k);
        at_b0 += vec4<u32>(params.b_k);
        at_b1 += vec4<u32>(params.b_k);
    }
    write_block(tile, tile.m, tile.n, c00);
    write_block(tile, tile.m, tile.n + 4u, c01);
    write_block(tile, tile.m + 4u, tile.n, c10);
    write_block(tile, tile.m + 4u, tile.n + 4u, c11);
}

// The same, number by number.
fn write1(tile: Tile, row: u32, column: u32, sum: f32) {
    if (row >= params.m || column >= params.n) {
        return;
    }
    if (params.splits > 1u) {
        let at = (tile.split * params.products + tile.product) * params.m + row;
        partials[at * params.n + column] = sum;
        return;
    }
    write(tile, row, column, sum);
}

fn write1_row(tile: Tile, row: u32, column: u32, sums: vec4<f32>) {
    write1(tile, row, column, sums.x);
    write1(tile, row, column + 1u, sums.y);
    write1(tile, row, column + 2u, sums.z);
    write1(tile, row, column + 3u, sums.w);
}

fn write1_block(tile: Tile, row: u32, column: u32, c: mat4x4<f32>) {
    write1_row(tile, row, column, c[0]);
    write1_row(tile, row + 1u, column, c[1]);
    write1_row(tile, row + 2u, column, c[2]);
    write1_row(tile, row + 3u, column, c[3]);
}

fn add_outer(c: mat4x4<f32>, a: vec4<f32>, b: vec4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(c[0] + a.x * b, c[1] + a.y * b, c[2] + a.z * b, c[3] + a.w * b);
}

// Positions of 4 rows from `first`; beyond the last one, the last one.
fn rows(start: u32, first: u32, extent: u32, stride: u32) -> vec4<u32> {
    let row = min(vec4<u32>(first) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(extent - 1u));
    return vec4<u32>(start) + row * stride;
}

fn numbers_of_a(at: vec4<u32>) -> vec4<f32> {
    return vec4<f32>(f32(a[at.x]), f32(a[at.y]), f32(a[at.z]), f32(a[at.w]));
}

fn numbers_of_b(at: vec4<u32>) -> vec4<f32> {
    return vec4<f32>(f32(b[at.x]), f32(b[at.y]), f32(b[at.z]), f32(b[at.w]));
}

@compute @workgroup_size(WORKGROUP)
fn matmul_register_tile_strided(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                                @builtin(local_invocation_index) local: u32) {
    let tile = tile_of(group_index(group, groups) * WORKGROUP + local, 8u, 8u);
    if (tile.product >= params.products) {
        return;
    }
    let start_a = tile.product * params.a_product + tile.k_begin * params.a_k;
    let start_b = tile.product * params.b_product + tile.k_begin * params.b_k;
    var at_a0 = rows(start_a, tile.m, params.m, params.a_m);
    var at_a1 = rows(start_a, tile.m + 4u, params.m, params.a_m);
    var at_b0 = rows(start_b, tile.n, params.n, params.b_n);
    var at_b1 = rows(start_b, tile.n + 4u, params.n, params.b_n);
    var c00 = mat4x4<f32>();
    var c01 = mat4x4<f32>();
    var c10 = mat4x4<f32>();
    var c11 = mat4x4<f32>();
    for (var k = tile.k_begin; k < tile.k_end; k++) {
        let a0 = numbers_of_a(at_a0);
        let a1 = numbers_of_a(at_a1);
        let b0 = numbers_of_b(at_b0);
        let b1 = numbers_of_b(at_b1);
        c00 = add_outer(c00, a0, b0);
        c01 = add_outer(c01, a0, b1);
        c10 = add_outer(c10, a1, b0);
        c11 = add_outer(c11, a1, b1);
        at_a0 += vec4<u32>(params.a_k);
        at_a1 += vec4<u32>(params.a_k);
        at_b0 += vec4<u32>(params.b_k);
        at_b1 += vec4<u32>(params.b_k);
    }
    write1_block(tile, tile.m, tile.n, c00);
    write1_block(tile, tile.m, tile.n + 4u, c01);
    write1_block(tile, tile.m + 4u, tile.n, c10);
    write1_block(tile, tile.m + 4u, tile.n + 4u, c11);
}

// One thread a result.
@compute @workgroup_size(WORKGROUP)
fn matmul_split_sum(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                    @builtin(local_invocation_index) local: u32) {
    let at = group_index(group, groups) * WORKGROUP + local;
    let results = params.products * params.m * params.n;
    if (at >= results) {
        return;
    }
    var sum = 0.0;
    for (var split = 0u; split < params.splits; split++) {
        sum += partials[split * results + at];
    }
    if (params.has_bias != 0u) {
        sum += f32(bias[at % params.n]);
    }
    y[at] = Storage(sum);
}
