//! What must hold over several training steps: losses fall, threads change no bit, memory does not
//! grow.

use std::sync::Arc;

use tilegrad::{cpu_with, cuda_backends, default_backends, wgpu_backends};
use tilegrad_engine::{Backend, Gradients, Tensor, ops};
use tilegrad_kernels::MemoryStats;
use tilegrad_kernels::cpu::ConvAlgorithm;
use tilegrad_kernels::cpu::simd::Isa;
use tilegrad_kernels::philox::{Purpose, Stream};
use tilegrad_nn::schedule::Setting;
use tilegrad_nn::{
    AdamW, AdamWConfig, Context, Model, ModelConfig, ModelKind, Module, Optimizer, ParamGroup, Sgd,
    SgdConfig, loss,
};

/// `n` noisy images of which each class has its own brightness and stripes, and their labels.
fn images(n: usize, size: usize, backend: &Arc<dyn Backend>) -> (Tensor, Tensor) {
    let noise = Stream::new(3, Purpose::Test, 0, 0);
    let labels: Vec<i32> = (0..n).map(|i| (i % 10) as i32).collect();
    let mut pixels = Vec::with_capacity(n * size * size * 3);
    for (i, &label) in labels.iter().enumerate() {
        for p in 0..size * size * 3 {
            let stripe = ((p / 3 % size) as f32 * 0.3 * label as f32).sin();
            let noise = noise.normal((i * size * size * 3 + p) as u64) as f32;
            pixels.push(stripe + 0.1 * label as f32 + 0.2 * noise);
        }
    }
    let pixels = Tensor::from_slice(backend, &pixels, &[n, size, size, 3]).unwrap();
    (pixels, Tensor::from_slice(backend, &labels, &[n]).unwrap())
}

fn small(kind: ModelKind, size: usize, dropout: f64) -> ModelConfig {
    ModelConfig { image_size: size, dropout, ..ModelConfig::new(kind, 10) }
}

fn train_step(
    model: &Model,
    optimizer: &mut dyn Optimizer,
    (x, labels): &(Tensor, Tensor),
    lr: f64,
    step: u32,
) -> f64 {
    let logits = model.forward(x, &mut Context::train(1, step)).unwrap();
    let loss = loss::cross_entropy(&logits, labels, 0.1).unwrap();
    let gradients = loss.backward().unwrap();
    optimizer.step(model, &gradients, Setting::lr(lr), None).unwrap();
    loss.item().unwrap()
}

fn sgd() -> Sgd {
    Sgd::new(
        SgdConfig { nesterov: true, ..SgdConfig::default() },
        ParamGroup::decay_weights_only(5e-4),
    )
}

/// All parameters, as bits.
fn bits(model: &Model) -> Vec<(String, Vec<u32>)> {
    let bits = |x: &Tensor| x.to_vec::<f32>().unwrap().into_iter().map(f32::to_bits).collect();
    model.parameters().into_iter().map(|(name, p)| (name, bits(&p.get()))).collect()
}

#[test]
fn losses_fall_on_every_backend_and_with_every_optimizer() {
    for on in default_backends() {
        for which in ["sgd", "adamw"] {
            let config = small(ModelKind::SimpleCnnGap, 8, 0.0);
            let model = Model::new(&on.backend, config, 5).unwrap();
            let (mut optimizer, lr): (Box<dyn Optimizer>, f64) = match which {
                "sgd" => (Box::new(sgd()), 0.1),
                _ => (
                    Box::new(AdamW::new(AdamWConfig::default(), ParamGroup::decay_all(0.01))),
                    0.01,
                ),
            };
            let data = images(20, 8, &on.backend);
            let losses: Vec<f64> =
                (0..25).map(|s| train_step(&model, &mut *optimizer, &data, lr, s)).collect();
            assert!(losses[0] > 2.0 && losses[24] < 1.2, "{} {which}: {losses:?}", on.name);
        }
    }
}

#[test]
fn threads_change_no_bit_of_a_trained_model() {
    for (kind, dropout) in [(ModelKind::Resnet20, 0.0), (ModelKind::SimpleCnnBn, 0.5)] {
        for isa in Isa::ALL {
            let run = |threads| {
                let on = cpu_with(isa, threads, None)?;
                let model = Model::new(&on.backend, small(kind, 32, dropout), 9).unwrap();
                let (data, mut optimizer) = (images(4, 32, &on.backend), sgd());
                for step in 0..3 {
                    train_step(&model, &mut optimizer, &data, 0.05, step);
                }
                Some(bits(&model))
            };
            let Some(one) = run(1) else { continue };
            for threads in [2, 5] {
                let several = run(threads).expect("available with 1 thread");
                for ((name, a), (_, b)) in one.iter().zip(&several) {
                    assert!(a == b, "{kind} on cpu/{isa}: {name} differs with {threads} threads");
                }
            }
        }
    }
}

/// Every size is asked for in the first step. A few more steps settle which block serves which
/// tensor, since the pool gives out the best fit of those that are free; from then on nothing comes
/// from the system.
#[test]
fn memory_does_not_grow_in_the_steady_state() {
    for on in default_backends().iter().filter(|b| b.name.starts_with("cpu/")) {
        // A backend of its own: those of the list are shared by all tests.
        let isa = on.name.trim_start_matches("cpu/").parse().unwrap();
        let both = [ModelKind::SimpleCnnBn, ModelKind::Resnet20].map(|kind| [(kind, 1), (kind, 2)]);
        for (kind, threads) in both.into_iter().flatten() {
            let backend = cpu_with(isa, threads, None).expect("it is in the list").backend;
            let model = Model::new(&backend, small(kind, 16, 0.0), 1).unwrap();
            let (data, mut optimizer) = (images(8, 16, &backend), sgd());
            let mut stats: Vec<MemoryStats> = Vec::new();
            for step in 0..60 {
                backend.reset_peak();
                train_step(&model, &mut optimizer, &data, 0.01, step);
                backend.synchronize().unwrap();
                stats.push(backend.memory());
            }
            let name = format!("{kind} on {} with {threads} threads", on.name);
            for (step, s) in stats.iter().enumerate().skip(2) {
                // Best fit: two tensors may swap blocks of nearly equal size from step to step.
                let drift = s.in_use.abs_diff(stats[1].in_use);
                assert!(drift <= stats[1].in_use / 50, "{name}: step {step}: {s:?}");
            }
            // With several threads, how many scratch blocks are held at a time depends on how tasks
            // happen to overlap; with one, nothing may change any more.
            let held = |s: &MemoryStats| (s.in_use, s.in_use + s.cached, s.system_allocations);
            for (step, s) in stats.iter().enumerate().skip(if threads == 1 { 30 } else { 60 }) {
                assert_eq!(held(s), held(&stats[29]), "{name}: step {step} is not step 29");
            }
            assert!(stats[29].peak > stats[29].in_use, "activations were never freed: {stats:?}");
        }
    }
}

/// Without batch norm the rows of a batch do not know each other.
#[test]
fn gradients_of_small_batches_add_up_to_those_of_a_large_one() {
    for on in default_backends() {
        let model = Model::new(&on.backend, small(ModelKind::SimpleCnn, 8, 0.0), 4).unwrap();
        let (x, labels) = images(6, 8, &on.backend);
        let gradients = |from: usize, count: usize| -> Gradients {
            let x = ops::slice(&x, &[from, 0, 0, 0], &[count, 8, 8, 3]).unwrap();
            let labels = ops::slice(&labels, &[from], &[count]).unwrap();
            let logits = model.forward(&x, &mut Context::train(0, 0)).unwrap();
            let losses = ops::cross_entropy(&logits, &labels, 0.1).unwrap();
            ops::sum(&losses, &[]).unwrap().backward().unwrap()
        };
        let whole = gradients(0, 6);
        let mut sum = gradients(0, 2);
        sum.accumulate(gradients(2, 3)).unwrap();
        sum.accumulate(gradients(5, 1)).unwrap();
        assert_eq!(sum.len(), whole.len());
        for (name, parameter) in model.parameters() {
            let leaf = parameter.get();
            let values = |g: &Gradients| g.get(&leaf).unwrap().to_f64_vec().unwrap();
            let error = tilegrad::relative_norm(&values(&sum), &values(&whole));
            assert!(error <= 1e-5, "{} {name}: relative error {error:e}", on.name);
        }
    }
}

/// A forward pass without gradients keeps nothing but its result.
#[test]
fn evaluation_needs_less_memory_than_training() {
    let on = cpu_with(Isa::detect(), 2, None).expect("detected");
    let model = Model::new(&on.backend, small(ModelKind::Resnet20, 32, 0.0), 1).unwrap();
    let data = images(8, 32, &on.backend);
    let mut optimizer = sgd();
    train_step(&model, &mut optimizer, &data, 0.05, 0);
    on.backend.reset_peak();
    train_step(&model, &mut optimizer, &data, 0.05, 1);
    let training = on.backend.memory().peak;
    on.backend.reset_peak();
    tilegrad_engine::no_grad(|| model.forward(&data.0, &mut Context::eval())).unwrap();
    let evaluation = on.backend.memory().peak;
    assert!(evaluation * 3 < training, "{evaluation} bytes to evaluate, {training} to train");
}

/// A GPU's kernels through whole steps, beside the CPU's: `steps` of the learning rate `lr`.
fn has_the_losses_of_the_cpu(name: &str, backend: &Arc<dyn Backend>, steps: u32, lr: f64) {
    const BATCH: usize = 8;
    for kind in [ModelKind::SimpleCnn, ModelKind::Resnet20] {
        let losses = |backend: &Arc<dyn Backend>| {
            let model = Model::new(backend, ModelConfig::new(kind, 10), 42).unwrap();
            let (mut sgd, batch) = (sgd(), images(BATCH, 32, backend));
            (0..steps).map(|i| train_step(&model, &mut sgd, &batch, lr, i)).collect::<Vec<f64>>()
        };
        // Direct convolution rounds as the GPU's does; Winograd's error, amplified by each step, would be what is
        // seen after a few.
        let cpu = cpu_with(Isa::detect(), 2, Some(ConvAlgorithm::Direct)).unwrap();
        let (ours, expected) = (losses(backend), losses(&cpu.backend));
        println!("{kind} on {name}: {ours:?}, on the CPU: {expected:?}");
        for (a, b) in ours.iter().zip(&expected) {
            assert!((a - b).abs() <= 1e-3 * b.abs(), "{kind}: {ours:?}, on the CPU {expected:?}");
        }
    }
}

#[test]
fn five_steps_through_cuda_have_the_losses_of_the_cpu() {
    // Exact allocations full of NaN: with all of softcuda's checks.
    let Some(cuda) = cuda_backends().first() else { return };
    has_the_losses_of_the_cpu(&cuda.name, &cuda.backend, 5, 0.01);
}

/// ResNet-20 with batch norm over 8 images multiplies a difference by 2 a step at a learning rate of 0.001.
#[test]
fn twenty_steps_through_wgpu_have_the_losses_of_the_cpu() {
    let Some(wgpu) = wgpu_backends().first() else { return };
    has_the_losses_of_the_cpu(&wgpu.name, &wgpu.backend, 20, 1e-4);
}
