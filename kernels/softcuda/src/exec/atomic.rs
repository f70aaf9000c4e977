//! `atom` and `red`: read-modify-writes.
//!
//! Lanes of a warp that hit the same address are served one after the other, in the order of their
//! numbers; other blocks may come between. Integers use the host's atomics where they have the
//! operation, all else a loop of compare-and-swap.

use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};

use super::Context;
use super::access::Request;
use super::transfer::{addresses, space_of};
use crate::code::{Handler, Insn, LANES};
use crate::error::Access;
use crate::lanes::{self, Lane, conjure};
use crate::memory::GLOBAL_BASE;
use crate::types::Space;

/// Bits of a type in memory, and their compare-and-swap.
pub trait Cell: Copy + PartialEq {
    /// Replaces the value by `f` of it; returns the old one.
    ///
    /// # Safety
    /// `at` points to a live, aligned value.
    unsafe fn update(at: *mut u8, f: impl Fn(Self) -> Self) -> Self;
}

macro_rules! cell {
    ($($ty:ty, $atomic:ty;)*) => {$(
        impl Cell for $ty {
            #[inline(always)]
            unsafe fn update(at: *mut u8, f: impl Fn(Self) -> Self) -> Self {
                // SAFETY: the caller's promise.
                let cell = unsafe { <$atomic>::from_ptr(at.cast()) };
                let mut old = cell.load(Relaxed);
                loop {
                    match cell.compare_exchange_weak(old, f(old), Relaxed, Relaxed) {
                        Ok(old) => return old,
                        Err(now) => old = now,
                    }
                }
            }
        }
    )*};
}

cell! {
    u16, AtomicU16;
    u32, AtomicU32;
    u64, AtomicU64;
}

/// `d = *a; *a = f(d, b, c)` for each lane; `imm` is the offset, `d` may be nowhere.
pub fn update<T, M, F>(f: F) -> Handler
where
    T: Lane,
    M: Cell + 'static,
    T::Raw: Narrow<M>,
    F: Fn(T, T, T) -> T + Copy + 'static,
{
    update_by_space(f, f)
}

/// As [`update`], with functions of their own for shared and for global memory.
pub fn update_by_space<T, M, F, G>(_: F, _: G) -> Handler
where
    T: Lane,
    M: Cell + 'static,
    T::Raw: Narrow<M>,
    F: Fn(T, T, T) -> T + Copy + 'static,
    G: Fn(T, T, T) -> T + Copy + 'static,
{
    unsafe fn body<T, M, F, G>(ctx: &mut Context<'_>, insn: &Insn, mask: u32)
    where
        T: Lane,
        M: Cell + 'static,
        T::Raw: Narrow<M>,
        F: Fn(T, T, T) -> T + Copy + 'static,
        G: Fn(T, T, T) -> T + Copy + 'static,
    {
        let (shared, global) = (conjure::<F>(), conjure::<G>());
        // SAFETY: decoded operands, see `Handler`.
        let (at, b, c) = unsafe {
            (
                addresses(ctx, insn.a, insn.x, insn.imm),
                lanes::row::<T>(ctx, insn.b),
                lanes::row::<T>(ctx, insn.c),
            )
        };
        let space = space_of(insn.x);
        let request = Request { space, bytes: size_of::<M>(), access: Access::Atomic };
        let is_global = |address: u64| match space {
            Space::Generic => address >= GLOBAL_BASE,
            space => space == Space::Global,
        };
        let Some(pointers) = ctx.resolve(insn, request, &at, mask) else { return };
        // SAFETY: decoded rows; the lanes that do not take part are not written back.
        let mut d = unsafe { lanes::row::<T>(ctx, insn.d) };
        for lane in (0..LANES).filter(|lane| mask >> lane & 1 != 0) {
            let change = |old: M| {
                let old = T::get(T::Raw::widen(old));
                let new = if is_global(at[lane]) {
                    global(old, b[lane], c[lane])
                } else {
                    shared(old, b[lane], c[lane])
                };
                new.put().narrow()
            };
            // SAFETY: `resolve` vouches for an aligned M.
            let old = unsafe { M::update(pointers[lane], change) };
            d[lane] = T::get(T::Raw::widen(old));
        }
        // SAFETY: a decoded row.
        unsafe { lanes::set_row(ctx, insn.d, mask, &d) };
    }
    body::<T, M, F, G>
}

/// From a row's element to what is in memory, and back.
pub trait Narrow<M> {
    /// Cuts off.
    fn narrow(self) -> M;
    /// Fills with zeros.
    fn widen(m: M) -> Self;
}

macro_rules! narrow {
    ($($raw:ty => $m:ty;)*) => {$(
        impl Narrow<$m> for $raw {
            #[inline(always)]
            fn narrow(self) -> $m {
                self as $m
            }
            #[inline(always)]
            fn widen(m: $m) -> $raw {
                m as $raw
            }
        }
    )*};
}

narrow! {
    u32 => u16;
    u32 => u32;
    u64 => u64;
}
