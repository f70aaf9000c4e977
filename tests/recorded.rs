//! A training pass that is recorded and replayed computes the bits of one that is not: with new images each step,
//! dropout masks that move on, and statistics that are updated in place.

use std::sync::Arc;

use tilegrad::open_cuda;
use tilegrad_engine::{Backend, Dtype, Gradients, Recorded, Result, Tensor, cpu, ops};
use tilegrad_kernels::cuda::CudaOptions;
use tilegrad_nn::{Context, Model, ModelConfig, ModelKind, Module, loss};

/// A backend of this test's own: nobody else may use it while it records.
fn device(options: CudaOptions) -> Option<Arc<dyn Backend>> {
    open_cuda(options).map(|cuda| Arc::new(cuda) as Arc<dyn Backend>)
}

const BATCH: usize = 4;
const STEPS: u32 = 4;

/// Small, but with dropout (simple-cnn) or batch norm (simple-cnn-bn).
fn model(on: &Arc<dyn Backend>, kind: ModelKind) -> Model {
    let config = ModelConfig { dropout: 0.5, ..ModelConfig::new(kind, 10) };
    Model::new(on, config, 7).unwrap()
}

fn images(step: u32) -> Vec<f32> {
    (0..BATCH * 32 * 32 * 3)
        .map(|i| ((i as u32 * 7 + step * 131) % 97) as f32 / 48.5 - 1.0)
        .collect()
}

fn labels(step: u32) -> Vec<i32> {
    (0..BATCH as u32).map(|i| ((i * 3 + step) % 10) as i32).collect()
}

fn pass(model: &Model, x: &Tensor, labels: &Tensor, step: u32) -> Result<(Tensor, Gradients)> {
    let logits = model.forward(x, &mut Context::train(5, step))?;
    let loss = loss::cross_entropy(&logits, labels, 0.1)?;
    Ok((loss.detach(), loss.backward()?))
}

/// Loss, every gradient and every parameter and statistic, as bits.
fn bits(model: &Model, (loss, gradients): &(Tensor, Gradients)) -> Vec<u32> {
    let mut all = loss.to_vec::<f32>().unwrap();
    for (_, parameter) in model.parameters() {
        let value = parameter.get();
        all.extend(value.to_vec::<f32>().unwrap());
        all.extend(gradients.get(&value).into_iter().flat_map(|g| g.to_vec::<f32>().unwrap()));
    }
    all.into_iter().map(f32::to_bits).collect()
}

fn replayed_is_computed(options: CudaOptions) {
    let Some(on) = device(options) else { return };
    for kind in [ModelKind::SimpleCnn, ModelKind::SimpleCnnBn] {
        let on_device = |step: u32| {
            let x = Tensor::from_slice(&on, &images(step), &[BATCH, 32, 32, 3]).unwrap();
            (x, Tensor::from_slice(&on, &labels(step), &[BATCH]).unwrap())
        };
        let plain = model(&on, kind);
        let mut expected = Vec::new();
        for step in 0..STEPS {
            let (x, y) = on_device(step);
            expected.push(bits(&plain, &pass(&plain, &x, &y, step).unwrap()));
        }
        assert_ne!(expected[1], expected[2], "each step sees something else");

        let model = model(&on, kind);
        let (mut x, mut y) = on_device(0);
        assert_eq!(bits(&model, &pass(&model, &x, &y, 0).unwrap()), expected[0]);
        // Recorded as step 1, without computing anything.
        let recorded = Recorded::new(&on, || pass(&model, &x, &y, 1)).unwrap();
        for step in 1..STEPS {
            x.write(&images(step)).unwrap();
            y.write(&labels(step)).unwrap();
            recorded.replay(step - 1).unwrap();
            // What others allocate, fill and free between replays is none of the graph's memory.
            let other = Tensor::full(&on, x.dtype(), &[BATCH * 32 * 32 * 64], f64::NAN).unwrap();
            let found = bits(&model, recorded.output());
            assert!(found == expected[step as usize], "{kind:?}, step {step}");
            drop(other);
        }
        drop(recorded);
        drop((x, y, model, plain));
        on.synchronize().unwrap();
        on.trim();
        assert!(on.memory().cached == 0, "{:?}", on.memory());
    }
}

#[test]
fn a_replayed_pass_has_the_bits_of_a_computed_one() {
    replayed_is_computed(CudaOptions::default());
}

/// With memory that softcuda watches: every buffer an allocation of its own, and full of NaN.
#[test]
fn a_replayed_pass_reads_only_what_it_wrote() {
    let options = CudaOptions { poison: true, exact_allocations: true, ..CudaOptions::default() };
    replayed_is_computed(options);
}

#[test]
fn what_cannot_be_replayed_cannot_be_recorded() {
    let Some(on) = device(CudaOptions::default()) else { return };
    let x = Tensor::from_slice(&on, &[1.0f32, 2.0], &[2]).unwrap();
    let refused = |work: &dyn Fn() -> Result<()>| {
        let error = Recorded::new(&on, work).err().expect("must be refused").to_string();
        // The device works as before.
        assert_eq!(ops::exp(&ops::log(&x).unwrap()).unwrap().to_vec::<f32>().unwrap(), [1.0, 2.0]);
        error
    };
    let moment = refused(&|| Tensor::from_slice(&on, &[1.0f32], &[1]).map(|_| ()));
    assert_eq!(
        moment,
        "upload: cannot be recorded: the bytes would be those of this moment; upload before"
    );
    let wait = "cannot be recorded: the host would wait for what does not run yet";
    assert_eq!(refused(&|| x.to_vec::<f32>().map(|_| ())), format!("download: {wait}"));
    assert_eq!(refused(&|| on.synchronize()), format!("synchronize: {wait}"));
    assert_eq!(
        refused(&|| x.detach().accumulate(&x)),
        "accumulate: cannot be recorded: the buffer that it changes is held by others, so it would change a copy"
    );
    assert_eq!(
        refused(&|| Recorded::new(&on, || ops::neg(&x)).map(|_| ())),
        "record: another graph is being recorded on this device; finish that first"
    );
    let mut shared = x.detach();
    assert_eq!(
        shared.write(&[3.0f32, 4.0]).unwrap_err().to_string(),
        "write: others hold the buffer too, and would see the change"
    );
    let on_cpu = cpu().unwrap();
    let error = Recorded::new(&on_cpu, || Ok(())).err().expect("must be refused").to_string();
    assert_eq!(error, "record: device cpu cannot record its kernels");
}

/// The memory that a graph uses is nobody else's as long as it lives, even when nobody else needs it.
#[test]
fn a_replay_touches_no_memory_of_others() {
    let Some(on) = device(CudaOptions::default()) else { return };
    let ones = || Tensor::full(&on, Dtype::F32, &[1000], 1.0).unwrap();
    let mut sum = ones();
    let x = ones();
    sum.accumulate(&x).unwrap();
    let recorded = Recorded::new(&on, || sum.accumulate(&x)).unwrap();
    drop((sum, x));
    on.trim();
    let others: Vec<Tensor> = (0..8).map(|_| ones()).collect();
    recorded.replay(0).unwrap();
    assert!(others.iter().all(|t| t.to_vec::<f32>().unwrap() == [1.0; 1000]));
    drop(recorded);
    // A panic while recording leaves the device as it was.
    let panics = || Recorded::new(&on, || -> Result<()> { panic!("planted") });
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(panics)).is_err());
    assert_eq!(ops::neg(&others[0]).unwrap().to_vec::<f32>().unwrap(), [-1.0; 1000]);
    drop(others);
    assert_eq!(on.memory().in_use, 0);
}

#[test]
fn writing_replaces_all_elements() {
    let backends = [Some(cpu().unwrap()), device(CudaOptions::default())];
    for on in backends.into_iter().flatten() {
        let mut x = Tensor::from_slice(&on, &[1i32, 2, 3], &[3]).unwrap();
        x.write(&[4i32, 5, 6]).unwrap();
        assert_eq!(x.to_vec::<i32>().unwrap(), [4, 5, 6]);
        let short = x.write(&[4i32, 5]).unwrap_err().to_string();
        assert!(short.starts_with("write: expected 12 bytes for Buffer(3 x i32"), "{short}");
        let other = x.write(&[4.0f32, 5.0, 6.0]).unwrap_err().to_string();
        assert_eq!(other, "write: expected i32, got f32");
    }
}
