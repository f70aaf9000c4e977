//! Winograd convolution F(4x4, 3x3): Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2015).
//!
//! A 4x4 tile of y comes from a 6x6 tile d of x and the 3x3 filter g by
//!
//! ```text
//!   y = Aᵀ [ (G g Gᵀ) ⊙ (Bᵀ d B) ] A
//! ```
//!
//! 36 multiplications where the definition takes 144. Summed over input channels, each of the 36 positions is a matrix
//! product `[tiles, C_in] x [C_in, C_out]` on the microkernel of `gemm`:
//!
//! ```text
//!   U [36][C_out / NR][C_in][NR]   the filters, transformed once a call
//!   V [36][tiles][C_in]            input tiles  \ of one chunk of tiles, which a task keeps in its L2
//!   M [36][tiles][C_out]           products     /
//! ```
//!
//! Backward-data is the same with dy for x and flipped filters.

use std::sync::Mutex;

use crate::cpu::Cpu;
use crate::cpu::gemm::{Matrix, PackColumns, Tiles, outer_products, store_tile, sweep, zero_tile};
use crate::cpu::simd::{Isa, Kernel, Vector};
use crate::cpu::threads::SharedMut;
use crate::{Conv2dArgs, Result};

/// Positions of a transformed tile.
pub const POSITIONS: usize = 36;

/// Whether the algorithm can compute this convolution.
pub fn applies(args: &Conv2dArgs) -> bool {
    let o = &args.options;
    (args.kh, args.kw) == (3, 3)
        && o.stride == [1, 1]
        && o.dilation == [1, 1]
        && o.groups == 1
        && o.padding.iter().all(|&p| p <= 2)
        && args.x_elements() > 0
        && args.y_elements() > 0
}

/// Lanes of a vector.
pub fn lanes(isa: Isa) -> usize {
    if isa == Isa::Avx512 { 16 } else { 8 }
}

/// Columns of a panel of `channels`: one vector or two.
pub fn panel_width(isa: Isa, channels: usize) -> usize {
    if channels <= lanes(isa) { lanes(isa) } else { 2 * lanes(isa) }
}

/// How images are cut into tiles.
#[derive(Clone, Copy)]
pub struct Grid {
    /// Input image.
    pub h: usize,
    /// Input image.
    pub w: usize,
    /// Output image.
    pub oh: usize,
    /// Output image.
    pub ow: usize,
    /// Zeros around the input, vertical and horizontal.
    pub padding: [usize; 2],
    /// Tiles down.
    pub down: usize,
    /// Tiles across.
    pub across: usize,
}

impl Grid {
    /// Tiles of 4x4 outputs; the last ones may stick out.
    pub fn new(h: usize, w: usize, oh: usize, ow: usize, padding: [usize; 2]) -> Grid {
        Grid { h, w, oh, ow, padding, down: oh.div_ceil(4), across: ow.div_ceil(4) }
    }

    /// Tiles of one image.
    pub fn tiles(&self) -> usize {
        self.down * self.across
    }

    /// Image, and first output row and column, of a tile counted over all images.
    #[inline(always)]
    pub fn place(&self, tile: usize) -> (usize, usize, usize) {
        let (image, t) = (tile / self.tiles(), tile % self.tiles());
        (image, t / self.across * 4, t % self.across * 4)
    }
}

/// y = relu?(x * filter + bias)
pub fn forward(
    cpu: &Cpu,
    args: &Conv2dArgs,
    x: &[f32],
    filter: &[f32],
    bias: Option<&[f32]>,
    relu: bool,
    y: &mut [f32],
) -> Result<()> {
    let (c, k) = (args.c_in, args.c_out);
    let nr = panel_width(cpu.isa, k);
    // Panels of filters with output channels in the lanes: [panel][tap][ci][NR], the transpose of [co][tap][ci].
    let panels = k.div_ceil(nr);
    let mut taps = cpu.alloc::<f32>(panels * 9 * c * nr)?;
    let taps = taps.slice_mut::<f32>(panels * 9 * c * nr);
    let b = Matrix { data: filter, row: 1, column: 9 * c };
    cpu.threads.chunks(taps, 9 * c * nr, |j, out| {
        let width = (k - j * nr).min(nr);
        cpu.isa.run(PackColumns { b, k0: 0, k: 9 * c, j0: j * nr, width, panel: nr, out });
    });
    let source = FilterSource { data: taps, tap: c * nr, row: nr, panel: 9 * c * nr, flip: false };
    let grid = Grid::new(args.h, args.w, args.oh, args.ow, args.options.padding);
    convolve(cpu, grid, (c, k), source, x, bias, relu, y)
}

/// dx from dy: the filters flipped, input and output channels swapped.
pub fn backward_data(
    cpu: &Cpu,
    args: &Conv2dArgs,
    filter: &[f32],
    dy: &[f32],
    dx: &mut [f32],
) -> Result<()> {
    let c = args.c_in;
    let nr = panel_width(cpu.isa, c);
    let source = FilterSource { data: filter, tap: c, row: 9 * c, panel: nr, flip: true };
    let padding = args.options.padding.map(|p| 2 - p);
    let grid = Grid::new(args.oh, args.ow, args.h, args.w, padding);
    convolve(cpu, grid, (args.c_out, c), source, dy, None, false, dx)
}

/// Where tap t of row r, columns of panel j lies: `data[j * panel + r * row + t * tap ..]`.
#[derive(Clone, Copy)]
struct FilterSource<'a> {
    data: &'a [f32],
    tap: usize,
    row: usize,
    panel: usize,
    /// Read tap 8 - t for t.
    flip: bool,
}

/// Tiles that a task transforms and multiplies at a time: V and M of a chunk should stay in L2, and where U is larger
/// than L2 a chunk must be worth reading U from L3.
fn chunk_tiles(c: usize, k: usize, total: usize, threads: usize) -> usize {
    let bytes = 4 * POSITIONS * (c + k);
    let u_bytes = 4 * POSITIONS * c * k;
    let fit = if u_bytes > 1 << 20 { 128 } else { (640 << 10) / bytes };
    let share = total.div_ceil(2 * threads);
    fit.clamp(16, 256).min(share.max(8)).next_multiple_of(8)
}

/// One convolution of `images` of `grid`, channels `(c, k)`.
fn convolve(
    cpu: &Cpu,
    grid: Grid,
    (c, k): (usize, usize),
    source: FilterSource<'_>,
    x: &[f32],
    bias: Option<&[f32]>,
    relu: bool,
    y: &mut [f32],
) -> Result<()> {
    let images = x.len() / (grid.h * grid.w * c);
    let nr = panel_width(cpu.isa, k);
    let panels = k.div_ceil(nr);
    let u_len = POSITIONS * panels * c * nr;
    let mut u = cpu.alloc::<f32>(u_len)?;
    let u = u.slice_mut::<f32>(u_len);
    let shared = SharedMut::new(u);
    let rows_a_task = 64;
    let row_tasks = c.div_ceil(rows_a_task);
    cpu.threads.run(panels * row_tasks, |task| {
        let (j, row) = (task / row_tasks, task % row_tasks * rows_a_task);
        cpu.isa.run(TransformFilters {
            source,
            panel: j,
            columns: (k - j * nr).min(nr),
            rows: row..(row + rows_a_task).min(c),
            // SAFETY: the task writes panel j, its rows, of every position; `out` starts at position 0.
            out: unsafe { shared.pointer(0) },
            out_len: u_len,
            c,
            panels,
        });
    });
    let u = &*u;
    let total = images * grid.tiles();
    let tiles = chunk_tiles(c, k, total, cpu.threads.count());
    let cp = c.next_multiple_of(lanes(cpu.isa));
    let kp = panels * nr;
    // A line of padding a position keeps the 36 streams of a transform out of one cache set.
    let (v_step, m_step) = (tiles * cp + 16, tiles * kp + 16);
    let zeros = vec![0.0; cp];
    let failed = Mutex::new(None);
    let out = SharedMut::new(y);
    cpu.threads.run(total.div_ceil(tiles), |task| {
        let mut memory = match cpu.alloc::<f32>(POSITIONS * (v_step + m_step)) {
            Ok(memory) => memory,
            Err(e) => {
                *failed.lock().unwrap_or_else(|e| e.into_inner()) = Some(e);
                return;
            }
        };
        let scratch = memory.slice_mut::<f32>(POSITIONS * (v_step + m_step));
        let (v, m) = scratch.split_at_mut(POSITIONS * v_step);
        let first = task * tiles;
        let count = tiles.min(total - first);
        cpu.isa.run(TransformInput { grid, c, cp, x, zeros: &zeros, first, count, v, v_step });
        cpu.isa.run(Multiply { u, v, m, v_step, m_step, c, cp, kp, count });
        cpu.isa.run(TransformOutput {
            grid,
            k,
            kp,
            m,
            m_step,
            first,
            count,
            bias,
            relu,
            // SAFETY: the task writes the pixels of its own tiles alone.
            y: unsafe { out.pointer(0) },
            y_len: images * grid.oh * grid.ow * k,
        });
    });
    failed.into_inner().unwrap_or_else(|e| e.into_inner()).map_or(Ok(()), Err)
}

/// U = G g Gᵀ for some rows of one panel.
struct TransformFilters<'a> {
    source: FilterSource<'a>,
    panel: usize,
    columns: usize,
    rows: std::ops::Range<usize>,
    out: *mut f32,
    out_len: usize,
    c: usize,
    panels: usize,
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
        let nr = if self.panels == 1 && self.columns <= V::LANES { V::LANES } else { 2 * V::LANES };
        let s = &self.source;
        let position = self.panels * self.c * nr;
        assert!(self.out_len == POSITIONS * position);
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
                        let at = (r * 6 + c) * position + (self.panel * self.c + row) * nr + lane;
                        // SAFETY: below 36 positions, in this panel's row: inside out by the assertion.
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
    /// First tile.
    pub first: usize,
    /// Number of tiles.
    pub count: usize,
    /// `[36][tiles][cp]`
    pub v: &'a mut [f32],
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
        *column = input_1d([load(0, c), load(1, c), load(2, c), load(3, c), load(4, c), load(5, c)]);
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
        let TransformInput { grid, c, cp, x, zeros, first, count, v, v_step } = self;
        let image_len = grid.h * grid.w * c;
        assert!(cp % V::LANES == 0 && cp >= c && zeros.len() >= cp);
        assert!(v_step >= count * cp && v.len() >= POSITIONS * v_step);
        for tile in 0..count {
            let (image, oy, ox) = grid.place(first + tile);
            let image = &x[image * image_len..(image + 1) * image_len];
            // The tile's corner in the image; negative inside the padding.
            let (y0, x0) =
                (oy as isize - grid.padding[0] as isize, ox as isize - grid.padding[1] as isize);
            let inside =
                y0 >= 0 && x0 >= 0 && y0 as usize + 6 <= grid.h && x0 as usize + 6 <= grid.w;
            let out = v[tile * cp..].as_mut_ptr();
            if inside {
                let corner = image[(y0 as usize * grid.w + x0 as usize) * c..].as_ptr();
                for lane in (0..c).step_by(V::LANES) {
                    let full = c - lane >= V::LANES;
                    // SAFETY: all 6 x 6 pixels lie inside the image, lanes below c; V has room by the assertion.
                    let load = |r: usize, column: usize| unsafe {
                        let p = corner.add((r * grid.w + column) * c + lane);
                        if full { V::load(p) } else { V::load_partial(p, c - lane) }
                    };
                    let store =
                        // SAFETY: position < 36, tile < count, lane < cp.
                        |position: usize, value: V| unsafe { value.store(out.add(position * v_step + lane)) };
                    input_2d(load, store);
                }
            } else {
                let pixels: [[*const f32; 6]; 6] = std::array::from_fn(|r| {
                    std::array::from_fn(|column| {
                        let (py, px) = (y0 + r as isize, x0 + column as isize);
                        let valid = (0..grid.h as isize).contains(&py) && (0..grid.w as isize).contains(&px);
                        match valid {
                            true => image[(py as usize * grid.w + px as usize) * c..].as_ptr(),
                            false => zeros.as_ptr(),
                        }
                    })
                });
                for lane in (0..c).step_by(V::LANES) {
                    let full = c - lane >= V::LANES;
                    // SAFETY: each pointer has c readable elements; V has room by the assertion.
                    let load = |r: usize, column: usize| unsafe {
                        let p = pixels[r][column].add(lane);
                        if full { V::load(p) } else { V::load_partial(p, c - lane) }
                    };
                    let store =
                        // SAFETY: position < 36, tile < count, lane < cp.
                        |position: usize, value: V| unsafe { value.store(out.add(position * v_step + lane)) };
                    input_2d(load, store);
                }
            }
        }
    }
}

/// M = V U for each position.
struct Multiply<'a> {
    u: &'a [f32],
    v: &'a [f32],
    m: &'a mut [f32],
    v_step: usize,
    m_step: usize,
    c: usize,
    cp: usize,
    kp: usize,
    count: usize,
}

impl Kernel for Multiply<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        if self.kp == V::LANES {
            self.positions::<V, 1>();
        } else {
            self.positions::<V, 2>();
        }
    }
}

impl Multiply<'_> {
    #[inline(always)]
    fn positions<V: Vector, const NV: usize>(self) {
        let nr = NV * V::LANES;
        let u_step = self.kp * self.c;
        assert!(self.kp % nr == 0 && self.u.len() >= POSITIONS * u_step);
        assert!(self.v.len() >= POSITIONS * self.v_step && self.v_step >= self.count * self.cp);
        assert!(self.m.len() >= POSITIONS * self.m_step && self.m_step >= self.count * self.kp);
        for position in 0..POSITIONS {
            for j in (0..self.kp).step_by(nr) {
                let tiles = TileRows {
                    a: self.v[position * self.v_step..].as_ptr(),
                    a_row: self.cp,
                    b: self.u[position * u_step + j * self.c..].as_ptr(),
                    k: self.c,
                    out: self.m[position * self.m_step + j..].as_mut_ptr(),
                    out_row: self.kp,
                };
                // SAFETY: rows below count of V and M, all c terms of the panel: inside by the assertions.
                unsafe { sweep::<V, NV>(self.count, &tiles) };
            }
        }
    }
}

/// Rows of V times one panel of U.
struct TileRows {
    a: *const f32,
    a_row: usize,
    b: *const f32,
    k: usize,
    out: *mut f32,
    out_row: usize,
}

impl<V: Vector, const NV: usize> Tiles<V, NV> for TileRows {
    #[inline(always)]
    unsafe fn tile<const MR: usize>(&self, row: usize) {
        let nr = NV * V::LANES;
        // SAFETY: as the caller of `sweep` states.
        unsafe {
            let acc = outer_products::<V, MR, NV, false>(
                zero_tile(),
                self.k,
                (self.a.add(row * self.a_row), self.a_row, 1),
                (self.b, nr),
                nr,
            );
            store_tile(acc, self.out.add(row * self.out_row), self.out_row, nr);
        }
    }
}

/// y = Aᵀ m A for a chunk of tiles, with bias and activation.
struct TransformOutput<'a> {
    grid: Grid,
    k: usize,
    kp: usize,
    m: &'a [f32],
    m_step: usize,
    first: usize,
    count: usize,
    bias: Option<&'a [f32]>,
    relu: bool,
    y: *mut f32,
    y_len: usize,
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
        let TransformOutput { grid, k, kp, m, m_step, first, count, bias, relu, y, y_len } = self;
        assert!(m_step >= count * kp && m.len() >= POSITIONS * m_step && kp >= k);
        assert!(bias.is_none_or(|b| b.len() == k));
        for tile in 0..count {
            let (image, oy, ox) = grid.place(first + tile);
            let (rows, columns) = ((grid.oh - oy).min(4), (grid.ow - ox).min(4));
            let corner = ((image * grid.oh + oy) * grid.ow + ox) * k;
            assert!(corner + ((rows - 1) * grid.ow + columns) * k <= y_len);
            for lane in (0..k).step_by(V::LANES) {
                let n = k - lane;
                let shift = match bias {
                    // SAFETY: at most k - lane elements are read from lane on.
                    Some(bias) => unsafe { V::load_partial(bias.as_ptr().add(lane), n) },
                    None => V::splat(0.0),
                };
                // SAFETY: position < 36, tile < count, lane + LANES <= kp: inside M by the assertion.
                let load = |position: usize| unsafe {
                    V::load(m.as_ptr().add(position * m_step + tile * kp + lane))
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
                        // SAFETY: the pixel lies inside y by the assertion above; lanes beyond k are not written.
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
