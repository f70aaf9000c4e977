//! How the GPU backends walk a tensor that is reduced over axes.

use crate::axes::{Axes, row_major};
use crate::{ReduceArgs, Result, elements};

/// Elements of one partial result, where the innermost axis is reduced and where it stays: so many that a launch
/// shrinks its input a thousandfold, so few that each lane adds 32.
const ROWS_CHUNK: usize = 1024;
const COLUMNS_CHUNK: usize = 256;

/// Which elements of x make which result.
pub struct Layout {
    /// Results.
    pub outputs: usize,
    /// Elements of each.
    pub count: usize,
    /// The axes of x that stay.
    pub kept: Axes,
    /// Those that go.
    pub reduced: Axes,
    /// The innermost axis of x is reduced.
    pub rows: bool,
}

impl Layout {
    /// Of a contiguous x.
    pub fn new(op: &'static str, shape: &[usize], reduced: &[bool]) -> Result<Layout> {
        let strides = row_major(shape);
        let part = |wanted: bool| -> (Vec<usize>, Vec<usize>) {
            let axes = (0..shape.len()).filter(|&axis| reduced[axis] == wanted);
            axes.map(|axis| (shape[axis], strides[axis])).unzip()
        };
        let ((kept, kept_strides), (gone, gone_strides)) = (part(false), part(true));
        let innermost = (0..shape.len()).rev().find(|&axis| shape[axis] != 1);
        Ok(Layout {
            outputs: elements(&kept),
            count: elements(&gone),
            kept: Axes::new(op, &kept, &kept_strides)?,
            reduced: Axes::new(op, &gone, &gone_strides)?,
            rows: innermost.is_none_or(|axis| reduced[axis]),
        })
    }

    /// Of a reduction.
    pub fn of(op: &'static str, args: &ReduceArgs) -> Result<Layout> {
        Layout::new(op, &args.shape, &args.reduced)
    }

    /// `splits` partial results for each output, `[splits, outputs]`.
    pub fn of_partials(outputs: usize, splits: usize) -> Layout {
        let (kept, reduced) = (Axes::line(outputs, 1), Axes::line(splits, outputs));
        Layout { outputs, count: splits, kept, reduced, rows: outputs == 1 }
    }

    /// Elements of one partial result.
    pub fn chunk(&self) -> usize {
        if self.rows { ROWS_CHUNK } else { COLUMNS_CHUNK }
    }
}

/// For each element of x, the result that it belongs to: stride 0 along the axes reduced.
pub fn results(op: &'static str, args: &ReduceArgs) -> Result<Axes> {
    let mut strides = row_major(&args.kept_shape());
    strides
        .iter_mut()
        .zip(&args.reduced)
        .filter(|(_, reduced)| **reduced)
        .for_each(|(s, _)| *s = 0);
    Axes::new(op, &args.shape, &strides)
}
