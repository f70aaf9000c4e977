// Matrix products by subgroups of exactly 8 threads: the top rung of matmul.wgsl, which see for the shapes.
//
//   matmul_subgroup_tile   a subgroup makes 32 x 32 results, a thread 4 neighbouring columns of all 32 rows
//
// A thread loads 4 x 4 numbers of a and of b; the numbers of a then go round by subgroupBroadcast, which is a move
// between registers. So 8 threads load 256 numbers for 4096 multiply-adds, 16 a load, where a register tile of 8 x 8
// makes 4: on a CPU, whose vector unit runs the 8 threads, loads of 8 addresses are what costs.

alias Storage = f32;

override A_BY_K: bool = true;
override B_BY_K: bool = false;

struct Params {
    m: u32,
    n: u32,
    k: u32,
    products: u32,
    splits: u32,
    split_k: u32,
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

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<vec4<Storage>>;
@group(0) @binding(2) var<storage, read> b: array<vec4<Storage>>;
@group(0) @binding(3) var<storage, read> bias: array<vec4<Storage>>;
@group(0) @binding(4) var<storage, read_write> y: array<vec4<Storage>>;
@group(0) @binding(5) var<storage, read_write> partials: array<vec4<f32>>;

// `places`, `block_of_a`, `block_of_b`, `multiply_add`: as in matmul.wgsl.

fn places(by_k: bool, start: u32, first: u32, extent: u32, mn_stride: u32, k_stride: u32) -> vec4<u32> {
    let steps = vec4<u32>(0u, 1u, 2u, 3u);
    let by_row = min(vec4<u32>(first) + steps, vec4<u32>(extent - 1u)) * mn_stride;
    let by_step = vec4<u32>(min(first, extent - min(extent, 4u))) + steps * k_stride;
    return (vec4<u32>(start) + select(by_step, by_row, by_k)) / 4u;
}

fn block_of_a(at: vec4<u32>) -> mat4x4<f32> {
    let x = mat4x4<f32>(vec4<f32>(a[at.x]), vec4<f32>(a[at.y]), vec4<f32>(a[at.z]), vec4<f32>(a[at.w]));
    if (A_BY_K) {
        return transpose(x);
    }
    return x;
}

fn block_of_b(at: vec4<u32>) -> mat4x4<f32> {
    let x = mat4x4<f32>(vec4<f32>(b[at.x]), vec4<f32>(b[at.y]), vec4<f32>(b[at.z]), vec4<f32>(b[at.w]));
    if (B_BY_K) {
        return transpose(x);
    }
    return x;
}

fn multiply_add(c: mat4x4<f32>, a: mat4x4<f32>, b: mat4x4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(
        c[0] + a[0].x * b[0] + a[1].x * b[1] + a[2].x * b[2] + a[3].x * b[3],
        c[1] + a[0].y * b[0] + a[1].y * b[1] + a[2].y * b[2] + a[3].y * b[3],
        c[2] + a[0].z * b[0] + a[1].z * b[1] + a[2].z * b[2] + a[3].z * b[3],
        c[3] + a[0].w * b[0] + a[1].w * b[1] + a[2].w * b[2] + a[3].w * b[3],
    );
}

// The block of another thread. Its number must be a constant: one function each.
fn of_0(x: mat4x4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(subgroupBroadcast(x[0], 0u), subgroupBroadcast(x[1], 0u), subgroupBroadcast(x[2], 0u),
                       subgroupBroadcast(x[3], 0u));
}
fn of_1(x: mat4x4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(subgroupBroadcast(x[0], 1u), subgroupBroadcast(x[1], 1u), subgroupBroadcast(x[2], 1u),
                       subgroupBroadcast(x[3], 1u));
}
fn of_2(x: mat4x4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(subgroupBroadcast(x[0], 2u), subgroupBroadcast(x[1], 2u), subgroupBroadcast(x[2], 2u),
                       subgroupBroadcast(x[3], 2u));
}
fn of_3(x: mat4x4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(subgroupBroadcast(x[0], 3u), subgroupBroadcast(x[1], 3u), subgroupBroadcast(x[2], 3u),
                       subgroupBroadcast(x[3], 3u));
}
fn of_4(x: mat4x4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(subgroupBroadcast(x[0], 4u), subgroupBroadcast(x[1], 4u), subgroupBroadcast(x[2], 4u),
                       subgroupBroadcast(x[3], 4u));
}
fn of_5(x: mat4x4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(subgroupBroadcast(x[0], 5u), subgroupBroadcast(x[1], 5u), subgroupBroadcast(x[2], 5u),
                       subgroupBroadcast(x[3], 5u));
}
fn of_6(x: mat4x4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(subgroupBroadcast(x[0], 6u), subgroupBroadcast(x[1], 6u), subgroupBroadcast(x[2], 6u),
                       subgroupBroadcast(x[3], 6u));
}
fn of_7(x: mat4x4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(subgroupBroadcast(x[0], 7u), subgroupBroadcast(x[1], 7u), subgroupBroadcast(x[2], 7u),
                       subgroupBroadcast(x[3], 7u));
}

struct Place {
    product: u32,
    split: u32,
    column: u32,
}

fn write4(at: Place, row: u32, sums: vec4<f32>) {
    if (row >= params.m || at.column >= params.n) {
        return;
    }
    if (params.splits > 1u) {
        let line = (at.split * params.products + at.product) * params.m + row;
        partials[(line * params.n + at.column) / 4u] = sums;
        return;
    }
    var results = sums;
    if (params.has_bias != 0u) {
        results += vec4<f32>(bias[at.column / 4u]);
    }
    y[((at.product * params.m + row) * params.n + at.column) / 4u] = vec4<Storage>(results);
}

fn write_block(at: Place, row: u32, c: mat4x4<f32>) {
    write4(at, row, c[0]);
    write4(at, row + 1u, c[1]);
    write4(at, row + 2u, c[2]);
    write4(at, row + 3u, c[3]);
}

// One subgroup a workgroup, so that a tile is left by all of its threads or none.
@compute @workgroup_size(8)
fn matmul_subgroup_tile(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                        @builtin(subgroup_invocation_id) lane: u32) {
    let index = group.y * groups.x + group.x;
    let tile_row = index / params.tiles_n;
    let part = tile_row / params.tiles_m;
    let product = part / params.splits;
    if (product >= params.products) {
        return;
    }
    let split = part - product * params.splits;
    let m = (tile_row - part * params.tiles_m) * 32u;
    let n = (index - tile_row * params.tiles_n) * 32u + 4u * lane;
    let k_begin = split * params.split_k;
    let k_end = min(params.k, k_begin + params.split_k);
    let start_a = product * params.a_product + k_begin * params.a_k;
    let start_b = product * params.b_product + k_begin * params.b_k;
    var at_a = places(A_BY_K, start_a, m + 4u * lane, params.m, params.a_m, params.a_k);
    var at_b = places(B_BY_K, start_b, n, params.n, params.b_n, params.b_k);
    var c0 = mat4x4<f32>();  // rows m .. m + 3
    var c1 = mat4x4<f32>();
    var c2 = mat4x4<f32>();
    var c3 = mat4x4<f32>();
    var c4 = mat4x4<f32>();
    var c5 = mat4x4<f32>();
    var c6 = mat4x4<f32>();
    var c7 = mat4x4<f32>();
    for (var k = k_begin; k < k_end; k += 4u) {
        let own = block_of_a(at_a);
        let b_block = block_of_b(at_b);
        c0 = multiply_add(c0, of_0(own), b_block);
        c1 = multiply_add(c1, of_1(own), b_block);
        c2 = multiply_add(c2, of_2(own), b_block);
        c3 = multiply_add(c3, of_3(own), b_block);
        c4 = multiply_add(c4, of_4(own), b_block);
        c5 = multiply_add(c5, of_5(own), b_block);
        c6 = multiply_add(c6, of_6(own), b_block);
        c7 = multiply_add(c7, of_7(own), b_block);
        at_a += vec4<u32>(params.a_k);
        at_b += vec4<u32>(params.b_k);
    }
    let at = Place(product, split, n);
    write_block(at, m, c0);
    write_block(at, m + 4u, c1);
    write_block(at, m + 8u, c2);
    write_block(at, m + 12u, c3);
    write_block(at, m + 16u, c4);
    write_block(at, m + 20u, c5);
    write_block(at, m + 24u, c6);
    write_block(at, m + 28u, c7);
}
