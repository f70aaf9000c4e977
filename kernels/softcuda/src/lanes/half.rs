//! f16 and bf16 of one lane: conversions that vectorise, and arithmetic.
//!
//! f32 has more than twice the digits of either type, so that a sum, difference or product that is
//! rounded to f32 and then again is rounded right; a fused multiply-add goes through f64 rounded to
//! odd.

use super::float::{max32, max32_nan, min32, min32_nan, odd, two_sum};
use super::{Bf16, F16};

/// NaN of f16 as NVIDIA's hardware makes it.
pub const F16_NAN: u16 = 0x7fff;
/// NaN of bf16 as NVIDIA's hardware makes it.
pub const BF16_NAN: u16 = 0x7fff;

/// f16 to f32: exact.
#[inline(always)]
pub fn f16_to_f32(h: u16) -> f32 {
    let h = u32::from(h);
    let x = (h & 0x7fff) << 13;
    // Multiplying by 2^112 moves the exponent to where f32 has it, and normalises subnormal numbers
    // on the way.
    let scaled = (f32::from_bits(x) * f32::from_bits(0x7780_0000)).to_bits();
    let magnitude = if x >= 0x0f80_0000 { x | 0x7f80_0000 } else { scaled };
    f32::from_bits(magnitude | (h & 0x8000) << 16)
}

/// f32 to f16, to nearest, ties to even.
#[inline(always)]
pub fn f32_to_f16(x: f32) -> u16 {
    let bits = x.to_bits();
    let sign = bits >> 16 & 0x8000;
    let x = bits & 0x7fff_ffff;
    // Subnormal results: adding 0.5 leaves the right number of bits below, rounded by the addition
    // itself.
    let small = (f32::from_bits(x) + 0.5).to_bits().wrapping_sub(0x3f00_0000);
    // 112 = the difference of the exponents' biases; 0xfff and the last bit that stays make ties go
    // to even.
    let normal = x.wrapping_sub(112 << 23).wrapping_add(0xfff).wrapping_add(x >> 13 & 1) >> 13;
    let r = if x < 113 << 23 { small } else { normal };
    let r = if x >= 143 << 23 { 0x7c00 } else { r };
    let r = if x > 0x7f80_0000 { u32::from(F16_NAN) } else { r | sign };
    r as u16
}

/// bf16 to f32: exact.
#[inline(always)]
pub fn bf16_to_f32(b: u16) -> f32 {
    f32::from_bits(u32::from(b) << 16)
}

/// f32 to bf16, to nearest, ties to even.
#[inline(always)]
pub fn f32_to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff).wrapping_add(bits >> 16 & 1) >> 16;
    (if x.is_nan() { u32::from(BF16_NAN) } else { rounded }) as u16
}

/// What f16 and bf16 have in common.
pub trait Half: super::Lane<Raw = u32> {
    /// Exactly.
    fn wide(self) -> f32;
    /// To nearest.
    fn near(x: f32) -> Self;
    /// To nearest, of a value that is exact or rounded to odd.
    fn near64(x: f64) -> Self;
    /// From its bits.
    fn from_bits(bits: u16) -> Self;
    /// Its bits.
    fn bits(self) -> u16;
}

impl Half for F16 {
    #[inline(always)]
    fn wide(self) -> f32 {
        f16_to_f32(self.0)
    }
    #[inline(always)]
    fn near(x: f32) -> Self {
        F16(f32_to_f16(x))
    }
    fn near64(x: f64) -> Self {
        // Rounding to odd in f32 keeps what the second rounding needs.
        F16(f32_to_f16(odd32(x)))
    }
    #[inline(always)]
    fn from_bits(bits: u16) -> Self {
        F16(bits)
    }
    #[inline(always)]
    fn bits(self) -> u16 {
        self.0
    }
}

impl Half for Bf16 {
    #[inline(always)]
    fn wide(self) -> f32 {
        bf16_to_f32(self.0)
    }
    #[inline(always)]
    fn near(x: f32) -> Self {
        Bf16(f32_to_bf16(x))
    }
    fn near64(x: f64) -> Self {
        Bf16(f32_to_bf16(odd32(x)))
    }
    #[inline(always)]
    fn from_bits(bits: u16) -> Self {
        Bf16(bits)
    }
    #[inline(always)]
    fn bits(self) -> u16 {
        self.0
    }
}

/// f64 to f32, rounded to odd.
pub fn odd32(x: f64) -> f32 {
    let near = x as f32;
    let back = f64::from(near);
    if back == x || x.is_nan() || near.to_bits() & 1 == 1 {
        return near;
    }
    // Infinity stands for the largest number, which is odd.
    if back.abs() > x.abs() {
        f32::from_bits(near.to_bits() - 1)
    } else {
        f32::from_bits(near.to_bits() + 1)
    }
}

/// `a + b`
#[inline(always)]
pub fn add<H: Half>(a: H, b: H) -> H {
    H::near(a.wide() + b.wide())
}

/// `a - b`
#[inline(always)]
pub fn sub<H: Half>(a: H, b: H) -> H {
    H::near(a.wide() - b.wide())
}

/// `a * b`
#[inline(always)]
pub fn mul<H: Half>(a: H, b: H) -> H {
    // Two bf16 may have a product below what f32 can hold; f64 holds all.
    H::near64(f64::from(a.wide()) * f64::from(b.wide()))
}

/// `a * b + c`, rounded once.
#[inline]
pub fn fma<H: Half>(a: H, b: H, c: H) -> H {
    let (s, e) = two_sum(f64::from(a.wide()) * f64::from(b.wide()), c.wide().into());
    H::near64(odd(s, e))
}

/// `max(a * b + c, 0)`, NaN if it is NaN.
#[inline]
pub fn fma_relu<H: Half>(a: H, b: H, c: H) -> H {
    let r = fma(a, b, c);
    if r.wide() < 0.0 { H::from_bits(0) } else { r }
}

/// The lesser number.
#[inline(always)]
pub fn min<H: Half>(a: H, b: H) -> H {
    H::near(min32(a.wide(), b.wide()))
}

/// The greater number.
#[inline(always)]
pub fn max<H: Half>(a: H, b: H) -> H {
    H::near(max32(a.wide(), b.wide()))
}

/// The lesser, or NaN.
#[inline(always)]
pub fn min_nan<H: Half>(a: H, b: H) -> H {
    H::near(min32_nan(a.wide(), b.wide()))
}

/// The greater, or NaN.
#[inline(always)]
pub fn max_nan<H: Half>(a: H, b: H) -> H {
    H::near(max32_nan(a.wide(), b.wide()))
}

/// Both halves of a word.
#[inline(always)]
pub fn both<H: Half>(a: u32, f: impl Fn(H) -> H) -> u32 {
    let half = |shift: u32| u32::from(f(H::from_bits((a >> shift) as u16)).bits()) << shift;
    half(0) | half(16)
}

/// Both halves of two words.
#[inline(always)]
pub fn both2<H: Half>(a: u32, b: u32, f: impl Fn(H, H) -> H) -> u32 {
    let part = |v: u32, shift: u32| H::from_bits((v >> shift) as u16);
    let half = |shift: u32| u32::from(f(part(a, shift), part(b, shift)).bits()) << shift;
    half(0) | half(16)
}

/// Both halves of three words.
#[inline(always)]
pub fn both3<H: Half>(a: u32, b: u32, c: u32, f: impl Fn(H, H, H) -> H) -> u32 {
    let part = |v: u32, s: u32| H::from_bits((v >> s) as u16);
    let half = |s: u32| u32::from(f(part(a, s), part(b, s), part(c, s)).bits()) << s;
    half(0) | half(16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversions_agree_with_the_half_crate_on_everything() {
        for bits in 0..=u16::MAX {
            let (h, b) = (half::f16::from_bits(bits), half::bf16::from_bits(bits));
            if !h.is_nan() {
                assert_eq!(f16_to_f32(bits).to_bits(), h.to_f32().to_bits());
                assert_eq!(f32_to_f16(h.to_f32()), bits);
            } else {
                assert!(f16_to_f32(bits).is_nan() && f32_to_f16(f16_to_f32(bits)) == F16_NAN);
            }
            if !b.is_nan() {
                assert_eq!(bf16_to_f32(bits), b.to_f32());
                assert_eq!(f32_to_bf16(b.to_f32()), bits);
            }
        }
        // Every 97th f32, with the ties among them.
        for bits in (0..u32::MAX).step_by(97).chain((0..u32::MAX).step_by(0x1000)) {
            let x = f32::from_bits(bits);
            if !x.is_nan() {
                assert_eq!(f32_to_f16(x), half::f16::from_f32(x).to_bits(), "{x}");
                assert_eq!(f32_to_bf16(x), half::bf16::from_f32(x).to_bits(), "{x}");
            }
        }
    }

    #[test]
    fn fma_rounds_once() {
        // 1.0009766 * 1.0009766 = 1.0019541 is just above a tie of f16 that f32 would have rounded
        // to it.
        let a = F16(0x3c01);
        let exact = f64::from(a.wide()) * f64::from(a.wide());
        assert_eq!(fma(a, a, F16(0)).0, half::f16::from_f64(exact).to_bits());
        // 2048 + 1 is a tie and goes to even; the least bit above it goes up.
        assert_eq!(fma(F16::near(2048.0), F16::near(1.0), F16::near(1.0)).wide(), 2048.0);
        let tiny = F16(1);
        let (x, y) = (F16::near(2049.0 / 2.0), F16::near(2.0));
        assert_eq!(fma(x, y, tiny).wide(), 2048.0 + if x.wide() > 1024.0 { 2.0 } else { 0.0 });
    }
}
