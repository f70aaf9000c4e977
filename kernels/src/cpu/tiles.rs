//! Matrices `[rows, c]` with one value a channel beside them: how rows of few channels fill vector
//! registers.
//!
//! A row of 16 channels is one register, too little for a loop. So several rows are taken as one
//! *run* of about [`TILE`] contiguous elements, and the per-channel values are repeated to that
//! width once:
//!
//! ```text
//!   x       | row 0 | row 1 | row 2 | .. | row 31 | row 32 ..     run = 32 rows of 16 channels
//!   values  |   v   |   v   |   v   | .. |   v    |               512 floats, stay in L1
//! ```
//!
//! Sums over rows work alike: a run of accumulators, whose repeats are added up at the end.

use std::ops::Range;

use super::threads::TASK_ELEMENTS;

/// Elements of a run at most, unless a row is longer: with a few per-channel values it fills a
/// fraction of L1.
pub const TILE: usize = 512;

/// Length of a run: whole rows while they fit in a [`TILE`], else one row.
pub fn run_width(c: usize) -> usize {
    if c == 0 || c > TILE { c } else { TILE / c * c }
}

/// Elements of a task that walks whole runs.
pub fn piece(c: usize) -> usize {
    let width = run_width(c).max(1);
    TASK_ELEMENTS.div_ceil(width) * width
}

/// Per-channel values, repeated to [`run_width`].
pub fn repeat(values: &[f32]) -> Vec<f32> {
    values.iter().copied().cycle().take(run_width(values.len())).collect()
}

/// The tasks of a sum over the rows of `[rows, c]`: blocks of rows, and of [`TILE`] columns where
/// rows are longer.
#[derive(Clone, Copy, Debug)]
pub struct RowSums {
    rows: usize,
    c: usize,
    block_rows: usize,
    /// Number of row blocks: the partial sums a column is added up from.
    pub row_blocks: usize,
    column_blocks: usize,
}

impl RowSums {
    /// Blocks of about two [`TASK_ELEMENTS`], which keeps the partial sums few.
    pub fn new(rows: usize, c: usize) -> Self {
        let rows_of_run = (run_width(c) / c.max(1)).max(1);
        let block_rows = (2 * TASK_ELEMENTS / c.clamp(1, TILE)).div_ceil(rows_of_run) * rows_of_run;
        RowSums {
            rows,
            c,
            block_rows,
            row_blocks: rows.div_ceil(block_rows),
            column_blocks: c.div_ceil(TILE),
        }
    }

    /// Number of tasks.
    pub fn tasks(&self) -> usize {
        self.row_blocks * self.column_blocks
    }

    /// Columns of a task at most: the stride of its partial sums.
    pub fn width(&self) -> usize {
        self.c.min(TILE)
    }

    /// Rows of row block `i`.
    pub fn block_rows(&self, i: usize) -> usize {
        self.block_rows.min(self.rows - i * self.block_rows)
    }

    /// Task of row block `i` for the columns from `column` on.
    pub fn task(&self, i: usize, column: usize) -> usize {
        i * self.column_blocks + column / TILE
    }

    /// The block that task `task` walks.
    pub fn block(&self, task: usize) -> Block {
        let (i, j) = (task / self.column_blocks, task % self.column_blocks);
        let (first, rows) = (i * self.block_rows, self.block_rows(i));
        let column = j * TILE;
        let columns = TILE.min(self.c - column);
        let start = first * self.c + column;
        let end = start + (rows - 1) * self.c + columns;
        let (stride, width) = if self.column_blocks == 1 {
            (run_width(self.c), run_width(self.c))
        } else {
            (self.c, columns)
        };
        Block { columns: column..column + columns, start, end, stride, width }
    }
}

/// A block of rows and columns, as runs of contiguous elements.
#[derive(Clone, Debug)]
pub struct Block {
    /// Its columns.
    pub columns: Range<usize>,
    /// Its first element.
    pub start: usize,
    end: usize,
    stride: usize,
    /// Longest run: the number of accumulators.
    pub width: usize,
}

impl Block {
    /// The elements of each run.
    #[inline(always)]
    pub fn runs(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let (end, width) = (self.end, self.width);
        (self.start..end).step_by(self.stride.max(1)).map(move |s| s..(s + width).min(end))
    }
}

/// Folds the repeats of a run of accumulators into its first `c`.
#[inline(always)]
pub fn fold_repeats(run: &mut [f32], c: usize, merge: impl Fn(f32, f32) -> f32) {
    let (first, rest) = run.split_at_mut(c);
    for repeat in rest.chunks_exact(c) {
        for (a, &b) in first.iter_mut().zip(repeat) {
            *a = merge(*a, b);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_cover_every_element_once() {
        for (rows, c) in [(1, 1), (7, 3), (5000, 16), (3, 1500), (200, 512), (41, 513), (0, 5)] {
            let sums = RowSums::new(rows, c);
            let mut seen = vec![0; rows * c];
            for task in 0..sums.tasks() {
                let block = sums.block(task);
                for run in block.runs() {
                    for i in run {
                        seen[i] += 1;
                        assert!(block.columns.contains(&(i % c)));
                    }
                }
            }
            assert!(seen.iter().all(|&n| n == 1), "[{rows}, {c}]");
        }
    }
}
