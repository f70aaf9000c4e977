//! Tensor-core instructions: `ldmatrix` and `mma`.
//!
//! The fragments of a matrix lie spread over the registers of a warp. With `g = lane / 4` and `t =
//! lane % 4`, the layouts of the ISA ("Matrix Fragments for mma") all say: accumulators have rows g
//! and g + 8, columns 2t and 2t + 1; registers of A hold columns that belong to t in rows g and g +
//! 8 by turns; those of B the same with rows and columns exchanged. A register holds 4 bytes of
//! neighbouring columns: 1 tf32, 2 halves or 4 bytes. So one function gathers every operand.
//!
//! Products are exact, and sums are f32 fused multiply-adds along k (f64 for f64, wrapping or
//! saturating i32 for bytes). The hardware's order of summation is not documented; integers that
//! fit come out the same in any.

use super::Context;
use super::access::Request;
use super::transfer::{Element, addresses};
use crate::code::{ALL, Handler, Insn, LANES};
use crate::error::Access;
use crate::lanes::half::Half;
use crate::lanes::{self, multiversion};
use crate::types::Space;

/// Number of rows of an accumulator, and of A.
const M: usize = 16;
/// Number of columns of an accumulator, and of B.
const N: usize = 8;

/// All lanes have to be there: `.aligned`.
#[inline(always)]
fn is_aligned(ctx: &mut Context<'_>, insn: &Insn, mask: u32) -> bool {
    if mask != ALL {
        ctx.fail(
            insn,
            mask,
            format!("only the lanes {mask:#010x} of the warp take part, not all 32"),
        );
    }
    mask == ALL
}

/// `ldmatrix` of `x & 7` matrices of 8x8 halves into the rows of list `d`; `x & 16`: transposed.
/// Bits 8 and up of `x` are those of an address.
pub unsafe fn load_matrix(ctx: &mut Context<'_>, insn: &Insn, mask: u32) {
    if !is_aligned(ctx, insn, mask) {
        return;
    }
    let count = (insn.x & 7) as usize;
    // SAFETY: decoded operands, see `Handler`.
    let at = unsafe { addresses(ctx, insn.a, insn.x >> 8, insn.imm) };
    let request = Request { space: Space::Shared, bytes: 16, access: Access::Read };
    // Lanes 8j to 8j + 7 have the addresses of the rows of matrix j.
    let used = super::warp::first_lanes(8 * count);
    let Some(pointers) = ctx.resolve(insn, request, &at, used) else { return };
    for j in 0..count {
        let mut rows = [[0u16; 8]; 8];
        for (r, row) in rows.iter_mut().enumerate() {
            for (c, half) in row.iter_mut().enumerate() {
                // SAFETY: `resolve` vouches for 16 aligned bytes.
                *half = unsafe { u16::load(pointers[8 * j + r].wrapping_add(2 * c)) };
            }
        }
        let d: [u32; LANES] = std::array::from_fn(|lane| {
            let (g, t) = (lane / 4, lane % 4);
            let (low, high) = if insn.x & 16 != 0 {
                (rows[2 * t][g], rows[2 * t + 1][g])
            } else {
                (rows[g][2 * t], rows[g][2 * t + 1])
            };
            u32::from(low) | u32::from(high) << 16
        });
        let row = ctx.grid.code.lists[insn.d as usize + j];
        // SAFETY: decoded rows.
        unsafe { lanes::set_row(ctx, row, ALL, &d) };
    }
}

/// What 4 bytes of A or B hold.
pub trait Part: 'static {
    /// What is multiplied.
    type Value: Copy + Default;
    /// Elements of a register.
    const EACH: usize;
    /// The i-th element.
    fn get(word: u32, i: usize) -> Self::Value;
}

/// Two f16 or bf16.
pub struct Halves<H>(std::marker::PhantomData<H>);
/// One tf32: the low 13 bits are not looked at.
pub struct Tf32;
/// Four bytes, signed or not.
pub struct Bytes<const SIGNED: bool>;

impl<H: Half> Part for Halves<H> {
    type Value = f32;
    const EACH: usize = 2;
    #[inline(always)]
    fn get(word: u32, i: usize) -> f32 {
        H::from_bits((word >> (16 * i)) as u16).wide()
    }
}

impl Part for Tf32 {
    type Value = f32;
    const EACH: usize = 1;
    #[inline(always)]
    fn get(word: u32, _: usize) -> f32 {
        f32::from_bits(word & !0x1fff)
    }
}

impl<const SIGNED: bool> Part for Bytes<SIGNED> {
    type Value = i32;
    const EACH: usize = 4;
    #[inline(always)]
    fn get(word: u32, i: usize) -> i32 {
        let byte = (word >> (8 * i)) as u8;
        if SIGNED { i32::from(byte as i8) } else { i32::from(byte) }
    }
}

/// A: `[row][k]`, from rows of `list`; registers are for rows g and g + 8 by turns (all for row g
/// if there is one only).
#[inline(always)]
unsafe fn gather_a<P: Part, const K: usize>(
    ctx: &Context<'_>,
    list: usize,
    registers: usize,
) -> [[P::Value; K]; M] {
    let mut a = [[P::Value::default(); K]; M];
    for register in 0..registers {
        let (down, right) = (register % 2 * 8, register / 2 * 4 * P::EACH);
        // SAFETY: a decoded row.
        let words = unsafe { lanes::row::<u32>(ctx, ctx.grid.code.lists[list + register]) };
        // The four words of row g lie side by side, and so do their elements.
        for (g, words) in words.as_chunks::<4>().0.iter().enumerate() {
            let row = &mut a[g + down][right..right + 4 * P::EACH];
            for t in 0..4 {
                for i in 0..P::EACH {
                    row[t * P::EACH + i] = P::get(words[t], i);
                }
            }
        }
    }
    a
}

/// B: `[k][column]`.
#[inline(always)]
unsafe fn gather_b<P: Part, const K: usize>(
    ctx: &Context<'_>,
    list: usize,
    registers: usize,
) -> [[P::Value; N]; K] {
    let mut b = [[P::Value::default(); N]; K];
    for register in 0..registers {
        let down = register * 4 * P::EACH;
        // SAFETY: a decoded row.
        let words = unsafe { lanes::row::<u32>(ctx, ctx.grid.code.lists[list + register]) };
        // Words are transposed before they are taken apart: fewer to move, columns side by side.
        for t in 0..4 {
            let column: [u32; N] = std::array::from_fn(|g| words[4 * g + t]);
            for i in 0..P::EACH {
                b[down + t * P::EACH + i] = column.map(|w| P::get(w, i));
            }
        }
    }
    b
}

/// Row and column of the i-th accumulator of a lane.
#[inline(always)]
fn accumulator(lane: usize, i: usize) -> (usize, usize) {
    (lane / 4 + i / 2 * 8, lane % 4 * 2 + i % 2)
}

/// Where the four operands begin in the list at [`Insn::x`]: d, a, b, c, by the numbers of their
/// registers in `imm`.
#[inline(always)]
fn lists(insn: &Insn) -> [(usize, usize); 4] {
    let mut at = insn.x as usize;
    std::array::from_fn(|i| {
        let count = (insn.imm >> (8 * i) & 0xff) as usize;
        at += count;
        (at - count, count)
    })
}

/// How accumulators lie in registers: as f32, or as pairs of f16.
pub trait Accumulators: 'static {
    /// Reads them.
    ///
    /// # Safety
    /// The list has the rows of 4 (f32) or 2 (f16) registers.
    unsafe fn load(ctx: &Context<'_>, list: usize) -> [[f32; N]; M];
    /// Writes them.
    ///
    /// # Safety
    /// As `load`.
    unsafe fn store(ctx: &mut Context<'_>, list: usize, values: &[[f32; N]; M]);
}

/// Accumulators of type f32.
pub struct Single;
/// Accumulators of type f16, two in a register.
pub struct Packed;

impl Accumulators for Single {
    #[inline(always)]
    unsafe fn load(ctx: &Context<'_>, list: usize) -> [[f32; N]; M] {
        let mut c = [[0.0; N]; M];
        for half in 0..2 {
            let at = |i: usize| ctx.grid.code.lists[list + 2 * half + i];
            // SAFETY: decoded rows.
            let rows = unsafe { [0, 1].map(|i| lanes::row::<f32>(ctx, at(i))) };
            for g in 0..8 {
                c[g + 8 * half] = std::array::from_fn(|n| rows[n % 2][4 * g + n / 2]);
            }
        }
        c
    }
    #[inline(always)]
    unsafe fn store(ctx: &mut Context<'_>, list: usize, values: &[[f32; N]; M]) {
        for i in 0..4 {
            let row: [f32; LANES] = std::array::from_fn(|lane| {
                let (r, n) = accumulator(lane, i);
                values[r][n]
            });
            // SAFETY: a decoded row.
            unsafe { lanes::set_row(ctx, ctx.grid.code.lists[list + i], ALL, &row) };
        }
    }
}

impl Accumulators for Packed {
    unsafe fn load(ctx: &Context<'_>, list: usize) -> [[f32; N]; M] {
        let mut c = [[0.0; N]; M];
        for register in 0..2 {
            // SAFETY: a decoded row.
            let row = unsafe { lanes::row::<u32>(ctx, ctx.grid.code.lists[list + register]) };
            for lane in 0..LANES {
                for i in 0..2 {
                    let (r, n) = accumulator(lane, 2 * register + i);
                    c[r][n] = lanes::F16((row[lane] >> (16 * i)) as u16).wide();
                }
            }
        }
        c
    }
    unsafe fn store(ctx: &mut Context<'_>, list: usize, values: &[[f32; N]; M]) {
        for register in 0..2 {
            let row: [u32; LANES] = std::array::from_fn(|lane| {
                let half = |i: usize| {
                    let (r, n) = accumulator(lane, 2 * register + i);
                    u32::from(lanes::half::f32_to_f16(values[r][n]))
                };
                half(0) | half(1) << 16
            });
            // SAFETY: a decoded row.
            unsafe { lanes::set_row(ctx, ctx.grid.code.lists[list + register], ALL, &row) };
        }
    }
}

/// `mma.m16n8kK` of elements P with accumulators C.
pub fn multiply<P: Part<Value = f32>, C: Accumulators, const K: usize>() -> Handler {
    #[inline(always)]
    unsafe fn body<P, C, const K: usize>(ctx: &mut Context<'_>, insn: &Insn, mask: u32)
    where
        P: Part<Value = f32>,
        C: Accumulators,
    {
        if !is_aligned(ctx, insn, mask) {
            return;
        }
        let [d, a, b, c] = lists(insn);
        // SAFETY: decoded lists of these lengths.
        unsafe {
            let left = gather_a::<P, K>(ctx, a.0, a.1);
            let right = gather_b::<P, K>(ctx, b.0, b.1);
            let mut sums = C::load(ctx, c.0);
            // Rows are independent: four of them together hide the latency of the additions, and
            // share what is loaded of B.
            for (sums, left) in sums.as_chunks_mut::<4>().0.iter_mut().zip(left.as_chunks::<4>().0)
            {
                let mut now = *sums;
                for k in 0..K {
                    for r in 0..4 {
                        for n in 0..N {
                            now[r][n] = left[r][k].mul_add(right[k][n], now[r][n]);
                        }
                    }
                }
                *sums = now;
            }
            C::store(ctx, d.0, &sums);
        }
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,bmi1,bmi2,lzcnt,popcnt")]
    unsafe fn avx2<P, C, const K: usize>(ctx: &mut Context<'_>, insn: &Insn, mask: u32)
    where
        P: Part<Value = f32>,
        C: Accumulators,
    {
        // SAFETY: the caller's promise is the body's.
        unsafe { body::<P, C, K>(ctx, insn, mask) }
    }
    #[cfg(target_arch = "x86_64")]
    if lanes::wide() {
        return avx2::<P, C, K>;
    }
    body::<P, C, K>
}

/// `mma` of bytes: K columns in registers of A; `c`: 1 if sums saturate.
pub fn multiply_bytes<A: Part<Value = i32>, B: Part<Value = i32>>() -> Handler {
    #[inline(always)]
    unsafe fn body<A, B>(ctx: &mut Context<'_>, insn: &Insn, mask: u32)
    where
        A: Part<Value = i32>,
        B: Part<Value = i32>,
    {
        if !is_aligned(ctx, insn, mask) {
            return;
        }
        let [d, a, b, c] = lists(insn);
        // SAFETY: decoded lists of these lengths.
        unsafe {
            let left = gather_a::<A, 32>(ctx, a.0, a.1);
            let right = gather_b::<B, 32>(ctx, b.0, b.1);
            let mut dots = [[0i32; N]; M];
            for (dots, left) in dots.iter_mut().zip(&left) {
                for k in 0..16 * b.1 {
                    for n in 0..N {
                        dots[n] += left[k] * right[k][n];
                    }
                }
            }
            for i in 0..d.1 {
                let mut row = lanes::row::<i32>(ctx, ctx.grid.code.lists[c.0 + i]);
                for lane in 0..LANES {
                    let (r, n) = accumulator(lane, i);
                    row[lane] = if insn.c == 1 {
                        row[lane].saturating_add(dots[r][n])
                    } else {
                        row[lane].wrapping_add(dots[r][n])
                    };
                }
                lanes::set_row(ctx, ctx.grid.code.lists[d.0 + i], ALL, &row);
            }
        }
    }
    multiversion!(body::<A, B> where A: Part<Value = i32>, B: Part<Value = i32>)
}

/// `mma.m8n8k4` of f64.
pub unsafe fn multiply_f64(ctx: &mut Context<'_>, insn: &Insn, mask: u32) {
    if !is_aligned(ctx, insn, mask) {
        return;
    }
    let [d, a, b, c] = lists(insn);
    let row = |ctx: &Context<'_>, at: usize| -> [f64; LANES] {
        // SAFETY: a decoded row of 64-bit registers.
        unsafe { lanes::row(ctx, ctx.grid.code.lists[at]) }
    };
    let (a, b) = (row(ctx, a.0), row(ctx, b.0));
    for i in 0..2 {
        let mut sums = row(ctx, c.0 + i);
        for (lane, sum) in sums.iter_mut().enumerate() {
            let (r, n) = accumulator(lane, i);
            for k in 0..4 {
                *sum = a[4 * r + k].mul_add(b[4 * n + k], *sum);
            }
        }
        // SAFETY: as above.
        unsafe { lanes::set_row(ctx, ctx.grid.code.lists[d.0 + i], ALL, &sums) };
    }
}
