//! `cvt` in all its forms, one lane at a time.
//!
//! A source is read as an exact value: an integer of 128 bits, or an f64 (which holds every f16,
//! bf16, f32). It is then rounded once to what is wanted. Forms that kernels use much have handlers
//! of their own, in [`crate::decode::convert`].

use super::float::{Round, narrow, odd, saturate64};
use super::half::{BF16_NAN, F16_NAN, bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16, odd32};
use crate::types::Type;

/// What a conversion does.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// Of what.
    pub from: Type,
    /// To what.
    pub to: Type,
    /// How a result that is not exact is rounded.
    pub round: Round,
    /// Whether a floating-point source is rounded to an integer (`.rni`, ...).
    pub integral: bool,
    /// Subnormal f32 become zero.
    pub ftz: bool,
    /// Results are clamped: integers to their range, others to [0, 1].
    pub sat: bool,
    /// Negative results become zero.
    pub relu: bool,
}

enum Value {
    Integer(i128),
    Real(f64),
}

fn read(raw: u64, spec: &Spec) -> Value {
    use Type::*;
    match spec.from {
        U8 | B8 => Value::Integer((raw as u8).into()),
        S8 => Value::Integer((raw as i8).into()),
        U16 | B16 => Value::Integer((raw as u16).into()),
        S16 => Value::Integer((raw as i16).into()),
        U32 | B32 => Value::Integer((raw as u32).into()),
        S32 => Value::Integer((raw as i32).into()),
        U64 | B64 => Value::Integer(raw.into()),
        S64 => Value::Integer((raw as i64).into()),
        F16 => Value::Real(f16_to_f32(raw as u16).into()),
        Bf16 => Value::Real(bf16_to_f32(raw as u16).into()),
        F64 => Value::Real(f64::from_bits(raw)),
        F32 | Tf32 | F16x2 | Bf16x2 | Pred => {
            let x = f32::from_bits(raw as u32);
            Value::Real(if spec.ftz { super::float::flush(x) } else { x }.into())
        }
    }
}

fn to_integral(x: f64, round: Round) -> f64 {
    match round {
        Round::Near => x.round_ties_even(),
        Round::Zero => x.trunc(),
        Round::Down => x.floor(),
        Round::Up => x.ceil(),
    }
}

/// The least and the greatest value of an integer type.
fn range(ty: Type) -> (i128, i128) {
    let bits = 8 * ty.bytes() as u32;
    if ty.is_signed() { (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) } else { (0, (1 << bits) - 1) }
}

/// Rounds an exact value (or one rounded to odd) to a half type; `near` rounds f32, `wide` is its
/// inverse.
fn to_half(x: f64, round: Round, nan: u16, near: fn(f32) -> u16, wide: fn(u16) -> f32) -> u16 {
    if x.is_nan() {
        return nan;
    }
    let r = near(odd32(x));
    let y = f64::from(wide(r));
    if y == x {
        return r;
    }
    // The bits of a half type without its sign are in order of magnitude.
    let too_large = y.abs() > x.abs();
    let towards_zero = match round {
        Round::Near => return r,
        Round::Zero => true,
        Round::Down => x > 0.0,
        Round::Up => x < 0.0,
    };
    match (towards_zero, too_large) {
        (true, true) => r - 1,
        (false, false) => r + 1,
        _ => r,
    }
}

/// The converted value's bits, in the low bytes.
pub fn convert(raw: u64, spec: &Spec) -> u64 {
    use Type::*;
    let value = read(raw, spec);
    if !spec.to.is_float() {
        let (least, greatest) = range(spec.to);
        let integer = match value {
            Value::Integer(i) if spec.sat => i.clamp(least, greatest),
            Value::Integer(i) => i,
            // PTX ISA, `cvt`, integer notes.
            Value::Real(x) if x.is_nan() => match (spec.from, 8 * spec.to.bytes()) {
                (F64, bits) | (_, bits @ 64) => 1 << (bits - 1),
                _ => 0,
            },
            // The cast saturates at the ends of i128, far beyond those of the type.
            Value::Real(x) => (to_integral(x, spec.round) as i128).clamp(least, greatest),
        };
        return integer as u64
            & if spec.to.bytes() == 8 { u64::MAX } else { (1 << (8 * spec.to.bytes())) - 1 };
    }
    // To f64 first: exact, or rounded to odd, which no rounding to a narrower type can tell from
    // exact.
    let (mut x, exact_integer) = match value {
        Value::Real(x) if spec.integral => (to_integral(x, spec.round), None),
        Value::Real(x) => (x, None),
        Value::Integer(i) => {
            let near = i as f64;
            (odd(near, (i - near as i128) as f64), Some(i))
        }
    };
    if spec.sat {
        x = saturate64(x);
    }
    if spec.relu && x < 0.0 {
        x = 0.0;
    }
    match spec.to {
        F64 => match (exact_integer, spec.round) {
            (Some(i), Round::Near) if !spec.sat => (i as f64).to_bits(),
            _ => x.to_bits(),
        },
        F16 => to_half(x, spec.round, F16_NAN, f32_to_f16, f16_to_f32).into(),
        Bf16 => to_half(x, spec.round, BF16_NAN, f32_to_bf16, bf16_to_f32).into(),
        _ => {
            let r = if x.is_nan() { f32::from_bits(0x7fff_ffff) } else { narrow(x, spec.round) };
            (if spec.ftz { super::float::flush(r) } else { r }).to_bits().into()
        }
    }
}

/// `cvt.rna.tf32.f32`: to 10 bits behind the point, ties away from zero.
#[inline(always)]
pub fn to_tf32(x: f32) -> u32 {
    let bits = x.to_bits();
    if x.is_finite() { bits.wrapping_add(0x1000) & !0x1fff } else { bits }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(to: Type, from: Type, round: Round) -> Spec {
        Spec { from, to, round, integral: false, ftz: false, sat: false, relu: false }
    }

    #[test]
    fn integers_clamp_and_wrap() {
        let f = |x: f32, to, round| convert(x.to_bits().into(), &spec(to, Type::F32, round));
        assert_eq!(f(2.5, Type::S32, Round::Near), 2);
        assert_eq!(f(-2.5, Type::S32, Round::Down), -3i32 as u32 as u64);
        assert_eq!(f(3e9, Type::S32, Round::Zero), i32::MAX as u64);
        assert_eq!((f(-1.0, Type::U32, Round::Zero), f(f32::NAN, Type::S32, Round::Near)), (0, 0));
        assert_eq!(f(300.0, Type::U8, Round::Near), 255);
        assert_eq!(convert(0x1ff, &spec(Type::S8, Type::S32, Round::Near)), 0xff);
        let sat = Spec { sat: true, ..spec(Type::U8, Type::S32, Round::Near) };
        assert_eq!((convert(300, &sat), convert(-5i64 as u64, &sat)), (255, 0));
    }

    #[test]
    fn large_integers_round_once() {
        for v in [u64::MAX, (1 << 53) + 1, (1 << 62) + (1 << 38) + 1, 0x8000_0080_0000_0001] {
            assert_eq!(convert(v, &spec(Type::F64, Type::U64, Round::Near)), (v as f64).to_bits());
            let f32_bits = convert(v, &spec(Type::F32, Type::U64, Round::Near));
            assert_eq!(f32_bits, u64::from((v as f32).to_bits()), "{v:#x}");
            let down = f32::from_bits(convert(v, &spec(Type::F32, Type::U64, Round::Zero)) as u32);
            assert!(down as u128 <= u128::from(v));
        }
    }

    #[test]
    fn halves_round_in_all_directions() {
        let f = |x: f32, to, round| convert(x.to_bits().into(), &spec(to, Type::F32, round)) as u16;
        let x = 1.0 + 1.0 / 4096.0;
        assert_eq!(f(x, Type::F16, Round::Near), 0x3c00);
        assert_eq!(f(x, Type::F16, Round::Up), 0x3c01);
        assert_eq!(
            (f(-x, Type::F16, Round::Down), f(-x, Type::F16, Round::Zero)),
            (0xbc01, 0xbc00)
        );
        assert_eq!(
            (f(1e6, Type::F16, Round::Zero), f(1e6, Type::F16, Round::Near)),
            (0x7bff, 0x7c00)
        );
        assert_eq!(
            (f(1.0, Type::Bf16, Round::Near), f(x, Type::Bf16, Round::Up)),
            (0x3f80, 0x3f81)
        );
        assert_eq!(to_tf32(f32::from_bits(0x3f80_1000)), 0x3f80_2000);
    }
}
