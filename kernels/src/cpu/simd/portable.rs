//! Eight lanes in an array: the compiler maps them to whatever registers the target has.

use super::Vector;
use crate::cpu::scalar::{narrow, widen};

/// Eight f32.
#[derive(Clone, Copy)]
pub struct Portable8([f32; 8]);

impl Vector for Portable8 {
    const LANES: usize = 8;

    #[inline(always)]
    fn splat(v: f32) -> Self {
        Portable8([v; 8])
    }

    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: the caller grants 8 readable elements.
        Portable8(unsafe { p.cast::<[f32; 8]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: the caller grants 8 writable elements.
        unsafe { p.cast::<[f32; 8]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    unsafe fn load_partial(p: *const f32, n: usize) -> Self {
        let mut v = [0.0; 8];
        for (i, v) in v.iter_mut().enumerate().take(n) {
            // SAFETY: i < n, and the caller grants min(n, 8) readable elements.
            *v = unsafe { *p.add(i) };
        }
        Portable8(v)
    }

    #[inline(always)]
    unsafe fn store_partial(self, p: *mut f32, n: usize) {
        for (i, v) in self.0.into_iter().enumerate().take(n) {
            // SAFETY: i < n, and the caller grants min(n, 8) writable elements.
            unsafe { *p.add(i) = v };
        }
    }

    #[inline(always)]
    fn add(self, b: Self) -> Self {
        Portable8(std::array::from_fn(|i| self.0[i] + b.0[i]))
    }

    #[inline(always)]
    fn sub(self, b: Self) -> Self {
        Portable8(std::array::from_fn(|i| self.0[i] - b.0[i]))
    }

    #[inline(always)]
    fn mul(self, b: Self) -> Self {
        Portable8(std::array::from_fn(|i| self.0[i] * b.0[i]))
    }

    #[inline(always)]
    fn mul_add(self, b: Self, c: Self) -> Self {
        // Two roundings: without FMA hardware a fused one is a library call an element.
        Portable8(std::array::from_fn(|i| self.0[i] * b.0[i] + c.0[i]))
    }

    #[inline(always)]
    fn relu(self) -> Self {
        Portable8(std::array::from_fn(|i| if self.0[i] < 0.0 { 0.0 } else { self.0[i] }))
    }

    #[inline(always)]
    fn scalar_mul_add(a: f32, b: f32, c: f32) -> f32 {
        a * b + c
    }

    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> Self {
        // SAFETY: the caller grants 8 readable elements.
        let v = unsafe { p.cast::<[u16; 8]>().read_unaligned() };
        Portable8(v.map(widen))
    }

    #[inline(always)]
    unsafe fn load_partial_bf16(p: *const u16, n: usize) -> Self {
        let mut v = [0.0; 8];
        for (i, v) in v.iter_mut().enumerate().take(n) {
            // SAFETY: i < n, and the caller grants min(n, 8) readable elements.
            *v = widen(unsafe { *p.add(i) });
        }
        Portable8(v)
    }

    #[inline(always)]
    unsafe fn store_bf16(self, p: *mut u16) {
        // SAFETY: the caller grants 8 writable elements.
        unsafe { p.cast::<[u16; 8]>().write_unaligned(self.0.map(narrow)) }
    }

    #[inline(always)]
    unsafe fn store_partial_bf16(self, p: *mut u16, n: usize) {
        for (i, v) in self.0.into_iter().enumerate().take(n) {
            // SAFETY: i < n, and the caller grants min(n, 8) writable elements.
            unsafe { *p.add(i) = narrow(v) };
        }
    }

    #[inline(always)]
    fn pair_bf16(low: Self, high: Self) -> Self {
        Portable8(std::array::from_fn(|i| {
            f32::from_bits(u32::from(narrow(low.0[i])) | u32::from(narrow(high.0[i])) << 16)
        }))
    }

    #[inline(always)]
    fn dot_bf16(self, b: Self, acc: Self) -> Self {
        let low = |v: f32| f32::from_bits(v.to_bits() << 16);
        let high = |v: f32| f32::from_bits(v.to_bits() & 0xFFFF_0000);
        Portable8(std::array::from_fn(|i| {
            let acc = high(self.0[i]) * high(b.0[i]) + acc.0[i];
            low(self.0[i]) * low(b.0[i]) + acc
        }))
    }
}
