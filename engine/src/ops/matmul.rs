//! Batched matrix product with transpose flags.
//!
//! With A = a or aᵀ of shape `[m, k]`, and B = b or bᵀ of shape `[k, n]`, for each pair of
//! matrices
//!   Y = A B,   Y_ij = Σ_l A_il B_lj.
//! Leading axes count matrices. They are equal on both sides, or absent on one side, whose matrix
//! is then shared.
//!
//! Derivative. From dY_ij ∂Y_ij/∂A_il = dY_ij B_lj, summed over j, and likewise for B:
//!   dA = dY Bᵀ,   dB = Aᵀ dY.
//! Where a was given transposed its gradient is dAᵀ = B dYᵀ, and for b it is dBᵀ = dYᵀ A: each of
//! the eight cases is one product with the right flags, and nothing is transposed in memory. A
//! shared matrix gets the sum over the batch.

use tilegrad_kernels::{MatmulArgs, Reduce, ReduceArgs, elements};

use crate::{Backend, Op, Result, Saved, Tensor, apply};

struct Matmul {
    transpose_a: bool,
    transpose_b: bool,
}

/// y = a b, `[.., m, k]` times `[.., k, n]`; with `transpose_a` a is stored `[.., k, m]`, with
/// `transpose_b` b is stored `[.., n, k]`.
pub fn matmul(a: &Tensor, b: &Tensor, transpose_a: bool, transpose_b: bool) -> Result<Tensor> {
    apply(Matmul { transpose_a, transpose_b }, &[a, b])
}

impl Op for Matmul {
    fn name(&self) -> &'static str {
        "matmul"
    }

    fn forward(&self, be: &dyn Backend, inputs: &[&Tensor]) -> Result<(Tensor, Saved)> {
        let (a, b) = (inputs[0], inputs[1]);
        let y = product(be, a, b, self.transpose_a, self.transpose_b)?;
        Ok((y, Saved::new([a, b])))
    }

    fn backward(
        &self,
        be: &dyn Backend,
        saved: Saved,
        dy: Tensor,
        needs: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let [a, b] = saved.take();
        let (ta, tb) = (self.transpose_a, self.transpose_b);
        let da = match (needs[0], ta) {
            (false, _) => None,
            (true, false) => Some(summed_to(be, product(be, &dy, &b, false, !tb)?, a.shape())?),
            (true, true) => Some(summed_to(be, product(be, &b, &dy, tb, true)?, a.shape())?),
        };
        let db = if needs[1] {
            // Σ_i A_iᵀ dY_i over a batch is one product, if the rows of all A_i lie one after
            // another.
            let (a, dy) = match b.rank() == 2 && !ta {
                true => (rows(&a), rows(&dy)),
                false => (a, dy),
            };
            let db = match tb {
                false => product(be, &a, &dy, !ta, false)?,
                true => product(be, &dy, &a, true, ta)?,
            };
            Some(summed_to(be, db, b.shape())?)
        } else {
            None
        };
        Ok(vec![da, db])
    }
}

/// y = a b, untracked.
fn product(
    be: &dyn Backend,
    a: &Tensor,
    b: &Tensor,
    transpose_a: bool,
    transpose_b: bool,
) -> Result<Tensor> {
    let args = MatmulArgs::new(a.shape(), b.shape(), transpose_a, transpose_b)?;
    let longer = if args.shared_a { b.shape() } else { a.shape() };
    let mut shape = longer[..longer.len() - 2].to_vec();
    shape.extend([args.m, args.n]);
    // All matrices times one: a single product of all their rows.
    let args = match args.shared_b && !transpose_a {
        true => MatmulArgs { batch: 1, m: args.batch * args.m, shared_a: true, ..args },
        false => args,
    };
    Ok(a.wrap(be.matmul(&args, a.buffer(), b.buffer(), None)?, &shape))
}

/// `[.., rows, columns]` as one matrix.
fn rows(x: &Tensor) -> Tensor {
    let (columns, lead) = x.shape().split_last().expect("a matrix has 2 axes");
    x.wrap(x.buffer().clone(), &[elements(lead), *columns])
}

/// Sums the leading axes away that `shape` does not have: the gradient of a matrix that a batch
/// shared.
fn summed_to(be: &dyn Backend, x: Tensor, shape: &[usize]) -> Result<Tensor> {
    if x.rank() == shape.len() {
        return Ok(x);
    }
    let axes: Vec<usize> = (0..x.rank() - shape.len()).collect();
    let args = ReduceArgs::new("matmul", x.shape(), &axes)?;
    Ok(x.wrap(be.reduce_forward(Reduce::Sum, &args, x.buffer())?, shape))
}
