//! The tape: which op made which tensor, walked backward from a loss.
//!
//! Every recorded op is a [`Node`] with an id larger than those of its inputs.
//! [`Tensor::backward`] takes nodes in falling order of their ids from a heap, so that a node is
//! visited after everything that used its result: a loop, never recursion, however deep the model.
//! Saved activations are dropped as soon as their node has been visited.

use std::cell::Cell;
use std::cmp::Ordering;
use std::collections::hash_map::Entry;
use std::collections::{BinaryHeap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use crate::op::{Op, Saved, same_backend};
use crate::profile::{self, Pass};
use crate::{Error, Result, Tensor};

static NEXT_ID: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static ENABLED: Cell<bool> = const { Cell::new(true) };
}

/// Whether ops on this thread are recorded.
pub(crate) fn enabled() -> bool {
    ENABLED.get()
}

/// Runs `f` without recording ops on this thread: for evaluation.
pub fn no_grad<R>(f: impl FnOnce() -> R) -> R {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            ENABLED.set(self.0);
        }
    }
    let _restore = Restore(ENABLED.replace(false));
    f()
}

/// A tracked tensor's place on the tape: a leaf, or the op that made it.
pub(crate) struct Node {
    id: u64,
    /// Absent for leaves.
    op: Option<Box<dyn Op>>,
    /// Taken by backward.
    saved: Mutex<Option<Saved>>,
    /// The inputs' nodes; `None` where an input is not tracked.
    parents: Vec<Option<Arc<Node>>>,
}

impl Node {
    pub(crate) fn leaf() -> Arc<Node> {
        let id = NEXT_ID.fetch_add(1, Relaxed);
        Arc::new(Node { id, op: None, saved: Mutex::new(None), parents: Vec::new() })
    }

    pub(crate) fn record(
        op: Box<dyn Op>,
        saved: Saved,
        parents: Vec<Option<Arc<Node>>>,
    ) -> Arc<Node> {
        let id = NEXT_ID.fetch_add(1, Relaxed);
        Arc::new(Node { id, op: Some(op), saved: Mutex::new(Some(saved)), parents })
    }

    pub(crate) fn id(&self) -> u64 {
        self.id
    }
}

impl Drop for Node {
    /// Drops a long chain of nodes in a loop; the derived drop would recurse once a node.
    fn drop(&mut self) {
        let mut pending: Vec<Arc<Node>> = self.parents.drain(..).flatten().collect();
        while let Some(node) = pending.pop() {
            if let Some(mut node) = Arc::into_inner(node) {
                pending.extend(node.parents.drain(..).flatten());
            }
        }
    }
}

/// Orders nodes by id.
struct ById(Arc<Node>);

impl PartialEq for ById {
    fn eq(&self, other: &Self) -> bool {
        self.0.id == other.0.id
    }
}
impl Eq for ById {}
impl PartialOrd for ById {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for ById {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.id.cmp(&other.0.id)
    }
}

/// Gradients of a loss by the tracked leaves that it depends on.
#[derive(Default)]
pub struct Gradients(HashMap<u64, Tensor>);

impl Gradients {
    /// The gradient of `leaf`, if the loss depends on it. It has the leaf's shape.
    pub fn get(&self, leaf: &Tensor) -> Option<&Tensor> {
        self.0.get(&leaf.node()?.id)
    }

    /// Takes the gradient of `leaf` out.
    pub fn remove(&mut self, leaf: &Tensor) -> Option<Tensor> {
        self.0.remove(&leaf.node()?.id)
    }

    /// Number of leaves with a gradient.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True when no leaf has a gradient.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds the gradients of another backward pass: the sum over several small batches is that of
    /// one large batch.
    pub fn accumulate(&mut self, other: Gradients) -> Result<()> {
        for (id, gradient) in other.0 {
            add_to(&mut self.0, id, gradient)?;
        }
        Ok(())
    }
}

/// map[id] += gradient. Answers whether it is the first for `id`.
fn add_to(map: &mut HashMap<u64, Tensor>, id: u64, mut gradient: Tensor) -> Result<bool> {
    match map.entry(id) {
        Entry::Vacant(place) => {
            place.insert(gradient);
            Ok(true)
        }
        Entry::Occupied(mut place) => {
            let sum = place.get_mut();
            // Adding in place copies a buffer that others hold (add gives both its inputs the same
            // one). Then add to the other: a + b and b + a have the same bits.
            if sum.buffer_mut().storage_mut().is_none() {
                std::mem::swap(sum, &mut gradient);
            }
            sum.accumulate(&gradient)?;
            Ok(false)
        }
    }
}

impl Tensor {
    /// Gradients of this scalar by every tracked leaf. The tape behind it is used up: a second
    /// call is an error.
    pub fn backward(&self) -> Result<Gradients> {
        if self.elements() != 1 {
            return Err(Error::shape(
                "backward",
                format!("needs a loss of one element, got shape {:?}", self.shape()),
            ));
        }
        self.backward_from(&self.filled_like(1.0)?)
    }

    /// Gradients by every tracked leaf, given `dy`, the gradient of this tensor.
    pub fn backward_from(&self, dy: &Tensor) -> Result<Gradients> {
        let Some(root) = self.node() else {
            return Err(Error::argument("backward", "the loss depends on no tracked tensor"));
        };
        if dy.shape() != self.shape() {
            return Err(Error::shape(
                "backward",
                format!("gradient has shape {:?}, the tensor {:?}", dy.shape(), self.shape()),
            ));
        }
        if dy.dtype() != self.dtype() {
            return Err(Error::Dtype {
                op: "backward",
                expected: format!("a gradient of the tensor's dtype, {}", self.dtype()),
                got: dy.dtype(),
            });
        }
        let backend = self.backend().clone();
        same_backend("backward", &backend, &[dy])?;
        let mut gradients = Gradients::default();
        // Gradients of results whose node is in the heap: it is complete when the node's turn
        // comes.
        let mut open = HashMap::from([(root.id, dy.detach())]);
        let mut heap = BinaryHeap::from([ById(root.clone())]);
        while let Some(ById(node)) = heap.pop() {
            let Some(dy) = open.remove(&node.id) else { continue };
            let Some(op) = &node.op else {
                gradients.0.insert(node.id, dy);
                continue;
            };
            let taken = node.saved.lock().unwrap_or_else(|e| e.into_inner()).take();
            let saved = taken.ok_or_else(|| {
                Error::argument(
                    "backward",
                    "this part of the tape was already used by a backward pass",
                )
            })?;
            let needs: Vec<bool> = node.parents.iter().map(Option::is_some).collect();
            let inputs = profile::time(op.name(), Pass::Backward, &*backend, || {
                op.backward(&*backend, saved, dy, &needs)
            })?;
            debug_assert_eq!(inputs.len(), needs.len(), "{}", op.name());
            for (parent, gradient) in node.parents.iter().zip(inputs) {
                if let (Some(parent), Some(gradient)) = (parent, gradient)
                    && add_to(&mut open, parent.id, gradient)?
                {
                    heap.push(ById(parent.clone()));
                }
            }
        }
        Ok(gradients)
    }
}
