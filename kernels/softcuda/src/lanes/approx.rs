//! The functions that PTX calls approximate: computed in f64 and rounded once, hence well within
//! the errors that the ISA allows (2 ulp and up), and the same on every CPU. exp2 and log2 are
//! written out, so that they vectorise.

/// 2^x.
#[inline(always)]
pub fn ex2(x: f32) -> f32 {
    // Beyond these the result is 0 or infinite anyway; NaN passes through the comparisons and comes
    // back at the end.
    let v = f64::from(x);
    let v = if v > 200.0 { 200.0 } else { v };
    let v = if v < -200.0 { -200.0 } else { v };
    // Adding 1.5 * 2^52 rounds to an integer, which then stands in the low bits.
    const MAGIC: f64 = 6_755_399_441_055_744.0;
    let shifted = v + MAGIC;
    let n = shifted - MAGIC;
    let f = (v - n) * std::f64::consts::LN_2;
    // e^f for |f| <= ln(2)/2: the series to f^10/10! has an error below 3e-13.
    let mut p = 1.0 / 3_628_800.0;
    for c in [
        1.0 / 362_880.0,
        1.0 / 40_320.0,
        1.0 / 5_040.0,
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0,
    ] {
        p = p * f + c;
    }
    let exponent = shifted.to_bits().wrapping_add(1023) << 52;
    let y = (p * f64::from_bits(exponent)) as f32;
    if x.is_nan() { f32::from_bits(0x7fff_ffff) } else { y }
}

/// log2(x).
#[inline(always)]
pub fn lg2(x: f32) -> f32 {
    let v = f64::from(x);
    let bits = v.to_bits();
    // v = m * 2^e with m in [sqrt(1/2), sqrt(2)).
    const SQRT_HALF: u64 = 0x3fe6_a09e_667f_3bcd;
    let e = (bits.wrapping_sub(SQRT_HALF) as i64) >> 52;
    let m = f64::from_bits(bits.wrapping_sub((e as u64) << 52));
    // ln m = 2 artanh t, |t| < 0.1716: the series to t^15 has an error below 1e-14.
    let t = (m - 1.0) / (m + 1.0);
    let t2 = t * t;
    let mut p = 1.0 / 15.0;
    for c in [1.0 / 13.0, 1.0 / 11.0, 1.0 / 9.0, 1.0 / 7.0, 1.0 / 5.0, 1.0 / 3.0, 1.0] {
        p = p * t2 + c;
    }
    let y = (e as f64 + 2.0 * std::f64::consts::LOG2_E * t * p) as f32;
    let y = if x == 0.0 { f32::NEG_INFINITY } else { y };
    let y = if x == f32::INFINITY { f32::INFINITY } else { y };
    if x.is_nan() || x < 0.0 { f32::from_bits(0x7fff_ffff) } else { y }
}

/// sin(x).
pub fn sin(x: f32) -> f32 {
    f64::from(x).sin() as f32
}

/// cos(x).
pub fn cos(x: f32) -> f32 {
    f64::from(x).cos() as f32
}

/// tanh(x).
pub fn tanh(x: f32) -> f32 {
    f64::from(x).tanh() as f32
}

/// 1/x.
#[inline(always)]
pub fn rcp(x: f32) -> f32 {
    1.0 / x
}

/// 1/sqrt(x).
#[inline(always)]
pub fn rsqrt(x: f32) -> f32 {
    (1.0 / f64::from(x).sqrt()) as f32
}

/// `rcp.approx.ftz.f64`: of the high word only, as the ISA has it.
pub fn rcp64(x: f64) -> f64 {
    high_word(1.0 / high_word(x))
}

/// `rsqrt.approx.ftz.f64`: of the high word only.
pub fn rsqrt64(x: f64) -> f64 {
    high_word(1.0 / high_word(x).sqrt())
}

/// The upper 32 bits, with subnormal numbers flushed.
fn high_word(x: f64) -> f64 {
    let bits = x.to_bits();
    let kept = if bits >> 52 & 0x7ff == 0 { bits & (1 << 63) } else { bits & !0xffff_ffff };
    if x.is_nan() { x } else { f64::from_bits(kept) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ex2_and_lg2_are_rounded_right_within_an_ulp() {
        let mut x = -151.0f32;
        while x < 129.0 {
            let wanted = f64::from(x).exp2() as f32;
            let got = ex2(x);
            let close = got == wanted || got == wanted.next_up() || got == wanted.next_down();
            assert!(close, "2^{x}: {got} instead of {wanted}");
            x += 0.013_7;
        }
        // Subnormal numbers that small would not grow.
        let mut x = 1e-43f32;
        while x.is_finite() {
            let wanted = f64::from(x).log2() as f32;
            let got = lg2(x);
            assert!((got - wanted).abs() <= wanted.abs() * 1.2e-7, "{x}: {got} for {wanted}");
            x *= 1.037;
        }
    }

    #[test]
    fn their_special_cases() {
        assert_eq!(ex2(f32::NEG_INFINITY), 0.0);
        assert_eq!(ex2(f32::INFINITY), f32::INFINITY);
        assert_eq!((ex2(0.0), ex2(10.0), ex2(-149.0)), (1.0, 1024.0, f32::from_bits(1)));
        assert!(ex2(f32::NAN).is_nan() && lg2(f32::NAN).is_nan() && lg2(-1.0).is_nan());
        assert_eq!((lg2(0.0), lg2(-0.0)), (f32::NEG_INFINITY, f32::NEG_INFINITY));
        assert_eq!((lg2(f32::INFINITY), lg2(8.0)), (f32::INFINITY, 3.0));
        assert_eq!((rcp(-0.0), rsqrt(0.0)), (f32::NEG_INFINITY, f32::INFINITY));
    }
}
