// Functions of one input, element by element.  x, y, dx, dy: [n].
//
//   unary_forward    y = op(x)
//   unary_backward   dx = dy op'(x); saved is x or y, as engine/src/ops/<op>.rs needs it
//   accumulate       y += x
//
// A pipeline is made for one OP. A thread takes 4 neighbouring elements with one load and one store; what lies behind
// the n-th is nobody's. There is no reuse, so the limit is memory: 2 (forward) or 3 (backward) n elements over the
// bandwidth. f16 is computed with as f32 and rounded once.

alias Storage = f32;

override WORKGROUP: u32 = 256;

// Which function: its place in `code` of kernels/src/wgpu/elementwise.rs.
override OP: u32 = 0;
const AFFINE: u32 = 0;      // a x + b
const EXP: u32 = 1;
const LOG: u32 = 2;
const SQRT: u32 = 3;
const TANH: u32 = 4;
const SIGMOID: u32 = 5;
const RELU: u32 = 6;
const LEAKY_RELU: u32 = 7;  // of slope a
const GELU: u32 = 8;
const SILU: u32 = 9;

struct Params {
    vectors: u32,  // of 4 elements
    a: f32,
    b: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<Storage>>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4<Storage>>;
@group(0) @binding(1) var<storage, read> saved: array<vec4<Storage>>;
@group(0) @binding(2) var<storage, read> dy: array<vec4<Storage>>;
@group(0) @binding(3) var<storage, read_write> dx: array<vec4<Storage>>;

// Number of this thread in a grid that may be folded into y.
fn thread_index(group: vec3<u32>, groups: vec3<u32>, local: u32) -> u32 {
    return (group.y * groups.x + group.x) * WORKGROUP + local;
}

// By their bits: compilers may assume that there is no NaN.
fn is_nan(v: vec4<f32>) -> vec4<bool> {
    return (bitcast<vec4<u32>>(v) & vec4<u32>(0x7FFFFFFFu)) > vec4<u32>(0x7F800000u);
}

// `yes` where `which`, else `no`; either may be NaN.
fn pick(no: vec4<f32>, yes: vec4<f32>, which: vec4<bool>) -> vec4<f32> {
    return bitcast<vec4<f32>>(select(bitcast<vec4<u32>>(no), bitcast<vec4<u32>>(yes), which));
}

// NaN is positive here: it stays NaN.
fn is_positive(v: vec4<f32>) -> vec4<bool> {
    return (v > vec4<f32>(0.0)) | is_nan(v);
}

const LN_2_HIGH: f32 = 0.693359375;
const LN_2_LOW: f32 = -2.121944400e-4;

// e^(a + b) for |b| below 0.1: the exponential of a number with more digits than an f32 holds. a = k ln 2 + r with
// |r| <= ln 2 / 2, then the Taylor series of e^r to r^7, and 2^k in two factors. A GPU's own exp may be off by
// 3 + 2 |x| units in the last place, this by little more than 1. As kernels/src/cpu/simd/math.rs.
fn exp_sum(a: vec4<f32>, b: vec4<f32>) -> vec4<f32> {
    let bounded = clamp(a, vec4<f32>(-104.0), vec4<f32>(89.0));
    let k = round(bounded * 1.44269504);
    let r = ((bounded - k * LN_2_HIGH) - k * LN_2_LOW) + b;
    var tail = vec4<f32>(1.0 / 5040.0) * r + vec4<f32>(1.0 / 720.0);
    tail = tail * r + vec4<f32>(1.0 / 120.0);
    tail = tail * r + vec4<f32>(1.0 / 24.0);
    tail = tail * r + vec4<f32>(1.0 / 6.0);
    tail = tail * r + vec4<f32>(0.5);
    let p = (r * r * tail + r) + vec4<f32>(1.0);
    let whole = vec4<i32>(k);
    let half = whole / vec4<i32>(2);
    let low = bitcast<vec4<f32>>((half + vec4<i32>(127)) << vec4<u32>(23u));
    let high = bitcast<vec4<f32>>((whole - half + vec4<i32>(127)) << vec4<u32>(23u));
    return pick(p * low * high, a, is_nan(a));
}

fn exponential(x: vec4<f32>) -> vec4<f32> {
    return exp_sum(x, vec4<f32>(0.0));
}

// Natural logarithm: x = 2^e m with sqrt(1/2) <= m < sqrt(2), and ln(1 + f) = 2 atanh(f / (2 + f)), as
// kernels/src/cpu/simd/math.rs has it.
fn logarithm(x: vec4<f32>) -> vec4<f32> {
    let bits = bitcast<vec4<u32>>(x);
    let tiny = bits < vec4<u32>(0x00800000u);
    // Denormals as integers times 2^-149: a GPU may take them for 0.
    let scaled = select(bits, bitcast<vec4<u32>>(vec4<f32>(bits)), tiny);
    let shifted = bitcast<vec4<i32>>(scaled - vec4<u32>(0x3F3504F3u)) >> vec4<u32>(23u);
    let m = bitcast<vec4<f32>>(scaled - bitcast<vec4<u32>>(shifted << vec4<u32>(23u)));
    let e = vec4<f32>(shifted) - select(vec4<f32>(0.0), vec4<f32>(149.0), tiny);
    let f = m - 1.0;
    let s = f / (2.0 + f);
    let z = s * s;
    let series = z * (((2.0 / 9.0 * z + 2.0 / 7.0) * z + 2.0 / 5.0) * z + 2.0 / 3.0);
    let half_square = 0.5 * f * f;
    let low = e * LN_2_LOW + s * (half_square + series);
    let y = bitcast<vec4<u32>>(e * LN_2_HIGH + (f - (half_square - low)));
    // 0 gives -inf; infinity and NaN give themselves; what is negative NaN.
    let zero = (bits & vec4<u32>(0x7FFFFFFFu)) == vec4<u32>(0u);
    let special = select(bits, vec4<u32>(0x7FC00000u), (bits >= vec4<u32>(0x80000000u)) & !is_nan(x));
    let ends = bits >= vec4<u32>(0x7F800000u);
    return bitcast<vec4<f32>>(select(select(y, special, ends), vec4<u32>(0xFF800000u), zero));
}

// Near 0 Lambert's continued fraction x / (1 + x^2 / (3 + x^2 / (5 + ..))), cut after 9; elsewhere (e - 1) / (e + 1)
// with e = exp(2 |x|), which is 1 in f32 from 9.1 on.
fn hyperbolic_tangent(x: vec4<f32>) -> vec4<f32> {
    let magnitude = abs(x);
    let near = magnitude < vec4<f32>(0.55);
    let e = exponential(2.0 * min(magnitude, vec4<f32>(10.0)));
    let z = x * x;
    let over = select(e - 1.0, ((z + 105.0) * z + 945.0) * magnitude, near);
    let under = select(e + 1.0, (z * 15.0 + 420.0) * z + 945.0, near);
    let quotient = over / under;
    return pick(select(quotient, -quotient, x < vec4<f32>(0.0)), x, is_nan(x));
}

// With e^-|x| nothing overflows, and small results keep all their digits.
fn sigmoid_of(x: vec4<f32>) -> vec4<f32> {
    let e = exponential(-abs(x));
    let y = select(vec4<f32>(1.0), e, x < vec4<f32>(0.0)) / (1.0 + e);
    return pick(y, x, is_nan(x));
}

struct Normal {
    cdf: vec4<f32>,
    pdf: vec4<f32>,
}

// The normal distribution: Φ(-x) = e^(-x²/2) t Q(t) with t = 4 / (4 + x), where Q is a polynomial; the fit and the
// splitting of x² are explained in kernels/src/cpu/simd/math.rs.
fn normal(x: vec4<f32>) -> Normal {
    let magnitude = min(abs(x), vec4<f32>(14.5));
    let h = bitcast<vec4<f32>>(bitcast<vec4<u32>>(magnitude) & vec4<u32>(0xFFFFF000u));
    let e = exp_sum(-0.5 * h * h, -0.5 * (magnitude - h) * (magnitude + h));
    let t = 4.0 / (4.0 + magnitude);
    var q = vec4<f32>(0.01689252347);
    q = q * t - 0.06453780906;
    q = q * t + 0.05588097912;
    q = q * t + 0.02260889734;
    q = q * t + 0.01773637635;
    q = q * t + 0.08385033712;
    q = q * t + 0.0730131116;
    q = q * t + 0.09528779305;
    q = q * t + 0.09952146616;
    q = q * t + 0.09974632916;
    let tail = e * t * q;
    let cdf = select(tail, 1.0 - tail, x > vec4<f32>(0.0));
    return Normal(pick(cdf, x, is_nan(x)), e * 0.3989422804);
}

@compute @workgroup_size(WORKGROUP)
fn unary_forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = thread_index(group, groups, local);
    if i >= params.vectors {
        return;
    }
    let v = vec4<f32>(x[i]);
    var result: vec4<f32>;
    switch OP {
        case EXP: { result = exponential(v); }
        case LOG: { result = logarithm(v); }
        case SQRT: { result = sqrt(v); }
        case TANH: { result = hyperbolic_tangent(v); }
        case SIGMOID: { result = sigmoid_of(v); }
        case RELU: { result = pick(vec4<f32>(0.0), v, is_positive(v)); }
        case LEAKY_RELU: { result = pick(params.a * v, v, is_positive(v)); }
        case GELU: { result = v * normal(v).cdf; }
        case SILU: { result = v * sigmoid_of(v); }
        default: { result = params.a * v + params.b; }
    }
    y[i] = vec4<Storage>(result);
}

@compute @workgroup_size(WORKGROUP)
fn unary_backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = thread_index(group, groups, local);
    if i >= params.vectors {
        return;
    }
    let v = vec4<f32>(saved[i]);
    let g = vec4<f32>(dy[i]);
    var result: vec4<f32>;
    switch OP {
        case EXP: { result = g * v; }
        case LOG: { result = g / v; }
        case SQRT: { result = g / (v + v); }
        case TANH: { result = g * (1.0 - v * v); }
        case SIGMOID: { result = g * v * (1.0 - v); }
        case RELU: { result = pick(vec4<f32>(0.0), g, is_positive(v)); }
        case LEAKY_RELU: { result = pick(params.a * g, g, is_positive(v)); }
        case GELU: {  // (x Φ)' = Φ + x φ
            let n = normal(v);
            result = g * (n.cdf + v * n.pdf);
        }
        case SILU: {  // s' = s (1 - s), so (x s)' = s (1 + x (1 - s))
            let s = sigmoid_of(v);
            result = g * s * (1.0 + v * (1.0 - s));
        }
        default: { result = params.a * g; }
    }
    dx[i] = vec4<Storage>(result);
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
