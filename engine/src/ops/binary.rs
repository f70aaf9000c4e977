//! What the elementwise functions of two inputs share: y = f(a, b), with shapes that broadcast.
//!
//! Shapes are aligned at the last axis, and a size of 1 repeats (NumPy's rule): `[8, 1, 3]` and
//! `[5, 1]` make `[8, 5, 3]`. An element that was repeated had a part in several results, so its
//! gradient is the sum of theirs:
//!   da = Σ dy ∂f/∂a over the axes along which a was repeated, and likewise for b.

use tilegrad_kernels::{Binary, BroadcastArgs, Reduce, ReduceArgs, Unary};

use crate::{Backend, Op, Result, Saved, Tensor, apply};

struct BinaryOp {
    f: Binary,
    args: BroadcastArgs,
    shapes: [Vec<usize>; 2],
}

/// y = f(a, b), elementwise with broadcasting, on the tape.
pub(super) fn binary(f: Binary, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let args = BroadcastArgs::new(f.name(), a.shape(), b.shape())?;
    let shapes = [a.shape().to_vec(), b.shape().to_vec()];
    apply(BinaryOp { f, args, shapes }, &[a, b])
}

impl Op for BinaryOp {
    fn name(&self) -> &'static str {
        self.f.name()
    }

    fn forward(&self, be: &dyn Backend, inputs: &[&Tensor]) -> Result<(Tensor, Saved)> {
        let (a, b) = (inputs[0], inputs[1]);
        let y = be.binary_forward(self.f, &self.args, a.buffer(), b.buffer())?;
        let saved = match self.f {
            Binary::Add | Binary::Sub => Saved::none(),
            Binary::Mul | Binary::Div | Binary::Max => Saved::new([a, b]),
        };
        Ok((a.wrap(y, &self.args.out), saved))
    }

    fn backward(
        &self,
        be: &dyn Backend,
        saved: Saved,
        dy: Tensor,
        needs: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        if let Binary::Add | Binary::Sub = self.f {
            return self.backward_of_sum(be, &dy, needs);
        }
        let [a, b] = saved.take();
        let needs = [needs[0], needs[1]];
        let [da, db] =
            be.binary_backward(self.f, &self.args, a.buffer(), b.buffer(), dy.buffer(), needs)?;
        Ok(vec![da.map(|da| a.like(da)), db.map(|db| b.like(db))])
    }
}

impl BinaryOp {
    /// The derivatives of a ± b are constants: neither input has to be kept, and where nothing was
    /// repeated dy is shared instead of copied.
    fn backward_of_sum(
        &self,
        be: &dyn Backend,
        dy: &Tensor,
        needs: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let da =
            needs[0].then(|| self.summed(be, dy, &self.args.a, &self.shapes[0])).transpose()?;
        let db =
            needs[1].then(|| self.summed(be, dy, &self.args.b, &self.shapes[1])).transpose()?;
        let db = match (self.f, db) {
            (Binary::Sub, Some(db)) => {
                let negate = Unary::Affine { scale: -1.0, shift: 0.0 };
                Some(db.like(be.unary_forward(negate, db.buffer())?))
            }
            (_, db) => db,
        };
        Ok(vec![da, db])
    }

    /// dy summed over the axes along which an input was repeated. `padded` is its `shape` with the
    /// rank of dy.
    fn summed(
        &self,
        be: &dyn Backend,
        dy: &Tensor,
        padded: &[usize],
        shape: &[usize],
    ) -> Result<Tensor> {
        let axes: Vec<usize> = (0..dy.rank()).filter(|&i| padded[i] != dy.shape()[i]).collect();
        if axes.is_empty() {
            return Ok(dy.wrap(dy.buffer().clone(), shape));
        }
        let args = ReduceArgs::new(self.name(), dy.shape(), &axes)?;
        Ok(dy.wrap(be.reduce_forward(Reduce::Sum, &args, dy.buffer())?, shape))
    }
}
