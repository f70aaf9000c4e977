//! The one microkernel under matmul, convolution and Winograd, and the packed GEMM built on it.
//!
//! The microkernel keeps an `MR x NV` tile of vectors in registers and adds K outer products to it:
//!
//! ```text
//!   acc[i][j] += a[i * a_row + p * a_k]  *  b[p * b_k + j * LANES ..]      for p in 0..k
//!                broadcast to all lanes     one vector of columns
//! ```
//!
//! Its strides make it serve packed panels (`a_row = 1, a_k = MR`), rows of an image or of Winograd
//! tiles where they lie (`a_row = C, a_k = 1`), and their transposes. Every sum over p runs in
//! order, so a result has the same bits wherever its tile begins and whichever thread computes it.
//!
//! For bf16, a and b are *words* of two terms each and k counts words: see [`super::scalar`].

use crate::cpu::scalar::Scalar;
use crate::cpu::simd::{Kernel, Vector, transpose_4x4};

/// Rows of a packed A panel: 14 x 2 zmm accumulators, 2 vectors of B and a broadcast make 31 of 32
/// registers.
pub const MR_WIDE: usize = 14;
/// The same for 16 registers: 4 x 2 accumulators, 2 of B, 1 broadcast.
pub const MR_NARROW: usize = 4;

/// acc + A B for `k` outer products of words. Distances in a are in elements, those in b in words.
///
/// # Safety
/// The word at element `a[i * a_row + p * a_k]`, aligned as an element, must be readable for i < MR,
/// p < k; so must `columns` (at most NV * LANES, that many if not `PARTIAL`) words of b from each
/// `p * b_k` on.
#[inline(always)]
pub unsafe fn outer_products<
    V: Vector,
    T: Scalar,
    const MR: usize,
    const NV: usize,
    const PARTIAL: bool,
>(
    mut acc: [[V; NV]; MR],
    k: usize,
    (a, a_row, a_k): (*const T, usize, usize),
    (b, b_k): (*const f32, usize),
    columns: usize,
) -> [[V; NV]; MR] {
    for p in 0..k {
        // SAFETY: p < k; the caller grants these elements.
        unsafe {
            let (a, b) = (a.add(p * a_k), b.add(p * b_k));
            let row: [V; NV] = std::array::from_fn(|j| match PARTIAL {
                true => V::load_partial(b.add(j * V::LANES), columns.saturating_sub(j * V::LANES)),
                false => V::load(b.add(j * V::LANES)),
            });
            for i in 0..MR {
                let v = V::splat(a.add(i * a_row).cast::<f32>().read_unaligned());
                for j in 0..NV {
                    acc[i][j] = T::multiply_add(v, row[j], acc[i][j]);
                }
            }
        }
    }
    acc
}

/// A tile of zeros.
#[inline(always)]
pub fn zero_tile<V: Vector, const MR: usize, const NV: usize>() -> [[V; NV]; MR] {
    [[V::splat(0.0); NV]; MR]
}

/// The tile at `c`, rows `c_row` apart, `columns` of it.
///
/// # Safety
/// `min(columns, NV * LANES)` elements from each `c + i * c_row` on must be readable.
#[inline(always)]
pub unsafe fn load_tile<V: Vector, const MR: usize, const NV: usize>(
    c: *const f32,
    c_row: usize,
    columns: usize,
) -> [[V; NV]; MR] {
    // Loops, not `array::from_fn`: a closure that the compiler does not inline loses the instruction
    // set, and every vector operation in it becomes a call.
    let mut tile = zero_tile();
    for i in 0..MR {
        for j in 0..NV {
            // SAFETY: granted by the caller.
            tile[i][j] = unsafe {
                V::load_partial(
                    c.add(i * c_row + j * V::LANES),
                    columns.saturating_sub(j * V::LANES),
                )
            };
        }
    }
    tile
}

/// Writes `columns` of the tile to `c`, rounded to its type.
///
/// # Safety
/// `min(columns, NV * LANES)` elements from each `c + i * c_row` on must be writable.
#[inline(always)]
pub unsafe fn store_tile<V: Vector, T: Scalar, const MR: usize, const NV: usize>(
    acc: [[V; NV]; MR],
    c: *mut T,
    c_row: usize,
    columns: usize,
) {
    for (i, row) in acc.into_iter().enumerate() {
        for (j, v) in row.into_iter().enumerate() {
            // SAFETY: granted by the caller.
            unsafe {
                let p = c.add(i * c_row + j * V::LANES);
                if columns >= (j + 1) * V::LANES {
                    T::store(v, p)
                } else if columns > j * V::LANES {
                    T::store_partial(v, p, columns - j * V::LANES)
                }
            }
        }
    }
}

/// Something done once for each register tile of a tall block of rows.
pub trait Tiles<V: Vector, const NV: usize> {
    /// Handles rows `row` to `row + MR`.
    ///
    /// # Safety
    /// The rows must lie inside the block that the implementor describes.
    unsafe fn tile<const MR: usize>(&self, row: usize);
}

/// Covers `rows` rows with register tiles, largest first.
///
/// # Safety
/// As [`Tiles::tile`] for all rows below `rows`.
#[inline(always)]
pub unsafe fn sweep<V: Vector, const NV: usize>(rows: usize, tiles: &impl Tiles<V, NV>) {
    let mut row = 0;
    // SAFETY: each call covers rows below `rows`.
    unsafe {
        if V::LANES >= 16 {
            // One vector of columns: 16 rows, so that the load of B is shared by enough broadcasts.
            while NV == 1 && rows - row >= 16 {
                tiles.tile::<16>(row);
                row += 16;
            }
            while NV == 2 && rows - row >= 12 && !(rows - row).is_multiple_of(8) {
                tiles.tile::<12>(row);
                row += 12;
            }
            while rows - row >= 8 {
                tiles.tile::<8>(row);
                row += 8;
            }
        }
        while rows - row >= 4 {
            tiles.tile::<4>(row);
            row += 4;
        }
        if rows - row >= 2 {
            tiles.tile::<2>(row);
            row += 2;
        }
        if rows > row {
            tiles.tile::<1>(row);
        }
    }
}

/// A matrix in memory: element (i, j) at `data[i * row + j * column]`.
#[derive(Clone, Copy)]
pub struct Matrix<'a, T> {
    /// Elements.
    pub data: &'a [T],
    /// Distance between rows.
    pub row: usize,
    /// Distance between columns.
    pub column: usize,
}

/// Packs columns `j0..j0 + width` of rows `k0..k0 + k` of `b` as words
/// `[k / TERMS, rounded up][panel]`, zeros behind the last column and the last row.
pub struct PackColumns<'a, T> {
    /// Source.
    pub b: Matrix<'a, T>,
    /// First row.
    pub k0: usize,
    /// Rows.
    pub k: usize,
    /// First column.
    pub j0: usize,
    /// Columns.
    pub width: usize,
    /// Columns of the panel, at least `width`.
    pub panel: usize,
    /// The words.
    pub out: &'a mut [f32],
}

impl<T: Scalar> Kernel for PackColumns<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let PackColumns { b, k0, k, j0, width, panel, out } = self;
        let words = k.div_ceil(T::TERMS);
        if width < panel {
            out[..words * panel].fill(0.0);
        }
        if b.column == 1 {
            let line = |p: usize| match p < k {
                true => &b.data[(k0 + p) * b.row + j0..][..width],
                false => &[],
            };
            for (p, out) in out.chunks_exact_mut(panel).take(words).enumerate() {
                let out = &mut out[..width];
                if T::TERMS == 1 {
                    out.copy_from_slice(bytemuck::cast_slice(line(p)));
                    continue;
                }
                let (low, high) = (line(2 * p), line(2 * p + 1));
                if high.is_empty() {
                    out.iter_mut().zip(low).for_each(|(o, &l)| *o = T::word([l, T::narrow(0.0)]));
                }
                out.iter_mut()
                    .zip(low.iter().zip(high))
                    .for_each(|(o, (&l, &h))| *o = T::word([l, h]));
            }
        } else if b.row == 1 {
            // The source is contiguous along k, and so are the terms of a word: four columns at a
            // time, the last four perhaps once more.
            let quads = (0..width / 4 * 4).step_by(4);
            let last = (width >= 4 && !width.is_multiple_of(4)).then(|| width - 4);
            for j in quads.chain(last) {
                let corner = (j0 + j) * b.column + k0;
                let columns: [&[T]; 4] =
                    std::array::from_fn(|c| &b.data[corner + c * b.column..][..k]);
                transpose(columns, panel, &mut out[j..]);
            }
            for j in 0..if width < 4 { width } else { 0 } {
                let column = &b.data[(j0 + j) * b.column + k0..][..k];
                for (line, terms) in out[j..].chunks_mut(panel).zip(column.chunks(T::TERMS)) {
                    line[0] = last_word(terms);
                }
            }
        } else {
            for p in 0..words {
                for j in 0..width {
                    let at = |p: usize| match p < k {
                        true => b.data[(k0 + p) * b.row + (j0 + j) * b.column],
                        false => T::narrow(0.0),
                    };
                    out[p * panel + j] = T::word([at(T::TERMS * p), at(T::TERMS * p + 1)]);
                }
            }
        }
    }
}

/// The word of one or two terms, zero for what is missing.
#[inline(always)]
fn last_word<T: Scalar>(terms: &[T]) -> f32 {
    T::word([terms[0], terms.get(1).copied().unwrap_or(T::narrow(0.0))])
}

/// Writes four columns as lines of four words, `panel` apart.
#[inline(always)]
fn transpose<T: Scalar>(columns: [&[T]; 4], panel: usize, out: &mut [f32]) {
    let k = columns[0].len();
    assert!(columns.iter().all(|c| c.len() == k));
    let whole = k / (4 * T::TERMS) * 4;
    assert!(whole == 0 || (whole - 1) * panel + 4 <= out.len());
    let starts = columns.map(|c| c.as_ptr().cast::<f32>());
    for p in (0..whole).step_by(4) {
        // SAFETY: words p to p + 4 of each column, read as unaligned 128 bits, are elements below
        // k; and the lines lie inside `out` by the assertions.
        unsafe {
            let block = starts.map(|c| c.byte_add(4 * p));
            transpose_4x4(block, out.as_mut_ptr().add(p * panel), panel);
        }
    }
    for p in whole..k.div_ceil(T::TERMS) {
        for (c, column) in columns.iter().enumerate() {
            out[p * panel + c] = last_word(&column[T::TERMS * p..k.min(T::TERMS * (p + 1))]);
        }
    }
}

/// One block of a packed GEMM: rows of packed A panels times packed B panels, into C.
pub struct Block<'a, T> {
    /// Panels `[rows / MR][k][MR]` of words, zero-padded.
    pub a: &'a [f32],
    /// Panels `[columns / NR][k][NR]` of words, zero-padded, NR = 2 * LANES.
    pub b: &'a [f32],
    /// Words of the sums.
    pub k: usize,
    /// Rows of C in this block.
    pub rows: usize,
    /// Columns of C in this block.
    pub columns: usize,
    /// First element of the block of C.
    pub c: *mut T,
    /// The block's sums over earlier k, if there are any, and where to put them if there are more
    /// to come; in f32, perhaps C itself.
    pub partial: *mut f32,
    /// Distance between rows of C and of the partial sums.
    pub c_row: usize,
    /// Whether there are sums over earlier k.
    pub add: bool,
    /// Whether there are more to come.
    pub more: bool,
    /// Bias of the block's columns.
    pub bias: Option<&'a [T]>,
}

impl<T: Scalar> Kernel for Block<'_, T> {
    type Output = ();
    const BF16: bool = T::TERMS == 2;

    #[inline(always)]
    fn run<V: Vector>(self) {
        if V::LANES >= 16 {
            self.loops::<V, MR_WIDE>();
        } else {
            self.loops::<V, MR_NARROW>();
        }
    }
}

impl<T: Scalar> Block<'_, T> {
    /// Loops 2 and 1 around the microkernel: columns of the block, then its rows.
    #[inline(always)]
    fn loops<V: Vector, const MR: usize>(self) {
        let nr = 2 * V::LANES;
        assert!(self.a.len() >= self.rows.div_ceil(MR) * MR * self.k);
        assert!(self.b.len() >= self.columns.div_ceil(nr) * nr * self.k);
        assert!(self.bias.is_none_or(|b| b.len() >= self.columns));
        // Loop 2: NR columns; their panel of B is read once a row tile, from L1 or L2.
        for j in (0..self.columns).step_by(nr) {
            let columns = (self.columns - j).min(nr);
            // Loop 1: MR rows.
            for i in (0..self.rows).step_by(MR) {
                let rows = (self.rows - i).min(MR);
                // SAFETY: the panels hold the tile's operands by the assertions; C, and the partial
                // sums where they are used, hold rows x columns by the constructor's contract, and
                // only they are written.
                unsafe {
                    let a = self.a.as_ptr().add(i * self.k).cast::<T>();
                    let b = self.b.as_ptr().add(j * self.k);
                    let acc = outer_products::<V, T, MR, 2, false>(
                        zero_tile(),
                        self.k,
                        (a, T::TERMS, T::TERMS * MR),
                        (b, nr),
                        nr,
                    );
                    let bias: [V; 2] = std::array::from_fn(|v| match self.bias {
                        Some(bias) => T::load_partial(
                            bias.as_ptr().add((j + v * V::LANES).min(bias.len())),
                            columns.saturating_sub(v * V::LANES),
                        ),
                        None => V::splat(0.0),
                    });
                    for (r, row) in acc.into_iter().enumerate() {
                        if r >= rows {
                            break;
                        }
                        for v in 0..2 {
                            let n = columns.saturating_sub(v * V::LANES);
                            let at = (i + r) * self.c_row + j + (v * V::LANES).min(columns);
                            let mut x = row[v].add(bias[v]);
                            if self.add {
                                x = x.add(V::load_partial(self.partial.wrapping_add(at), n));
                            }
                            if self.more {
                                x.store_partial(self.partial.wrapping_add(at), n);
                            } else {
                                T::store_partial(x, self.c.add(at), n);
                            }
                        }
                    }
                }
            }
        }
    }
}
