// Softmax and log-softmax over rows.  x, y, dx, dy: [rows, len], row-major.
//
//   softmax_{forward,backward}_thread   one thread a row: reads that lie far apart    (the rung to read first)
//   softmax_{forward,backward}_lanes    32 threads a row, 4 rows a workgroup: they read neighbours
//
//   y_i = exp(x_i - m) / Σ exp(x_j - m), m the largest x;  LOG: its logarithm
//   dx_i = y_i (dy_i - Σ dy_j y_j);                        LOG: dy_i - exp(y_i) Σ dy_j
//
// Limit: memory; short rows do not fill 32 threads, and are left to one.

alias Storage = f32;

override WORKGROUP: u32 = 256;  // of the first rung
override LOG: u32 = 0;          // 1: log-softmax
const LANES: u32 = 32;
const ROWS: u32 = 4;

struct Params {
    rows: u32,
    len: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<Storage>;
@group(0) @binding(2) var<storage, read_write> y: array<Storage>;
@group(0) @binding(1) var<storage, read> saved: array<Storage>;  // y
@group(0) @binding(2) var<storage, read> dy: array<Storage>;
@group(0) @binding(3) var<storage, read_write> dx: array<Storage>;

var<workgroup> partial: array<f32, 128>;

// Number of this thread in a grid that may be folded into y.
fn thread_index(group: vec3<u32>, groups: vec3<u32>, local: u32) -> u32 {
    return (group.y * groups.x + group.x) * WORKGROUP + local;
}

// By its bits: compilers may assume that there is no NaN.
fn is_nan(v: f32) -> bool {
    return (bitcast<u32>(v) & 0x7FFFFFFFu) > 0x7F800000u;
}

// NaN counts as the largest number.
fn larger(a: f32, b: f32) -> bool {
    return (a > b && !is_nan(a) && !is_nan(b)) || (is_nan(a) && !is_nan(b));
}

// Made at run time: WGSL has no infinite constants.
fn negative_infinity() -> f32 {
    var bits = 0xFF800000u;
    return bitcast<f32>(bits);
}

// `yes` if `which`, else `no`; either may be NaN.
fn pick(no: f32, yes: f32, which: bool) -> f32 {
    return bitcast<f32>(select(bitcast<u32>(no), bitcast<u32>(yes), which));
}

const LN_2_HIGH: f32 = 0.693359375;
const LN_2_LOW: f32 = -2.121944400e-4;

// e^(a + b) for |b| below 0.1: the exponential of a number with more digits than an f32 holds. a = k ln 2 + r with
// |r| <= ln 2 / 2, then the Taylor series of e^r to r^7, and 2^k in two factors. A GPU's own exp may be off by
// 3 + 2 |x| units in the last place, this by little more than 1. As kernels/src/cpu/simd/math.rs.
fn exp_sum(a: f32, b: f32) -> f32 {
    let bounded = clamp(a, f32(-104.0), f32(89.0));
    let k = round(bounded * 1.44269504);
    let r = ((bounded - k * LN_2_HIGH) - k * LN_2_LOW) + b;
    var tail = f32(1.0 / 5040.0) * r + f32(1.0 / 720.0);
    tail = tail * r + f32(1.0 / 120.0);
    tail = tail * r + f32(1.0 / 24.0);
    tail = tail * r + f32(1.0 / 6.0);
    tail = tail * r + f32(0.5);
    let p = (r * r * tail + r) + f32(1.0);
    let whole = i32(k);
    let half = whole / i32(2);
    let low = bitcast<f32>((half + i32(127)) << u32(23u));
    let high = bitcast<f32>((whole - half + i32(127)) << u32(23u));
    return pick(p * low * high, a, is_nan(a));
}

fn exponential(x: f32) -> f32 {
    return exp_sum(x, f32(0.0));
}

// Natural logarithm: x = 2^e m with sqrt(1/2) <= m < sqrt(2), and ln(1 + f) = 2 atanh(f / (2 + f)), as
// kernels/src/cpu/simd/math.rs has it.
fn logarithm(x: f32) -> f32 {
    let bits = bitcast<u32>(x);
    let tiny = bits < u32(0x00800000u);
    // Denormals as integers times 2^-149: a GPU may take them for 0.
    let scaled = select(bits, bitcast<u32>(f32(bits)), tiny);
    let shifted = bitcast<i32>(scaled - u32(0x3F3504F3u)) >> u32(23u);
    let m = bitcast<f32>(scaled - bitcast<u32>(shifted << u32(23u)));
    let e = f32(shifted) - select(f32(0.0), f32(149.0), tiny);
    let f = m - 1.0;
    let s = f / (2.0 + f);
    let z = s * s;
    let series = z * (((2.0 / 9.0 * z + 2.0 / 7.0) * z + 2.0 / 5.0) * z + 2.0 / 3.0);
    let half_square = 0.5 * f * f;
    let low = e * LN_2_LOW + s * (half_square + series);
    let y = bitcast<u32>(e * LN_2_HIGH + (f - (half_square - low)));
    // 0 gives -inf; infinity and NaN give themselves; what is negative NaN.
    let zero = (bits & u32(0x7FFFFFFFu)) == u32(0u);
    let special = select(bits, u32(0x7FC00000u), (bits >= u32(0x80000000u)) & !is_nan(x));
    let ends = bits >= u32(0x7F800000u);
    return bitcast<f32>(select(select(y, special, ends), u32(0xFF800000u), zero));
}

// Sum of a value of each of the LANES lanes of this row of threads, in their order; every thread of the workgroup
// must call.
fn sum_of_row(v: f32, local: u32) -> f32 {
    workgroupBarrier();  // nobody reads an earlier round any more
    partial[local] = v;
    workgroupBarrier();
    let first = local / LANES * LANES;
    var sum = partial[first];
    for (var lane = 1u; lane < LANES; lane++) {
        sum += partial[first + lane];
    }
    return sum;
}

// The largest, likewise.
fn max_of_row(v: f32, local: u32) -> f32 {
    workgroupBarrier();
    partial[local] = v;
    workgroupBarrier();
    let first = local / LANES * LANES;
    var best = partial[first];
    for (var lane = 1u; lane < LANES; lane++) {
        best = pick(best, partial[first + lane], larger(partial[first + lane], best));
    }
    return best;
}

@compute @workgroup_size(WORKGROUP)
fn softmax_forward_thread(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let row = thread_index(group, groups, local);
    if row >= params.rows {
        return;
    }
    let at = row * params.len;
    var largest = negative_infinity();
    for (var i = 0u; i < params.len; i++) {
        let v = f32(x[at + i]);
        largest = pick(largest, v, larger(v, largest));
    }
    var sum = 0.0;
    for (var i = 0u; i < params.len; i++) {
        sum += exponential(f32(x[at + i]) - largest);
    }
    let log_sum = logarithm(sum);
    for (var i = 0u; i < params.len; i++) {
        let z = f32(x[at + i]) - largest;
        if LOG == 1u {
            y[at + i] = Storage(z - log_sum);
        } else {
            y[at + i] = Storage(exponential(z) / sum);
        }
    }
}

@compute @workgroup_size(WORKGROUP)
fn softmax_backward_thread(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let row = thread_index(group, groups, local);
    if row >= params.rows {
        return;
    }
    let at = row * params.len;
    var total = 0.0;
    for (var i = 0u; i < params.len; i++) {
        let g = f32(dy[at + i]);
        total += select(g * f32(saved[at + i]), g, LOG == 1u);
    }
    for (var i = 0u; i < params.len; i++) {
        let v = f32(saved[at + i]);
        let g = f32(dy[at + i]);
        if LOG == 1u {
            dx[at + i] = Storage(g - exponential(v) * total);
        } else {
            dx[at + i] = Storage(v * (g - total));
        }
    }
}

@compute @workgroup_size(128)
fn softmax_forward_lanes(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let lane = local % LANES;
    let row = (group.y * groups.x + group.x) * ROWS + local / LANES;
    let at = row * params.len;
    let len = select(0u, params.len, row < params.rows);  // all threads must reach the barriers
    var largest = negative_infinity();
    for (var i = lane; i < len; i += LANES) {
        let v = f32(x[at + i]);
        largest = pick(largest, v, larger(v, largest));
    }
    largest = max_of_row(largest, local);
    var sum = 0.0;
    for (var i = lane; i < len; i += LANES) {
        sum += exponential(f32(x[at + i]) - largest);
    }
    sum = sum_of_row(sum, local);
    let log_sum = logarithm(sum);
    for (var i = lane; i < len; i += LANES) {
        let z = f32(x[at + i]) - largest;
        if LOG == 1u {
            y[at + i] = Storage(z - log_sum);
        } else {
            y[at + i] = Storage(exponential(z) / sum);
        }
    }
}

@compute @workgroup_size(128)
fn softmax_backward_lanes(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let lane = local % LANES;
    let row = (group.y * groups.x + group.x) * ROWS + local / LANES;
    let at = row * params.len;
    let len = select(0u, params.len, row < params.rows);
    var total = 0.0;
    for (var i = lane; i < len; i += LANES) {
        let g = f32(dy[at + i]);
        total += select(g * f32(saved[at + i]), g, LOG == 1u);
    }
    total = sum_of_row(total, local);
    for (var i = lane; i < len; i += LANES) {
        let v = f32(saved[at + i]);
        let g = f32(dy[at + i]);
        if LOG == 1u {
            dx[at + i] = Storage(g - exponential(v) * total);
        } else {
            dx[at + i] = Storage(v * (g - total));
        }
    }
}
