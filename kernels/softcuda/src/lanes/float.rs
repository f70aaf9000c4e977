//! Floating-point arithmetic of one lane, with the rounding that PTX states.
//!
//! Round-to-nearest is the host's own. The other roundings of f32 go over f64: the exact result is
//! first rounded *to odd* in f64 (cut off, with the last bit set if anything was lost), which keeps
//! enough for any second rounding to 24 bits to be right (Boldo and Melquiond, "Emulation of a FMA
//! and correctly rounded sums", 2008).

/// A rounding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Round {
    /// `.rn`: to nearest, ties to even.
    Near,
    /// `.rz`: towards zero.
    Zero,
    /// `.rm`: towards minus infinity.
    Down,
    /// `.rp`: towards plus infinity.
    Up,
}

impl Round {
    /// As a parameter of [`narrow`].
    pub const fn from_code(code: u8) -> Round {
        match code {
            0 => Round::Near,
            1 => Round::Zero,
            2 => Round::Down,
            _ => Round::Up,
        }
    }
}

/// Subnormal numbers become zero of the same sign: `.ftz`.
#[inline(always)]
pub fn flush(x: f32) -> f32 {
    let bits = x.to_bits();
    f32::from_bits(if bits & 0x7f80_0000 == 0 { bits & 0x8000_0000 } else { bits })
}

/// To [0, 1], NaN to 0: `.sat`.
#[inline(always)]
pub fn saturate(x: f32) -> f32 {
    let x = if x > 0.0 { x } else { 0.0 };
    if x < 1.0 { x } else { 1.0 }
}

/// As [`saturate`].
#[inline(always)]
pub fn saturate64(x: f64) -> f64 {
    let x = if x > 0.0 { x } else { 0.0 };
    if x < 1.0 { x } else { 1.0 }
}

/// The sum `s + e`, of which `s` is the nearest f64, rounded to odd.
#[inline]
pub fn odd(s: f64, e: f64) -> f64 {
    let bits = s.to_bits();
    if e == 0.0 || !s.is_finite() || e.is_nan() || bits & 1 == 1 {
        return s;
    }
    f64::from_bits(if (e > 0.0) == (s > 0.0) { bits + 1 } else { bits - 1 })
}

/// `a + b` as nearest and rest (Knuth's two-sum): exact without overflow.
#[inline]
pub fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let s = a + b;
    let t = s - a;
    (s, (a - (s - t)) + (b - t))
}

/// A value (exact, or rounded to odd) to f32.
#[inline]
pub fn narrow(x: f64, round: Round) -> f32 {
    let r = x as f32;
    let y = f64::from(r);
    if y == x || x.is_nan() {
        return r;
    }
    match round {
        Round::Near => r,
        Round::Zero if y.abs() > x.abs() => {
            if r > 0.0 {
                r.next_down()
            } else {
                r.next_up()
            }
        }
        Round::Down if y > x => r.next_down(),
        Round::Up if y < x => r.next_up(),
        _ => r,
    }
}

/// `p + c` of two exact values, rounded to odd; an exact zero has the sign that the rounding wants.
#[inline]
fn sum_odd(p: f64, c: f64, round: Round) -> f64 {
    let (s, e) = two_sum(p, c);
    if s == 0.0 && round == Round::Down && p.is_sign_negative() != c.is_sign_negative() {
        return -0.0;
    }
    odd(s, e)
}

/// `a + b`, rounded as [`Round::from_code`] of R.
#[inline]
pub fn add<const R: u8>(a: f32, b: f32) -> f32 {
    let round = Round::from_code(R);
    narrow(sum_odd(a.into(), b.into(), round), round)
}

/// `a * b`.
#[inline]
pub fn mul<const R: u8>(a: f32, b: f32) -> f32 {
    narrow(f64::from(a) * f64::from(b), Round::from_code(R))
}

/// `a * b + c`.
#[inline]
pub fn fma<const R: u8>(a: f32, b: f32, c: f32) -> f32 {
    let round = Round::from_code(R);
    narrow(sum_odd(f64::from(a) * f64::from(b), c.into(), round), round)
}

/// `a / b`.
#[inline]
pub fn div<const R: u8>(a: f32, b: f32) -> f32 {
    let (a, b) = (f64::from(a), f64::from(b));
    let q = a / b;
    let rest = (-q).mul_add(b, a);
    narrow(odd(q, if b > 0.0 { rest } else { -rest }), Round::from_code(R))
}

/// The square root.
#[inline]
pub fn sqrt<const R: u8>(a: f32) -> f32 {
    let a = f64::from(a);
    let q = a.sqrt();
    narrow(odd(q, (-q).mul_add(q, a)), Round::from_code(R))
}

macro_rules! min_max {
    ($min:ident, $max:ident, $ty:ty, $nan:expr) => {
        /// The lesser; a number rather than a NaN, -0 rather than +0.
        #[inline(always)]
        pub fn $min(a: $ty, b: $ty) -> $ty {
            let equal = <$ty>::from_bits(a.to_bits() | b.to_bits());
            let less = if a < b { a } else { b };
            let chosen = if a == b { equal } else { less };
            let first = if a.is_nan() { $nan } else { a };
            if b.is_nan() { first } else { chosen }
        }
        /// The greater; a number rather than a NaN, +0 rather than -0.
        #[inline(always)]
        pub fn $max(a: $ty, b: $ty) -> $ty {
            let equal = <$ty>::from_bits(a.to_bits() & b.to_bits());
            let more = if a > b { a } else { b };
            let chosen = if a == b { equal } else { more };
            let first = if a.is_nan() { $nan } else { a };
            if b.is_nan() { first } else { chosen }
        }
    };
}

min_max!(min32, max32, f32, NAN);
min_max!(min64, max64, f64, f64::NAN);

/// The NaN that NVIDIA's hardware makes.
pub const NAN: f32 = f32::from_bits(0x7fff_ffff);

/// The lesser, or NaN if one of the two is.
#[inline(always)]
pub fn min32_nan(a: f32, b: f32) -> f32 {
    if a.is_nan() | b.is_nan() { NAN } else { min32(a, b) }
}

/// The greater, or NaN if one of the two is.
#[inline(always)]
pub fn max32_nan(a: f32, b: f32) -> f32 {
    if a.is_nan() | b.is_nan() { NAN } else { max32(a, b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against integers: significands of 24 bits whose sums and products fit i128.
    #[test]
    fn directed_roundings_enclose_the_exact_result() {
        let mut seed = 1u64;
        let mut next = || {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) as u32
        };
        for _ in 0..200_000 {
            let (x, y) = (next() as i32 >> (next() % 24), next() as i32 >> (next() % 24));
            let scale = |v: i32| (v >> 7) as f32;
            let (a, b, c) = (scale(x), scale(y), scale(next() as i32) * 4096.0);
            let exact = f64::from(a) * f64::from(b) + f64::from(c);
            assert_eq!(two_sum(f64::from(a) * f64::from(b), c.into()).1, 0.0, "exact in f64");
            let (down, up, zero) = (fma::<2>(a, b, c), fma::<3>(a, b, c), fma::<1>(a, b, c));
            assert!(f64::from(down) <= exact && exact <= f64::from(up), "{a} {b} {c}");
            assert!(up == down || up == down.next_up(), "{a} {b} {c}: {down} {up}");
            assert_eq!(zero, if exact > 0.0 { down } else { up });
            assert_eq!(fma::<0>(a, b, c), a.mul_add(b, c));
        }
    }

    #[test]
    fn special_cases() {
        assert_eq!(add::<2>(1.0, -1.0).to_bits(), (-0.0f32).to_bits());
        assert_eq!(add::<0>(1.0, -1.0).to_bits(), 0.0f32.to_bits());
        assert_eq!(add::<1>(f32::MAX, f32::MAX), f32::MAX);
        assert_eq!(add::<3>(f32::MAX, f32::MAX), f32::INFINITY);
        assert_eq!(add::<3>(1.0, 1e-30), 1.0f32.next_up());
        assert_eq!(div::<2>(1.0, 3.0).next_up(), div::<3>(1.0, 3.0));
        assert_eq!(sqrt::<2>(2.0).next_up(), sqrt::<3>(2.0));
        assert_eq!(sqrt::<3>(4.0), 2.0);
        assert!(min32(f32::NAN, f32::NAN).is_nan());
        assert_eq!(max32(f32::NAN, 1.0), 1.0);
        assert_eq!(min32(1.0, f32::NAN), 1.0);
        assert_eq!(min32(0.0, -0.0).to_bits(), (-0.0f32).to_bits());
        assert_eq!(max32(-0.0, 0.0).to_bits(), 0.0f32.to_bits());
        assert!(max32_nan(f32::NAN, 1.0).is_nan());
    }
}
