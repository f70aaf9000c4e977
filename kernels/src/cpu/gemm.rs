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
use crate::cpu::simd::{self, Kernel, Vector, transpose_4x4};

/// Rows of a packed A panel: 14 x 2 zmm accumulators, 2 vectors of B and a broadcast make 31 of 32
/// registers.
pub const MR_WIDE: usize = 14;
/// The same for 16 registers: 4 x 2 accumulators, 2 of B, 1 broadcast.
pub const MR_NARROW: usize = 4;
/// Words of a cache line.
pub const LINE: usize = 16;

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

/// Rows of A for the microkernel: word p of row i of tile t at `start[t * tile + i * row + p * word]`,
/// a tile being [`panel_rows`] rows. Rows in memory, or panels `[rows / MR][k][MR]`.
#[derive(Clone, Copy)]
pub struct Rows<T> {
    /// Element (0, 0) of the first tile.
    pub start: *const T,
    /// Distance between the rows of a tile.
    pub row: usize,
    /// Distance between the words of a row.
    pub word: usize,
    /// Distance between tiles.
    pub tile: usize,
    /// Whether the rows should be fetched into L2 a tile before they are needed.
    pub prefetch: bool,
}

/// Rows of a tile, by the width of a vector.
pub const fn panel_rows(lanes: usize) -> usize {
    if lanes >= 16 { MR_WIDE } else { MR_NARROW }
}

/// One block of a packed GEMM: rows of A times packed panels of B, into C.
pub struct Block<'a, T> {
    /// Rows of A.
    pub a: Rows<T>,
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
        assert!(self.b.len() >= self.columns.div_ceil(2 * V::LANES) * 2 * V::LANES * self.k);
        assert!(self.bias.is_none_or(|b| b.len() >= self.columns));
        let mut row = 0;
        // SAFETY: all rows are below `self.rows`; B and the bias are long enough by the assertions,
        // A and C by the constructor's contract.
        unsafe {
            // Loop 2: MR rows; what A's last tile leaves over goes to smaller tiles.
            while V::LANES >= 16 && self.rows - row >= MR_WIDE {
                Tiles::<V, 2>::tile::<MR_WIDE>(&self, row);
                row += MR_WIDE;
            }
            sweep::<V, 2>(self.rows - row, &Rest { block: &self, first: row });
        }
    }
}

/// The rows of a block from `first` on.
struct Rest<'a, 'b, T> {
    block: &'a Block<'b, T>,
    first: usize,
}

impl<V: Vector, T: Scalar> Tiles<V, 2> for Rest<'_, '_, T> {
    #[inline(always)]
    unsafe fn tile<const MR: usize>(&self, row: usize) {
        // SAFETY: the rows lie inside the block if they lie inside the rest.
        unsafe { Tiles::<V, 2>::tile::<MR>(self.block, self.first + row) }
    }
}

impl<V: Vector, T: Scalar> Tiles<V, 2> for Block<'_, T> {
    /// Loop 1 around the microkernel: NR columns. A's rows stay in L1, the panels stream from L2.
    #[inline(always)]
    unsafe fn tile<const MR: usize>(&self, row: usize) {
        let nr = 2 * V::LANES;
        let (tile, within) = (row / panel_rows(V::LANES), row % panel_rows(V::LANES));
        let a = self.a.start.wrapping_add(tile * self.a.tile + within * self.a.row);
        for j in (0..self.columns).step_by(nr) {
            let columns = (self.columns - j).min(nr);
            // One line of the next tile's rows for each line that this tile reads of its own.
            let prefetch = self.a.prefetch && j == 0;
            let step = if prefetch { LINE } else { self.k };
            let mut acc = zero_tile::<V, MR, 2>();
            for p in (0..self.k).step_by(step) {
                if prefetch {
                    let next = a.wrapping_add(self.a.tile + p * T::TERMS);
                    for i in 0..MR {
                        simd::prefetch(next.wrapping_add(i * self.a.row).cast());
                    }
                }
                // SAFETY: p < k; the rows are below `self.rows`, so A's elements are granted by the
                // constructor; panel j of B was checked in `run`.
                acc = unsafe {
                    let b = self.b.as_ptr().add(j * self.k + p * nr);
                    let k = (self.k - p).min(step);
                    let a = (a.wrapping_add(p * self.a.word), self.a.row, self.a.word);
                    outer_products::<V, T, MR, 2, false>(acc, k, a, (b, nr), nr)
                };
            }
            // SAFETY: C holds rows x columns from `c` on by the constructor's contract, and this
            // tile alone writes its part.
            unsafe { self.finish(acc, row, j, columns) };
        }
    }
}

impl<T: Scalar> Block<'_, T> {
    /// Adds the bias and the sums over earlier k, and writes C.
    ///
    /// # Safety
    /// Rows `row` to `row + MR` and columns `j` to `j + columns` must lie inside the block.
    #[inline(always)]
    unsafe fn finish<V: Vector, const MR: usize>(
        &self,
        acc: [[V; 2]; MR],
        row: usize,
        j: usize,
        columns: usize,
    ) {
        // SAFETY: granted by the caller; vectors beyond the last column touch nothing.
        unsafe {
            let bias: [V; 2] = std::array::from_fn(|v| match self.bias {
                Some(bias) => T::load_partial(
                    bias.as_ptr().wrapping_add(j + v * V::LANES),
                    columns.saturating_sub(v * V::LANES),
                ),
                None => V::splat(0.0),
            });
            for (i, sums) in acc.into_iter().enumerate() {
                for v in 0..2 {
                    let n = columns.saturating_sub(v * V::LANES);
                    let at = (row + i) * self.c_row + j + v * V::LANES;
                    let mut x = sums[v].add(bias[v]);
                    if self.add {
                        x = x.add(V::load_partial(self.partial.wrapping_add(at), n));
                    }
                    if self.more {
                        x.store_partial(self.partial.wrapping_add(at), n);
                    } else {
                        T::store_partial(x, self.c.wrapping_add(at), n);
                    }
                }
            }
        }
    }
}
