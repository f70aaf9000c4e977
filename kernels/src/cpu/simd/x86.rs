//! AVX2 (ymm) and AVX-512 (zmm) vectors.
//!
//! The methods are inlined into [`run_avx2`] and [`run_avx512`], whose features they need; nothing
//! else calls them.

use std::arch::x86_64::*;

use super::{Kernel, Vector};

/// Runs `kernel` compiled for AVX2 and FMA.
///
/// # Safety
/// The machine must have both.
#[target_feature(enable = "avx2,fma,bmi2")]
pub unsafe fn run_avx2<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<Ymm>()
}

/// Runs `kernel` compiled for AVX-512 F, BW, DQ and VL.
///
/// # Safety
/// The machine must have them.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,bmi2")]
pub unsafe fn run_avx512<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<Zmm>()
}

/// Transposes a 4x4 block in xmm registers, which every x86-64 has.
///
/// # Safety
/// As [`super::transpose_4x4`].
#[inline(always)]
pub unsafe fn transpose_4x4([a, b, c, d]: [*const f32; 4], out: *mut f32, out_row: usize) {
    // SAFETY: SSE is part of x86-64; the caller grants the elements.
    unsafe {
        let (a, b, c, d) = (_mm_loadu_ps(a), _mm_loadu_ps(b), _mm_loadu_ps(c), _mm_loadu_ps(d));
        let (ab, cd) = (_mm_unpacklo_ps(a, b), _mm_unpacklo_ps(c, d)); // a0 b0 a1 b1, c0 d0 c1 d1
        let (ef, gh) = (_mm_unpackhi_ps(a, b), _mm_unpackhi_ps(c, d)); // a2 b2 a3 b3, ..
        _mm_storeu_ps(out, _mm_movelh_ps(ab, cd));
        _mm_storeu_ps(out.add(out_row), _mm_movehl_ps(cd, ab));
        _mm_storeu_ps(out.add(2 * out_row), _mm_movelh_ps(ef, gh));
        _mm_storeu_ps(out.add(3 * out_row), _mm_movehl_ps(gh, ef));
    }
}

/// Eight f32 in a ymm register.
#[derive(Clone, Copy)]
pub struct Ymm(__m256);

/// Sixteen f32 in a zmm register.
#[derive(Clone, Copy)]
pub struct Zmm(__m512);

/// -1 in the first `n` of 8 lanes.
#[inline(always)]
fn ymm_mask(n: usize) -> __m256i {
    const ONES_THEN_ZEROS: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];
    // SAFETY: the offset is 0 to 8, and 8 elements follow it; AVX2 by the module's rule.
    unsafe { _mm256_loadu_si256(ONES_THEN_ZEROS.as_ptr().add(8 - n.min(8)).cast()) }
}

impl Vector for Ymm {
    const LANES: usize = 8;

    #[inline(always)]
    fn splat(v: f32) -> Self {
        // SAFETY: only called inside run_avx2.
        Ymm(unsafe { _mm256_set1_ps(v) })
    }

    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: the caller grants 8 readable elements.
        Ymm(unsafe { _mm256_loadu_ps(p) })
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: the caller grants 8 writable elements.
        unsafe { _mm256_storeu_ps(p, self.0) }
    }

    #[inline(always)]
    unsafe fn load_partial(p: *const f32, n: usize) -> Self {
        // SAFETY: masked lanes are not touched, and the caller grants the others.
        Ymm(unsafe { _mm256_maskload_ps(p, ymm_mask(n)) })
    }

    #[inline(always)]
    unsafe fn store_partial(self, p: *mut f32, n: usize) {
        // SAFETY: masked lanes are not touched, and the caller grants the others.
        unsafe { _mm256_maskstore_ps(p, ymm_mask(n), self.0) }
    }

    #[inline(always)]
    fn add(self, b: Self) -> Self {
        // SAFETY: only called inside run_avx2.
        Ymm(unsafe { _mm256_add_ps(self.0, b.0) })
    }

    #[inline(always)]
    fn sub(self, b: Self) -> Self {
        // SAFETY: only called inside run_avx2.
        Ymm(unsafe { _mm256_sub_ps(self.0, b.0) })
    }

    #[inline(always)]
    fn mul(self, b: Self) -> Self {
        // SAFETY: only called inside run_avx2.
        Ymm(unsafe { _mm256_mul_ps(self.0, b.0) })
    }

    #[inline(always)]
    fn mul_add(self, b: Self, c: Self) -> Self {
        // SAFETY: only called inside run_avx2.
        Ymm(unsafe { _mm256_fmadd_ps(self.0, b.0, c.0) })
    }

    #[inline(always)]
    fn relu(self) -> Self {
        // maxps answers its second operand when either is NaN: the order keeps NaN.
        // SAFETY: only called inside run_avx2.
        Ymm(unsafe { _mm256_max_ps(_mm256_setzero_ps(), self.0) })
    }

    #[inline(always)]
    fn scalar_mul_add(a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }
}

/// 1 in the first `n` of 16 bits.
#[inline(always)]
fn zmm_mask(n: usize) -> __mmask16 {
    if n >= 16 { 0xFFFF } else { (1u16 << n) - 1 }
}

impl Vector for Zmm {
    const LANES: usize = 16;

    #[inline(always)]
    fn splat(v: f32) -> Self {
        // SAFETY: only called inside run_avx512.
        Zmm(unsafe { _mm512_set1_ps(v) })
    }

    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: the caller grants 16 readable elements.
        Zmm(unsafe { _mm512_loadu_ps(p) })
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: the caller grants 16 writable elements.
        unsafe { _mm512_storeu_ps(p, self.0) }
    }

    #[inline(always)]
    unsafe fn load_partial(p: *const f32, n: usize) -> Self {
        // SAFETY: masked lanes are not touched, and the caller grants the others.
        Zmm(unsafe { _mm512_maskz_loadu_ps(zmm_mask(n), p) })
    }

    #[inline(always)]
    unsafe fn store_partial(self, p: *mut f32, n: usize) {
        // SAFETY: masked lanes are not touched, and the caller grants the others.
        unsafe { _mm512_mask_storeu_ps(p, zmm_mask(n), self.0) }
    }

    #[inline(always)]
    fn add(self, b: Self) -> Self {
        // SAFETY: only called inside run_avx512.
        Zmm(unsafe { _mm512_add_ps(self.0, b.0) })
    }

    #[inline(always)]
    fn sub(self, b: Self) -> Self {
        // SAFETY: only called inside run_avx512.
        Zmm(unsafe { _mm512_sub_ps(self.0, b.0) })
    }

    #[inline(always)]
    fn mul(self, b: Self) -> Self {
        // SAFETY: only called inside run_avx512.
        Zmm(unsafe { _mm512_mul_ps(self.0, b.0) })
    }

    #[inline(always)]
    fn mul_add(self, b: Self, c: Self) -> Self {
        // SAFETY: only called inside run_avx512.
        Zmm(unsafe { _mm512_fmadd_ps(self.0, b.0, c.0) })
    }

    #[inline(always)]
    fn relu(self) -> Self {
        // maxps answers its second operand when either is NaN: the order keeps NaN.
        // SAFETY: only called inside run_avx512.
        Zmm(unsafe { _mm512_max_ps(_mm512_setzero_ps(), self.0) })
    }

    #[inline(always)]
    fn scalar_mul_add(a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }
}
