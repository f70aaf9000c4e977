//! What an op is: a forward pass, and its derivative.

use std::sync::Arc;

use crate::tape::{self, Node};
use crate::{Backend, Error, Result, Tensor};

/// Tensors that an op keeps from its forward pass for its backward pass.
#[derive(Default)]
pub struct Saved(Vec<Tensor>);

impl Saved {
    /// Nothing.
    pub fn none() -> Self {
        Saved(Vec::new())
    }

    /// One or more tensors. They are kept without their history.
    pub fn new<const N: usize>(tensors: [&Tensor; N]) -> Self {
        Saved(tensors.iter().map(|t| t.detach()).collect())
    }

    /// The tensors, as many as were saved.
    pub fn take<const N: usize>(self) -> [Tensor; N] {
        let count = self.0.len();
        self.0.try_into().unwrap_or_else(|_| panic!("an op saved {count} tensors and took {N}"))
    }
}

/// A differentiable operation. The struct holds its options; tensors are its inputs.
pub trait Op: Send + Sync + 'static {
    /// Name in errors, in the case table and in profiles.
    fn name(&self) -> &'static str;

    /// Checks shapes, computes the result, and says what backward will need.
    fn forward(&self, be: &dyn Backend, inputs: &[&Tensor]) -> Result<(Tensor, Saved)>;

    /// The gradient of each input from that of the result. Where `needs[i]` is false, element i is ignored and should
    /// be `None`. Consumes what was saved, so that its memory is free as soon as it has been used.
    fn backward(
        &self,
        be: &dyn Backend,
        saved: Saved,
        dy: &Tensor,
        needs: &[bool],
    ) -> Result<Vec<Option<Tensor>>>;
}

/// Runs an op, and records it on the tape if any input is tracked (and [`crate::no_grad`] is not in force).
pub fn apply<O: Op>(op: O, inputs: &[&Tensor]) -> Result<Tensor> {
    let first = inputs.first().ok_or_else(|| Error::argument("apply", "an op needs an input"))?;
    let backend = first.backend().clone();
    for input in &inputs[1..] {
        if !Arc::ptr_eq(input.backend(), &backend) {
            return Err(Error::Device {
                op: op.name(),
                expected: backend.device(),
                got: input.backend().device(),
            });
        }
    }
    let (y, saved) = op.forward(&*backend, inputs)?;
    if !tape::enabled() || !inputs.iter().any(|x| x.node().is_some()) {
        return Ok(y);
    }
    let parents = inputs.iter().map(|x| x.node().cloned()).collect();
    Ok(y.with_node(Node::record(Box::new(op), saved, parents)))
}
