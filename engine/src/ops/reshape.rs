//! The same elements under another shape.
//!
//! Elements keep their row-major order, so that nothing is copied: y shares the memory of x.
//!
//! Derivative. dx is dy under the shape of x.

use tilegrad_kernels::elements;

use crate::{Backend, Error, Op, Result, Saved, Tensor, apply};

struct Reshape {
    from: Vec<usize>,
    to: Vec<usize>,
}

/// x under the shape `shape`, which must have as many elements.
pub fn reshape(x: &Tensor, shape: &[usize]) -> Result<Tensor> {
    if elements(shape) != x.elements() {
        return Err(Error::shape(
            "reshape",
            format!(
                "{shape:?} has {} elements, but x has {} (x: {:?})",
                elements(shape),
                x.elements(),
                x.shape()
            ),
        ));
    }
    apply(Reshape { from: x.shape().to_vec(), to: shape.to_vec() }, &[x])
}

impl Op for Reshape {
    fn name(&self) -> &'static str {
        "reshape"
    }

    fn forward(&self, _be: &dyn Backend, inputs: &[&Tensor]) -> Result<(Tensor, Saved)> {
        let x = inputs[0];
        Ok((x.wrap(x.buffer().clone(), &self.to), Saved::none()))
    }

    fn backward(
        &self,
        _be: &dyn Backend,
        _saved: Saved,
        dy: Tensor,
        _needs: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(dy.wrap(dy.buffer().clone(), &self.from))])
    }
}
