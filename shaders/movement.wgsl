// Movement of elements, whatever they are: moved as words of 32 bits, so that no bit of them changes; f16 as f16.
//
//   copy_strided      y[to(i)] = x[from(i)] for i in 0..n: permute, slice, concat and pad are this with different
//                     strides and first elements
//   gather_forward    y[o, i, k] = x[o, indices[i], k]; a bad index gives 0 (indices.wgsl notes it)
//   gather_backward   dx[o, a, k] = Σ dy[o, i, k] over the i with indices[i] = a, in order
//
// x, dx of gather: [outer, axis, inner]; y, dy: [outer, count, inner]. Limit: memory; where a permutation moves the
// innermost axis, either the reads or the writes of neighbouring threads are scattered.

alias Storage = f32;
alias Element = u32;

override WORKGROUP: u32 = 256;

// A shape with the strides of one buffer, axis 0 outermost; rank is at least 1. Arrays in uniforms have elements of
// 16 bytes, hence the vectors. `Params::axes` in kernels/src/wgpu/params.rs has the same layout.
struct Axes {
    rank: u32,
    sizes: array<vec4<u32>, 2>,
    strides: array<vec4<u32>, 2>,
}

struct Params {
    n: u32,
    first_from: u32,  // offsets of the first elements
    first_to: u32,
    from_axes: Axes,
    to_axes: Axes,  // the same sizes
}

struct Gather {
    outer: u32,
    axis: u32,
    inner: u32,
    count: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(0) var<uniform> sizes: Gather;
@group(0) @binding(1) var<storage, read> x: array<Element>;
@group(0) @binding(2) var<storage, read_write> y: array<Element>;
@group(0) @binding(3) var<storage, read> indices: array<i32>;
@group(0) @binding(1) var<storage, read> dy: array<Storage>;
@group(0) @binding(2) var<storage, read_write> dx: array<Storage>;

// Number of this thread in a grid that may be folded into y.
fn thread_index(group: vec3<u32>, groups: vec3<u32>, local: u32) -> u32 {
    return (group.y * groups.x + group.x) * WORKGROUP + local;
}

// Offsets of element `index` of a row-major walk over the axes, in x and in y.
fn offsets(index: u32) -> vec2<u32> {
    var rest = index;
    var sum = vec2<u32>(params.first_from, params.first_to);
    for (var axis = params.from_axes.rank - 1u; axis > 0u; axis--) {
        let size = params.from_axes.sizes[axis / 4u][axis % 4u];
        let quotient = rest / size;
        let at = rest - quotient * size;
        sum.x += at * params.from_axes.strides[axis / 4u][axis % 4u];
        sum.y += at * params.to_axes.strides[axis / 4u][axis % 4u];
        rest = quotient;
    }
    return sum + rest * vec2<u32>(params.from_axes.strides[0][0], params.to_axes.strides[0][0]);
}

@compute @workgroup_size(WORKGROUP)
fn copy_strided(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = thread_index(group, groups, local);
    if i < params.n {
        let at = offsets(i);
        y[at.y] = x[at.x];
    }
}

@compute @workgroup_size(WORKGROUP)
fn gather_forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let element = thread_index(group, groups, local);
    if element >= sizes.outer * sizes.count * sizes.inner {
        return;
    }
    let row = element / sizes.inner;
    let o = row / sizes.count;
    let index = indices[row - o * sizes.count];
    if index < 0 || index >= i32(sizes.axis) {
        y[element] = Element(0);
        return;
    }
    y[element] = x[(o * sizes.axis + u32(index)) * sizes.inner + (element - row * sizes.inner)];
}

@compute @workgroup_size(WORKGROUP)
fn gather_backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    // Each element of x looks through all indices: the same for neighbouring threads, or nearly.
    let element = thread_index(group, groups, local);
    if element >= sizes.outer * sizes.axis * sizes.inner {
        return;
    }
    let row = element / sizes.inner;
    let o = row / sizes.axis;
    let mine = i32(row - o * sizes.axis);
    let column = o * sizes.count * sizes.inner + (element - row * sizes.inner);
    var sum = 0.0;
    for (var i = 0u; i < sizes.count; i++) {
        if indices[i] == mine {
            sum += f32(dy[column + i * sizes.inner]);
        }
    }
    dx[element] = Storage(sum);
}
