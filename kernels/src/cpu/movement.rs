//! Elements moved, not changed: 4 bytes each, whatever they mean.

use super::Cpu;
use super::simd::{Kernel, Vector};
use super::threads::{SharedMut, TASK_ELEMENTS};
use crate::*;

/// The elements of `x` as words.
fn words<'a>(op: &'static str, x: &'a Buffer, len: usize) -> Result<&'a [u32]> {
    match x.dtype() {
        Dtype::F32 => host::read::<f32>(op, Device::Cpu, x, len).map(bytemuck::cast_slice),
        Dtype::I32 => host::read::<i32>(op, Device::Cpu, x, len).map(bytemuck::cast_slice),
        dtype => Err(Error::Unsupported { op, device: Device::Cpu, dtype }),
    }
}

/// A new buffer of `len` elements of `dtype` (one that [`words`] takes), filled by `write`.
fn build(cpu: &Cpu, dtype: Dtype, len: usize, write: impl FnOnce(&mut [u32])) -> Result<Buffer> {
    if dtype == Dtype::I32 {
        let mut memory = cpu.alloc::<i32>(len)?;
        write(bytemuck::cast_slice_mut(memory.slice_mut::<i32>(len)));
        return Ok(memory.into_buffer::<i32>(len));
    }
    let mut memory = cpu.alloc::<f32>(len)?;
    write(bytemuck::cast_slice_mut(memory.slice_mut::<f32>(len)));
    Ok(memory.into_buffer::<f32>(len))
}

/// Elements that one step along each axis skips, row-major.
fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i] * shape[i];
    }
    strides
}

/// Where element `index` of an array of `sizes` lies, when axis i has `strides[i]`.
fn offset(mut index: usize, sizes: &[usize], strides: &[usize]) -> usize {
    let mut at = 0;
    for (&size, &stride) in sizes.iter().zip(strides).rev() {
        at += index % size * stride;
        index /= size;
    }
    at
}

/// Side of the square blocks of a transposition: 16 rows of 16 words are 16 cache lines on either
/// side.
const BLOCK: usize = 16;

/// The first rows of y, each `[columns]`, from x `[columns, x_stride]`: up to [`BLOCK`] of them,
/// the others empty.
struct Transpose<'a> {
    x: &'a [u32],
    x_stride: usize,
    height: usize,
    columns: usize,
    rows: [&'a mut [u32]; BLOCK],
}

impl Kernel for Transpose<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector>(self) {
        let Transpose { x, x_stride, height, columns, mut rows } = self;
        let whole = if height == BLOCK { columns / BLOCK * BLOCK } else { 0 };
        for column in (0..whole).step_by(BLOCK) {
            // Through registers: constant sizes let the compiler unroll both loops.
            let mut block = [[0u32; BLOCK]; BLOCK];
            for (j, line) in block.iter_mut().enumerate() {
                line.copy_from_slice(&x[(column + j) * x_stride..][..BLOCK]);
            }
            for (i, row) in rows.iter_mut().enumerate() {
                let line = &mut row[column..column + BLOCK];
                for j in 0..BLOCK {
                    line[j] = block[j][i];
                }
            }
        }
        for column in whole..columns {
            let x = &x[column * x_stride..][..height];
            for (row, &x) in rows.iter_mut().zip(x) {
                row[column] = x;
            }
        }
    }
}

/// y = rows of `inner` words, row i copied from `source(i)`.
fn copy_rows<'a>(
    cpu: &Cpu,
    y: &mut [u32],
    inner: usize,
    source: impl Fn(usize) -> &'a [u32] + Sync,
) {
    let rows = (TASK_ELEMENTS / inner.max(1)).max(1);
    cpu.threads.chunks(y, rows * inner, |task, y| {
        for (i, y) in y.chunks_mut(inner).enumerate() {
            y.copy_from_slice(source(task * rows + i));
        }
    });
}

/// Permutes axes.
///
/// Axes of size 1 are left out and axes that stay neighbours are merged. If the last axis stays
/// last, rows are copied; otherwise x's last axis and y's last axis span matrices that are
/// transposed in blocks.
pub fn permute(cpu: &Cpu, args: &PermuteArgs, x: &Buffer) -> Result<Buffer> {
    let len = elements(&args.shape);
    let words = words("permute", x, len)?;
    let x_strides = strides(&args.shape);
    // y's axes as (size, stride in x).
    let mut axes: Vec<(usize, usize)> = Vec::new();
    for &p in &args.permutation {
        let (size, stride) = (args.shape[p], x_strides[p]);
        match axes.last_mut() {
            _ if size == 1 => {}
            Some(last) if last.1 == stride * size => *last = (last.0 * size, stride),
            _ => axes.push((size, stride)),
        }
    }
    if axes.len() <= 1 || len == 0 {
        return Ok(x.clone()); // the order in memory is the same
    }
    let (inner, inner_stride) = axes[axes.len() - 1];
    if inner_stride == 1 {
        let (sizes, strides): (Vec<_>, Vec<_>) = axes[..axes.len() - 1].iter().copied().unzip();
        return build(cpu, x.dtype(), len, |y| {
            copy_rows(cpu, y, inner, |row| &words[offset(row, &sizes, &strides)..][..inner]);
        });
    }
    // The axis that is contiguous in x; it exists because some axis has stride 1, and is not the
    // last.
    let contiguous = axes.iter().position(|axis| axis.1 == 1).expect("x's last axis is in y");
    let y_sizes: Vec<usize> = axes.iter().map(|axis| axis.0).collect();
    let y_strides = strides(&y_sizes);
    let outer = |i: &usize| *i != contiguous && *i != axes.len() - 1;
    let outer: Vec<usize> = (0..axes.len()).filter(outer).collect();
    let sizes: Vec<usize> = outer.iter().map(|&i| axes[i].0).collect();
    let in_x: Vec<usize> = outer.iter().map(|&i| axes[i].1).collect();
    let in_y: Vec<usize> = outer.iter().map(|&i| y_strides[i]).collect();
    let (rows, y_stride) = (axes[contiguous].0, y_strides[contiguous]);
    // A task takes one matrix, or some rows of a large one: whole blocks.
    let rows_of_task = (TASK_ELEMENTS / inner).max(1).next_multiple_of(BLOCK).min(rows);
    let parts = rows.div_ceil(rows_of_task);
    build(cpu, x.dtype(), len, |y| {
        let y = SharedMut::new(y);
        cpu.threads.run(elements(&sizes) * parts, |task| {
            let (matrix, part) = (task / parts, task % parts);
            let (x, y_start) = (offset(matrix, &sizes, &in_x), offset(matrix, &sizes, &in_y));
            let end = (part + 1) * rows_of_task;
            for first in (part * rows_of_task..end.min(rows)).step_by(BLOCK) {
                let height = BLOCK.min(end.min(rows) - first);
                let rows = std::array::from_fn(|i| match i < height {
                    // SAFETY: row `first + i` of matrix `matrix` of y: nobody else writes it.
                    true => unsafe { y.slice(y_start + (first + i) * y_stride, inner) },
                    false => &mut [],
                });
                let (x, x_stride) = (&words[x + first..], inner_stride);
                cpu.isa.run(Transpose { x, x_stride, height, columns: inner, rows });
            }
        });
    })
}

/// Joins along an axis.
pub fn concat(cpu: &Cpu, args: &ConcatArgs, xs: &[&Buffer]) -> Result<Buffer> {
    const OP: &str = "concat";
    let Some(first) = xs.first() else {
        return Err(Error::argument(OP, "needs at least 1 input, got none"));
    };
    if xs.len() != args.sizes.len() {
        let detail = format!("expected {} inputs, got {}", args.sizes.len(), xs.len());
        return Err(Error::argument(OP, detail));
    }
    let dtype = first.dtype();
    let mut parts = Vec::with_capacity(xs.len());
    for (x, size) in xs.iter().zip(&args.sizes) {
        if x.dtype() != dtype {
            return Err(Error::Dtype { op: OP, expected: dtype.to_string(), got: x.dtype() });
        }
        let width = size * args.inner;
        parts.push((width, words(OP, x, args.outer * width)?));
    }
    let row: usize = parts.iter().map(|part| part.0).sum();
    build(cpu, dtype, args.outer * row, |y| {
        let rows = (TASK_ELEMENTS / row.max(1)).max(1);
        cpu.threads.chunks(y, rows * row, |task, y| {
            for (i, mut y) in y.chunks_mut(row).enumerate() {
                for (width, x) in &parts {
                    let (part, rest) = y.split_at_mut(*width);
                    part.copy_from_slice(&x[(task * rows + i) * width..][..*width]);
                    y = rest;
                }
            }
        });
    })
}

/// Cuts out a box.
pub fn slice(cpu: &Cpu, args: &SliceArgs, x: &Buffer) -> Result<Buffer> {
    let words = words("slice", x, elements(&args.shape))?;
    let len = elements(&args.sizes);
    if args.sizes == args.shape {
        return Ok(x.clone());
    }
    let strides = strides(&args.shape);
    let start: usize = args.starts.iter().zip(&strides).map(|(start, s)| start * s).sum();
    // Behind the last axis that is cut, whole rows of x are kept.
    let cut = (0..args.shape.len()).rposition(|i| args.sizes[i] != args.shape[i]).unwrap_or(0);
    let inner = elements(&args.sizes[cut..]);
    build(cpu, x.dtype(), len, |y| {
        copy_rows(cpu, y, inner, |row| {
            &words[start + offset(row, &args.sizes[..cut], &strides[..cut])..][..inner]
        });
    })
}

/// Surrounds with a constant.
pub fn pad(cpu: &Cpu, args: &PadArgs, x: &Buffer) -> Result<Buffer> {
    let words = words("pad", x, elements(&args.shape))?;
    let out_shape = args.out_shape();
    if out_shape == args.shape {
        return Ok(x.clone());
    }
    let value = host::cast_bytes(Dtype::F64, x.dtype(), bytemuck::bytes_of(&args.value));
    let value: u32 = bytemuck::pod_read_unaligned(&value);
    // Behind the last axis that is padded, rows of x and y are the same.
    let last = (0..args.shape.len()).rposition(|i| out_shape[i] != args.shape[i]).unwrap_or(0);
    let behind = elements(&args.shape[last + 1..]);
    let (before, width) = (args.before[last] * behind, args.shape[last] * behind);
    let row = out_shape[last] * behind;
    let x_strides = strides(&args.shape);
    // The row of x that goes into row `index` of y, if that is not all padding.
    let source = |index: usize| {
        let (mut rest, mut at) = (index, 0);
        for i in (0..last).rev() {
            let position = rest % out_shape[i];
            rest /= out_shape[i];
            let inside = args.before[i]..args.before[i] + args.shape[i];
            if !inside.contains(&position) {
                return None;
            }
            at += (position - args.before[i]) * x_strides[i];
        }
        Some(&words[at..][..width])
    };
    build(cpu, x.dtype(), elements(&out_shape), |y| {
        let rows = (TASK_ELEMENTS / row.max(1)).max(1);
        cpu.threads.chunks(y, rows * row, |task, y| {
            for (i, y) in y.chunks_mut(row).enumerate() {
                match source(task * rows + i) {
                    None => y.fill(value),
                    Some(x) => {
                        y[..before].fill(value);
                        y[before..before + width].copy_from_slice(x);
                        y[before + width..].fill(value);
                    }
                }
            }
        });
    })
}

/// The indices, each checked to lie on the axis.
fn indices<'a>(cpu: &Cpu, args: &GatherArgs, indices: &'a Buffer) -> Result<&'a [i32]> {
    const OP: &str = "gather";
    let indices = cpu.read::<i32>(OP, indices, args.count)?;
    let outside = |&i: &i32| usize::try_from(i).map_or(true, |i| i >= args.axis);
    match indices.iter().position(outside) {
        None => Ok(indices),
        Some(position) => Err(Error::Index {
            op: OP,
            index: indices[position].into(),
            position,
            bound: args.axis,
        }),
    }
}

/// y[o, i, :] = x[o, indices[i], :]
pub fn gather_forward(
    cpu: &Cpu,
    args: &GatherArgs,
    x: &Buffer,
    indices_buffer: &Buffer,
) -> Result<Buffer> {
    let &GatherArgs { outer, axis, inner, count, .. } = args;
    let words = words("gather", x, outer * axis * inner)?;
    let indices = indices(cpu, args, indices_buffer)?;
    build(cpu, x.dtype(), outer * count * inner, |y| {
        copy_rows(cpu, y, inner, |row| {
            let (o, i) = (row / count, row % count);
            &words[(o * axis + indices[i] as usize) * inner..][..inner]
        });
    })
}

/// Columns `[start, start + width)` of one matrix: dx[indices[i], :] += dy[i, :] in order.
struct GatherBackward<'a> {
    inner: usize,
    start: usize,
    width: usize,
    indices: &'a [i32],
    dy: &'a [f32],
    dx: &'a SharedMut<f32>,
    dx_start: usize,
    axis: usize,
}

impl Kernel for GatherBackward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector>(self) {
        let at_dx = |row: usize| self.dx_start + row * self.inner + self.start;
        for row in 0..self.axis {
            // SAFETY: these columns of this matrix belong to this task alone, and the borrow ends
            // here.
            unsafe { self.dx.slice(at_dx(row), self.width) }.fill(0.0);
        }
        for (i, &index) in self.indices.iter().enumerate() {
            // SAFETY: as above; the index was checked to be below `axis`.
            let dx = unsafe { self.dx.slice(at_dx(index as usize), self.width) };
            let dy = &self.dy[i * self.inner + self.start..][..self.width];
            for (dx, &dy) in dx.iter_mut().zip(dy) {
                *dx += dy;
            }
        }
    }
}

/// Columns of a task of [`gather_backward`].
const GATHER_COLUMNS: usize = 256;

/// dx: the rows of dy added up at their indices, in order.
pub fn gather_backward(
    cpu: &Cpu,
    args: &GatherArgs,
    indices_buffer: &Buffer,
    dy: &Buffer,
) -> Result<Buffer> {
    let &GatherArgs { outer, axis, inner, count, .. } = args;
    let dy = cpu.read::<f32>("gather", dy, outer * count * inner)?;
    let indices = indices(cpu, args, indices_buffer)?;
    let len = outer * axis * inner;
    let mut memory = cpu.alloc::<f32>(len)?;
    let dx = &SharedMut::new(memory.slice_mut::<f32>(len));
    let parts = inner.div_ceil(GATHER_COLUMNS);
    cpu.threads.run(outer * parts, |task| {
        let (o, start) = (task / parts, task % parts * GATHER_COLUMNS);
        let dy = &dy[o * count * inner..][..count * inner];
        let width = GATHER_COLUMNS.min(inner - start);
        let dx_start = o * axis * inner;
        cpu.isa.run(GatherBackward { inner, start, width, indices, dy, dx, dx_start, axis });
    });
    Ok(memory.into_buffer::<f32>(len))
}
