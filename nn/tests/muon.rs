//! Muon against a singular value decomposition by PyTorch (`scripts/golden_muon.py` makes the
//! file), what its iterations do to singular values, and optimizers side by side.

use std::sync::Arc;

use serde::Deserialize;
use tilegrad_engine::{Backend, Dtype, Gradients, Tensor, cpu, ops, reference};
use tilegrad_kernels::philox::{Purpose, Stream};
use tilegrad_nn::optim::{freeze_ended, orthogonalise};
use tilegrad_nn::schedule::LinearDecay;
use tilegrad_nn::{
    Combined, Context, Conv2d, Conv2dConfig, Flatten, Linear, Module, Muon, MuonConfig, Optimizer,
    ParamGroup, Rng, Role, Sequential, Setting, Sgd, SgdConfig,
};

#[derive(Deserialize)]
struct Golden {
    iterations: Vec<Iterations>,
    steps: Vec<Steps>,
}

#[derive(Deserialize)]
struct Iterations {
    rows: usize,
    columns: usize,
    iterations: usize,
    g: Vec<f64>,
    y: Vec<f64>,
}

#[derive(Deserialize)]
struct Steps {
    momentum: f64,
    nesterov: bool,
    iterations: usize,
    scale: f64,
    lrs: Vec<f64>,
    start: Vec<f64>,
    gradients: Vec<Vec<f64>>,
    trace: Vec<Vec<f64>>,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("golden/muon.json")).unwrap()
}

fn tensor(be: &Arc<dyn Backend>, dtype: Dtype, values: &[f64], shape: &[usize]) -> Tensor {
    match dtype {
        Dtype::F64 => Tensor::from_slice(be, values, shape).unwrap(),
        _ => {
            let values: Vec<f32> = values.iter().map(|&v| v as f32).collect();
            Tensor::from_slice(be, &values, shape).unwrap()
        }
    }
}

/// Devices with their format and the error that it allows, relative to values near 1.
fn devices() -> [(Arc<dyn Backend>, Dtype, f64); 2] {
    [(reference(), Dtype::F64, 1e-8), (cpu().unwrap(), Dtype::F32, 2e-5)]
}

fn check(got: &Tensor, right: &[f64], tolerance: f64, at: &str) {
    let got = got.to_f64_vec().unwrap();
    assert_eq!(got.len(), right.len(), "{at}");
    for (i, (got, right)) in got.iter().zip(right).enumerate() {
        let fine = (got - right).abs() <= tolerance;
        assert!(fine, "{at}, element {i}: {got}, torch {right}");
    }
}

#[test]
fn iterations_map_singular_values_as_torch_finds_them() {
    for (be, dtype, tolerance) in devices() {
        for case in golden().iterations {
            let Iterations { rows, columns, iterations, .. } = case;
            let g = tensor(&be, dtype, &case.g, &[rows, columns]);
            let y = orthogonalise(&g, iterations, dtype).unwrap();
            assert_eq!((y.dtype(), y.shape()), (dtype, [rows, columns].as_slice()));
            let at = format!("{dtype} {rows}x{columns}, {iterations} iterations");
            check(&y, &case.y, tolerance, &at);
        }
    }
}

fn singular_values(y: &Tensor) -> Vec<f64> {
    let (rows, columns) = (y.shape()[0], y.shape()[1]);
    let y = nalgebra::DMatrix::from_row_slice(rows, columns, &y.to_f64_vec().unwrap());
    y.singular_values().iter().copied().collect()
}

#[test]
fn after_five_iterations_singular_values_are_near_1() {
    for (be, dtype, _) in devices() {
        for (seed, [rows, columns]) in [[24, 64], [64, 24], [33, 33], [7, 200]].iter().enumerate() {
            let stream = Stream::new(seed as u64, Purpose::Test, 0, 0);
            let values: Vec<f64> = (0..(rows * columns) as u64)
                .map(|i| 1e-3 * stream.normal(i) * (1.0 + i as f64 % *columns as f64))
                .collect();
            let g = tensor(&be, dtype, &values, &[*rows, *columns]);
            let before = singular_values(&g);
            let after = singular_values(&orthogonalise(&g, 5, dtype).unwrap());
            let norm = before.iter().map(|s| s * s).sum::<f64>().sqrt();
            let above = before.iter().filter(|&&s| s / norm > 2e-3).count();
            // Square random matrices have one or two tiny singular values.
            assert!(above + 2 >= *rows.min(columns), "{before:?}");
            let near = after.iter().filter(|s| (0.68..1.21).contains(*s)).count();
            assert!(near >= above, "{rows}x{columns}: {after:?} from {before:?}");
            assert!(after.iter().all(|s| *s < 1.21), "{rows}x{columns}: {after:?}");
        }
    }
}

/// bf16 has 8 bits: singular values come out near 1 as well, a little less near.
#[test]
fn iterations_in_bf16_do_nearly_as_well() {
    let be = cpu().unwrap();
    for [rows, columns] in [[24, 64], [64, 24], [64, 576]] {
        let stream = Stream::new(9, Purpose::Test, 0, 0);
        let values: Vec<f64> = (0..(rows * columns) as u64).map(|i| stream.normal(i)).collect();
        let g = tensor(&be, Dtype::F32, &values, &[rows, columns]);
        let y = orthogonalise(&g, 5, Dtype::BF16).unwrap();
        assert_eq!((y.dtype(), y.shape()), (Dtype::F32, [rows, columns].as_slice()));
        let values = singular_values(&y);
        assert!(values.iter().all(|s| (0.65..1.25).contains(s)), "{rows}x{columns}: {values:?}");
        let exact = orthogonalise(&g, 5, Dtype::F32).unwrap().to_vec::<f32>().unwrap();
        let got = y.to_vec::<f32>().unwrap();
        let error = exact.iter().zip(&got).map(|(a, b)| (a - b) * (a - b)).sum::<f32>().sqrt();
        let norm = exact.iter().map(|a| a * a).sum::<f32>().sqrt();
        assert!(error > 0.0 && error < 0.05 * norm, "{rows}x{columns}: {error} of {norm}");
    }
}

#[test]
fn a_gradient_of_zeros_gives_no_update() {
    let be = cpu().unwrap();
    let zeros = Tensor::zeros(&be, Dtype::F32, &[4, 6]).unwrap();
    let y = orthogonalise(&zeros, 5, Dtype::F32).unwrap();
    assert_eq!(y.to_vec::<f32>().unwrap(), [0.0; 24]);
}

fn conv(be: &Arc<dyn Backend>, dtype: Dtype) -> Conv2d {
    let config = Conv2dConfig::new(3, 5, 2).bias(false);
    Conv2d::new(be, config, &mut Rng::with_dtype(1, dtype)).unwrap()
}

/// Gradients with the given values: those of Σ_p Σ_i g_i p_i.
fn gradients(model: &dyn Module, values: &dyn Fn(&str, usize) -> Vec<f64>) -> Gradients {
    let mut all = Gradients::default();
    for (name, parameter) in model.parameters() {
        let p = parameter.get();
        if p.is_tracked() {
            let g = tensor(p.backend(), p.dtype(), &values(&name, p.elements()), p.shape());
            let inner = ops::sum(&ops::mul(&p, &g).unwrap(), &[]).unwrap();
            all.accumulate(inner.backward().unwrap()).unwrap();
        }
    }
    all
}

#[test]
fn steps_equal_torch_and_a_restored_optimizer_goes_on_alike() {
    for (be, dtype, tolerance) in devices() {
        for (number, case) in golden().steps.iter().enumerate() {
            let layer = conv(&be, dtype);
            let filter = layer.parameters()[0].1;
            filter.set(tensor(&be, dtype, &case.start, &filter.shape()));
            let optimizer = || {
                let Steps { momentum, nesterov, iterations, .. } = *case;
                let config = MuonConfig { momentum, nesterov, iterations, dtype };
                Muon::new(config, ParamGroup::decay_all(0.0))
            };
            let scale = tensor(&be, dtype, &[case.scale], &[1]);
            let scale = (case.scale != 1.0).then_some(&scale);
            let mut current = optimizer();
            for (step, (&lr, right)) in case.lrs.iter().zip(&case.trace).enumerate() {
                if step == 2 {
                    let state = current.state();
                    current = optimizer();
                    current.load_state(&layer, state, "test").unwrap();
                }
                let gradients = gradients(&layer, &|_, _| case.gradients[step].clone());
                current.step(&layer, &gradients, Setting::lr(lr), scale).unwrap();
                let at = format!("{dtype}, case {number}, step {step}");
                check(&filter.get(), right, 2.0 * tolerance, &at);
            }
        }
    }
}

#[test]
fn what_muon_cannot_update_is_an_error() {
    let be = cpu().unwrap();
    let layer = Linear::new(&be, 3, 2, true, &mut Rng::new(0)).unwrap();
    let gradients = gradients(&layer, &|_, n| vec![1.0; n]);
    let step = |groups| {
        let mut muon = Muon::new(MuonConfig::default(), groups);
        muon.step(&layer, &gradients, Setting::lr(0.1), None)
    };
    let error = step(ParamGroup::decay_all(0.0)).unwrap_err().to_string();
    assert!(error.contains("muon: takes matrices and filters, bias has shape [2]"), "{error}");
    let error = step(ParamGroup::decay_all(0.1)).unwrap_err().to_string();
    assert!(error.contains("must be 0, got 0.1"), "{error}");
    step(vec![ParamGroup::of_roles(&[Role::Weight], 0.0)]).unwrap();
}

fn network(be: &Arc<dyn Backend>) -> Sequential {
    let mut rng = Rng::new(4);
    Sequential::new()
        .with("conv", Conv2d::new(be, Conv2dConfig::new(2, 4, 3), &mut rng).unwrap())
        .with("flatten", Flatten)
        .with("head", Linear::new(be, 4, 3, true, &mut rng).unwrap())
}

/// Muon on the filter; SGD on the head at twice the learning rate; the convolution's bias has a
/// schedule of its own that ends after 2 steps.
fn combined(model: &Sequential) -> Combined {
    let filters = ParamGroup::matching(|_, p| p.shape().len() == 4, 0.0);
    let fading = LinearDecay { lr: 0.5, end: 0.0, steps: 2 };
    let rest = vec![
        ParamGroup::new(|name, _| name == "conv.bias", 0.0).with_schedule(fading),
        ParamGroup::new(|name, _| name.starts_with("head."), 0.01).with_lr_scale(2.0),
    ];
    let muon = Muon::new(MuonConfig::default(), vec![filters]);
    let sgd = Sgd::new(SgdConfig { momentum: 0.0, ..SgdConfig::default() }, rest);
    Combined::new("muon+sgd", model, vec![Box::new(muon), Box::new(sgd)]).unwrap()
}

fn values(model: &Sequential) -> Vec<Vec<f32>> {
    model.parameters().iter().map(|(_, p)| p.get().to_vec::<f32>().unwrap()).collect()
}

#[test]
fn combined_optimizers_update_each_its_part() {
    let be = cpu().unwrap();
    let model = network(&be);
    let mut optimizer = combined(&model);
    let mut before = values(&model);
    for step in 0..4 {
        freeze_ended(&optimizer, &model, step);
        let gradients = gradients(&model, &|_, n| (0..n).map(|i| i as f64 - 1.0).collect());
        // The bias of the convolution is off the tape once its schedule has ended.
        assert_eq!(gradients.len(), if step < 2 { 4 } else { 3 });
        optimizer.step(&model, &gradients, Setting::lr(0.1), None).unwrap();
        let after = values(&model);
        let moved: Vec<f32> = (0..4).map(|i| after[1][i] - before[1][i]).collect();
        for (i, moved) in moved.into_iter().enumerate() {
            let lr = [0.5, 0.25, 0.0, 0.0][step as usize];
            assert!((moved + lr * (i as f32 - 1.0)).abs() < 1e-6, "step {step}: {moved}");
        }
        for (i, (after, before)) in after[3].iter().zip(&before[3]).enumerate() {
            let right = before - 0.2 * (i as f32 - 1.0 + 0.01 * before);
            assert!((after - right).abs() < 1e-6, "step {step}: {after}, expected {right}");
        }
        assert_ne!(after[0], before[0]);
        before = after;
    }
}

#[test]
fn a_restored_combination_goes_on_alike() {
    let be = cpu().unwrap();
    let run = |stop: Option<u64>| {
        let model = network(&be);
        let mut optimizer = combined(&model);
        for step in 0..4u64 {
            if stop == Some(step) {
                let state = optimizer.state();
                assert_eq!((state.name.as_str(), state.step), ("muon+sgd", step));
                optimizer = combined(&model);
                optimizer.load_state(&model, state, "test").unwrap();
                // As a checkpoint does: tracked again.
                for (_, parameter) in model.parameters() {
                    parameter.set(parameter.get());
                }
            }
            freeze_ended(&optimizer, &model, step);
            let value = |name: &str, i: usize| ((i * 7 + name.len()) % 5) as f64 - step as f64;
            let gradients = gradients(&model, &|name, n| (0..n).map(|i| value(name, i)).collect());
            optimizer.step(&model, &gradients, Setting::lr(0.1), None).unwrap();
        }
        values(&model)
    };
    let whole = run(None);
    for stop in 1..4 {
        assert_eq!(run(Some(stop)), whole, "after {stop} steps");
    }
}

#[test]
fn state_that_does_not_fit_leaves_a_combination_as_it_was() {
    let be = cpu().unwrap();
    let model = network(&be);
    let mut optimizer = combined(&model);
    let gradients = gradients(&model, &|_, n| vec![1.0; n]);
    optimizer.step(&model, &gradients, Setting::lr(0.1), None).unwrap();
    let good = optimizer.state();
    let names: Vec<&String> = good.tensors.keys().collect();
    assert_eq!(
        names,
        [
            "0.momentum.conv.weight",
            "1.velocity.conv.bias",
            "1.velocity.head.bias",
            "1.velocity.head.weight"
        ]
    );
    for (name, shape) in
        [("1.velocity.head.bias", [9]), ("2.velocity.head.bias", [3]), ("0.velocity.x", [1])]
    {
        let mut bad = good.clone();
        bad.step = 7;
        bad.tensors.insert(name.to_string(), Tensor::zeros(&be, Dtype::F32, &shape).unwrap());
        let error = optimizer.load_state(&model, bad, "last.safetensors").unwrap_err().to_string();
        assert!(error.contains("last.safetensors") && error.contains("velocity"), "{error}");
        assert_eq!(optimizer.state().step, 1, "{name}");
    }
}

#[test]
fn every_parameter_needs_exactly_one_optimizer() {
    let be = cpu().unwrap();
    let model = network(&be);
    let sgd = |groups| Box::new(Sgd::new(SgdConfig::default(), groups)) as Box<dyn Optimizer>;
    let weights = || vec![ParamGroup::of_roles(&[Role::Weight], 0.0)];
    let error = |parts| Combined::new("x", &model, parts).err().unwrap().to_string();
    let none = error(vec![sgd(weights())]);
    assert!(none.contains("conv.bias must belong to one") && none.ends_with("none"), "{none}");
    let two = error(vec![sgd(weights()), sgd(ParamGroup::decay_all(0.0))]);
    assert!(two.contains("conv.weight") && two.ends_with("belongs to sgd, sgd"), "{two}");
}

/// Without a trained input, a frozen bias ends the backward pass in front of its layer.
#[test]
fn a_frozen_parameter_has_no_gradient_until_it_is_set() {
    let be = cpu().unwrap();
    let layer = Linear::new(&be, 3, 2, true, &mut Rng::new(0)).unwrap();
    let bias = layer.parameters()[1].1;
    let x = Tensor::from_slice(&be, &[1.0f32, 2.0, 3.0], &[1, 3]).unwrap();
    let has_gradient = || {
        let y = layer.forward(&x, &mut Context::train(0, 0)).unwrap();
        ops::sum(&y, &[]).unwrap().backward().unwrap().get(&bias.get()).is_some()
    };
    assert!(has_gradient());
    bias.freeze();
    assert!(!has_gradient());
    bias.set(bias.get());
    assert!(has_gradient());
}
