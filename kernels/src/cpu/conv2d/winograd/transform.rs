//! The three linear transforms of Winograd F(4x4, 3x3), each applied to both axes of a tile,
//! channels in the lanes.
//!
//! Interpolation points 0, ±A, ±B and infinity with A = 5/8 and B = 27/16. Lavin and Gray (2015) take
//! A = 1, B = 2; points whose powers stay closer to 1 lose less (Barabasz et al., "Error Analysis and
//! Improving the Accuracy of Winograd Convolution", 2020), and among those with short exact
//! coefficients these lose least here: 2.3 times less than 1 and 2 (see `docs/cpu.md`). Matrices by
//! Toom and Cook's construction: row i of Bᵀ holds the coefficients of Π (x - p_j) over j ≠ i, row i
//! of G the powers of p_i over Π (p_i - p_j), row k of Aᵀ the k-th powers of the points. Points in
//! pairs ±p share their even and odd halves.

use super::{Grid, POSITIONS};
use crate::cpu::scalar::Scalar;
use crate::cpu::simd::{Kernel, Vector};

/// Interpolation points, and their squares and cubes.
pub const A: f32 = 0.625;
pub const B: f32 = 1.6875;
pub const A2: f32 = A * A;
pub const B2: f32 = B * B;
pub const A3: f32 = A2 * A;
pub const B3: f32 = B2 * B;
/// Products of the differences of 0, A and B from the other points.
pub const F0: f32 = A2 * B2;
pub const FA: f32 = 2.0 * A2 * (A2 - B2);
pub const FB: f32 = 2.0 * B2 * (B2 - A2);

/// Where tap t of row r, columns of panel j lies: `data[j * panel + r * row + t * tap ..]`.
#[derive(Clone, Copy)]
pub struct FilterSource<'a, T> {
    /// Filters.
    pub data: &'a [T],
    /// Distance between taps.
    pub tap: usize,
    /// Distance between rows (channels that are summed over).
    pub row: usize,
    /// Distance between panels.
    pub panel: usize,
    /// Read tap 8 - t for t.
    pub flip: bool,
}

/// U = G g Gᵀ for some rows of one panel.
pub struct TransformFilters<'a, T> {
    /// Where filters are read.
    pub source: FilterSource<'a, T>,
    /// Panel to read.
    pub panel: usize,
    /// Columns of the panel that exist.
    pub columns: usize,
    /// Columns of a panel: one vector or two.
    pub nr: usize,
    /// Words of rows to transform.
    pub rows: std::ops::Range<usize>,
    /// Rows (channels) that exist.
    pub c: usize,
    /// The panel `[words of rows][nr]` of position 0.
    pub out: *mut f32,
    /// Distance between positions of `out`, at least all words of the panel.
    pub position: usize,
}

/// Column `c` of a small matrix of vectors. (Here and below loops, not `array::from_fn`: a closure that
/// the compiler does not inline loses the instruction set, and every vector operation in it becomes a
/// call.)
#[inline(always)]
pub fn column_of<V: Copy, const R: usize, const C: usize>(rows: &[[V; C]; R], c: usize) -> [V; R] {
    let mut out = [rows[0][c]; R];
    for r in 1..R {
        out[r] = rows[r][c];
    }
    out
}

/// G applied to three values: six.
#[inline(always)]
fn filter_1d<V: Vector>([g0, g1, g2]: [V; 3]) -> [V; 6] {
    let pair = |p: f32, f: f32| {
        let even = g2.mul_add(V::splat(p * p / f), g0.mul(V::splat(1.0 / f)));
        let odd = g1.mul(V::splat(p / f));
        (even.add(odd), even.sub(odd))
    };
    let (a, minus_a) = pair(A, FA);
    let (b, minus_b) = pair(B, FB);
    [g0.mul(V::splat(1.0 / F0)), a, minus_a, b, minus_b, g2]
}

impl<T: Scalar> Kernel for TransformFilters<'_, T> {
    type Output = ();
    const BF16: bool = T::TERMS == 2;

    #[inline(always)]
    fn run<V: Vector>(self) {
        let TransformFilters { nr, position, .. } = self;
        assert!(nr.is_multiple_of(V::LANES) && position >= self.rows.end * nr);
        for word in self.rows.clone() {
            for lane in (0..nr).step_by(V::LANES) {
                let first = self.transform::<V>(T::TERMS * word, lane);
                let second = match T::TERMS {
                    1 => first,
                    _ => self.transform::<V>(T::TERMS * word + 1, lane),
                };
                for p in 0..POSITIONS {
                    let at = p * position + word * nr + lane;
                    // SAFETY: out has 36 positions, each with room for the rows by the assertion.
                    unsafe { T::words([first[p], second[p]]).store(self.out.add(at)) };
                }
            }
        }
    }
}

impl<T: Scalar> TransformFilters<'_, T> {
    /// All positions of one row, for the lanes from `lane` on; zeros for a row that does not exist.
    #[inline(always)]
    fn transform<V: Vector>(&self, row: usize, lane: usize) -> [V; POSITIONS] {
        let s = &self.source;
        let n = if row < self.c { self.columns.saturating_sub(lane) } else { 0 };
        let start = (self.panel * s.panel + row * s.row + lane).min(s.data.len());
        let mut taps = [[V::splat(0.0); 3]; 3];
        for r in 0..3 {
            for c in 0..3 {
                let t = if s.flip { 8 - (3 * r + c) } else { 3 * r + c };
                let data = s.data.get(start + t * s.tap..).unwrap_or(&[]);
                // SAFETY: at most as many lanes are read as elements are left.
                taps[r][c] = unsafe { T::load_partial(data.as_ptr(), n.min(data.len())) };
            }
        }
        // Columns first: [3][3] -> [6][3], then rows: [6][6].
        let mut columns = [[V::splat(0.0); 6]; 3];
        for c in 0..3 {
            columns[c] = filter_1d(column_of(&taps, c));
        }
        let mut out = [V::splat(0.0); POSITIONS];
        for r in 0..6 {
            let line = filter_1d(column_of(&columns, r));
            out[r * 6..r * 6 + 6].copy_from_slice(&line);
        }
        out
    }
}

/// V = Bᵀ d B for a chunk of tiles.
pub struct TransformInput<'a, T> {
    /// Geometry.
    pub grid: Grid,
    /// Channels.
    pub c: usize,
    /// Channels of a row of V: whole vectors.
    pub cp: usize,
    /// Images.
    pub x: &'a [T],
    /// `cp` zeros, which stand for pixels outside of the image.
    pub zeros: &'a [T],
    /// First tile of the chunk.
    pub first: usize,
    /// Tiles of the chunk to transform: rows of V.
    pub tiles: std::ops::Range<usize>,
    /// Elements `[36][tiles][cp]`; only rows `tiles` are written. With `PAIRS` (below) words
    /// `[36][tiles / TERMS][cp]` of neighbouring tiles; then `tiles.start` must be a multiple of
    /// TERMS, and a tile that is missing to the last word counts as zeros.
    pub v: *mut T,
    /// Elements of V.
    pub v_len: usize,
    /// Distance between positions, in elements.
    pub v_step: usize,
    /// Words of tiles, for sums over tiles.
    pub pairs: bool,
}

/// Bᵀ applied to six values.
#[inline(always)]
fn input_1d<V: Vector>([d0, d1, d2, d3, d4, d5]: [V; 6]) -> [V; 6] {
    let pair = |p: f32, q: f32| {
        // x (x ± p) (x² - q²): halves of even and of odd powers.
        let even = d2.mul_add(V::splat(-q * q), d4);
        let odd = d1.mul_add(V::splat(-q * q), d3);
        (odd.mul_add(V::splat(p), even), odd.mul_add(V::splat(-p), even))
    };
    let (a, minus_a) = pair(A, B);
    let (b, minus_b) = pair(B, A);
    let (f, s) = (V::splat(F0), V::splat(-A2 - B2));
    [d0.mul_add(f, d2.mul_add(s, d4)), a, minus_a, b, minus_b, d1.mul_add(f, d3.mul_add(s, d5))]
}

/// Transforms both axes of a 6x6 tile whose pixels `load` gives, and hands each value to `store`.
#[inline(always)]
fn input_2d<V: Vector>(load: impl Fn(usize, usize) -> V, mut store: impl FnMut(usize, V)) {
    let mut columns = [[V::splat(0.0); 6]; 6];
    for (c, column) in columns.iter_mut().enumerate() {
        *column =
            input_1d([load(0, c), load(1, c), load(2, c), load(3, c), load(4, c), load(5, c)]);
    }
    for r in 0..6 {
        let line = input_1d(column_of(&columns, r));
        for (c, value) in line.into_iter().enumerate() {
            store(r * 6 + c, value);
        }
    }
}

impl<T: Scalar> Kernel for TransformInput<'_, T> {
    type Output = ();
    const BF16: bool = T::TERMS == 2;

    #[inline(always)]
    fn run<V: Vector>(self) {
        let (c, cp, v_step) = (self.c, self.cp, self.v_step);
        assert!(cp.is_multiple_of(V::LANES) && cp >= c && self.zeros.len() >= cp);
        let rows = self.tiles.end.next_multiple_of(if self.pairs { T::TERMS } else { 1 });
        assert!(v_step >= rows * cp && self.v_len >= POSITIONS * v_step);
        if self.pairs && T::TERMS == 2 {
            return self.run_pairs::<V>();
        }
        for tile in self.tiles.clone() {
            let pixels = self.pixels(tile);
            // SAFETY: row `tile` of position 0 lies inside V by the assertion.
            let out = unsafe { self.v.add(tile * cp) };
            for lane in (0..c).step_by(V::LANES) {
                let load = |r: usize, column: usize| pixels.load::<V>(r, column, lane);
                let store =
                    // SAFETY: position < 36, tile in `tiles`, lane < cp.
                    |p: usize, value: V| unsafe { T::store(value, out.add(p * v_step + lane)) };
                input_2d(load, store);
            }
        }
    }
}

impl<T: Scalar> TransformInput<'_, T> {
    /// Two tiles at a time, side by side in words.
    #[inline(always)]
    fn run_pairs<V: Vector>(&self) {
        let (c, cp, v_step) = (self.c, self.cp, self.v_step);
        assert!(self.tiles.start.is_multiple_of(2));
        for tile in self.tiles.clone().step_by(2) {
            let low = self.pixels(tile);
            let high = if tile + 1 < self.tiles.end { Some(self.pixels(tile + 1)) } else { None };
            // SAFETY: row `tile` of position 0 lies inside V by the assertion in `run`.
            let out = unsafe { self.v.add(tile * cp).cast::<f32>() };
            for lane in (0..c).step_by(V::LANES) {
                let first = low.transform::<V>(lane);
                let second = match &high {
                    Some(high) => high.transform::<V>(lane),
                    None => [V::splat(0.0); POSITIONS],
                };
                for p in 0..POSITIONS {
                    // SAFETY: position < 36, words of a row of two tiles, lane < cp.
                    unsafe {
                        T::words([first[p], second[p]]).store(out.add(p * v_step / 2 + lane));
                    }
                }
            }
        }
    }

    /// Where the pixels of a tile of the chunk are.
    #[inline(always)]
    fn pixels(&self, tile: usize) -> Pixels<T> {
        let &TransformInput { grid, c, x, zeros, first, .. } = self;
        let image_len = grid.h * grid.w * c;
        let (image, oy, ox) = grid.place(first + tile);
        let image = &x[image * image_len..(image + 1) * image_len];
        // The tile's corner in the image; negative inside the padding.
        let (y0, x0) =
            (oy as isize - grid.padding[0] as isize, ox as isize - grid.padding[1] as isize);
        let inside = y0 >= 0 && x0 >= 0 && y0 as usize + 6 <= grid.h && x0 as usize + 6 <= grid.w;
        let mut pixels =
            Pixels { c, row: grid.w * c, corner: None, each: [[zeros.as_ptr(); 6]; 6] };
        if inside {
            pixels.corner = Some(image[(y0 as usize * grid.w + x0 as usize) * c..].as_ptr());
            return pixels;
        }
        for (r, line) in pixels.each.iter_mut().enumerate() {
            let start = (y0 + r as isize) * grid.w as isize + x0;
            for (column, pixel) in line.iter_mut().enumerate() {
                let (py, px) = (y0 + r as isize, x0 + column as isize);
                // A negative position becomes a huge one.
                if (py as usize) < grid.h && (px as usize) < grid.w {
                    let offset = (start + column as isize) * c as isize;
                    *pixel = image.as_ptr().wrapping_offset(offset);
                }
            }
        }
        pixels
    }
}

/// The 6x6 pixels of a tile, each of c channels: at `corner` if all are inside of the image.
struct Pixels<T> {
    c: usize,
    /// Distance between rows of the image.
    row: usize,
    corner: Option<*const T>,
    each: [[*const T; 6]; 6],
}

impl<T: Scalar> Pixels<T> {
    /// All positions of the transformed tile, for channels `lane` and on.
    #[inline(always)]
    fn transform<V: Vector>(&self, lane: usize) -> [V; POSITIONS] {
        let mut columns = [[V::splat(0.0); 6]; 6];
        for c in 0..6 {
            let mut column = [V::splat(0.0); 6];
            for r in 0..6 {
                column[r] = self.load::<V>(r, c, lane);
            }
            columns[c] = input_1d(column);
        }
        let mut out = [V::splat(0.0); POSITIONS];
        for r in 0..6 {
            out[r * 6..r * 6 + 6].copy_from_slice(&input_1d(column_of(&columns, r)));
        }
        out
    }

    /// Channels `lane` and on of one pixel, lane < c.
    #[inline(always)]
    fn load<V: Vector>(&self, r: usize, column: usize, lane: usize) -> V {
        // SAFETY: made by `TransformInput::pixels`: every pixel has c readable elements, inside of
        // the image or the zeros, and lane < c.
        unsafe {
            let p = match self.corner {
                Some(corner) => corner.add(r * self.row + column * self.c),
                None => self.each[r][column],
            };
            let p = p.add(lane);
            match self.c - lane >= V::LANES {
                true => T::load(p),
                false => T::load_partial(p, self.c - lane),
            }
        }
    }
}

/// y = Aᵀ m A for a chunk of tiles, with bias and activation.
pub struct TransformOutput<'a, T> {
    /// Geometry.
    pub grid: Grid,
    /// Channels of y.
    pub k: usize,
    /// Channels to write: columns 0.. of M.
    pub channels: std::ops::Range<usize>,
    /// `[36][tiles][m_row]`
    pub m: &'a [f32],
    /// Distance between tiles of M.
    pub m_row: usize,
    /// Distance between positions of M.
    pub m_step: usize,
    /// First tile.
    pub first: usize,
    /// Number of tiles.
    pub count: usize,
    /// `[k]`
    pub bias: Option<&'a [T]>,
    /// Added after the bias; as y.
    pub residual: Option<&'a [T]>,
    /// max(·, 0) last.
    pub relu: bool,
    /// All images.
    pub y: *mut T,
    /// Elements of y.
    pub y_len: usize,
}

/// Aᵀ applied to six values: four.
#[inline(always)]
fn output_1d<V: Vector>([m0, m1, m2, m3, m4, m5]: [V; 6]) -> [V; 4] {
    let (s1, d1) = (m1.add(m2), m1.sub(m2));
    let (s2, d2) = (m3.add(m4), m3.sub(m4));
    [
        m0.add(s1).add(s2),
        d2.mul_add(V::splat(B), d1.mul(V::splat(A))),
        s2.mul_add(V::splat(B2), s1.mul(V::splat(A2))),
        d2.mul_add(V::splat(B3), d1.mul_add(V::splat(A3), m5)),
    ]
}

impl<T: Scalar> Kernel for TransformOutput<'_, T> {
    type Output = ();
    const BF16: bool = T::TERMS == 2;

    #[inline(always)]
    fn run<V: Vector>(self) {
        let TransformOutput {
            grid,
            k,
            channels,
            m,
            m_row,
            m_step,
            first,
            count,
            bias,
            residual,
            relu,
            y,
            y_len,
        } = self;
        assert!(m_step >= count * m_row && m.len() >= POSITIONS * m_step);
        assert!(channels.end <= k && channels.len() <= m_row && m_row.is_multiple_of(V::LANES));
        assert!(bias.is_none_or(|b| b.len() == k));
        assert!(residual.is_none_or(|r| r.len() == y_len));
        for tile in 0..count {
            let (image, oy, ox) = grid.place(first + tile);
            let (rows, columns) = ((grid.oh - oy).min(4), (grid.ow - ox).min(4));
            let corner = ((image * grid.oh + oy) * grid.ow + ox) * k;
            assert!(corner + ((rows - 1) * grid.ow + columns) * k <= y_len);
            for lane in channels.clone().step_by(V::LANES) {
                let n = channels.end - lane;
                let shift = match bias {
                    // SAFETY: at most n elements are read from lane on.
                    Some(bias) => unsafe { T::load_partial(bias.as_ptr().add(lane), n) },
                    None => V::splat(0.0),
                };
                let column = lane - channels.start;
                // SAFETY: position < 36, tile < count, column + LANES <= m_row: inside M by the
                // assertions.
                let load = |position: usize| unsafe {
                    V::load(m.as_ptr().add(position * m_step + tile * m_row + column))
                };
                let mut lines = [[V::splat(0.0); 4]; 6];
                for (c, line) in lines.iter_mut().enumerate() {
                    let mut m = [V::splat(0.0); 6];
                    for r in 0..6 {
                        m[r] = load(r * 6 + c);
                    }
                    *line = output_1d(m);
                }
                for r in 0..rows {
                    let values = output_1d(column_of(&lines, r));
                    for (c, value) in values.into_iter().enumerate().take(columns) {
                        let mut value = if bias.is_some() { value.add(shift) } else { value };
                        let at = corner + (r * grid.ow + c) * k + lane;
                        // SAFETY: the pixel lies inside y, and so inside the residual, by the
                        // assertions above; lanes beyond k are neither read nor written.
                        unsafe {
                            if let Some(residual) = residual {
                                let residual = residual.as_ptr().add(at);
                                value = value.add(T::load_partial(residual, n));
                            }
                            let value = if relu { value.relu() } else { value };
                            let p = y.add(at);
                            if n >= V::LANES {
                                T::store(value, p)
                            } else {
                                T::store_partial(value, p, n)
                            }
                        }
                    }
                }
            }
        }
    }
}
