//! Reductions over axes.

use super::elements;
use crate::{Error, Result};

/// Reductions over axes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduce {
    /// Σ x; 0 over nothing.
    Sum,
    /// Σ x / n; NaN over nothing.
    Mean,
    /// The largest; NaN if any is NaN; -inf over nothing. Ties share the gradient equally.
    Max,
}

impl Reduce {
    /// The op's name in errors and in the case table.
    pub const fn name(self) -> &'static str {
        match self {
            Reduce::Sum => "sum",
            Reduce::Mean => "mean",
            Reduce::Max => "amax",
        }
    }
}

/// Axes of a shape to reduce over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReduceArgs {
    /// Shape of the input.
    pub shape: Vec<usize>,
    /// For each axis, whether it is reduced.
    pub reduced: Vec<bool>,
}

impl ReduceArgs {
    /// `axes` in any order, each at most once; none means all.
    pub fn new(op: &'static str, shape: &[usize], axes: &[usize]) -> Result<Self> {
        let mut reduced = vec![axes.is_empty(); shape.len()];
        for &axis in axes {
            match reduced.get_mut(axis) {
                Some(flag) if !*flag => *flag = true,
                Some(_) => return Err(Error::argument(op, format!("axis {axis} is named twice"))),
                None => {
                    let rank = shape.len();
                    return Err(Error::shape(
                        op,
                        format!("axis {axis} is outside 0..{rank} (x: {shape:?})"),
                    ));
                }
            }
        }
        Ok(ReduceArgs { shape: shape.to_vec(), reduced })
    }

    /// Input shape with 1 in place of every reduced axis.
    pub fn kept_shape(&self) -> Vec<usize> {
        self.shape.iter().zip(&self.reduced).map(|(&s, &r)| if r { 1 } else { s }).collect()
    }

    /// Shape of the result without the reduced axes.
    pub fn out_shape(&self) -> Vec<usize> {
        self.shape.iter().zip(&self.reduced).filter(|(_, r)| !**r).map(|(&s, _)| s).collect()
    }

    /// Number of elements that make one result.
    pub fn reduced_elements(&self) -> usize {
        self.shape.iter().zip(&self.reduced).filter(|(_, r)| **r).map(|(&s, _)| s).product()
    }

    /// Number of results.
    pub fn out_elements(&self) -> usize {
        elements(&self.kept_shape())
    }
}
