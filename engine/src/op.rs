//! What an op is: a forward pass, and its derivative.

use std::sync::Arc;

use crate::profile::{self, Pass};
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

    /// One or more tensors: `Saved::new([&x, &y])`. They share their elements, and are kept
    /// without their history.
    pub fn new<'a>(tensors: impl IntoIterator<Item = &'a Tensor>) -> Self {
        Saved(tensors.into_iter().map(Tensor::detach).collect())
    }

    /// Tensor `i`, in the order in which they were saved.
    pub fn get(&self, i: usize) -> &Tensor {
        &self.0[i]
    }

    /// The tensors, as many as were saved.
    pub fn take<const N: usize>(self) -> [Tensor; N] {
        let count = self.0.len();
        self.0.try_into().unwrap_or_else(|_| panic!("an op saved {count} tensors and took {N}"))
    }
}

/// A differentiable operation. The struct holds its options, and sizes that were checked when it
/// was made; tensors are its inputs.
pub trait Op: Send + Sync + 'static {
    /// Name in errors, in the case table and in profiles.
    fn name(&self) -> &'static str;

    /// Computes the result, and says what backward will need.
    fn forward(&self, be: &dyn Backend, inputs: &[&Tensor]) -> Result<(Tensor, Saved)>;

    /// The gradient of each input from that of the result. Where `needs[i]` is false, element i is
    /// ignored and should be `None`. Consumes what was saved and `dy`, so that their memory is
    /// free as soon as they have been used.
    fn backward(
        &self,
        be: &dyn Backend,
        saved: Saved,
        dy: Tensor,
        needs: &[bool],
    ) -> Result<Vec<Option<Tensor>>>;
}

/// Runs an op, and records it on the tape if any input is tracked (and [`crate::no_grad`] is not
/// in force).
pub fn apply<O: Op>(op: O, inputs: &[&Tensor]) -> Result<Tensor> {
    let (y, saved) = forward(&op, inputs)?;
    Ok(record(op, inputs, y, saved))
}

/// The first half of [`apply`]: checks that all inputs are on one backend, and runs the op there.
/// For ops that hand out more than their result: see `ops/batch_norm.rs`.
pub(crate) fn forward(op: &dyn Op, inputs: &[&Tensor]) -> Result<(Tensor, Saved)> {
    let Some((first, rest)) = inputs.split_first() else {
        return Err(Error::argument(op.name(), "needs at least 1 input, got none"));
    };
    let backend = first.backend();
    same_backend(op.name(), backend, rest)?;
    profile::time(op.name(), Pass::Forward, &**backend, || op.forward(&**backend, inputs))
}

/// The second half of [`apply`]: gives `y` its place on the tape.
pub(crate) fn record<O: Op>(op: O, inputs: &[&Tensor], y: Tensor, saved: Saved) -> Tensor {
    if !tape::enabled() || !inputs.iter().any(|x| x.is_tracked()) {
        return y;
    }
    let parents = inputs.iter().map(|x| x.node().cloned()).collect();
    y.with_node(Node::record(Box::new(op), saved, parents))
}

/// An error unless all `inputs` are on `backend`.
pub(crate) fn same_backend(
    op: &'static str,
    backend: &Arc<dyn Backend>,
    inputs: &[&Tensor],
) -> Result<()> {
    match inputs.iter().find(|x| !Arc::ptr_eq(x.backend(), backend)) {
        None => Ok(()),
        Some(x) if x.backend().device() == backend.device() => Err(Error::argument(
            op,
            format!("inputs belong to two different backends, both of device {}", backend.device()),
        )),
        Some(x) => Err(Error::Device { op, expected: backend.device(), got: x.backend().device() }),
    }
}
