//! Matrix products.

use super::elements;
use crate::{Error, Result};

/// Batched matrix product: y[i] = op(a[i]) op(b[i]) (+ bias), each matrix row-major, op an optional
/// transposition.
///
/// op(a) is `[m, k]`, op(b) is `[k, n]`, y is `[batch, m, n]`, bias is `[n]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatmulArgs {
    /// Number of products.
    pub batch: usize,
    /// Rows of the result.
    pub m: usize,
    /// Columns of the result.
    pub n: usize,
    /// Length of the sums.
    pub k: usize,
    /// a is stored `[k, m]`.
    pub transpose_a: bool,
    /// b is stored `[n, k]`.
    pub transpose_b: bool,
    /// One a for all products (a has no batch axis).
    pub shared_a: bool,
    /// One b for all products.
    pub shared_b: bool,
}

impl MatmulArgs {
    /// Shapes `[.., rows, columns]`: equal leading axes, or none on one side, which is then shared.
    pub fn new(a: &[usize], b: &[usize], transpose_a: bool, transpose_b: bool) -> Result<Self> {
        const OP: &str = "matmul";
        let wrong = |what: &str| {
            let flags = format!("transpose_a: {transpose_a}, transpose_b: {transpose_b}");
            Err(Error::shape(OP, format!("{what} (a: {a:?}, b: {b:?}, {flags})")))
        };
        let (Some((lead_a, [ra, ca])), Some((lead_b, [rb, cb]))) =
            (a.split_last_chunk::<2>(), b.split_last_chunk::<2>())
        else {
            return wrong("needs at least 2 axes on both sides");
        };
        let (m, k) = if transpose_a { (*ca, *ra) } else { (*ra, *ca) };
        let (kb, n) = if transpose_b { (*cb, *rb) } else { (*rb, *cb) };
        if k != kb {
            return wrong(&format!("inner sizes {k} and {kb} differ"));
        }
        if lead_a != lead_b && !lead_a.is_empty() && !lead_b.is_empty() {
            return wrong("leading axes must be equal, or absent on one side");
        }
        let lead = if lead_a.is_empty() { lead_b } else { lead_a };
        Ok(MatmulArgs {
            batch: elements(lead),
            m,
            n,
            k,
            transpose_a,
            transpose_b,
            shared_a: lead_a.is_empty(),
            shared_b: lead_b.is_empty(),
        })
    }

    /// Elements of a.
    pub fn a_elements(&self) -> usize {
        elements(&[if self.shared_a { 1 } else { self.batch }, self.m, self.k])
    }

    /// Elements of b.
    pub fn b_elements(&self) -> usize {
        elements(&[if self.shared_b { 1 } else { self.batch }, self.k, self.n])
    }

    /// Elements of y.
    pub fn y_elements(&self) -> usize {
        elements(&[self.batch, self.m, self.n])
    }

    /// Floating-point operations: a multiplication and an addition a term.
    pub fn flops(&self) -> u64 {
        2 * self.batch as u64 * self.m as u64 * self.n as u64 * self.k as u64
    }
}
