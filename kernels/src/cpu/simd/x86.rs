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
    kernel.run::<Zmm<false>>()
}

/// Runs `kernel` compiled for AVX-512 F, BW, DQ, VL and BF16.
///
/// # Safety
/// The machine must have them.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,bmi2")]
pub unsafe fn run_avx512_bf16<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<Zmm<true>>()
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

/// Asks for the cache line of `p` in L2.
#[inline(always)]
pub fn prefetch(p: *const f32) {
    // SAFETY: a prefetch reads nothing and faults nowhere; SSE is part of x86-64.
    unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
}

/// Eight f32 in a ymm register.
#[derive(Clone, Copy)]
pub struct Ymm(__m256);

/// Sixteen f32 in a zmm register; `BF16` if the machine converts and multiplies bf16 itself.
#[derive(Clone, Copy)]
pub struct Zmm<const BF16: bool>(__m512);

/// -1 in the first `n` of 8 lanes.
#[inline(always)]
fn ymm_mask(n: usize) -> __m256i {
    const ONES_THEN_ZEROS: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];
    // SAFETY: the offset is 0 to 8, and 8 elements follow it; AVX2 by the module's rule.
    unsafe { _mm256_loadu_si256(ONES_THEN_ZEROS.as_ptr().add(8 - n.min(8)).cast()) }
}

/// Eight bf16 as f32.
#[inline(always)]
fn ymm_widen(v: __m128i) -> Ymm {
    // SAFETY: only called inside run_avx2.
    Ymm(unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(v))) })
}

/// Eight f32 rounded to bf16, in the lower half of each lane: adding half a unit, less one bit when
/// the result would be odd by a tie, carries into the upper half. A NaN stays one.
#[inline(always)]
fn ymm_round(v: __m256) -> __m256i {
    // SAFETY: only called inside run_avx2.
    unsafe {
        let bits = _mm256_castps_si256(v);
        let upper = _mm256_srli_epi32::<16>(bits);
        let odd = _mm256_and_si256(upper, _mm256_set1_epi32(1));
        let half = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF));
        let rounded = _mm256_srli_epi32::<16>(_mm256_add_epi32(bits, half));
        let nan = _mm256_cmp_ps::<_CMP_UNORD_Q>(v, v);
        let quiet = _mm256_or_si256(upper, _mm256_set1_epi32(0x40));
        _mm256_blendv_epi8(rounded, quiet, _mm256_castps_si256(nan))
    }
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

    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> Self {
        // SAFETY: the caller grants 8 readable elements.
        unsafe { ymm_widen(_mm_loadu_si128(p.cast())) }
    }

    #[inline(always)]
    unsafe fn load_partial_bf16(p: *const u16, n: usize) -> Self {
        // AVX2 has no masked loads of 16 bits.
        let mut lanes = [0u16; 8];
        // SAFETY: the caller grants min(n, 8) readable elements, and `lanes` holds 8.
        unsafe {
            std::ptr::copy_nonoverlapping(p, lanes.as_mut_ptr(), n.min(8));
            Self::load_bf16(lanes.as_ptr())
        }
    }

    #[inline(always)]
    unsafe fn store_bf16(self, p: *mut u16) {
        // SAFETY: the caller grants 8 writable elements.
        unsafe {
            // Unsigned saturation leaves 16-bit values alone; it works in two halves of 128 bits.
            let packed = _mm256_packus_epi32(ymm_round(self.0), _mm256_setzero_si256());
            let packed = _mm256_permute4x64_epi64::<0b10_00>(packed);
            _mm_storeu_si128(p.cast(), _mm256_castsi256_si128(packed));
        }
    }

    #[inline(always)]
    unsafe fn store_partial_bf16(self, p: *mut u16, n: usize) {
        let mut lanes = [0u16; 8];
        // SAFETY: `lanes` holds 8, and the caller grants min(n, 8) writable elements.
        unsafe {
            self.store_bf16(lanes.as_mut_ptr());
            std::ptr::copy_nonoverlapping(lanes.as_ptr(), p, n.min(8));
        }
    }

    #[inline(always)]
    fn pair_bf16(low: Self, high: Self) -> Self {
        // SAFETY: only called inside run_avx2.
        unsafe {
            let high = _mm256_slli_epi32::<16>(ymm_round(high.0));
            Ymm(_mm256_castsi256_ps(_mm256_or_si256(ymm_round(low.0), high)))
        }
    }

    #[inline(always)]
    fn dot_bf16(self, b: Self, acc: Self) -> Self {
        // SAFETY: only called inside run_avx2.
        unsafe {
            let upper = _mm256_castsi256_ps(_mm256_set1_epi32(0xFFFF_0000_u32 as i32));
            let lower =
                |v: __m256| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_castps_si256(v)));
            let high = (_mm256_and_ps(self.0, upper), _mm256_and_ps(b.0, upper));
            let acc = _mm256_fmadd_ps(high.0, high.1, acc.0);
            Ymm(_mm256_fmadd_ps(lower(self.0), lower(b.0), acc))
        }
    }
}

/// 1 in the first `n` of 16 bits.
#[inline(always)]
fn zmm_mask(n: usize) -> __mmask16 {
    if n >= 16 { 0xFFFF } else { (1u16 << n) - 1 }
}

/// Sixteen bf16 as f32.
#[inline(always)]
fn zmm_widen<const BF16: bool>(v: __m256i) -> Zmm<BF16> {
    // SAFETY: only called inside run_avx512 or run_avx512_bf16.
    Zmm(unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(v))) })
}

/// Sixteen f32 rounded to bf16; without the instruction as [`ymm_round`].
#[inline(always)]
fn zmm_round<const BF16: bool>(v: __m512) -> __m256i {
    // SAFETY: only called inside run_avx512 or, if BF16, run_avx512_bf16; the result is plain bits.
    unsafe {
        if BF16 {
            return std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(v));
        }
        let bits = _mm512_castps_si512(v);
        let upper = _mm512_srli_epi32::<16>(bits);
        let odd = _mm512_and_si512(upper, _mm512_set1_epi32(1));
        let half = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF));
        let rounded = _mm512_srli_epi32::<16>(_mm512_add_epi32(bits, half));
        let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v);
        let quiet = _mm512_or_si512(upper, _mm512_set1_epi32(0x40));
        _mm512_cvtepi32_epi16(_mm512_mask_mov_epi32(rounded, nan, quiet))
    }
}

impl<const BF16: bool> Vector for Zmm<BF16> {
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

    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> Self {
        // SAFETY: the caller grants 16 readable elements.
        unsafe { zmm_widen(_mm256_loadu_si256(p.cast())) }
    }

    #[inline(always)]
    unsafe fn load_partial_bf16(p: *const u16, n: usize) -> Self {
        // SAFETY: masked lanes are not touched, and the caller grants the others.
        unsafe { zmm_widen(_mm256_maskz_loadu_epi16(zmm_mask(n), p.cast())) }
    }

    #[inline(always)]
    unsafe fn store_bf16(self, p: *mut u16) {
        // SAFETY: the caller grants 16 writable elements.
        unsafe { _mm256_storeu_si256(p.cast(), zmm_round::<BF16>(self.0)) }
    }

    #[inline(always)]
    unsafe fn store_partial_bf16(self, p: *mut u16, n: usize) {
        // SAFETY: masked lanes are not touched, and the caller grants the others.
        unsafe {
            _mm256_mask_storeu_epi16(p.cast(), zmm_mask(n), zmm_round::<BF16>(self.0));
        }
    }

    #[inline(always)]
    fn pair_bf16(low: Self, high: Self) -> Self {
        // SAFETY: only called inside run_avx512 or run_avx512_bf16.
        unsafe {
            let low = _mm512_cvtepu16_epi32(zmm_round::<BF16>(low.0));
            let high = _mm512_cvtepu16_epi32(zmm_round::<BF16>(high.0));
            Zmm(_mm512_castsi512_ps(_mm512_or_si512(low, _mm512_slli_epi32::<16>(high))))
        }
    }

    #[inline(always)]
    fn dot_bf16(self, b: Self, acc: Self) -> Self {
        // SAFETY: only called inside run_avx512 or, if BF16, run_avx512_bf16; the vectors are
        // plain bits.
        unsafe {
            if BF16 {
                let pairs = |v: __m512| std::mem::transmute::<__m512, __m512bh>(v);
                return Zmm(_mm512_dpbf16_ps(acc.0, pairs(self.0), pairs(b.0)));
            }
            let upper = _mm512_castsi512_ps(_mm512_set1_epi32(0xFFFF_0000_u32 as i32));
            let lower =
                |v: __m512| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_castps_si512(v)));
            let high = (_mm512_and_ps(self.0, upper), _mm512_and_ps(b.0, upper));
            let acc = _mm512_fmadd_ps(high.0, high.1, acc.0);
            Zmm(_mm512_fmadd_ps(lower(self.0), lower(b.0), acc))
        }
    }
}
