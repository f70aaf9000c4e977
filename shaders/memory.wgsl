// Filling and converting.  x, y: [n], seen as words of 32 bits, which hold 1, 2 or 4 elements.
//
//   fill            y = a word
//   cast_elements   y = x in another dtype: to floats rounded to nearest even, once; to integers rounded to nearest
//                   even and saturating, 0 for NaN
//
// A thread of cast takes 4 neighbouring elements. Dtypes are numbers, and pipelines are made for pairs of them.
// Numbers are converted bit by bit: whether a GPU rounds, keeps subnormals or knows NaN is its own affair.
// Limit: memory.

override WORKGROUP: u32 = 256;

// Dtypes of x and y.
override FROM: u32 = 0;
override TO: u32 = 0;
const F32: u32 = 0;
const F16: u32 = 1;
const BF16: u32 = 2;
const I32: u32 = 3;
const I8: u32 = 4;
const U8: u32 = 5;

struct Params {
    vectors: u32,  // of 4 words (fill) or elements (cast)
    word: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> filled: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read> x: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<u32>;

@compute @workgroup_size(WORKGROUP)
fn fill(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = (group.y * groups.x + group.x) * WORKGROUP + local;
    if i < params.vectors {
        filled[i] = vec4<u32>(params.word);
    }
}

// A number between two dtypes: an integer, or the bits of a float.
struct Number {
    is_integer: bool,
    bits: u32,
}

// The float with these f16 bits. Subnormals have value fraction * 2^-24.
fn f16_to_f32(half: u32) -> u32 {
    let sign = (half & 0x8000u) << 16u;
    let exponent = (half >> 10u) & 31u;
    let fraction = half & 1023u;
    if exponent == 31u {
        return sign | 0x7F800000u | (fraction << 13u);
    }
    if exponent != 0u {
        return sign | ((exponent + 112u) << 23u) | (fraction << 13u);
    }
    if fraction == 0u {
        return sign;
    }
    let top = firstLeadingBit(fraction);  // the value is 2^(top - 24) (1 + rest)
    return sign | ((top + 103u) << 23u) | ((fraction << (23u - top)) & 0x7FFFFFu);
}

// `bits >> shift`, rounded to nearest even; shift is 1 to 31.
fn round_shift(bits: u32, shift: u32) -> u32 {
    let half = 1u << (shift - 1u);
    let rest = bits & ((1u << shift) - 1u);
    let kept = bits >> shift;
    return kept + u32(rest > half || (rest == half && (kept & 1u) == 1u));
}

fn f32_to_f16(bits: u32) -> u32 {
    let sign = (bits >> 16u) & 0x8000u;
    let magnitude = bits & 0x7FFFFFFFu;
    if magnitude > 0x7F800000u {
        return sign | 0x7E00u;  // NaN
    }
    if magnitude >= 0x47800000u {
        return sign | 0x7C00u;  // 2^16 and more
    }
    if magnitude >= 0x38800000u {  // normal, from 2^-14; a carry may reach infinity, rightly
        return sign | round_shift(magnitude - 0x38000000u, 13u);
    }
    let exponent = magnitude >> 23u;
    if exponent < 102u {
        return sign;  // below 2^-25
    }
    return sign | round_shift((magnitude & 0x7FFFFFu) | 0x800000u, 126u - exponent);
}

fn f32_to_bf16(bits: u32) -> u32 {
    if (bits & 0x7FFFFFFFu) > 0x7F800000u {
        return (bits >> 16u) | 0x40u;  // NaN stays NaN
    }
    return round_shift(bits, 16u);
}

// The float nearest to an integer; `odd` instead rounds towards zero and then sets the last bit if that was
// inexact, so that rounding again, to 16 bits, rounds only once in all (Boldo and Melquiond 2008).
fn i32_to_f32(value: i32, odd: bool) -> u32 {
    if value == 0 {
        return 0u;
    }
    let sign = bitcast<u32>(value) & 0x80000000u;
    let magnitude = select(bitcast<u32>(value), 0u - bitcast<u32>(value), value < 0);
    let top = firstLeadingBit(magnitude);
    var fraction = magnitude << (31u - top);  // the leading 1 in bit 31
    if odd {
        fraction = (fraction >> 8u) | u32((fraction & 0xFFu) != 0u);
    } else {
        fraction = round_shift(fraction, 8u);
    }
    return sign | (((top + 126u) << 23u) + fraction);
}

fn f32_to_i32(bits: u32) -> i32 {
    let magnitude = bits & 0x7FFFFFFFu;
    let negative = (bits >> 31u) == 1u;
    if magnitude > 0x7F800000u {
        return 0;  // NaN
    }
    if magnitude >= 0x4F000000u {  // 2^31 and more
        return select(2147483647, -2147483647 - 1, negative);
    }
    let exponent = magnitude >> 23u;
    if exponent < 126u {
        return 0;  // below 1/2
    }
    let fraction = (magnitude & 0x7FFFFFu) | 0x800000u;
    var whole: u32;
    if exponent >= 150u {
        whole = fraction << (exponent - 150u);
    } else {
        whole = round_shift(fraction, 150u - exponent);
    }
    return select(i32(whole), -i32(whole), negative);
}

// Bytes of an element.
fn size_of(dtype: u32) -> u32 {
    if dtype == F32 || dtype == I32 {
        return 4u;
    }
    return select(1u, 2u, dtype == F16 || dtype == BF16);
}

fn load(index: u32) -> Number {
    let size = size_of(FROM);
    let word = x[index * size / 4u];
    let shift = (index * size % 4u) * 8u;
    if FROM == F32 {
        return Number(false, word);
    }
    if FROM == F16 {
        return Number(false, f16_to_f32((word >> shift) & 0xFFFFu));
    }
    if FROM == BF16 {
        return Number(false, (word >> shift) << 16u);
    }
    if FROM == I8 {
        return Number(true, bitcast<u32>(bitcast<i32>(word << (24u - shift)) >> 24u));
    }
    if FROM == U8 {
        return Number(true, (word >> shift) & 0xFFu);
    }
    return Number(true, word);
}

// The bits of an element of y.
fn encode(number: Number) -> u32 {
    if TO == F32 || TO == F16 || TO == BF16 {
        var bits = number.bits;
        if number.is_integer {
            bits = i32_to_f32(bitcast<i32>(number.bits), TO != F32);
        }
        if TO == F16 {
            return f32_to_f16(bits);
        }
        if TO == BF16 {
            return f32_to_bf16(bits) & 0xFFFFu;
        }
        return bits;
    }
    var value = bitcast<i32>(number.bits);
    if !number.is_integer {
        value = f32_to_i32(number.bits);
    }
    if TO == I8 {
        return bitcast<u32>(clamp(value, -128, 127)) & 0xFFu;
    }
    if TO == U8 {
        return bitcast<u32>(clamp(value, 0, 255));
    }
    return bitcast<u32>(value);
}

@compute @workgroup_size(WORKGROUP)
fn cast_elements(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = (group.y * groups.x + group.x) * WORKGROUP + local;
    if i >= params.vectors {
        return;
    }
    let a = encode(load(4u * i));
    let b = encode(load(4u * i + 1u));
    let c = encode(load(4u * i + 2u));
    let d = encode(load(4u * i + 3u));
    let size = size_of(TO);
    if size == 4u {
        y[4u * i] = a;
        y[4u * i + 1u] = b;
        y[4u * i + 2u] = c;
        y[4u * i + 3u] = d;
    } else if size == 2u {
        y[2u * i] = a | (b << 16u);
        y[2u * i + 1u] = c | (d << 16u);
    } else {
        y[i] = a | (b << 8u) | (c << 16u) | (d << 24u);
    }
}
