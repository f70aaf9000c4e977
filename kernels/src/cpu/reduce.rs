//! Reductions over axes.
//!
//! Neighbouring axes are merged and reduced group by group, the last first, so that every step is
//! one of two shapes:
//!
//! ```text
//!   rows      [outer, r]     -> [outer]       lanes of accumulators along the row
//!   columns   [outer, r, c]  -> [outer, c]    a run of accumulators, see `tiles`
//! ```
//!
//! Long sums are split into tasks by their sizes alone; the partial results are combined in order,
//! in f64.

use super::broadcast::{larger, nan_max};
use super::simd::{Kernel, Vector};
use super::threads::TASK_ELEMENTS;
use super::tiles::{RowSums, TILE, fold_repeats};
use super::{Cpu, broadcast, movement};
use crate::*;

/// Accumulators along a row: enough independent additions to hide their latency in any instruction
/// set.
const LANES: usize = 32;

/// How elements are put together.
pub trait Fold: Copy + Send + Sync {
    /// Result over nothing.
    const START: f32;
    /// Takes one more element.
    fn push<V: Vector>(accumulator: f32, x: f32) -> f32;
    /// Joins two accumulators.
    fn merge(a: f32, b: f32) -> f32;
    /// Joins partial results of tasks.
    fn merge_f64(a: f64, b: f64) -> f64;
}

/// Σ x
#[derive(Clone, Copy)]
pub struct Sum;

/// Σ x²
#[derive(Clone, Copy)]
struct SumSquares;

/// max x
#[derive(Clone, Copy)]
pub struct Max;

impl Fold for Sum {
    const START: f32 = 0.0;
    #[inline(always)]
    fn push<V: Vector>(accumulator: f32, x: f32) -> f32 {
        accumulator + x
    }
    #[inline(always)]
    fn merge(a: f32, b: f32) -> f32 {
        a + b
    }
    #[inline(always)]
    fn merge_f64(a: f64, b: f64) -> f64 {
        a + b
    }
}

impl Fold for SumSquares {
    const START: f32 = 0.0;
    #[inline(always)]
    fn push<V: Vector>(accumulator: f32, x: f32) -> f32 {
        V::scalar_mul_add(x, x, accumulator)
    }
    #[inline(always)]
    fn merge(a: f32, b: f32) -> f32 {
        a + b
    }
    #[inline(always)]
    fn merge_f64(a: f64, b: f64) -> f64 {
        a + b
    }
}

impl Fold for Max {
    const START: f32 = f32::NEG_INFINITY;
    #[inline(always)]
    fn push<V: Vector>(accumulator: f32, x: f32) -> f32 {
        nan_max(accumulator, x)
    }
    #[inline(always)]
    fn merge(a: f32, b: f32) -> f32 {
        nan_max(a, b)
    }
    #[inline(always)]
    fn merge_f64(a: f64, b: f64) -> f64 {
        if b > a || (b.is_nan() && !a.is_nan()) { b } else { a }
    }
}

/// Folds a row: lane i takes every element whose index is i modulo [`LANES`].
#[inline(always)]
pub fn fold_row<V: Vector, F: Fold>(x: &[f32]) -> f32 {
    let mut lanes = [F::START; LANES];
    let mut groups = x.chunks_exact(LANES);
    for group in &mut groups {
        for (lane, &x) in lanes.iter_mut().zip(group) {
            *lane = F::push::<V>(*lane, x);
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(groups.remainder()) {
        *lane = F::push::<V>(*lane, x);
    }
    let mut n = LANES / 2;
    while n > 0 {
        for i in 0..n {
            lanes[i] = F::merge(lanes[i], lanes[i + n]);
        }
        n /= 2;
    }
    lanes[0]
}

/// y[i] = fold of row i of x `[y.len(), len]`.
struct RowsKernel<'a, F> {
    fold: std::marker::PhantomData<F>,
    len: usize,
    x: &'a [f32],
    y: &'a mut [f32],
}

impl<F: Fold> Kernel for RowsKernel<'_, F> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector>(self) {
        for (y, x) in self.y.iter_mut().zip(self.x.chunks(self.len)) {
            *y = fold_row::<V, F>(x);
        }
    }
}

/// out[j] = fold of column j of a block of x.
struct ColumnsKernel<'a, F> {
    fold: std::marker::PhantomData<F>,
    sums: RowSums,
    task: usize,
    x: &'a [f32],
    out: &'a mut [f32],
}

impl<F: Fold> Kernel for ColumnsKernel<'_, F> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector>(self) {
        let block = self.sums.block(self.task);
        let mut accumulators = [F::START; TILE];
        let accumulators = &mut accumulators[..block.width];
        for run in block.runs() {
            for (accumulator, &x) in accumulators.iter_mut().zip(&self.x[run]) {
                *accumulator = F::push::<V>(*accumulator, x);
            }
        }
        let c = block.columns.len();
        fold_repeats(accumulators, c, F::merge);
        self.out[..c].copy_from_slice(&accumulators[..c]);
    }
}

/// y[j] = fold over `partials`, which are `[count, stride]`, of element j.
fn combine<F: Fold>(partials: &[f32], stride: usize, y: &mut [f32]) {
    let mut columns = [0.0f64; 64];
    for (i, y) in y.chunks_mut(64).enumerate() {
        let columns = &mut columns[..y.len()];
        columns.fill(F::START.into());
        for row in partials.chunks(stride) {
            for (column, &partial) in columns.iter_mut().zip(&row[i * 64..]) {
                *column = F::merge_f64(*column, partial.into());
            }
        }
        for (y, &column) in y.iter_mut().zip(&*columns) {
            *y = column as f32;
        }
    }
}

/// One step: y `[outer, c]` from x `[outer, r, c]`, none of them empty.
fn step<F: Fold>(cpu: &Cpu, outer: usize, r: usize, c: usize, x: &[f32]) -> Result<Buffer> {
    let fold = std::marker::PhantomData::<F>;
    let mut memory = cpu.alloc::<f32>(outer * c)?;
    let y = memory.slice_mut::<f32>(outer * c);
    let matrix = r * c;
    if matrix <= 2 * TASK_ELEMENTS {
        // Several results, or rows of results, a task.
        let per_task = (2 * TASK_ELEMENTS / matrix).max(1);
        cpu.threads.chunks(y, per_task * c, |i, y| {
            let x = &x[i * per_task * matrix..][..y.len() / c * matrix];
            if c == 1 {
                return cpu.isa.run(RowsKernel { fold, len: r, x, y });
            }
            let sums = RowSums::new(r, c);
            for (x, y) in x.chunks_exact(matrix).zip(y.chunks_exact_mut(c)) {
                for (task, out) in y.chunks_mut(TILE).enumerate() {
                    // A matrix this small is a single block of rows: tasks are blocks of columns.
                    debug_assert_eq!(sums.row_blocks, 1);
                    cpu.isa.run(ColumnsKernel { fold, sums, task, x, out });
                }
            }
        });
    } else if c == 1 {
        let pieces = r.div_ceil(TASK_ELEMENTS);
        let mut partials = cpu.alloc::<f32>(outer * pieces)?;
        let partials = partials.slice_mut::<f32>(outer * pieces);
        cpu.threads.chunks(partials, 1, |task, y| {
            let (row, piece) = (task / pieces, task % pieces);
            let start = piece * TASK_ELEMENTS;
            let len = TASK_ELEMENTS.min(r - start);
            let x = &x[row * r + start..][..len];
            cpu.isa.run(RowsKernel { fold, len, x, y })
        });
        for (partials, y) in partials.chunks(pieces).zip(y) {
            combine::<F>(partials, 1, std::slice::from_mut(y));
        }
    } else {
        let sums = RowSums::new(r, c);
        let (tasks, width) = (sums.tasks(), sums.width());
        let mut partials = cpu.alloc::<f32>(outer * tasks * width)?;
        let partials = partials.slice_mut::<f32>(outer * tasks * width);
        cpu.threads.chunks(partials, width, |i, out| {
            let (matrix_index, task) = (i / tasks, i % tasks);
            let x = &x[matrix_index * matrix..][..matrix];
            cpu.isa.run(ColumnsKernel { fold, sums, task, x, out })
        });
        // Partial sums of a row block lie together: [row_blocks, column_blocks * width].
        let stride = tasks / sums.row_blocks * width;
        for (partials, y) in partials.chunks(tasks * width).zip(y.chunks_mut(c)) {
            combine::<F>(partials, stride, y);
        }
    }
    Ok(memory.into_buffer::<f32>(outer * c))
}

/// Axes of size 1 left out, neighbours that are both kept or both reduced merged: (size, reduced).
fn groups(args: &ReduceArgs) -> Vec<(usize, bool)> {
    let mut groups: Vec<(usize, bool)> = Vec::new();
    for (&size, &reduced) in args.shape.iter().zip(&args.reduced) {
        match groups.last_mut() {
            _ if size == 1 => {}
            Some(last) if last.1 == reduced => last.0 *= size,
            _ => groups.push((size, reduced)),
        }
    }
    groups
}

/// All groups that are reduced, one after the other. x is not empty.
fn steps<F: Fold>(cpu: &Cpu, mut groups: Vec<(usize, bool)>, x: &[f32]) -> Result<Buffer> {
    let mut done: Option<Buffer> = None;
    let product = |groups: &[(usize, bool)]| groups.iter().map(|g| g.0).product::<usize>();
    while let Some(last) = groups.iter().rposition(|g| g.1) {
        let (outer, r, c) =
            (product(&groups[..last]), groups[last].0, product(&groups[last + 1..]));
        let x = match &done {
            Some(buffer) => cpu.read::<f32>("reduce", buffer, outer * r * c)?,
            None => x,
        };
        done = Some(step::<F>(cpu, outer, r, c, x)?);
        groups.remove(last);
    }
    match done {
        Some(y) => Ok(y),
        None => copied(cpu, x),
    }
}

/// A buffer of the elements of `x`.
fn copied(cpu: &Cpu, x: &[f32]) -> Result<Buffer> {
    let mut memory = cpu.alloc::<f32>(x.len())?;
    memory.slice_mut::<f32>(x.len()).copy_from_slice(x);
    Ok(memory.into_buffer::<f32>(x.len()))
}

/// y = op over the reduced axes of x.
pub fn reduce(cpu: &Cpu, op: Reduce, args: &ReduceArgs, x: &[f32]) -> Result<Buffer> {
    let len = args.out_elements();
    if x.is_empty() || len == 0 {
        let mut memory = cpu.alloc::<f32>(len)?;
        memory.slice_mut::<f32>(len).fill(match op {
            Reduce::Sum => 0.0,
            Reduce::Mean => f32::NAN,
            Reduce::Max => f32::NEG_INFINITY,
        });
        return Ok(memory.into_buffer::<f32>(len));
    }
    if op == Reduce::Max {
        return steps::<Max>(cpu, groups(args), x);
    }
    let mut y = steps::<Sum>(cpu, groups(args), x)?;
    if op == Reduce::Mean {
        let n = args.reduced_elements() as f32;
        for y in cpu.update::<f32>(op.name(), &mut y, len)? {
            *y /= n;
        }
    }
    Ok(y)
}

/// Sum, mean or maximum over axes.
pub fn forward(cpu: &Cpu, op: Reduce, args: &ReduceArgs, x: &Buffer) -> Result<Buffer> {
    reduce(cpu, op, args, cpu.read::<f32>(op.name(), x, elements(&args.shape))?)
}

/// dx from dy; `saved` is (x, y) of a maximum.
pub fn backward(
    cpu: &Cpu,
    op: Reduce,
    args: &ReduceArgs,
    saved: Option<(&Buffer, &Buffer)>,
    dy: &Buffer,
) -> Result<Buffer> {
    let (name, len) = (op.name(), args.out_elements());
    let dy = cpu.read::<f32>(name, dy, len)?;
    if op == Reduce::Max {
        let Some((x, y)) = saved else {
            return Err(Error::argument(name, "the backward pass needs (x, y), got none"));
        };
        let x = cpu.read::<f32>(name, x, elements(&args.shape))?;
        return broadcast::reduce_max_backward(cpu, args, x, cpu.read::<f32>(name, y, len)?, dy);
    }
    if op == Reduce::Sum {
        return expand(cpu, args, dy);
    }
    let n = args.reduced_elements() as f32;
    let mut part = cpu.alloc::<f32>(len)?;
    let part = part.slice_mut::<f32>(len);
    for (part, &dy) in part.iter_mut().zip(dy) {
        *part = dy / n;
    }
    expand(cpu, args, part)
}

/// dy, repeated along the reduced axes.
fn expand(cpu: &Cpu, args: &ReduceArgs, dy: &[f32]) -> Result<Buffer> {
    let len = elements(&args.shape);
    let (r, c) = match groups(args)[..] {
        [(r, true)] | [(_, false), (r, true)] => (r, 1),
        [(r, true), (c, false)] | [(_, false), (r, true), (c, false)] => (r, c),
        _ => return broadcast::expand(cpu, &args.shape, &args.kept_shape(), dy),
    };
    // Large matrices are shared by several threads there.
    if len == 0 || r * c > 16 * TASK_ELEMENTS {
        return broadcast::expand(cpu, &args.shape, &args.kept_shape(), dy);
    }
    // [outer, r, c]: each row of c is written once and then copied, ever more rows at a time.
    let mut memory = cpu.alloc::<f32>(len)?;
    let per_task = (TASK_ELEMENTS / (r * c)).max(1);
    cpu.threads.chunks(memory.slice_mut(len), per_task * r * c, |i, dx| {
        let rows = dy[i * per_task * c..].chunks_exact(c);
        for (dx, row) in dx.chunks_exact_mut(r * c).zip(rows) {
            dx[..c].copy_from_slice(row);
            let mut done = c;
            while done < dx.len() {
                let (from, to) = dx.split_at_mut(done);
                let n = done.min(to.len()).min(TILE.next_multiple_of(c));
                to[..n].copy_from_slice(&from[..n]);
                done += n;
            }
        }
    });
    Ok(memory.into_buffer::<f32>(len))
}

/// Σ x²
pub fn sum_squares(cpu: &Cpu, x: &Buffer) -> Result<Buffer> {
    let x = cpu.read::<f32>("sum_squares", x, x.len())?;
    if x.is_empty() {
        return copied(cpu, &[0.0]);
    }
    step::<SumSquares>(cpu, 1, x.len(), 1, x)
}

/// y[i] = position of the first maximum in row i of x.
struct ArgmaxKernel<'a> {
    len: usize,
    x: &'a [f32],
    y: &'a mut [i32],
}

impl Kernel for ArgmaxKernel<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector>(self) {
        for (y, x) in self.y.iter_mut().zip(self.x.chunks(self.len)) {
            let max = fold_row::<V, Max>(x);
            // Equal, or both NaN.
            let first = x.iter().position(|&x| !larger(max, x));
            *y = first.map_or(0, |position| position as i32);
        }
    }
}

/// Position of the first maximum among the reduced axes, row-major.
pub fn argmax(cpu: &Cpu, args: &ReduceArgs, x: &Buffer) -> Result<Buffer> {
    const OP: &str = "argmax";
    let (len, r) = (args.out_elements(), args.reduced_elements());
    if r == 0 {
        let (shape, reduced) = (&args.shape, &args.reduced);
        let detail = format!("nothing has no maximum (x: {shape:?}, reduced axes: {reduced:?})");
        return Err(Error::shape(OP, detail));
    }
    cpu.read::<f32>(OP, x, elements(&args.shape))?;
    let mut memory = cpu.alloc::<i32>(len)?;
    let y = memory.slice_mut::<i32>(len);
    if len == 0 {
        return Ok(memory.into_buffer::<i32>(len));
    }
    // Rows need the reduced axes last; elsewhere they are brought there first.
    let axes = |reduced: bool| (0..args.shape.len()).filter(move |&i| args.reduced[i] == reduced);
    let order: Vec<usize> = axes(false).chain(axes(true)).collect();
    let moved;
    let x = if order.iter().is_sorted() {
        x
    } else {
        moved = movement::permute(cpu, &PermuteArgs::new(&args.shape, &order)?, x)?;
        &moved
    };
    let x = cpu.read::<f32>(OP, x, len * r)?;
    let per_task = (TASK_ELEMENTS / r).max(1);
    cpu.threads.chunks(y, per_task, |i, y| {
        let x = &x[i * per_task * r..][..y.len() * r];
        cpu.isa.run(ArgmaxKernel { len: r, x, y })
    });
    Ok(memory.into_buffer::<i32>(len))
}
