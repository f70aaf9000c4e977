// Cross-entropy of rows of logits with the target distribution t' = keep t + floor.  logits, dlogits: [rows, len].
//
//   cross_entropy_forward    loss = Σ t'_i (log_sum_exp - x_i), and log_sum_exp = log Σ exp(x_i)
//   cross_entropy_backward   dx_i = (exp(x_i - log_sum_exp) Σ t' - t'_i) dloss
//
// SOFT is 0 for targets that are labels, i32 [rows], and 1 for probabilities [rows, len]. Losses, log_sum_exp and
// dloss: [rows], f32. A label outside 0..len makes its row NaN; indices.wgsl notes it. 32 threads a row, 4 rows a
// workgroup. Limit: memory, and little work in all.

alias Storage = f32;

override SOFT: u32 = 0;
const LANES: u32 = 32;
const ROWS: u32 = 4;

struct Params {
    rows: u32,
    len: u32,
    keep: f32,
    floor: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> logits: array<Storage>;
@group(0) @binding(2) var<storage, read> labels: array<i32>;
@group(0) @binding(3) var<storage, read> probabilities: array<Storage>;
@group(0) @binding(4) var<storage, read_write> loss: array<f32>;
@group(0) @binding(5) var<storage, read_write> log_sum_exp: array<f32>;
@group(0) @binding(4) var<storage, read> saved: array<f32>;  // log_sum_exp
@group(0) @binding(5) var<storage, read> dloss: array<f32>;
@group(0) @binding(6) var<storage, read_write> dlogits: array<Storage>;

var<workgroup> partial: array<f32, 128>;

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

fn not_a_number() -> f32 {
    var bits = 0x7FC00000u;
    return bitcast<f32>(bits);
}

// t' of class i of a row.
fn target_of(row: u32, i: u32) -> f32 {
    if SOFT == 1u {
        return params.keep * f32(probabilities[row * params.len + i]) + params.floor;
    }
    return select(params.floor, params.keep + params.floor, labels[row] == i32(i));
}

fn is_valid(row: u32) -> bool {
    if SOFT == 1u {
        return true;
    }
    return labels[row] >= 0 && labels[row] < i32(params.len);
}

@compute @workgroup_size(128)
fn cross_entropy_forward(
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
        let v = f32(logits[at + i]);
        largest = pick(largest, v, larger(v, largest));
    }
    largest = max_of_row(largest, local);
    var sum = 0.0;
    for (var i = lane; i < len; i += LANES) {
        sum += exponential(f32(logits[at + i]) - largest);
    }
    let log_sum = logarithm(sum_of_row(sum, local));
    var total = 0.0;
    for (var i = lane; i < len; i += LANES) {
        let wanted = target_of(row, i);
        if wanted != 0.0 {
            total += wanted * (log_sum - (f32(logits[at + i]) - largest));
        }
    }
    total = sum_of_row(total, local);
    if lane == 0u && row < params.rows {
        let valid = is_valid(row);
        loss[row] = pick(not_a_number(), total, valid);
        log_sum_exp[row] = pick(not_a_number(), largest + log_sum, valid);
    }
}

@compute @workgroup_size(128)
fn cross_entropy_backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let lane = local % LANES;
    let row = (group.y * groups.x + group.x) * ROWS + local / LANES;
    let at = row * params.len;
    let len = select(0u, params.len, row < params.rows);
    var total = 1.0;
    if SOFT == 1u {
        total = 0.0;
        for (var i = lane; i < len; i += LANES) {
            total += target_of(row, i);
        }
        total = sum_of_row(total, local);
    }
    if row < params.rows {
        let g = dloss[row];
        for (var i = lane; i < len; i += LANES) {
            let p = exponential(f32(logits[at + i]) - saved[row]);
            dlogits[at + i] = Storage((p * total - target_of(row, i)) * g);
        }
    }
}
