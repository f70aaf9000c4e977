//! SGD and AdamW against PyTorch's, with parameter groups; `scripts/golden_optimizers.py` makes the
//! file.

use std::sync::Arc;

use serde::Deserialize;
use tilegrad_engine::{Backend, Dtype, Gradients, Tensor, ops, reference};
use tilegrad_nn::init::Rng;
use tilegrad_nn::{
    AdamW, AdamWConfig, Linear, Module, Optimizer, ParamGroup, Role, Setting, Sgd, SgdConfig, clip,
};

#[derive(Deserialize)]
struct Values {
    weight: Vec<f64>,
    bias: Vec<f64>,
}

#[derive(Deserialize)]
struct Golden {
    lrs: Vec<f64>,
    weight: Vec<f64>,
    bias: Vec<f64>,
    gradients: Vec<Values>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    kind: String,
    weight_decay: f64,
    #[serde(default)]
    momentum: f64,
    #[serde(default)]
    dampening: f64,
    #[serde(default)]
    nesterov: bool,
    #[serde(default)]
    beta1: f64,
    #[serde(default)]
    beta2: f64,
    #[serde(default)]
    epsilon: f64,
    trace: Vec<Values>,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("golden/optimizers.json")).unwrap()
}

/// A linear layer with the golden file's first values, in f64.
fn layer(be: &Arc<dyn Backend>, golden: &Golden) -> Linear {
    let layer = Linear::new(be, 3, 2, true, &mut Rng::with_dtype(0, Dtype::F64)).unwrap();
    for (name, parameter) in layer.parameters() {
        let values = if name == "weight" { &golden.weight } else { &golden.bias };
        parameter.set(Tensor::from_slice(be, values, &parameter.shape()).unwrap());
    }
    layer
}

/// Gradients with the given values: those of Σ_p Σ_i g_i p_i.
fn gradients(be: &Arc<dyn Backend>, layer: &Linear, values: &Values) -> Gradients {
    let mut all = Gradients::default();
    for (name, parameter) in layer.parameters() {
        let g = if name == "weight" { &values.weight } else { &values.bias };
        let g = Tensor::from_slice(be, g, &parameter.shape()).unwrap();
        let inner = ops::sum(&ops::mul(&parameter.get(), &g).unwrap(), &[]).unwrap();
        all.accumulate(inner.backward().unwrap()).unwrap();
    }
    all
}

/// The golden file's groups: the bias is not decayed and has half of the learning rate.
fn groups(weight_decay: f64) -> Vec<ParamGroup> {
    vec![
        ParamGroup::of_roles(&[Role::Weight], weight_decay),
        ParamGroup::new(|name, _| name == "bias", 0.0).with_lr_scale(0.5),
    ]
}

fn optimizer(case: &Case) -> Box<dyn Optimizer> {
    let groups = groups(case.weight_decay);
    let Case { momentum, dampening, nesterov, beta1, beta2, epsilon, .. } = *case;
    match case.kind.as_str() {
        "sgd" => Box::new(Sgd::new(SgdConfig { momentum, dampening, nesterov }, groups)),
        _ => Box::new(AdamW::new(AdamWConfig { beta1, beta2, epsilon }, groups)),
    }
}

fn check(layer: &Linear, right: &Values, at: &str) {
    for (name, parameter) in layer.parameters() {
        let right = if name == "weight" { &right.weight } else { &right.bias };
        for (got, right) in parameter.get().to_vec::<f64>().unwrap().iter().zip(right) {
            let close = (got - right).abs() <= 1e-12 * right.abs().max(1.0);
            assert!(close, "{at}, {name}: {got}, torch {right}");
        }
    }
}

#[test]
fn steps_equal_torch_and_a_restored_optimizer_goes_on_alike() {
    let (be, golden) = (reference(), golden());
    for (number, case) in golden.cases.iter().enumerate() {
        let layer = layer(&be, &golden);
        let mut current = optimizer(case);
        for (step, right) in case.trace.iter().enumerate() {
            if step == 3 {
                let state = current.state();
                current = optimizer(case);
                current.load_state(&layer, state, "test").unwrap();
            }
            let gradients = gradients(&be, &layer, &golden.gradients[step]);
            current.step(&layer, &gradients, Setting::lr(golden.lrs[step]), None).unwrap();
            check(&layer, right, &format!("case {number} ({}), step {step}", case.kind));
        }
    }
}

#[test]
fn the_momentum_of_the_schedule_wins() {
    let (be, golden) = (reference(), golden());
    let case = &golden.cases[1]; // momentum 0.9
    let layer = layer(&be, &golden);
    let config = SgdConfig { momentum: 0.1, ..SgdConfig::default() };
    let mut sgd = Sgd::new(config, groups(case.weight_decay));
    for step in 0..3 {
        let setting = Setting { lr: golden.lrs[step], momentum: Some(case.momentum) };
        let gradients = gradients(&be, &layer, &golden.gradients[step]);
        sgd.step(&layer, &gradients, setting, None).unwrap();
        check(&layer, &case.trace[step], "scheduled momentum");
    }
}

#[test]
fn unselected_parameters_stay_and_values_change_in_place() {
    let (be, golden) = (reference(), golden());
    let layer = layer(&be, &golden);
    let mut sgd = Sgd::new(SgdConfig::default(), vec![ParamGroup::of_roles(&[Role::Weight], 0.0)]);
    let before = be.memory().in_use;
    let gradients = gradients(&be, &layer, &golden.gradients[0]);
    sgd.step(&layer, &gradients, Setting::lr(0.1), None).unwrap();
    drop(gradients);
    let values = layer.parameters();
    assert_eq!(values[1].1.get().to_vec::<f64>().unwrap(), golden.bias);
    assert_ne!(values[0].1.get().to_vec::<f64>().unwrap(), golden.weight);
    // One velocity, of the weight, is all that is new.
    let velocity = &sgd.state().tensors["velocity.weight"];
    assert_eq!(velocity.shape(), [2, 3]);
    assert_eq!(be.memory().in_use - before, 64);
    assert_eq!(sgd.state().tensors.len(), 1);
}

#[test]
fn state_of_another_optimizer_or_model_is_refused() {
    let (be, golden) = (reference(), golden());
    let layer = layer(&be, &golden);
    let gradients = gradients(&be, &layer, &golden.gradients[0]);
    let mut sgd = Sgd::new(SgdConfig::default(), ParamGroup::decay_all(0.0));
    sgd.step(&layer, &gradients, Setting::lr(0.1), None).unwrap();
    let mut adamw = AdamW::new(AdamWConfig::default(), ParamGroup::decay_all(0.0));
    let error = adamw.load_state(&layer, sgd.state(), "last.safetensors").unwrap_err();
    assert!(error.to_string().contains("'sgd', but this run uses 'adamw'"), "{error}");

    let mut wide = sgd.state();
    let wrong = Tensor::zeros(&be, Dtype::F64, &[2, 4]).unwrap();
    wide.tensors.insert("velocity.weight".into(), wrong);
    let error = sgd.load_state(&layer, wide, "last.safetensors").unwrap_err().to_string();
    assert!(
        error.contains("'velocity.weight' has shape [2, 4]") && error.contains("[2, 3]"),
        "{error}"
    );

    let mut unknown = sgd.state();
    unknown.tensors.insert("velocity.head".into(), Tensor::zeros(&be, Dtype::F64, &[1]).unwrap());
    let error = sgd.load_state(&layer, unknown, "last.safetensors").unwrap_err().to_string();
    assert!(error.contains("velocity.head"), "{error}");
}

#[test]
fn norms_and_clipping_are_those_of_all_gradients_together() {
    let (be, golden) = (reference(), golden());
    let layer = layer(&be, &golden);
    let values = &golden.gradients[0];
    let gradients = gradients(&be, &layer, values);
    let norm_of = |v: &[f64]| v.iter().map(|g| g * g).sum::<f64>().sqrt();
    let (w, b) = (norm_of(&values.weight), norm_of(&values.bias));
    let norm = clip::gradient_norm(&layer, &gradients).unwrap();
    assert_eq!(norm.shape(), [0usize; 0]);
    let total = norm.item().unwrap();
    assert!((total - w.hypot(b)).abs() < 1e-12);
    let each = clip::gradient_norms(&layer, &gradients).unwrap();
    assert_eq!((each[0].0.as_str(), each[1].0.as_str()), ("weight", "bias"));
    assert!((each[0].1 - w).abs() < 1e-12 && (each[1].1 - b).abs() < 1e-12);

    let scale = |max| clip::clip_scale(&norm, max).unwrap().item().unwrap();
    assert_eq!(scale(2.0 * total), 1.0);
    assert!((scale(0.5 * total) - 0.5 * total / (total + 1e-6)).abs() < 1e-12);

    // A clipped step is one with smaller gradients.
    let half = clip::clip_scale(&norm, 0.5 * total).unwrap();
    let mut sgd = Sgd::new(SgdConfig::default(), ParamGroup::decay_all(0.0));
    sgd.step(&layer, &gradients, Setting::lr(1.0), Some(&half)).unwrap();
    let bias = layer.parameters()[1].1.get().to_vec::<f64>().unwrap();
    for (got, (before, g)) in bias.iter().zip(golden.bias.iter().zip(&values.bias)) {
        assert!((got - (before - scale(0.5 * total) * g)).abs() < 1e-12);
    }
}
