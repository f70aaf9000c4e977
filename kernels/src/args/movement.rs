//! Movement of elements: permute, concatenate, slice, pad, gather.

use super::elements;
use crate::{Error, Result};

/// Permutation of axes: axis i of the result is axis `permutation[i]` of x.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PermuteArgs {
    /// Shape of x.
    pub shape: Vec<usize>,
    /// The permutation.
    pub permutation: Vec<usize>,
}

impl PermuteArgs {
    /// Checks that it is a permutation of the axes.
    pub fn new(shape: &[usize], permutation: &[usize]) -> Result<Self> {
        let mut sorted = permutation.to_vec();
        sorted.sort_unstable();
        if !sorted.iter().copied().eq(0..shape.len()) {
            return Err(Error::argument(
                "permute",
                format!(
                    "{permutation:?} is not a permutation of the {} axes of {shape:?}",
                    shape.len()
                ),
            ));
        }
        Ok(PermuteArgs { shape: shape.to_vec(), permutation: permutation.to_vec() })
    }

    /// Shape of the result.
    pub fn out_shape(&self) -> Vec<usize> {
        self.permutation.iter().map(|&p| self.shape[p]).collect()
    }

    /// The permutation that undoes this one.
    pub fn inverse(&self) -> PermuteArgs {
        let mut inverse = vec![0; self.permutation.len()];
        for (i, &p) in self.permutation.iter().enumerate() {
            inverse[p] = i;
        }
        PermuteArgs { shape: self.out_shape(), permutation: inverse }
    }
}

/// Concatenation along one axis. Seen as rows: each input i is `[outer, sizes[i] * inner]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConcatArgs {
    /// Product of the axes before.
    pub outer: usize,
    /// Size of the axis in each input.
    pub sizes: Vec<usize>,
    /// Product of the axes after.
    pub inner: usize,
    /// Shape of the result.
    pub out_shape: Vec<usize>,
}

impl ConcatArgs {
    /// All shapes must agree but for `axis`.
    pub fn new(shapes: &[&[usize]], axis: usize) -> Result<Self> {
        const OP: &str = "concat";
        let Some(first) = shapes.first() else {
            return Err(Error::argument(OP, "needs at least 1 input, got none"));
        };
        if axis >= first.len() {
            return Err(Error::shape(OP, format!("axis {axis} is outside the axes of {first:?}")));
        }
        let same = |s: &[usize]| {
            s.len() == first.len() && (0..s.len()).all(|i| i == axis || s[i] == first[i])
        };
        if let Some(odd) = shapes.iter().find(|s| !same(s)) {
            return Err(Error::shape(
                OP,
                format!("shapes must agree outside axis {axis}, got {first:?} and {odd:?}"),
            ));
        }
        let sizes: Vec<usize> = shapes.iter().map(|s| s[axis]).collect();
        let mut out_shape = first.to_vec();
        out_shape[axis] = sizes.iter().fold(0, |sum: usize, &size| sum.saturating_add(size));
        Ok(ConcatArgs {
            outer: elements(&first[..axis]),
            sizes,
            inner: elements(&first[axis + 1..]),
            out_shape,
        })
    }
}

/// A box cut out of x: `sizes[i]` elements from `starts[i]` on along axis i.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceArgs {
    /// Shape of x.
    pub shape: Vec<usize>,
    /// First element kept.
    pub starts: Vec<usize>,
    /// Elements kept: the shape of the result.
    pub sizes: Vec<usize>,
}

impl SliceArgs {
    /// Checks that the box lies inside.
    pub fn new(shape: &[usize], starts: &[usize], sizes: &[usize]) -> Result<Self> {
        let fits = starts.len() == shape.len()
            && sizes.len() == shape.len()
            && (0..shape.len())
                .all(|i| starts[i].checked_add(sizes[i]).is_some_and(|e| e <= shape[i]));
        if !fits {
            return Err(Error::shape(
                "slice",
                format!("the box at {starts:?} of size {sizes:?} does not lie inside {shape:?}"),
            ));
        }
        Ok(SliceArgs { shape: shape.to_vec(), starts: starts.to_vec(), sizes: sizes.to_vec() })
    }

    /// The padding whose result has x's shape: the derivative of this slice.
    pub fn transpose(&self) -> PadArgs {
        let after = (0..self.shape.len()).map(|i| self.shape[i] - self.starts[i] - self.sizes[i]);
        PadArgs {
            shape: self.sizes.clone(),
            after: after.collect(),
            before: self.starts.clone(),
            value: 0.0,
        }
    }
}

/// Constant padding: `before[i]` and `after[i]` elements of `value` along axis i.
#[derive(Clone, Debug, PartialEq)]
pub struct PadArgs {
    /// Shape of x.
    pub shape: Vec<usize>,
    /// Elements added in front.
    pub before: Vec<usize>,
    /// Elements added behind.
    pub after: Vec<usize>,
    /// What they are.
    pub value: f64,
}

impl PadArgs {
    /// Checks the ranks.
    pub fn new(shape: &[usize], before: &[usize], after: &[usize], value: f64) -> Result<Self> {
        if before.len() != shape.len() || after.len() != shape.len() {
            return Err(Error::shape(
                "pad",
                format!(
                    "needs one pair an axis of {shape:?}, got before {before:?}, after {after:?}"
                ),
            ));
        }
        Ok(PadArgs { shape: shape.to_vec(), before: before.to_vec(), after: after.to_vec(), value })
    }

    /// Shape of the result.
    pub fn out_shape(&self) -> Vec<usize> {
        (0..self.shape.len())
            .map(|i| self.before[i].saturating_add(self.shape[i]).saturating_add(self.after[i]))
            .collect()
    }

    /// The slice that takes x out of the result: the derivative of this padding.
    pub fn transpose(&self) -> SliceArgs {
        SliceArgs {
            shape: self.out_shape(),
            starts: self.before.clone(),
            sizes: self.shape.clone(),
        }
    }
}

/// Selection along one axis by a list of indices: x is `[outer, axis, inner]`, y is `[outer, count,
/// inner]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatherArgs {
    /// Product of the axes before.
    pub outer: usize,
    /// Size of the axis: every index is below it.
    pub axis: usize,
    /// Product of the axes after.
    pub inner: usize,
    /// Number of indices.
    pub count: usize,
    /// Shape of the result.
    pub out_shape: Vec<usize>,
}

impl GatherArgs {
    /// `count` indices along `axis` of `shape`.
    pub fn new(shape: &[usize], axis: usize, count: usize) -> Result<Self> {
        let Some(&size) = shape.get(axis) else {
            return Err(Error::shape(
                "gather",
                format!("axis {axis} is outside the axes of {shape:?}"),
            ));
        };
        let mut out_shape = shape.to_vec();
        out_shape[axis] = count;
        Ok(GatherArgs {
            outer: elements(&shape[..axis]),
            axis: size,
            inner: elements(&shape[axis + 1..]),
            count,
            out_shape,
        })
    }
}
