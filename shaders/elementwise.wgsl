// Functions of one input, element by element.  x, y, dx, dy: [n].
//
//   <op>_forward    y = op(x)
//   <op>_backward   dx = dy op'(x); saved is x or y, as engine/src/ops/<op>.rs needs it
//
//   accumulate      y += x
//
// A thread takes 4 neighbouring elements with one load and one store; what lies behind the n-th is nobody's. There
// is no reuse, so the limit is memory: 2 (forward) or 3 (backward) n elements over the bandwidth. f16 is computed
// with as f32 and rounded once.

alias Storage = f32;

override WORKGROUP: u32 = 256;

struct Params {
    vectors: u32,  // of 4 elements
    a: f32,        // affine's scale, leaky_relu's slope
    b: f32,        // affine's shift
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<Storage>>;  // or what the op saved
@group(0) @binding(2) var<storage, read_write> y: array<vec4<Storage>>;  // or dx
@group(0) @binding(3) var<storage, read> dy: array<vec4<Storage>>;

// Number of this thread in a grid that may be folded into y.
fn thread_index(group: vec3<u32>, groups: vec3<u32>, local: u32) -> u32 {
    return (group.y * groups.x + group.x) * WORKGROUP + local;
}

// By its bits: compilers may assume that there is no NaN.
fn is_nan(v: vec4<f32>) -> vec4<bool> {
    return (bitcast<vec4<u32>>(v) & vec4<u32>(0x7FFFFFFFu)) > vec4<u32>(0x7F800000u);
}

// a where `which`, else b; either may be NaN.
fn pick(b: vec4<f32>, a: vec4<f32>, which: vec4<bool>) -> vec4<f32> {
    return bitcast<vec4<f32>>(select(bitcast<vec4<u32>>(b), bitcast<vec4<u32>>(a), which));
}

fn is_positive(v: vec4<f32>) -> vec4<bool> {
    return (v > vec4<f32>(0.0)) | is_nan(v);
}

// e^v. With v = k ln 2 + r, |r| <= ln 2 / 2, it is 2^k e^r, and e^r is a polynomial: its Taylor series to r^7, whose
// error is below 2^-27. ln 2 is subtracted in two parts, the first of which is exact. A GPU's own exp may be off by
// (3 + 2 |v|) units in the last place.
fn exponential(v: vec4<f32>) -> vec4<f32> {
    let bounded = clamp(v, vec4<f32>(-104.0), vec4<f32>(89.0));
    let k = round(bounded * 1.44269504);
    let r = (bounded - k * 0.693359375) + k * 2.12194440e-4;
    var p = vec4<f32>(1.0 / 5040.0);
    p = p * r + vec4<f32>(1.0 / 720.0);
    p = p * r + vec4<f32>(1.0 / 120.0);
    p = p * r + vec4<f32>(1.0 / 24.0);
    p = p * r + vec4<f32>(1.0 / 6.0);
    p = p * r + vec4<f32>(0.5);
    p = p * r * r + r + vec4<f32>(1.0);
    // 2^k in two factors, each a normal number.
    let whole = vec4<i32>(k);
    let low = whole / vec4<i32>(2);
    let factor = bitcast<vec4<f32>>((low + vec4<i32>(127)) << vec4<u32>(23u));
    let rest = bitcast<vec4<f32>>((whole - low + vec4<i32>(127)) << vec4<u32>(23u));
    return pick(p * factor * rest, v, is_nan(v));
}

fn sigmoid_of(v: vec4<f32>) -> vec4<f32> {
    return 1.0 / (1.0 + exponential(-v));
}

@compute @workgroup_size(WORKGROUP)
fn accumulate(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = thread_index(group, groups, local);
    if i < params.vectors {
        y[i] = vec4<Storage>(vec4<f32>(y[i]) + vec4<f32>(x[i]));
    }
}

@compute @workgroup_size(WORKGROUP)
fn relu_forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = thread_index(group, groups, local);
    if i < params.vectors {
        let v = vec4<f32>(x[i]);
        y[i] = vec4<Storage>(pick(vec4<f32>(0.0), v, is_positive(v)));
    }
}
