//! Instruction sets, chosen at run time, and the vector type that kernels are generic over.
//!
//! A kernel is a struct with its arguments that implements [`Kernel`]: one body, compiled once an
//! instruction set. [`Isa::run`] calls the copy for the machine at hand:
//!
//! ```text
//! isa.run(ReluForward { x, y })      Avx512  -> body compiled with zmm registers and masks
//!                                    Avx2    -> body compiled with ymm registers and FMA
//!                                    Portable-> body compiled for the baseline (SSE2, NEON, ...)
//! ```
//!
//! Bodies with plain loops over slices are vectorised by the compiler, in each copy for its own
//! registers; those that need control over registers (matrix products) use [`Vector`]. Threads are
//! started outside of a kernel, never inside: a closure that runs on another thread would lose the
//! instruction set.

pub(crate) mod math;
mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::fmt;
use std::str::FromStr;

use crate::Error;
use portable::Portable8;

/// A vector of f32 in registers.
///
/// Memory operations take pointers: matrix kernels walk packed panels whose bounds their callers
/// check.
pub trait Vector: Copy {
    /// Elements.
    const LANES: usize;
    /// All lanes equal.
    fn splat(v: f32) -> Self;
    /// Lanes from memory, unaligned.
    ///
    /// # Safety
    /// `LANES` elements from `p` on must be readable.
    unsafe fn load(p: *const f32) -> Self;
    /// Lanes to memory, unaligned.
    ///
    /// # Safety
    /// `LANES` elements from `p` on must be writable.
    unsafe fn store(self, p: *mut f32);
    /// The first `n` lanes from memory, the others 0. `n` may exceed `LANES`.
    ///
    /// # Safety
    /// `min(n, LANES)` elements from `p` on must be readable.
    unsafe fn load_partial(p: *const f32, n: usize) -> Self;
    /// The first `n` lanes to memory. `n` may exceed `LANES`.
    ///
    /// # Safety
    /// `min(n, LANES)` elements from `p` on must be writable.
    unsafe fn store_partial(self, p: *mut f32, n: usize);
    /// self + b
    fn add(self, b: Self) -> Self;
    /// self - b
    fn sub(self, b: Self) -> Self;
    /// self * b
    fn mul(self, b: Self) -> Self;
    /// self * b + c, in one rounding where the instruction set has it.
    fn mul_add(self, b: Self, c: Self) -> Self;
    /// max(self, 0), NaN stays NaN.
    fn relu(self) -> Self;
    /// a * b + c on scalars, fused exactly where [`Vector::mul_add`] is.
    fn scalar_mul_add(a: f32, b: f32, c: f32) -> f32;

    // --- 16-bit storage. Pointers are to bf16; lanes are widened to f32, or hold two bf16 each. -----

    /// `LANES` bf16 from memory, widened.
    ///
    /// # Safety
    /// `LANES` elements from `p` on must be readable.
    unsafe fn load_bf16(p: *const u16) -> Self;
    /// The first `n` lanes from memory, widened, the others 0. `n` may exceed `LANES`.
    ///
    /// # Safety
    /// `min(n, LANES)` elements from `p` on must be readable.
    unsafe fn load_partial_bf16(p: *const u16, n: usize) -> Self;
    /// Lanes to memory, rounded to nearest even.
    ///
    /// # Safety
    /// `LANES` elements from `p` on must be writable.
    unsafe fn store_bf16(self, p: *mut u16);
    /// The first `n` lanes to memory, rounded to nearest even. `n` may exceed `LANES`.
    ///
    /// # Safety
    /// `min(n, LANES)` elements from `p` on must be writable.
    unsafe fn store_partial_bf16(self, p: *mut u16, n: usize);
    /// Lanes of `low` and `high`, rounded to bf16, side by side in one lane: `low` in its lower half.
    fn pair_bf16(low: Self, high: Self) -> Self;
    /// acc + high(self) high(b) + low(self) low(b) of lanes that hold two bf16 each: two fused
    /// multiply-adds, as `vdpbf16ps` rounds. (The products are exact in f32, so that a separate
    /// multiplication and addition round alike.)
    fn dot_bf16(self, b: Self, acc: Self) -> Self;
}

/// Transposes a 4x4 block: `out[r * out_row + c] = columns[c][r]`.
///
/// # Safety
/// Four elements of each column must be readable, and of each line of `out` writable.
#[inline(always)]
pub unsafe fn transpose_4x4(columns: [*const f32; 4], out: *mut f32, out_row: usize) {
    // SAFETY: granted by the caller.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        x86::transpose_4x4(columns, out, out_row);
        #[cfg(not(target_arch = "x86_64"))]
        for r in 0..4 {
            for (c, column) in columns.iter().enumerate() {
                *out.add(r * out_row + c) = *column.add(r);
            }
        }
    }
}

/// Asks for the cache line of `p` in L2. Any address will do: one that is not mapped is ignored.
#[inline(always)]
pub fn prefetch(p: *const f32) {
    #[cfg(target_arch = "x86_64")]
    x86::prefetch(p);
    #[cfg(not(target_arch = "x86_64"))]
    let _ = p;
}

/// A body that is compiled once an instruction set. Implementations of `run` must be
/// `#[inline(always)]`.
pub trait Kernel {
    /// What it returns.
    type Output;
    /// It multiplies pairs of bf16: compiled once more, for the instruction that does that.
    const BF16: bool = false;
    /// The body.
    fn run<V: Vector>(self) -> Self::Output;
}

/// An instruction set. Later ones contain the earlier ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// What every processor of the target has; vectorised by the compiler.
    Portable,
    /// AVX2, FMA and BMI2.
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
    /// The same and AVX512-BF16.
    Avx512Bf16,
}

impl Isa {
    /// All, weakest first.
    pub const ALL: [Isa; 4] = [Isa::Portable, Isa::Avx2, Isa::Avx512, Isa::Avx512Bf16];

    /// The strongest that this machine has.
    pub fn detect() -> Isa {
        Isa::ALL.into_iter().rev().find(|isa| isa.is_available()).unwrap_or(Isa::Portable)
    }

    /// Whether this machine has it.
    pub fn is_available(self) -> bool {
        match self {
            Isa::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("bmi2")
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => {
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                    && Isa::Avx2.is_available()
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 => is_x86_feature_detected!("avx512bf16") && Isa::Avx512.is_available(),
            #[cfg(not(target_arch = "x86_64"))]
            _ => false,
        }
    }

    /// Runs the copy of `kernel` for this instruction set, which must be available.
    #[inline]
    pub fn run<K: Kernel>(self, kernel: K) -> K::Output {
        assert!(self.is_available(), "this processor has no {self}");
        match self {
            Isa::Portable => kernel.run::<Portable8>(),
            // SAFETY: the machine has it, by the assertion.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { x86::run_avx2(kernel) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 if K::BF16 => unsafe { x86::run_avx512_bf16(kernel) },
            // SAFETY: as above; the last set contains AVX-512.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Avx512Bf16 => unsafe { x86::run_avx512(kernel) },
            #[cfg(not(target_arch = "x86_64"))]
            _ => kernel.run::<Portable8>(),
        }
    }

    /// Lower-case name.
    pub const fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Avx512Bf16 => "avx512bf16",
        }
    }

    /// f32 a vector register holds.
    pub(crate) const fn lanes(self) -> usize {
        match self {
            Isa::Portable | Isa::Avx2 => 8,
            Isa::Avx512 | Isa::Avx512Bf16 => 16,
        }
    }

    /// Columns of a packed panel for a matrix of `columns`: two vectors, or one where that covers
    /// them all.
    pub(crate) const fn panel_width(self, columns: usize) -> usize {
        if columns <= self.lanes() { self.lanes() } else { 2 * self.lanes() }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Isa {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self, Error> {
        Isa::ALL.into_iter().find(|isa| isa.name() == s).ok_or_else(|| {
            Error::argument(
                "cpu",
                format!(
                    "unknown instruction set '{s}': expected portable, avx2, avx512 or avx512bf16"
                ),
            )
        })
    }
}
