//! Backward-filter in the Winograd domain.
//!
//! From y = Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A (see [`super`]) follows, by the chain rule through each
//! linear step,
//!
//! ```text
//!   dg = Gᵀ [ Σ over tiles of (A dy Aᵀ) ⊙ (Bᵀ d B) ] G
//! ```
//!
//! The sum over tiles is, for each of the 36 positions, a matrix product `Vᵀ [C_in, tiles] x W
//! [tiles, C_out]`. Tiles are taken in chunks. Where the sums dU are small, a fixed number of
//! groups of tiles have sums of their own, each made by one task from chunks that stay in L2; where
//! they are large, all threads transform a chunk and then share out the positions. Both add tiles
//! in an order that depends on the sizes alone.
//!
//! For bf16, V and W are rounded, and a word holds the same channel of two neighbouring tiles.

use std::marker::PhantomData;
use std::sync::Mutex;

use super::transform::{A, A2, A3, B, B2, B3, F0, FA, FB, TransformInput, column_of};
use super::{Grid, POSITIONS};
use crate::cpu::Cpu;
use crate::cpu::conv2d::filter_gradient::Add;
use crate::cpu::gemm::{Matrix, PackColumns, Tiles, load_tile, outer_products, store_tile, sweep};
use crate::cpu::scalar::Scalar;
use crate::cpu::simd::{Kernel, Vector};
use crate::cpu::threads::SharedMut;
use crate::{Conv2dArgs, Result};

/// Sums up to this many elements are kept once a group.
const SMALL_SUM: usize = POSITIONS * 64 * 64;
/// Groups of tiles with sums of their own.
const GROUPS: usize = 8;

/// Sizes that every step shares.
#[derive(Clone, Copy)]
struct Sizes {
    grid: Grid,
    c: usize,
    cp: usize,
    k: usize,
    kp: usize,
    /// Tiles of a chunk, a multiple of 8, and the distances between positions of V and W, in
    /// elements.
    tiles: usize,
    v_step: usize,
    w_step: usize,
    total: usize,
}

/// dfilter from x and dy.
pub fn backward_filter<T: Scalar>(
    cpu: &Cpu,
    args: &Conv2dArgs,
    x: &[T],
    dy: &[T],
    dw: &mut [T],
) -> Result<()> {
    let (c, k) = (args.c_in, args.c_out);
    let grid = Grid::new(args.h, args.w, args.oh, args.ow, args.options.padding);
    let nr = cpu.isa.panel_width(k);
    let (cp, kp) = (c.next_multiple_of(cpu.isa.lanes()), k.next_multiple_of(nr));
    let sum_len = POSITIONS * c * kp;
    let total = args.n * grid.tiles();
    let bytes = size_of::<T>() * POSITIONS * (cp + kp);
    let grouped = sum_len <= SMALL_SUM;
    let tiles = match grouped {
        true => ((512 << 10) / bytes).clamp(16, 128),
        false => ((8 << 20) / bytes).clamp(64, 512),
    };
    let tiles = tiles.min(total).next_multiple_of(8);
    let sizes = Sizes {
        grid,
        c,
        cp,
        k,
        kp,
        tiles,
        v_step: tiles * cp + 16,
        w_step: tiles * kp + 16,
        total,
    };
    let groups = if grouped { GROUPS.min(total.div_ceil(tiles)) } else { 1 };
    let mut sums = cpu.alloc::<f32>(groups * sum_len)?;
    let sums = sums.slice_mut::<f32>(groups * sum_len);
    let zeros = vec![T::narrow(0.0); cp];
    if grouped {
        let failed = Mutex::new(None);
        let share = total.div_ceil(groups);
        cpu.threads.chunks(sums, sum_len, |group, sum| {
            let (first, end) = ((group * share).min(total), ((group + 1) * share).min(total));
            if let Err(e) = group_sum(cpu, &sizes, x, dy, &zeros, first..end, sum) {
                *failed.lock().unwrap_or_else(|e| e.into_inner()) = Some(e);
            }
        });
        if let Some(e) = failed.into_inner().unwrap_or_else(|e| e.into_inner()) {
            return Err(e);
        }
    } else {
        shared_sum(cpu, &sizes, x, dy, &zeros, sums)?;
    }
    let (sum, others) = sums.split_at_mut(sum_len);
    for other in others.chunks_exact(sum_len) {
        cpu.isa.run(Add { sum, other });
    }
    finish(cpu, &sizes, sum, dw)
}

/// The sum over tiles `range`, made by this thread alone.
fn group_sum<T: Scalar>(
    cpu: &Cpu,
    s: &Sizes,
    x: &[T],
    dy: &[T],
    zeros: &[T],
    range: std::ops::Range<usize>,
    sum: &mut [f32],
) -> Result<()> {
    let mut memory = cpu.alloc::<T>(POSITIONS * (s.v_step + s.w_step))?;
    let scratch = memory.slice_mut::<T>(POSITIONS * (s.v_step + s.w_step));
    let (v, w) = scratch.split_at_mut(POSITIONS * s.v_step);
    let &Sizes { grid, c, cp, v_step, .. } = s;
    if range.is_empty() {
        sum.fill(0.0);
    }
    for first in range.clone().step_by(s.tiles) {
        let count = s.tiles.min(range.end - first);
        let (v_start, v_len) = (v.as_mut_ptr(), v.len());
        cpu.isa.run(TransformInput {
            grid,
            c,
            cp,
            x,
            zeros,
            first,
            tiles: 0..count,
            v: v_start,
            v_len,
            v_step,
            pairs: true,
        });
        let w_start = w.as_mut_ptr();
        let transform =
            TransformGradient { s, dy, first, tiles: 0..count, w: w_start, w_len: w.len() };
        cpu.isa.run(transform);
        for position in 0..POSITIONS {
            let sum = &mut sum[position * c * s.kp..(position + 1) * c * s.kp];
            let (v, w) = (words(v, position * v_step), words(w, position * s.w_step));
            let add = first > range.start;
            cpu.isa.run(Accumulate::<T> {
                s,
                v,
                w,
                count: count.div_ceil(T::TERMS),
                columns: 0..s.kp,
                add,
                sum: sum.as_mut_ptr(),
                storage: PhantomData,
            });
        }
    }
    Ok(())
}

/// The sum over all tiles, each step shared out over the threads.
fn shared_sum<T: Scalar>(
    cpu: &Cpu,
    s: &Sizes,
    x: &[T],
    dy: &[T],
    zeros: &[T],
    sum: &mut [f32],
) -> Result<()> {
    let mut memory = cpu.alloc::<T>(POSITIONS * (s.v_step + s.w_step))?;
    let scratch = memory.slice_mut::<T>(POSITIONS * (s.v_step + s.w_step));
    let (v, w) = scratch.split_at_mut(POSITIONS * s.v_step);
    let sum = SharedMut::new(sum);
    let &Sizes { grid, c, cp, v_step, .. } = s;
    let piece = 8;
    for first in (0..s.total).step_by(s.tiles) {
        let count = s.tiles.min(s.total - first);
        let (v_len, w_len) = (v.len(), w.len());
        let (v_shared, w_shared) = (SharedMut::new(v), SharedMut::new(w));
        cpu.threads.run(count.div_ceil(piece), |task| {
            let tiles = task * piece..((task + 1) * piece).min(count);
            // SAFETY: the task writes rows `tiles` of every position of V and W, which no other
            // task touches.
            unsafe {
                let v = v_shared.pointer(0);
                cpu.isa.run(TransformInput {
                    grid,
                    c,
                    cp,
                    x,
                    zeros,
                    first,
                    tiles: tiles.clone(),
                    v,
                    v_len,
                    v_step,
                    pairs: true,
                });
                let w = w_shared.pointer(0);
                cpu.isa.run(TransformGradient { s, dy, first, tiles, w, w_len });
            }
        });
        let (v, w) = (&*v, &*w);
        let strip = 128.min(s.kp);
        let strips = s.kp.div_ceil(strip);
        cpu.threads.run(POSITIONS * strips, |task| {
            let (position, j) = (task / strips, task % strips * strip);
            cpu.isa.run(Accumulate::<T> {
                s,
                v: words(v, position * v_step),
                w: words(w, position * s.w_step),
                count: count.div_ceil(T::TERMS),
                columns: j..(j + strip).min(s.kp),
                add: first > 0,
                // SAFETY: the task writes its columns of its position alone.
                sum: unsafe { sum.pointer(position * c * s.kp) },
                storage: PhantomData,
            });
        });
    }
    Ok(())
}

/// The words of `x` from element `start` on.
fn words<T: Scalar>(x: &[T], start: usize) -> &[f32] {
    bytemuck::cast_slice(&x[start..])
}

/// W = A dy Aᵀ for tiles `first + tiles`, in words of TERMS tiles, of which `tiles.start` is a
/// multiple; a missing tile counts as zeros.
struct TransformGradient<'a, T> {
    s: &'a Sizes,
    dy: &'a [T],
    first: usize,
    tiles: std::ops::Range<usize>,
    w: *mut T,
    w_len: usize,
}

/// A applied to four values: six.
#[inline(always)]
fn gradient_1d<V: Vector>([d0, d1, d2, d3]: [V; 4]) -> [V; 6] {
    let pair = |p: f32, p2: f32, p3: f32| {
        let even = d2.mul_add(V::splat(p2), d0);
        let odd = d3.mul_add(V::splat(p3), d1.mul(V::splat(p)));
        (even.add(odd), even.sub(odd))
    };
    let (a, minus_a) = pair(A, A2, A3);
    let (b, minus_b) = pair(B, B2, B3);
    [d0, a, minus_a, b, minus_b, d3]
}

impl<T: Scalar> Kernel for TransformGradient<'_, T> {
    type Output = ();
    const BF16: bool = T::TERMS == 2;

    #[inline(always)]
    fn run<V: Vector>(self) {
        let &Sizes { kp, w_step, .. } = self.s;
        assert!(kp.is_multiple_of(V::LANES) && self.w_len >= POSITIONS * w_step);
        assert!(self.tiles.start.is_multiple_of(T::TERMS));
        assert!(w_step >= self.tiles.end.next_multiple_of(T::TERMS) * kp);
        for tile in self.tiles.clone().step_by(T::TERMS) {
            for lane in (0..kp).step_by(V::LANES) {
                let first = self.transform::<V>(tile, lane);
                let second = match T::TERMS {
                    1 => first,
                    _ => self.transform::<V>(tile + 1, lane),
                };
                for p in 0..POSITIONS {
                    let at = (p * w_step + tile * kp) / T::TERMS + lane;
                    // SAFETY: position < 36, words of the tiles and lane inside W by the
                    // assertions.
                    unsafe {
                        T::words([first[p], second[p]]).store(self.w.cast::<f32>().add(at));
                    }
                }
            }
        }
    }
}

impl<T: Scalar> TransformGradient<'_, T> {
    /// All positions of one tile, for the lanes from `lane` on; zeros behind the last tile.
    #[inline(always)]
    fn transform<V: Vector>(&self, tile: usize, lane: usize) -> [V; POSITIONS] {
        let &Sizes { grid, k, .. } = self.s;
        let mut out = [V::splat(0.0); POSITIONS];
        let n = k.saturating_sub(lane);
        if tile >= self.tiles.end || n == 0 {
            return out;
        }
        let (image, oy, ox) = grid.place(self.first + tile);
        let (rows, columns) = ((grid.oh - oy).min(4), (grid.ow - ox).min(4));
        let corner = ((image * grid.oh + oy) * grid.ow + ox) * k;
        let pixels = &self.dy[corner..];
        assert!(pixels.len() >= ((rows - 1) * grid.ow + columns) * k);
        let load = |r: usize, c: usize| {
            if r >= rows || c >= columns {
                return V::splat(0.0);
            }
            // SAFETY: the pixel lies inside dy by the assertion; lanes beyond k are not read.
            unsafe {
                let p = pixels.as_ptr().add((r * grid.ow + c) * k + lane);
                if n >= V::LANES { T::load(p) } else { T::load_partial(p, n) }
            }
        };
        let mut lines = [[V::splat(0.0); 6]; 4];
        for (c, line) in lines.iter_mut().enumerate() {
            *line = gradient_1d([load(0, c), load(1, c), load(2, c), load(3, c)]);
        }
        for r in 0..6 {
            let values = gradient_1d(column_of(&lines, r));
            out[r * 6..r * 6 + 6].copy_from_slice(&values);
        }
        out
    }
}

/// sum (+)= Vᵀ W for one position and some columns.
struct Accumulate<'a, T> {
    s: &'a Sizes,
    /// Words `[count][cp]` and `[count][kp]`.
    v: &'a [f32],
    w: &'a [f32],
    count: usize,
    columns: std::ops::Range<usize>,
    add: bool,
    /// `[c][kp]`
    sum: *mut f32,
    storage: PhantomData<T>,
}

impl<T: Scalar> Kernel for Accumulate<'_, T> {
    type Output = ();
    const BF16: bool = T::TERMS == 2;

    #[inline(always)]
    fn run<V: Vector>(self) {
        if self.s.kp == V::LANES {
            self.strips::<V, 1>();
        } else {
            self.strips::<V, 2>();
        }
    }
}

impl<T: Scalar> Accumulate<'_, T> {
    #[inline(always)]
    fn strips<V: Vector, const NV: usize>(self) {
        let &Sizes { c, cp, kp, .. } = self.s;
        assert!(self.v.len() >= self.count * cp && self.w.len() >= self.count * kp);
        assert!(self.columns.end <= kp && self.columns.len().is_multiple_of(NV * V::LANES));
        for j in self.columns.clone().step_by(NV * V::LANES) {
            let channels = Channels::<T> {
                a: self.v.as_ptr(),
                a_k: cp,
                b: self.w[j..].as_ptr(),
                b_k: kp,
                k: self.count,
                add: self.add,
                // SAFETY: j < kp.
                out: unsafe { self.sum.add(j) },
                storage: PhantomData,
            };
            // SAFETY: rows below c of the sum, all tiles of V and W: inside by the assertions.
            unsafe { sweep::<V, NV>(c, &channels) };
        }
    }
}

/// Input channels times one panel of output channels.
struct Channels<T> {
    a: *const f32,
    a_k: usize,
    b: *const f32,
    b_k: usize,
    k: usize,
    add: bool,
    out: *mut f32,
    storage: PhantomData<T>,
}

impl<V: Vector, T: Scalar, const NV: usize> Tiles<V, NV> for Channels<T> {
    #[inline(always)]
    unsafe fn tile<const MR: usize>(&self, row: usize) {
        let nr = NV * V::LANES;
        // SAFETY: as the caller of `sweep` states.
        unsafe {
            let out = self.out.add(row * self.b_k);
            let acc = match self.add {
                true => load_tile::<V, MR, NV>(out, self.b_k, nr),
                false => [[V::splat(0.0); NV]; MR],
            };
            let a = (self.a.add(row).cast::<T>(), T::TERMS, T::TERMS * self.a_k);
            let b = (self.b, self.b_k);
            let acc = outer_products::<V, T, MR, NV, false>(acc, self.k, a, b, nr);
            store_tile(acc, out, self.b_k, nr);
        }
    }
}

/// dg = Gᵀ dU G, and from `[tap][ci][co]` to `[co][tap][ci]`.
fn finish<T: Scalar>(cpu: &Cpu, s: &Sizes, sum: &[f32], dw: &mut [T]) -> Result<()> {
    let &Sizes { c, k, kp, .. } = s;
    let mut taps = cpu.alloc::<f32>(9 * c * kp)?;
    let taps = taps.slice_mut::<f32>(9 * c * kp);
    let shared = SharedMut::new(taps);
    let piece = 16;
    cpu.threads.run(c.div_ceil(piece), |task| {
        let rows = task * piece..((task + 1) * piece).min(c);
        // SAFETY: the task writes rows `rows` of every tap alone.
        let out = unsafe { shared.pointer(0) };
        cpu.isa.run(TransformBack { c, kp, rows, sum, out });
    });
    let b = Matrix { data: &*taps, row: 1, column: kp };
    let strip = 16;
    let failed = Mutex::new(None);
    cpu.threads.chunks(dw, strip * 9 * c, |task, out| {
        let (k0, rows) = (task * strip, strip.min(k - task * strip));
        let pack = |out| PackColumns { b, k0, k: rows, j0: 0, width: 9 * c, panel: 9 * c, out };
        if T::TERMS == 1 {
            return cpu.isa.run(pack(bytemuck::cast_slice_mut(out)));
        }
        match cpu.alloc::<f32>(out.len()) {
            Ok(mut wide) => {
                let wide = wide.slice_mut::<f32>(out.len());
                cpu.isa.run(pack(&mut *wide));
                out.iter_mut().zip(wide).for_each(|(out, v)| *out = T::narrow(*v));
            }
            Err(e) => *failed.lock().unwrap_or_else(|e| e.into_inner()) = Some(e),
        }
    });
    failed.into_inner().unwrap_or_else(|e| e.into_inner()).map_or(Ok(()), Err)
}

/// Gᵀ m G for some input channels.
struct TransformBack<'a> {
    c: usize,
    kp: usize,
    rows: std::ops::Range<usize>,
    sum: &'a [f32],
    out: *mut f32,
}

/// Gᵀ applied to six values: three.
#[inline(always)]
fn back_1d<V: Vector>([m0, m1, m2, m3, m4, m5]: [V; 6]) -> [V; 3] {
    let (s1, d1) = (m1.add(m2), m1.sub(m2));
    let (s2, d2) = (m3.add(m4), m3.sub(m4));
    let scaled = |v: V, by: f32| v.mul(V::splat(by));
    [
        m0.mul_add(V::splat(1.0 / F0), s2.mul_add(V::splat(1.0 / FB), scaled(s1, 1.0 / FA))),
        d2.mul_add(V::splat(B / FB), scaled(d1, A / FA)),
        s2.mul_add(V::splat(B2 / FB), s1.mul_add(V::splat(A2 / FA), m5)),
    ]
}

impl Kernel for TransformBack<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let TransformBack { c, kp, rows, sum, out } = self;
        assert!(sum.len() >= POSITIONS * c * kp && rows.end <= c && kp.is_multiple_of(V::LANES));
        for row in rows {
            for lane in (0..kp).step_by(V::LANES) {
                let at = row * kp + lane;
                // SAFETY: position < 36, row < c, lane + LANES <= kp: inside by the assertion.
                let load = |p: usize| unsafe { V::load(sum.as_ptr().add(p * c * kp + at)) };
                let mut columns = [[V::splat(0.0); 3]; 6];
                for (i, column) in columns.iter_mut().enumerate() {
                    *column = back_1d([
                        load(i),
                        load(6 + i),
                        load(12 + i),
                        load(18 + i),
                        load(24 + i),
                        load(30 + i),
                    ]);
                }
                for r in 0..3 {
                    for (t, value) in back_1d(column_of(&columns, r)).into_iter().enumerate() {
                        // SAFETY: 9 taps of c rows of kp were allocated.
                        unsafe { value.store(out.add((r * 3 + t) * c * kp + at)) };
                    }
                }
            }
        }
    }
}
