//! From a function of one lane to the handler of an instruction.
//!
//! `binary(|a: f32, b: f32| a + b)` is the whole of `add.f32`: the closure becomes a type parameter
//! of a loop over the 32 lanes, which the compiler unrolls and vectorises. Every loop exists twice,
//! for any CPU and for AVX2 with FMA; [`wide`] chooses when an instruction is decoded.

pub mod approx;
pub mod convert;
pub mod float;
pub mod half;
pub mod integer;

use std::sync::LazyLock;

use crate::code::{ALL, Handler, Insn, LANES};
use crate::exec::Context;

/// Whether the handlers for AVX2 and FMA are used: where the CPU has them, unless
/// `TILEGRAD_CPU_ISA` says `portable`, as it does to the CPU kernels (the results are the same
/// bits).
pub fn wide() -> bool {
    #[cfg(target_arch = "x86_64")]
    static WIDE: LazyLock<bool> = LazyLock::new(|| {
        std::env::var("TILEGRAD_CPU_ISA").as_deref() != Ok("portable")
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("lzcnt")
            && is_x86_feature_detected!("popcnt")
    });
    #[cfg(not(target_arch = "x86_64"))]
    static WIDE: LazyLock<bool> = LazyLock::new(|| false);
    *WIDE
}

/// Makes `$name::<..>` exist for any CPU and for AVX2, and chooses.
macro_rules! multiversion {
    ($body:ident :: < $($g:ident),* > where $($bounds:tt)*) => {{
        unsafe fn plain<$($g),*>(ctx: &mut Context<'_>, insn: &Insn, mask: u32) where $($bounds)* {
            // SAFETY: the caller's promise is the body's.
            unsafe { $body::<$($g),*>(ctx, insn, mask) }
        }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma,bmi1,bmi2,lzcnt,popcnt")]
        unsafe fn avx2<$($g),*>(ctx: &mut Context<'_>, insn: &Insn, mask: u32) where $($bounds)* {
            // SAFETY: the caller's promise is the body's.
            unsafe { $body::<$($g),*>(ctx, insn, mask) }
        }
        #[cfg(target_arch = "x86_64")]
        if $crate::lanes::wide() {
            return avx2::<$($g),*>;
        }
        plain::<$($g),*>
    }};
}
pub(crate) use multiversion;

/// An element of a row.
pub trait Raw: Copy {
    /// `new` where `bit` is 1, `old` where it is 0: without a branch, so that it vectorises.
    fn choose(bit: u32, new: Self, old: Self) -> Self;
}

impl Raw for u32 {
    #[inline(always)]
    fn choose(bit: u32, new: u32, old: u32) -> u32 {
        let mask = bit.wrapping_neg();
        (new & mask) | (old & !mask)
    }
}

impl Raw for u64 {
    #[inline(always)]
    fn choose(bit: u32, new: u64, old: u64) -> u64 {
        let mask = u64::from(bit).wrapping_neg();
        (new & mask) | (old & !mask)
    }
}

/// A type that lanes of a row can have.
pub trait Lane: Copy + 'static {
    /// `u32` or `u64`: what the row consists of.
    type Raw: Raw;
    /// From the row.
    fn get(raw: Self::Raw) -> Self;
    /// To the row; narrow values with zeros above.
    fn put(self) -> Self::Raw;
}

macro_rules! lane {
    ($($ty:ty, $raw:ty, $get:expr, $put:expr;)*) => {$(
        impl Lane for $ty {
            type Raw = $raw;
            #[inline(always)]
            fn get(raw: $raw) -> Self {
                ($get)(raw)
            }
            #[inline(always)]
            fn put(self) -> $raw {
                ($put)(self)
            }
        }
    )*};
}

/// The bits of an f16 in a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct F16(pub u16);
/// The bits of a bf16 in a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bf16(pub u16);

lane! {
    u8, u32, |r| r as u8, |v| v as u32;
    i8, u32, |r| r as i8, |v: i8| v as u8 as u32;
    u16, u32, |r| r as u16, |v| v as u32;
    i16, u32, |r| r as i16, |v: i16| v as u16 as u32;
    u32, u32, |r| r, |v| v;
    i32, u32, |r| r as i32, |v: i32| v as u32;
    f32, u32, f32::from_bits, |v: f32| v.to_bits();
    F16, u32, |r| F16(r as u16), |v: F16| v.0 as u32;
    Bf16, u32, |r| Bf16(r as u16), |v: Bf16| v.0 as u32;
    u64, u64, |r| r, |v| v;
    i64, u64, |r| r as i64, |v: i64| v as u64;
    f64, u64, f64::from_bits, |v: f64| v.to_bits();
}

/// Lanes that are computed together; reads come before writes, so that a row may be source and
/// destination.
const GROUP: usize = 8;

/// # Safety
/// `offset` is that of a row of `T::Raw` in the register file of the running warp; `from + GROUP <=
/// LANES`.
#[inline(always)]
unsafe fn read<T: Lane>(ctx: &Context<'_>, offset: u32, from: usize) -> [T; GROUP] {
    // SAFETY: the row has 32 elements; rows are aligned to their elements, since their offsets are
    // multiples of 32 words.
    let raw = unsafe {
        ctx.regs.add(offset as usize).cast::<T::Raw>().add(from).cast::<[T::Raw; GROUP]>().read()
    };
    raw.map(T::get)
}

/// # Safety
/// As [`read`].
#[inline(always)]
unsafe fn write<T: Lane>(
    ctx: &mut Context<'_>,
    offset: u32,
    from: usize,
    mask: u32,
    v: [T; GROUP],
) {
    // SAFETY: as in `read`.
    let to = unsafe {
        &mut *ctx.regs.add(offset as usize).cast::<T::Raw>().add(from).cast::<[T::Raw; GROUP]>()
    };
    if mask == ALL {
        *to = v.map(T::put);
    } else {
        let (part, old) = (mask >> from, *to);
        *to = std::array::from_fn(|i| T::Raw::choose(part >> i & 1, v[i].put(), old[i]));
    }
}

/// A whole row.
///
/// # Safety
/// `offset` is that of a row of `T::Raw` in the register file of the running warp.
#[inline(always)]
pub unsafe fn row<T: Lane>(ctx: &Context<'_>, offset: u32) -> [T; LANES] {
    // SAFETY: as in `read`.
    let raw =
        unsafe { ctx.regs.add(offset as usize).cast::<T::Raw>().cast::<[T::Raw; LANES]>().read() };
    // `map` of an array as long is not inlined, hence not compiled for the vectors of its caller.
    std::array::from_fn(|lane| T::get(raw[lane]))
}

/// Writes the lanes of a mask.
///
/// # Safety
/// As [`row`].
#[inline(always)]
pub unsafe fn set_row<T: Lane>(ctx: &mut Context<'_>, offset: u32, mask: u32, v: &[T; LANES]) {
    for from in (0..LANES).step_by(GROUP) {
        let group: [T; GROUP] = std::array::from_fn(|i| v[from + i]);
        // SAFETY: the caller's promise; `from` is a multiple of GROUP below LANES.
        unsafe { write(ctx, offset, from, mask, group) };
    }
}

/// The predicate word at `word`.
///
/// # Safety
/// `word` is a predicate of the running code.
#[inline(always)]
pub unsafe fn predicate(ctx: &Context<'_>, word: u32) -> u32 {
    // SAFETY: the caller's promise.
    unsafe { *ctx.regs.add(word as usize) }
}

/// Writes the lanes of a mask into a predicate word.
///
/// # Safety
/// As [`predicate`].
#[inline(always)]
pub unsafe fn set_predicate(ctx: &mut Context<'_>, word: u32, mask: u32, value: u32) {
    // SAFETY: the caller's promise.
    let to = unsafe { &mut *ctx.regs.add(word as usize) };
    *to = (*to & !mask) | (value & mask);
}

/// A closure without captures, out of its type.
#[inline(always)]
pub(crate) fn conjure<F: Copy>() -> F {
    const { assert!(size_of::<F>() == 0, "lane functions capture nothing") };
    // SAFETY: F has no bytes, and it is Copy; whoever named the type had a value of it, which is
    // passed to the makers of handlers below.
    unsafe { std::ptr::NonNull::<F>::dangling().read() }
}

/// `d = f(a)`
pub fn unary<A: Lane, R: Lane, F: Fn(A) -> R + Copy + 'static>(_: F) -> Handler {
    #[inline(always)]
    unsafe fn body<A, R, F>(ctx: &mut Context<'_>, insn: &Insn, mask: u32)
    where
        A: Lane,
        R: Lane,
        F: Fn(A) -> R + Copy + 'static,
    {
        let f = conjure::<F>();
        for from in (0..LANES).step_by(GROUP) {
            // SAFETY: decoded offsets, see `Handler`.
            unsafe {
                let a = read::<A>(ctx, insn.a, from);
                write(ctx, insn.d, from, mask, a.map(f));
            }
        }
    }
    multiversion!(body::<A, R, F> where A: Lane, R: Lane, F: Fn(A) -> R + Copy + 'static)
}

/// `d = f(a, b)`
pub fn binary<A: Lane, B: Lane, R: Lane, F: Fn(A, B) -> R + Copy + 'static>(_: F) -> Handler {
    #[inline(always)]
    unsafe fn body<A, B, R, F>(ctx: &mut Context<'_>, insn: &Insn, mask: u32)
    where
        A: Lane,
        B: Lane,
        R: Lane,
        F: Fn(A, B) -> R + Copy + 'static,
    {
        let f = conjure::<F>();
        for from in (0..LANES).step_by(GROUP) {
            // SAFETY: decoded offsets, see `Handler`.
            unsafe {
                let a = read::<A>(ctx, insn.a, from);
                let b = read::<B>(ctx, insn.b, from);
                write(ctx, insn.d, from, mask, std::array::from_fn(|i| f(a[i], b[i])));
            }
        }
    }
    multiversion!(body::<A, B, R, F> where A: Lane, B: Lane, R: Lane, F: Fn(A, B) -> R + Copy + 'static)
}

/// `d = f(a, b, c)`
pub fn ternary<A: Lane, B: Lane, C: Lane, R: Lane, F: Fn(A, B, C) -> R + Copy + 'static>(
    _: F,
) -> Handler {
    #[inline(always)]
    unsafe fn body<A, B, C, R, F>(ctx: &mut Context<'_>, insn: &Insn, mask: u32)
    where
        A: Lane,
        B: Lane,
        C: Lane,
        R: Lane,
        F: Fn(A, B, C) -> R + Copy + 'static,
    {
        let f = conjure::<F>();
        for from in (0..LANES).step_by(GROUP) {
            // SAFETY: decoded offsets, see `Handler`.
            unsafe {
                let a = read::<A>(ctx, insn.a, from);
                let b = read::<B>(ctx, insn.b, from);
                let c = read::<C>(ctx, insn.c, from);
                write(ctx, insn.d, from, mask, std::array::from_fn(|i| f(a[i], b[i], c[i])));
            }
        }
    }
    multiversion!(body::<A, B, C, R, F> where
        A: Lane, B: Lane, C: Lane, R: Lane, F: Fn(A, B, C) -> R + Copy + 'static)
}

/// `d = f(a, b, c, imm)`: the immediate holds what would be a fourth operand (`lop3`'s table,
/// `prmt`'s selector).
pub fn with_immediate<A: Lane, R: Lane, F: Fn(A, A, A, u64) -> R + Copy + 'static>(
    _: F,
) -> Handler {
    #[inline(always)]
    unsafe fn body<A, R, F>(ctx: &mut Context<'_>, insn: &Insn, mask: u32)
    where
        A: Lane,
        R: Lane,
        F: Fn(A, A, A, u64) -> R + Copy + 'static,
    {
        let f = conjure::<F>();
        let imm = insn.imm;
        for from in (0..LANES).step_by(GROUP) {
            // SAFETY: decoded offsets, see `Handler`.
            unsafe {
                let a = read::<A>(ctx, insn.a, from);
                let b = read::<A>(ctx, insn.b, from);
                let c = read::<A>(ctx, insn.c, from);
                write(ctx, insn.d, from, mask, std::array::from_fn(|i| f(a[i], b[i], c[i], imm)));
            }
        }
    }
    multiversion!(body::<A, R, F> where A: Lane, R: Lane, F: Fn(A, A, A, u64) -> R + Copy + 'static)
}

/// How a comparison is combined with a predicate (`setp.lt.and`): bits 0..2 of [`Insn::x`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Combine {
    /// The comparison alone.
    Alone = 0,
    /// Both.
    And = 1,
    /// Either.
    Or = 2,
    /// One of the two, not both.
    Xor = 3,
}

/// Words of `x`: combination, whether the other predicate is negated; `imm` is the word of the
/// second result.
#[inline(always)]
unsafe fn set_compared(ctx: &mut Context<'_>, insn: &Insn, mask: u32, holds: u32) {
    // SAFETY: decoded words, see `Handler`.
    unsafe {
        if insn.x == 0 && insn.imm == u64::from(crate::code::NOWHERE) {
            return set_predicate(ctx, insn.d, mask, holds);
        }
        let other = predicate(ctx, insn.c) ^ if insn.x & 4 != 0 { ALL } else { 0 };
        let combine = |holds: u32| match insn.x & 3 {
            0 => holds,
            1 => holds & other,
            2 => holds | other,
            _ => holds ^ other,
        };
        set_predicate(ctx, insn.d, mask, combine(holds));
        set_predicate(ctx, insn.imm as u32, mask, combine(!holds));
    }
}

/// Predicate `d` = f(a, b), combined as `x` says with predicate `c`; predicate `imm` gets the
/// opposite.
pub fn compare<A: Lane, F: Fn(A, A) -> bool + Copy + 'static>(_: F) -> Handler {
    #[inline(always)]
    unsafe fn body<A, F>(ctx: &mut Context<'_>, insn: &Insn, mask: u32)
    where
        A: Lane,
        F: Fn(A, A) -> bool + Copy + 'static,
    {
        let f = conjure::<F>();
        let mut holds = 0;
        for from in (0..LANES).step_by(GROUP) {
            // SAFETY: decoded offsets, see `Handler`.
            let (a, b) = unsafe { (read::<A>(ctx, insn.a, from), read::<A>(ctx, insn.b, from)) };
            let mut part = 0;
            for i in 0..GROUP {
                part |= u32::from(f(a[i], b[i])) << i;
            }
            holds |= part << from;
        }
        // SAFETY: the caller's promise.
        unsafe { set_compared(ctx, insn, mask, holds) };
    }
    multiversion!(body::<A, F> where A: Lane, F: Fn(A, A) -> bool + Copy + 'static)
}

/// `d = predicate c ? a : b`
pub fn select<A: Lane>() -> Handler {
    #[inline(always)]
    unsafe fn body<A>(ctx: &mut Context<'_>, insn: &Insn, mask: u32)
    where
        A: Lane,
    {
        // SAFETY: decoded offsets, see `Handler`.
        let chosen = unsafe { predicate(ctx, insn.c) } ^ insn.x;
        for from in (0..LANES).step_by(GROUP) {
            // SAFETY: decoded offsets, see `Handler`.
            unsafe {
                let (a, b) = (read::<A>(ctx, insn.a, from), read::<A>(ctx, insn.b, from));
                let part = chosen >> from;
                let pick = |i: usize| A::get(A::Raw::choose(part >> i & 1, a[i].put(), b[i].put()));
                write(ctx, insn.d, from, mask, std::array::from_fn(pick));
            }
        }
    }
    multiversion!(body::<A> where A: Lane)
}

/// Predicate `d` = table of predicates `a` and `b` (each negated as bits 4 and 5 of `x` say): bits
/// 0..4 of `x`.
pub unsafe fn predicate_logic(ctx: &mut Context<'_>, insn: &Insn, mask: u32) {
    // SAFETY: decoded words, see `Handler`.
    unsafe {
        let flip = |bit: u32| if insn.x >> bit & 1 != 0 { ALL } else { 0 };
        let a = predicate(ctx, insn.a) ^ flip(4);
        let b = predicate(ctx, insn.b) ^ flip(5);
        // Bit 2a + b of the table.
        let value =
            (!a & !b & flip(0)) | (!a & b & flip(1)) | (a & !b & flip(2)) | (a & b & flip(3));
        set_predicate(ctx, insn.d, mask, value);
    }
}
