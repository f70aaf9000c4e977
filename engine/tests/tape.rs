//! What the tape promises, whatever the ops on it.

use std::sync::{Arc, Mutex};

use tilegrad_engine::{Backend, Error, Op, Result, Saved, Tensor, apply, no_grad, ops, reference};

fn vector(device: &Arc<dyn Backend>, data: &[f64]) -> Tensor {
    Tensor::from_slice(device, data, &[data.len()]).unwrap()
}

/// For each backward pass of a [`Probe`], what was needed and how many bytes were in use.
type Log = Arc<Mutex<Vec<(Vec<bool>, usize)>>>;

/// Passes x on, and writes to a log.
struct Probe(Log);

impl Op for Probe {
    fn name(&self) -> &'static str {
        "probe"
    }

    fn forward(&self, _be: &dyn Backend, inputs: &[&Tensor]) -> Result<(Tensor, Saved)> {
        Ok((inputs[0].detach(), Saved::none()))
    }

    fn backward(
        &self,
        be: &dyn Backend,
        _saved: Saved,
        dy: Tensor,
        needs: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        self.0.lock().unwrap().push((needs.to_vec(), be.memory().in_use));
        Ok(needs.iter().map(|_| Some(dy.clone())).collect())
    }
}

#[test]
fn a_tensor_used_several_times_gets_the_sum() {
    let device = reference();
    let x = vector(&device, &[2.0, -3.0]).tracked();
    // x + x² + x³, with x on both sides of the products.
    let square = ops::mul(&x, &x).unwrap();
    let cube = ops::mul(&square, &x).unwrap();
    let y = ops::add(&ops::add(&x, &square).unwrap(), &cube).unwrap();
    let gradients = ops::sum(&y, &[]).unwrap().backward().unwrap();
    let expected = [2.0f64, -3.0].map(|x| 1.0 + 2.0 * x + 3.0 * x * x);
    assert_eq!(gradients.get(&x).unwrap().to_vec::<f64>().unwrap(), expected);
}

#[test]
fn summing_up_leaves_a_shared_gradient_alone() {
    let device = reference();
    let (a, b) = (vector(&device, &[1.0]).tracked(), vector(&device, &[1.0]).tracked());
    // add hands the same buffer to both inputs, and a gets a second gradient on top.
    let y = ops::add(&ops::add(&a, &b).unwrap(), &ops::affine(&a, 10.0, 0.0).unwrap()).unwrap();
    let dy = vector(&device, &[1.0]);
    let gradients = y.backward_from(&dy).unwrap();
    let value = |t: &Tensor| t.to_vec::<f64>().unwrap();
    assert_eq!(value(gradients.get(&a).unwrap()), [11.0]);
    assert_eq!(value(gradients.get(&b).unwrap()), [1.0]);
    assert_eq!(value(&dy), [1.0]);
    // Nor does adding up the gradients of two passes.
    let keep = gradients.get(&b).unwrap().clone();
    let mut sum = gradients;
    sum.accumulate(ops::affine(&b, 5.0, 0.0).unwrap().backward().unwrap()).unwrap();
    assert_eq!(value(sum.get(&b).unwrap()), [6.0]);
    assert_eq!(value(&keep), [1.0]);
}

#[test]
fn gradients_of_several_passes_add_up() {
    let device = reference();
    let w = vector(&device, &[1.0, 2.0]).tracked();
    let pass = |scale| ops::sum(&ops::affine(&w, scale, 0.0).unwrap(), &[]).unwrap().backward();
    let mut sum = pass(3.0).unwrap();
    sum.accumulate(pass(0.5).unwrap()).unwrap();
    assert_eq!(sum.remove(&w).unwrap().to_vec::<f64>().unwrap(), [3.5, 3.5]);
    assert!(sum.is_empty());
}

#[test]
fn a_chain_of_100_000_ops_needs_no_deep_stack() {
    let small_stack = std::thread::Builder::new().stack_size(128 << 10);
    let chain = || {
        let x = vector(&reference(), &[1.0]).tracked();
        let mut y = x.clone();
        for _ in 0..100_000 {
            y = ops::affine(&y, 1.0, 1.0).unwrap();
        }
        (x, y)
    };
    small_stack
        .spawn(move || {
            let (x, y) = chain();
            let gradients = y.backward().unwrap();
            assert_eq!(gradients.get(&x).unwrap().item().unwrap(), 1.0);
            drop((x, y));
            drop(chain()); // A tape that was never walked.
        })
        .unwrap()
        .join()
        .unwrap();
}

#[test]
fn a_diamond_of_many_layers_visits_each_node_once() {
    let device = reference();
    let x = vector(&device, &[1.0]).tracked();
    let mut y = x.clone();
    for _ in 0..60 {
        y = ops::add(&y, &y).unwrap(); // 2^60 paths from the loss to x
    }
    let gradients = y.backward().unwrap();
    assert_eq!(gradients.get(&x).unwrap().item().unwrap(), 2f64.powi(60));
}

#[test]
fn no_grad_records_nothing_and_ends_with_its_closure() {
    let device = reference();
    let x = vector(&device, &[1.0]).tracked();
    let y = no_grad(|| {
        no_grad(|| ()); // Nesting changes nothing for the outer one.
        ops::exp(&x).unwrap()
    });
    assert!(!y.is_tracked());
    assert!(matches!(y.backward(), Err(Error::Argument { op: "backward", .. })));
    let panicked = std::panic::catch_unwind(|| no_grad(|| panic!("on purpose")));
    assert!(panicked.is_err());
    assert!(ops::exp(&x).unwrap().is_tracked());
}

#[test]
fn detach_cuts_the_history_and_shares_the_elements() {
    let device = reference();
    let x = vector(&device, &[3.0]).tracked();
    let square = ops::mul(&x, &x).unwrap();
    let y = ops::mul(&square.detach(), &x).unwrap(); // x² as a constant, times x
    let gradients = y.backward().unwrap();
    assert_eq!(gradients.get(&x).unwrap().item().unwrap(), 9.0);
}

#[test]
fn untracked_and_unused_tensors_have_no_gradient() {
    let device = reference();
    let (x, constant) = (vector(&device, &[3.0]).tracked(), vector(&device, &[4.0]));
    let unused = vector(&device, &[5.0]).tracked();
    let gradients = ops::mul(&x, &constant).unwrap().backward().unwrap();
    assert_eq!(gradients.len(), 1);
    assert!(gradients.get(&constant).is_none() && gradients.get(&unused).is_none());
    // A snapshot of a leaf stands for the leaf; a new leaf with the same elements does not.
    assert!(gradients.get(&x.clone()).is_some() && gradients.get(&x.tracked()).is_none());
}

#[test]
fn ops_are_told_which_gradients_are_needed() {
    let device = reference();
    let (x, constant) = (vector(&device, &[3.0]).tracked(), vector(&device, &[4.0]));
    let log = Log::default();
    let y = apply(Probe(log.clone()), &[&x, &constant, &x]).unwrap();
    let gradients = y.backward().unwrap();
    assert_eq!(log.lock().unwrap()[0].0, [true, false, true]);
    assert_eq!(gradients.get(&x).unwrap().item().unwrap(), 2.0);
}

#[test]
fn a_second_backward_pass_is_an_error_that_says_so() {
    let device = reference();
    let x = vector(&device, &[3.0]).tracked();
    let shared = ops::exp(&x).unwrap();
    let (first, second) = (ops::sum(&shared, &[]).unwrap(), ops::mean(&shared, &[]).unwrap());
    first.backward().unwrap();
    for loss in [&first, &second] {
        let error = loss.backward().err().unwrap().to_string();
        assert!(error.contains("already used"), "{error}");
    }
}

#[test]
fn a_loss_must_be_one_tracked_element() {
    let device = reference();
    let x = vector(&device, &[3.0, 4.0]).tracked();
    let error = x.backward().err().unwrap().to_string();
    assert_eq!(error, "backward: needs a loss of one element, got shape [2]");
    let error = x.backward_from(&vector(&device, &[1.0])).err().unwrap().to_string();
    assert_eq!(error, "backward: gradient has shape [1], the tensor [2]");
    let single = Tensor::from_slice(&device, &[1.0f32, 1.0], &[2]).unwrap();
    assert!(matches!(x.backward_from(&single), Err(Error::Dtype { op: "backward", .. })));
    let gradients = x.backward_from(&vector(&device, &[1.0, 7.0])).unwrap();
    assert_eq!(gradients.get(&x).unwrap().to_vec::<f64>().unwrap(), [1.0, 7.0]);
}

#[test]
fn inputs_on_two_backends_are_refused() {
    let (here, there) = (reference(), reference());
    let error = ops::add(&vector(&here, &[1.0]), &vector(&there, &[1.0])).err().unwrap();
    assert!(error.to_string().starts_with("add: inputs belong to two different backends"));
}

#[test]
fn backward_frees_activations_as_it_goes() {
    const LEN: usize = 1 << 15;
    const BYTES: usize = LEN * 8; // A block of the pool has this size exactly.
    const LAYERS: usize = 12;
    let device = reference();
    let before = device.memory().in_use;
    let x = Tensor::zeros(&device, tilegrad_engine::Dtype::F64, &[LEN]).unwrap().tracked();
    let log = Log::default();
    let mut y = x.clone();
    for _ in 0..LAYERS {
        y = apply(Probe(log.clone()), &[&ops::tanh(&y).unwrap()]).unwrap();
    }
    let loss = ops::sum(&y, &[]).unwrap();
    drop(y);
    let held = device.memory().in_use - before;
    assert!((LAYERS * BYTES..(LAYERS + 2) * BYTES).contains(&held), "{held}");
    let gradients = loss.backward().unwrap();
    let log: Vec<usize> = log.lock().unwrap().iter().map(|(_, in_use)| in_use - before).collect();
    assert_eq!(log.len(), LAYERS);
    // At the backward pass of layer i, counted from the last: x, dy, and the results of the layers
    // before it.
    for (i, &in_use) in log.iter().enumerate() {
        assert!(in_use <= (LAYERS - i + 2) * BYTES + 4096, "layer {i}: {log:?}");
    }
    // The loss still holds the tape, but only x and its gradient are left on it.
    assert!(device.memory().in_use - before <= 2 * BYTES + 4096);
    drop((gradients, loss, x));
    assert_eq!(device.memory().in_use, before);
}

#[test]
fn ops_keep_only_what_their_derivative_needs() {
    const LEN: usize = 1 << 15;
    const BYTES: usize = LEN * 8;
    let device = reference();
    let x = Tensor::full(&device, tilegrad_engine::Dtype::F64, &[LEN], 0.5).unwrap().tracked();
    let held = |f: &dyn Fn(&Tensor) -> Result<Tensor>| {
        let before = device.memory().in_use;
        // affine keeps nothing, so its result lives on only if f keeps it.
        let y = f(&ops::affine(&x, 2.0, 0.0).unwrap()).unwrap();
        let held = device.memory().in_use - before;
        assert!(y.is_tracked());
        held / BYTES
    };
    assert_eq!(held(&|x| ops::affine(x, 2.0, 1.0)), 1);
    assert_eq!(held(&|x| ops::relu(x)), 1);
    assert_eq!(held(&|x| ops::gelu(x)), 2);
    assert_eq!(held(&|x| ops::add(x, x)), 1);
    assert_eq!(held(&|x| ops::sub(x, x)), 1);
    assert_eq!(held(&|x| ops::mul(x, x)), 2);
    assert_eq!(held(&|x| ops::sum(x, &[])), 0);
    assert_eq!(held(&|x| ops::reshape(x, &[2, LEN / 2])), 1);
    assert_eq!(held(&|x| ops::permute(&ops::reshape(x, &[2, LEN / 2])?, &[1, 0])), 1);
    assert_eq!(held(&|x| ops::slice(x, &[0], &[1])), 0);
}
