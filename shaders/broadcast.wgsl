// Functions of two inputs that broadcast.  y, dy: [n], the shape of the result; a, b: smaller where they repeat.
//
//   binary_forward_vector4       y = a op b, both of the result's shape; a thread takes 4 elements
//   binary_forward_broadcast     y = a op b; an axis along which an input repeats has stride 0
//   binary_backward_broadcast    d = dy times the derivative by a or b, [n] like y, in f32
//
// A pipeline is made for one OP, and for one SIDE. Where an input repeats, d is summed over the repetitions by
// reduce.wgsl: a fixed order, no atomics.

alias Storage = f32;

override WORKGROUP: u32 = 256;

// Which function: its place in `code` of kernels/src/wgpu/broadcast.rs.
override OP: u32 = 0;
const ADD: u32 = 0;
const SUB: u32 = 1;
const MUL: u32 = 2;
const DIV: u32 = 3;
const MAX: u32 = 4;  // NaN if either is NaN; at a tie each gets half of the gradient

// 0: the derivative by a; 1: by b.
override SIDE: u32 = 0;

// A shape with the strides of one buffer, axis 0 outermost; rank is at least 1. Arrays in uniforms have elements of
// 16 bytes, hence the vectors. `Params::axes` in kernels/src/wgpu/params.rs has the same layout.
struct Axes {
    rank: u32,
    sizes: array<vec4<u32>, 2>,
    strides: array<vec4<u32>, 2>,
}

struct Params {
    n: u32,  // elements, or vectors of 4
    a: Axes,
    b: Axes,  // the same sizes
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a4: array<vec4<Storage>>;
@group(0) @binding(2) var<storage, read> b4: array<vec4<Storage>>;
@group(0) @binding(3) var<storage, read_write> y4: array<vec4<Storage>>;
@group(0) @binding(1) var<storage, read> a: array<Storage>;
@group(0) @binding(2) var<storage, read> b: array<Storage>;
@group(0) @binding(3) var<storage, read_write> y: array<Storage>;
@group(0) @binding(3) var<storage, read> dy: array<Storage>;
@group(0) @binding(4) var<storage, read_write> d: array<f32>;

// Number of this thread in a grid that may be folded into y.
fn thread_index(group: vec3<u32>, groups: vec3<u32>, local: u32) -> u32 {
    return (group.y * groups.x + group.x) * WORKGROUP + local;
}

// Offsets in a and b of element `index` of a row-major walk over the axes. The outermost needs no division.
fn offsets(index: u32) -> vec2<u32> {
    var rest = index;
    var sum = vec2<u32>(0u);
    for (var axis = params.a.rank - 1u; axis > 0u; axis--) {
        let size = params.a.sizes[axis / 4u][axis % 4u];
        let quotient = rest / size;
        let at = rest - quotient * size;
        sum += at * vec2<u32>(params.a.strides[axis / 4u][axis % 4u], params.b.strides[axis / 4u][axis % 4u]);
        rest = quotient;
    }
    return sum + rest * vec2<u32>(params.a.strides[0][0], params.b.strides[0][0]);
}

// By its bits: compilers may assume that there is no NaN.
fn is_nan(v: f32) -> bool {
    return (bitcast<u32>(v) & 0x7FFFFFFFu) > 0x7F800000u;
}

// NaN counts as the largest number.
fn larger(a: f32, b: f32) -> bool {
    return (a > b && !is_nan(a) && !is_nan(b)) || (is_nan(a) && !is_nan(b));
}

// `yes` if `which`, else `no`; either may be NaN.
fn pick(no: f32, yes: f32, which: bool) -> f32 {
    return bitcast<f32>(select(bitcast<u32>(no), bitcast<u32>(yes), which));
}

fn maximum(a: f32, b: f32) -> f32 {
    return pick(a, b, larger(b, a));
}

fn share(mine: f32, other: f32, g: f32) -> f32 {
    return pick(pick(0.5 * g, 0.0, larger(other, mine)), g, larger(mine, other));
}

@compute @workgroup_size(WORKGROUP)
fn binary_forward_vector4(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = thread_index(group, groups, local);
    if i >= params.n {
        return;
    }
    let u = vec4<f32>(a4[i]);
    let v = vec4<f32>(b4[i]);
    var result: vec4<f32>;
    switch OP {
        case SUB: { result = u - v; }
        case MUL: { result = u * v; }
        case DIV: { result = u / v; }
        case MAX: {
            result = vec4<f32>(maximum(u.x, v.x), maximum(u.y, v.y), maximum(u.z, v.z), maximum(u.w, v.w));
        }
        default: { result = u + v; }
    }
    y4[i] = vec4<Storage>(result);
}

@compute @workgroup_size(WORKGROUP)
fn binary_forward_broadcast(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = thread_index(group, groups, local);
    if i >= params.n {
        return;
    }
    let at = offsets(i);
    let u = f32(a[at.x]);
    let v = f32(b[at.y]);
    var result: f32;
    switch OP {
        case SUB: { result = u - v; }
        case MUL: { result = u * v; }
        case DIV: { result = u / v; }
        case MAX: { result = maximum(u, v); }
        default: { result = u + v; }
    }
    y[i] = Storage(result);
}

@compute @workgroup_size(WORKGROUP)
fn binary_backward_broadcast(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = thread_index(group, groups, local);
    if i >= params.n {
        return;
    }
    let at = offsets(i);
    let u = f32(a[at.x]);
    let v = f32(b[at.y]);
    let g = f32(dy[i]);
    var result: f32;
    if SIDE == 0u {
        switch OP {
            case MUL: { result = g * v; }
            case DIV: { result = g / v; }
            case MAX: { result = share(u, v, g); }
            default: { result = g; }
        }
    } else {
        switch OP {
            case SUB: { result = -g; }
            case MUL: { result = g * u; }
            case DIV: { result = -g * (u / v) / v; }
            case MAX: { result = share(v, u, g); }
            default: { result = g; }
        }
    }
    d[i] = result;
}
