//! Element types that kernels are generic over: how they are loaded, stored and multiplied.
//!
//! Arithmetic is in f32 whatever the storage. A matrix product reads *words* of 32 bits: one f32, or
//! two neighbouring bf16 terms of the sum, which one instruction multiplies and adds:
//!
//! ```text
//!   f32    word p = term p                       acc += a b                    TERMS = 1
//!   bf16   word p = terms 2p (low), 2p + 1       acc += a1 b1 + a0 b0          TERMS = 2
//! ```
//!
//! So panels, frames and register tiles are the same for both, and only `k` counts words.

use half::bf16;

use super::simd::Vector;
use crate::Element;

/// An element in memory.
pub trait Scalar: Element {
    /// Terms of a sum in a word.
    const TERMS: usize;

    /// As f32.
    fn widen(self) -> f32;
    /// From f32, rounded to nearest even.
    fn narrow(v: f32) -> Self;

    /// A vector of elements, widened.
    ///
    /// # Safety
    /// `LANES` elements from `p` on must be readable.
    unsafe fn load<V: Vector>(p: *const Self) -> V;
    /// The first `n` of a vector of elements, widened, the others 0. `n` may exceed `LANES`.
    ///
    /// # Safety
    /// `min(n, LANES)` elements from `p` on must be readable.
    unsafe fn load_partial<V: Vector>(p: *const Self, n: usize) -> V;
    /// Rounds and stores.
    ///
    /// # Safety
    /// `LANES` elements from `p` on must be writable.
    unsafe fn store<V: Vector>(v: V, p: *mut Self);
    /// Rounds and stores the first `n` lanes. `n` may exceed `LANES`.
    ///
    /// # Safety
    /// `min(n, LANES)` elements from `p` on must be writable.
    unsafe fn store_partial<V: Vector>(v: V, p: *mut Self, n: usize);

    /// Words of `TERMS` terms each, rounded; further terms are ignored.
    fn words<V: Vector>(terms: [V; 2]) -> V;
    /// The word of two elements; the second is ignored where a word has one term.
    fn word(terms: [Self; 2]) -> f32;
    /// acc + the products of the terms of words `a` and `b`.
    fn multiply_add<V: Vector>(a: V, b: V, acc: V) -> V;
}

impl Scalar for f32 {
    const TERMS: usize = 1;

    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
    #[inline(always)]
    fn narrow(v: f32) -> f32 {
        v
    }
    #[inline(always)]
    unsafe fn load<V: Vector>(p: *const f32) -> V {
        // SAFETY: granted by the caller.
        unsafe { V::load(p) }
    }
    #[inline(always)]
    unsafe fn load_partial<V: Vector>(p: *const f32, n: usize) -> V {
        // SAFETY: granted by the caller.
        unsafe { V::load_partial(p, n) }
    }
    #[inline(always)]
    unsafe fn store<V: Vector>(v: V, p: *mut f32) {
        // SAFETY: granted by the caller.
        unsafe { v.store(p) }
    }
    #[inline(always)]
    unsafe fn store_partial<V: Vector>(v: V, p: *mut f32, n: usize) {
        // SAFETY: granted by the caller.
        unsafe { v.store_partial(p, n) }
    }
    #[inline(always)]
    fn words<V: Vector>([term, _]: [V; 2]) -> V {
        term
    }
    #[inline(always)]
    fn word([term, _]: [f32; 2]) -> f32 {
        term
    }
    #[inline(always)]
    fn multiply_add<V: Vector>(a: V, b: V, acc: V) -> V {
        a.mul_add(b, acc)
    }
}

impl Scalar for bf16 {
    const TERMS: usize = 2;

    #[inline(always)]
    fn widen(self) -> f32 {
        widen(self.to_bits())
    }
    #[inline(always)]
    fn narrow(v: f32) -> bf16 {
        bf16::from_bits(narrow(v))
    }
    #[inline(always)]
    unsafe fn load<V: Vector>(p: *const bf16) -> V {
        // SAFETY: granted by the caller; a bf16 is its 16 bits.
        unsafe { V::load_bf16(p.cast()) }
    }
    #[inline(always)]
    unsafe fn load_partial<V: Vector>(p: *const bf16, n: usize) -> V {
        // SAFETY: as above.
        unsafe { V::load_partial_bf16(p.cast(), n) }
    }
    #[inline(always)]
    unsafe fn store<V: Vector>(v: V, p: *mut bf16) {
        // SAFETY: as above.
        unsafe { v.store_bf16(p.cast()) }
    }
    #[inline(always)]
    unsafe fn store_partial<V: Vector>(v: V, p: *mut bf16, n: usize) {
        // SAFETY: as above.
        unsafe { v.store_partial_bf16(p.cast(), n) }
    }
    #[inline(always)]
    fn words<V: Vector>([low, high]: [V; 2]) -> V {
        V::pair_bf16(low, high)
    }
    #[inline(always)]
    fn word([low, high]: [bf16; 2]) -> f32 {
        f32::from_bits(u32::from(low.to_bits()) | u32::from(high.to_bits()) << 16)
    }
    #[inline(always)]
    fn multiply_add<V: Vector>(a: V, b: V, acc: V) -> V {
        a.dot_bf16(b, acc)
    }
}

/// The f32 whose upper half `bits` is.
#[inline(always)]
pub fn widen(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// The bits of the nearest bf16, ties to even; a NaN stays one. Without branches, so that loops over
/// it become SIMD.
#[inline(always)]
pub fn narrow(v: f32) -> u16 {
    let bits = v.to_bits();
    let rounded = bits.wrapping_add(0x7FFF + (bits >> 16 & 1)) >> 16;
    let quiet = bits >> 16 | 0x40;
    (if v.is_nan() { quiet } else { rounded }) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::simd::{Isa, Kernel};
    use crate::philox::{Purpose, Stream};

    #[test]
    fn narrowing_agrees_with_half() {
        let mut values = vec![0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, 1.0, 3.14e-3];
        for upper in (0..=u16::MAX).step_by(7) {
            for lower in [0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF] {
                values.push(f32::from_bits(u32::from(upper) << 16 | lower));
            }
        }
        for v in values {
            let (got, expected) = (narrow(v), bf16::from_f32(v));
            let same = got == expected.to_bits();
            assert!(same || (v.is_nan() && bf16::from_bits(got).is_nan()), "{v:e}: {got:#x}");
        }
    }

    /// y = words of x, their products with themselves rotated, and x rounded, on one vector each.
    struct Everything<'a> {
        x: &'a [f32],
        y: &'a mut Vec<u32>,
    }

    impl Kernel for Everything<'_> {
        type Output = ();
        const BF16: bool = true;

        #[inline(always)]
        fn run<V: Vector>(self) {
            // Blocks of 16 whatever the lanes, so that all instruction sets write the same list.
            for block in self.x.chunks_exact(64) {
                let mut out = [0.0f32; 64];
                let mut half = [bf16::ZERO; 16];
                for lane in (0..16).step_by(V::LANES) {
                    // SAFETY: lane + LANES <= 16, and four rows of 16 are in the block.
                    unsafe {
                        let row = |r: usize| V::load(block.as_ptr().add(16 * r + lane));
                        let (a, b) = (bf16::words([row(0), row(1)]), bf16::words([row(2), row(3)]));
                        a.store(out.as_mut_ptr().add(lane));
                        bf16::multiply_add(a, b, row(3)).store(out.as_mut_ptr().add(16 + lane));
                        bf16::store(row(2), half.as_mut_ptr().add(lane));
                        bf16::load::<V>(half.as_ptr().add(lane))
                            .store(out.as_mut_ptr().add(32 + lane));
                        for n in [0, 1, 5, 40] {
                            let part = bf16::load_partial::<V>(half.as_ptr().add(lane), n);
                            let mut again = [bf16::ONE; 16];
                            bf16::store_partial(part, again.as_mut_ptr(), n);
                            for i in 0..n.min(V::LANES) {
                                assert_eq!(again[i].to_bits(), half[lane + i].to_bits());
                            }
                            assert!(again[n.min(V::LANES)..].iter().all(|&v| v == bf16::ONE));
                        }
                    }
                }
                self.y.extend(out.iter().map(|v| v.to_bits()));
            }
        }
    }

    #[test]
    fn every_instruction_set_rounds_alike() {
        // Normal numbers of many sizes, whose products stay normal: the bf16 instructions flush
        // denormals to zero.
        let stream = Stream::new(7, Purpose::Test, 0, 0);
        let x: Vec<f32> = (0..64 * 512)
            .map(|i| {
                let bits = stream.word(i);
                let v = (bits & 0xFFFFFF) as f32 / (1 << 23) as f32 - 1.0;
                v * 2f32.powi((bits >> 24) as i32 % 24 - 12)
            })
            .collect();
        let mut expected = Vec::new();
        Isa::Portable.run(Everything { x: &x, y: &mut expected });
        assert_eq!(expected.len(), x.len());
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            let mut got = Vec::new();
            isa.run(Everything { x: &x, y: &mut got });
            let different = got.iter().zip(&expected).position(|(a, b)| a != b);
            assert_eq!(different, None, "{isa}");
        }
    }
}
