//! exp, log, tanh, sigmoid and the normal distribution function on f32, without branches or calls:
//! inside a [`super::Kernel`] the compiler vectorises loops over them.
//!
//! Each is a range reduction followed by a polynomial. `V` decides whether multiply-adds are fused.
//! Errors are in units in the last place (ulp) of the f32 result, measured by the tests below; NaN,
//! infinities, zeros and denormals behave as in `std`.

// Constants are written with more digits than f32 holds, so that a reader can check them.
#![allow(clippy::excessive_precision)]

use super::Vector;

/// 1.5 * 2^23: adding and subtracting it rounds |v| < 2^22 to the nearest integer, which needs no
/// instruction beyond the baseline.
const ROUND: f32 = 12_582_912.0;

/// ln 2 in two parts. The first has 9 bits, so that its product with an exponent is exact.
const LN_2_HIGH: f32 = 355.0 / 512.0;
const LN_2_LOW: f32 = -2.121_944_400_546_9e-4;

/// Where `keep` holds `value`, elsewhere `other`: compiled to a blend.
#[inline(always)]
fn select(keep: bool, value: f32, other: f32) -> f32 {
    if keep { value } else { other }
}

/// Horner's scheme, highest coefficient first.
#[inline(always)]
fn polynomial<V: Vector, const N: usize>(x: f32, coefficients: [f32; N]) -> f32 {
    let mut sum = coefficients[0];
    for &c in &coefficients[1..] {
        sum = V::scalar_mul_add(sum, x, c);
    }
    sum
}

/// e^(a + b) for |b| below 0.1: the exponential of a number with more digits than an f32 holds.
#[inline(always)]
fn exp_sum<V: Vector>(a: f32, b: f32) -> f32 {
    // Beyond these the result is 0 or infinite anyway; NaN passes both selects.
    let a = select(a < -104.0, -104.0, a);
    let a = select(a > 89.0, 89.0, a);
    // a = n ln 2 + r, |r| <= ln 2 / 2
    let n = V::scalar_mul_add(a, std::f32::consts::LOG2_E, ROUND) - ROUND;
    let r = V::scalar_mul_add(n, -LN_2_LOW, V::scalar_mul_add(n, -LN_2_HIGH, a)) + b;
    // Taylor: the first term left out, r^8 / 8!, is below 2^-27.
    let tail =
        polynomial::<V, 6>(r, [1.0 / 5040.0, 1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5]);
    let p = V::scalar_mul_add(r * r, tail, r) + 1.0;
    // 2^n in two factors: n reaches from -150 (denormal results) to 128, each half is in range.
    // The bits of ROUND + half end in the integer `half`; |n| < 2^10 where n is not NaN.
    let half = V::scalar_mul_add(n, 0.5, ROUND) - ROUND;
    p * power_of_two(half) * power_of_two(n - half)
}

/// 2^n for a whole n in -126..=127, built from its bits.
#[inline(always)]
fn power_of_two(n: f32) -> f32 {
    f32::from_bits(((n + (ROUND + 127.0)).to_bits()) << 23)
}

/// e^x. Error at most 1.1 ulp.
#[inline(always)]
pub fn exp<V: Vector>(x: f32) -> f32 {
    exp_sum::<V>(x, 0.0)
}

/// Natural logarithm. Error at most 1 ulp.
#[inline(always)]
pub fn log<V: Vector>(x: f32) -> f32 {
    const SQRT_HALF: u32 = 0x3F35_04F3;
    // Denormals are scaled into the normal range first.
    let tiny = x < f32::MIN_POSITIVE;
    let scaled = select(tiny, x * 8_388_608.0, x);
    let exponent_offset = select(tiny, -23.0, 0.0);
    // scaled = 2^e m, sqrt(1/2) <= m < sqrt(2)
    let e_bits = (scaled.to_bits().wrapping_sub(SQRT_HALF) as i32) >> 23;
    let m = f32::from_bits(scaled.to_bits().wrapping_sub((e_bits << 23) as u32));
    let e = e_bits as f32 + exponent_offset;
    // ln(1 + f) = 2 atanh(s) with s = f / (2 + f), |s| < 0.172; the series of (2 atanh(s) - 2 s) /
    // s is 2 s^2 / 3 + 2 s^4 / 5 + ..; written so that f, which is exact, stands alone: 2 s = f - s
    // f, and s f = f^2 / 2 - s f^2 / 2.
    let f = m - 1.0;
    let s = f / (2.0 + f);
    let z = s * s;
    let series = z * polynomial::<V, 4>(z, [2.0 / 9.0, 2.0 / 7.0, 2.0 / 5.0, 2.0 / 3.0]);
    let half_square = 0.5 * f * f;
    let low = V::scalar_mul_add(e, LN_2_LOW, s * (half_square + series));
    let y = V::scalar_mul_add(e, LN_2_HIGH, f - (half_square - low));
    let y = select(x < f32::INFINITY, y, x); // infinity and NaN
    let y = select(x == 0.0, f32::NEG_INFINITY, y);
    select(x < 0.0, f32::NAN, y)
}

/// Hyperbolic tangent. Error at most 3 ulp.
#[inline(always)]
pub fn tanh<V: Vector>(x: f32) -> f32 {
    // Near 0 Lambert's continued fraction x / (1 + x^2 / (3 + x^2 / (5 + ..))), cut after 9, exact
    // to 2^-30 there; elsewhere (e - 1) / (e + 1) with e = exp(2 |x|), which is 1 in f32 from 9.1
    // on.
    let magnitude = x.abs();
    let small = magnitude < 0.55;
    let e = exp::<V>(2.0 * select(magnitude > 10.0, 10.0, magnitude));
    let z = x * x;
    let over = V::scalar_mul_add(V::scalar_mul_add(z, 1.0, 105.0), z, 945.0) * magnitude;
    let under = V::scalar_mul_add(V::scalar_mul_add(z, 15.0, 420.0), z, 945.0);
    (select(small, over, e - 1.0) / select(small, under, e + 1.0)).copysign(x)
}

/// 1 / (1 + e^-x). Error at most 3 ulp.
#[inline(always)]
pub fn sigmoid<V: Vector>(x: f32) -> f32 {
    // With e^-|x| nothing overflows, and small results keep all their digits.
    let e = exp::<V>(-x.abs());
    select(x < 0.0, e, 1.0) / (1.0 + e)
}

/// Q of [`normal`], highest coefficient first.
const NORMAL_TAIL: [f32; 10] = [
    0.016_892_523_47,
    -0.064_537_809_06,
    0.055_880_979_12,
    0.022_608_897_34,
    0.017_736_376_35,
    0.083_850_337_12,
    0.073_013_111_60,
    0.095_287_793_05,
    0.099_521_466_16,
    0.099_746_329_16,
];

/// The normal distribution at one point.
#[derive(Clone, Copy)]
pub struct Normal {
    /// Φ(x), the distribution function. Error at most 8 ulp, also in the lower tail.
    pub cdf: f32,
    /// φ(x) = e^(-x²/2) / sqrt(2π), the density.
    pub pdf: f32,
}

/// Φ and φ, which share an exponential.
#[inline(always)]
pub fn normal<V: Vector>(x: f32) -> Normal {
    // Below -14.5 both are 0 in f32; there the argument is cut, NaN passes.
    let magnitude = x.abs();
    let magnitude = select(magnitude > 14.5, 14.5, magnitude);
    // x^2 needs more digits than f32 has, for an absolute error in the exponent is a relative one
    // in the result: with h the upper 12 bits of x, x^2 = h^2 + (x - h)(x + h), and h^2 is exact.
    let h = f32::from_bits(magnitude.to_bits() & 0xFFFF_F000);
    let e = exp_sum::<V>(-0.5 * h * h, -0.5 * (magnitude - h) * (magnitude + h));
    // Φ(-x) = e^(-x²/2) t Q(t) with t = 4 / (4 + x). Q is a Chebyshev fit of degree 9 on 0 <= x <=
    // 14.5 with relative error 9e-9: weighted least squares at 200 Chebyshev nodes of t, with
    // weights raised where the error was largest.
    let t = 4.0 / (4.0 + magnitude);
    let q = polynomial::<V, 10>(t, NORMAL_TAIL);
    let tail = e * t * q;
    Normal { cdf: select(x > 0.0, 1.0 - tail, tail), pdf: e * 0.398_942_280_4 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::simd::{Isa, Kernel};

    /// One function over a slice.
    struct Map<'a>(&'static str, &'a [f32], &'a mut [f32]);

    impl Kernel for Map<'_> {
        type Output = ();
        #[inline(always)]
        fn run<V: Vector>(self) {
            let Map(name, x, y) = self;
            for (y, &x) in y.iter_mut().zip(x) {
                *y = match name {
                    "exp" => exp::<V>(x),
                    "log" => log::<V>(x),
                    "tanh" => tanh::<V>(x),
                    "sigmoid" => sigmoid::<V>(x),
                    _ => normal::<V>(x).cdf,
                };
            }
        }
    }

    /// Φ in f64: the series around 0, the continued fraction of the upper tail.
    fn normal_cdf(x: f64) -> f64 {
        let pdf = (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
        if x.abs() < 3.0 {
            let (mut term, mut sum) = (x, x);
            for k in 1..80 {
                term *= x * x / (2 * k + 1) as f64;
                sum += term;
            }
            return 0.5 + pdf * sum;
        }
        let fraction = (1..120).rev().fold(x.abs(), |tail, k| x.abs() + k as f64 / tail);
        let upper = if x.is_infinite() { 0.0 } else { pdf / fraction };
        if x < 0.0 { upper } else { 1.0 - upper }
    }

    /// Distance between neighbouring f32 at `v`.
    fn ulp(v: f64) -> f64 {
        let v = (v as f32).abs().min(f32::MAX);
        f64::from(f32::from_bits(v.to_bits() + 1).min(f32::MAX) - v).max(1e-45)
    }

    #[test]
    fn errors_are_below_the_stated_ulp() {
        // Every 2,503rd bit pattern, which covers all exponents and both signs, and a dense run
        // around 1.
        let mut x: Vec<f32> = (0..u32::MAX / 2503).map(|i| f32::from_bits(i * 2503)).collect();
        x.extend((0..200_000).map(|i| 0.5 + i as f32 * 1e-5));
        x.extend((0..200_000).map(|i| i as f32 * 1e-3 - 100.0));
        x.extend([0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, f32::MAX, f32::MIN]);
        /// Name, exact function, limit.
        type Case = (&'static str, fn(f64) -> f64, f64);
        let cases: [Case; 5] = [
            ("exp", f64::exp, 1.1),
            ("log", f64::ln, 1.0),
            ("tanh", f64::tanh, 3.0),
            ("sigmoid", |v| 1.0 / (1.0 + (-v).exp()), 3.0),
            ("normal_cdf", normal_cdf, 8.0),
        ];
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            for (name, exact, limit) in cases {
                let mut y = vec![0.0; x.len()];
                isa.run(Map(name, &x, &mut y));
                let mut worst = (0.0, 0.0);
                for (&x, &y) in x.iter().zip(&y) {
                    let want = exact(f64::from(x));
                    if want.is_nan() || y.is_nan() || y.is_infinite() || (want as f32).is_infinite()
                    {
                        let same = (want.is_nan() && y.is_nan()) || want as f32 == y;
                        // A result within one rounding of overflow may land on either side.
                        let edge = want.abs() > 3.402_823e38 && want.is_finite();
                        assert!(same || edge, "{isa} {name}({x:e}) = {y:e}, not {want:e}");
                        continue;
                    }
                    let error = (f64::from(y) - want).abs() / ulp(want);
                    if error > worst.0 {
                        worst = (error, x);
                    }
                }
                println!("{isa} {name}: {:.2} ulp at {:e}", worst.0, worst.1);
                assert!(worst.0 <= limit, "{isa} {name}: {:.2} ulp at {:e}", worst.0, worst.1);
            }
        }
    }
}
