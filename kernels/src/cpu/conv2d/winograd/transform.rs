//! The three linear transforms of Winograd F(4x4, 3x3), each applied to both axes of a tile,
//! channels in the lanes.
//!
//! Interpolation points 0, 1, -1, 2, -2 and infinity; matrices as in Lavin and Gray (2015), §4.3,
//! with shared terms computed once.

use super::{Grid, POSITIONS};
use crate::cpu::simd::{Kernel, Vector};

/// Where tap t of row r, columns of panel j lies: `data[j * panel + r * row + t * tap ..]`.
#[derive(Clone, Copy)]
pub struct FilterSource<'a> {
    /// Filters.
    pub data: &'a [f32],
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
pub struct TransformFilters<'a> {
    /// Where filters are read.
    pub source: FilterSource<'a>,
    /// Panel to read.
    pub panel: usize,
    /// Columns of the panel that exist.
    pub columns: usize,
    /// Columns of a panel: one vector or two.
    pub nr: usize,
    /// Rows to transform.
    pub rows: std::ops::Range<usize>,
    /// The panel `[rows][nr]` of position 0.
    pub out: *mut f32,
    /// Distance between positions of `out`, at least all rows of the panel.
    pub position: usize,
}

/// G applied to three values: six.
#[inline(always)]
fn filter_1d<V: Vector>([g0, g1, g2]: [V; 3]) -> [V; 6] {
    let (quarter, sixth) = (V::splat(0.25), V::splat(-1.0 / 6.0));
    let (a, b) = (V::splat(1.0 / 24.0), V::splat(1.0 / 12.0));
    let outer = g0.add(g2);
    let even = g0.mul(a).add(g2.mul(V::splat(1.0 / 6.0)));
    let odd = g1.mul(b);
    [
        g0.mul(quarter),
        outer.add(g1).mul(sixth),
        outer.sub(g1).mul(sixth),
        even.add(odd),
        even.sub(odd),
        g2,
    ]
}

impl Kernel for TransformFilters<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let TransformFilters { nr, position, .. } = self;
        let s = &self.source;
        assert!(nr.is_multiple_of(V::LANES) && position >= self.rows.end * nr);
        for row in self.rows.clone() {
            for lane in (0..nr).step_by(V::LANES) {
                let n = self.columns.saturating_sub(lane);
                let start = (self.panel * s.panel + row * s.row + lane).min(s.data.len());
                let taps: [[V; 3]; 3] = std::array::from_fn(|r| {
                    std::array::from_fn(|c| {
                        let t = if s.flip { 8 - (3 * r + c) } else { 3 * r + c };
                        let data = s.data.get(start + t * s.tap..).unwrap_or(&[]);
                        // SAFETY: at most as many lanes are read as elements are left.
                        unsafe { V::load_partial(data.as_ptr(), n.min(data.len())) }
                    })
                });
                // Columns first: [3][3] -> [6][3], then rows: [6][6].
                let columns: [[V; 6]; 3] =
                    std::array::from_fn(|c| filter_1d([taps[0][c], taps[1][c], taps[2][c]]));
                for r in 0..6 {
                    let line = filter_1d([columns[0][r], columns[1][r], columns[2][r]]);
                    for (c, value) in line.into_iter().enumerate() {
                        let at = (r * 6 + c) * position + row * nr + lane;
                        // SAFETY: out has 36 positions, each with room for the rows by the
                        // assertion.
                        unsafe { value.store(self.out.add(at)) };
                    }
                }
            }
        }
    }
}

/// V = Bᵀ d B for a chunk of tiles.
pub struct TransformInput<'a> {
    /// Geometry.
    pub grid: Grid,
    /// Channels.
    pub c: usize,
    /// Channels of a row of V: whole vectors.
    pub cp: usize,
    /// Images.
    pub x: &'a [f32],
    /// `cp` zeros, which stand for pixels outside of the image.
    pub zeros: &'a [f32],
    /// First tile of the chunk.
    pub first: usize,
    /// Tiles of the chunk to transform: rows of V.
    pub tiles: std::ops::Range<usize>,
    /// `[36][tiles][cp]`; only rows `tiles` are written.
    pub v: *mut f32,
    /// Elements of V.
    pub v_len: usize,
    /// Distance between positions.
    pub v_step: usize,
}

/// Bᵀ applied to six values.
#[inline(always)]
fn input_1d<V: Vector>([d0, d1, d2, d3, d4, d5]: [V; 6]) -> [V; 6] {
    let (two, four, minus_five) = (V::splat(2.0), V::splat(4.0), V::splat(-5.0));
    let minus_four = V::splat(-4.0);
    // d4 - 4 d2, d3 - 4 d1, d4 - d2, 2 (d3 - d1) each serve two rows.
    let (even, odd) = (d2.mul_add(minus_four, d4), d1.mul_add(minus_four, d3));
    let (far, near) = (d4.sub(d2), d3.sub(d1).mul(two));
    [
        d0.mul_add(four, d2.mul_add(minus_five, d4)),
        even.add(odd),
        even.sub(odd),
        far.add(near),
        far.sub(near),
        d1.mul_add(four, d3.mul_add(minus_five, d5)),
    ]
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
        let line = input_1d([
            columns[0][r],
            columns[1][r],
            columns[2][r],
            columns[3][r],
            columns[4][r],
            columns[5][r],
        ]);
        for (c, value) in line.into_iter().enumerate() {
            store(r * 6 + c, value);
        }
    }
}

impl Kernel for TransformInput<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let TransformInput { grid, c, cp, x, zeros, first, tiles, v, v_len, v_step } = self;
        let image_len = grid.h * grid.w * c;
        assert!(cp.is_multiple_of(V::LANES) && cp >= c && zeros.len() >= cp);
        assert!(v_step >= tiles.end * cp && v_len >= POSITIONS * v_step);
        for tile in tiles {
            let (image, oy, ox) = grid.place(first + tile);
            let image = &x[image * image_len..(image + 1) * image_len];
            // The tile's corner in the image; negative inside the padding.
            let (y0, x0) =
                (oy as isize - grid.padding[0] as isize, ox as isize - grid.padding[1] as isize);
            let inside =
                y0 >= 0 && x0 >= 0 && y0 as usize + 6 <= grid.h && x0 as usize + 6 <= grid.w;
            // SAFETY: row `tile` of position 0 lies inside V by the assertion.
            let out = unsafe { v.add(tile * cp) };
            if inside {
                let corner = image[(y0 as usize * grid.w + x0 as usize) * c..].as_ptr();
                for lane in (0..c).step_by(V::LANES) {
                    let full = c - lane >= V::LANES;
                    // SAFETY: all 6 x 6 pixels lie inside the image, lanes below c; V has room by
                    // the assertion.
                    let load = |r: usize, column: usize| unsafe {
                        let p = corner.add((r * grid.w + column) * c + lane);
                        if full { V::load(p) } else { V::load_partial(p, c - lane) }
                    };
                    let store =
                        // SAFETY: position < 36, tile in `tiles`, lane < cp.
                        |position: usize, value: V| unsafe { value.store(out.add(position * v_step + lane)) };
                    input_2d(load, store);
                }
            } else {
                let mut pixels = [[zeros.as_ptr(); 6]; 6];
                for (r, pixels) in pixels.iter_mut().enumerate() {
                    let start = (y0 + r as isize) * grid.w as isize + x0;
                    for (column, pixel) in pixels.iter_mut().enumerate() {
                        let (py, px) = (y0 + r as isize, x0 + column as isize);
                        // A negative position becomes a huge one.
                        if (py as usize) < grid.h && (px as usize) < grid.w {
                            let offset = (start + column as isize) * c as isize;
                            *pixel = image.as_ptr().wrapping_offset(offset);
                        }
                    }
                }
                for lane in (0..c).step_by(V::LANES) {
                    let full = c - lane >= V::LANES;
                    // SAFETY: each pointer has c readable elements: a pixel inside the image, or
                    // the zeros. V has room by the assertion.
                    let load = |r: usize, column: usize| unsafe {
                        let p = pixels[r][column].add(lane);
                        if full { V::load(p) } else { V::load_partial(p, c - lane) }
                    };
                    let store =
                        // SAFETY: position < 36, tile in `tiles`, lane < cp.
                        |position: usize, value: V| unsafe { value.store(out.add(position * v_step + lane)) };
                    input_2d(load, store);
                }
            }
        }
    }
}

/// y = Aᵀ m A for a chunk of tiles, with bias and activation.
pub struct TransformOutput<'a> {
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
    pub bias: Option<&'a [f32]>,
    /// max(·, 0) last.
    pub relu: bool,
    /// All images.
    pub y: *mut f32,
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
        d2.mul_add(V::splat(2.0), d1),
        s2.mul_add(V::splat(4.0), s1),
        d2.mul_add(V::splat(8.0), d1).add(m5),
    ]
}

impl Kernel for TransformOutput<'_> {
    type Output = ();

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
            relu,
            y,
            y_len,
        } = self;
        assert!(m_step >= count * m_row && m.len() >= POSITIONS * m_step);
        assert!(channels.end <= k && channels.len() <= m_row && m_row.is_multiple_of(V::LANES));
        assert!(bias.is_none_or(|b| b.len() == k));
        for tile in 0..count {
            let (image, oy, ox) = grid.place(first + tile);
            let (rows, columns) = ((grid.oh - oy).min(4), (grid.ow - ox).min(4));
            let corner = ((image * grid.oh + oy) * grid.ow + ox) * k;
            assert!(corner + ((rows - 1) * grid.ow + columns) * k <= y_len);
            for lane in channels.clone().step_by(V::LANES) {
                let n = channels.end - lane;
                let shift = match bias {
                    // SAFETY: at most n elements are read from lane on.
                    Some(bias) => unsafe { V::load_partial(bias.as_ptr().add(lane), n) },
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
                    *line = output_1d([
                        load(c),
                        load(6 + c),
                        load(12 + c),
                        load(18 + c),
                        load(24 + c),
                        load(30 + c),
                    ]);
                }
                for r in 0..rows {
                    let values = output_1d([
                        lines[0][r],
                        lines[1][r],
                        lines[2][r],
                        lines[3][r],
                        lines[4][r],
                        lines[5][r],
                    ]);
                    for (c, value) in values.into_iter().enumerate().take(columns) {
                        let value = if bias.is_some() { value.add(shift) } else { value };
                        let value = if relu { value.relu() } else { value };
                        // SAFETY: the pixel lies inside y by the assertion above; lanes beyond k
                        // are not written.
                        unsafe {
                            let p = y.add(corner + (r * grid.ow + c) * k + lane);
                            if n >= V::LANES { value.store(p) } else { value.store_partial(p, n) }
                        }
                    }
                }
            }
        }
    }
}
