//! Eight lanes in an array: the compiler maps them to whatever registers the target has.

use super::Vector;

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
}
