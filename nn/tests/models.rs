//! The models have PyTorch's parameters, under PyTorch's names, and do PyTorch's number of
//! multiply-adds;
//! `scripts/golden_names.py` makes the golden file.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use tilegrad_engine::{Backend, Dtype, Tensor, no_grad, reference};
use tilegrad_nn::{Context, Model, ModelConfig, ModelKind, Module, Summary, loss, torch};

#[derive(Deserialize)]
struct Golden {
    model: String,
    parameters: usize,
    multiply_adds: u64,
    state_dict: BTreeMap<String, Vec<usize>>,
}

fn golden() -> Vec<Golden> {
    let golden: Vec<Golden> = serde_json::from_str(include_str!("golden/names.json")).unwrap();
    let names: Vec<&str> = golden.iter().map(|g| g.model.as_str()).collect();
    assert_eq!(names, ModelKind::ALL.map(ModelKind::name));
    golden
}

#[test]
fn state_dicts_have_the_names_and_shapes_of_torch() {
    for golden in golden() {
        let config = ModelConfig::new(golden.model.parse().unwrap(), 10);
        let model = Model::new(&reference(), config, 1).unwrap();
        let dict = torch::state_dict(&model).unwrap();
        let shapes: BTreeMap<String, Vec<usize>> =
            dict.into_iter().map(|(name, data)| (name, data.shape)).collect();
        assert_eq!(shapes, golden.state_dict, "{}", golden.model);
    }
}

#[test]
fn summaries_count_what_torch_counts() {
    for golden in golden() {
        let config = ModelConfig::new(golden.model.parse().unwrap(), 10);
        let model = Model::new(&reference(), config, 1).unwrap();
        let summary = Summary::new(&model, &model.input_shape(1), Dtype::F32).unwrap();
        assert_eq!(summary.parameters, golden.parameters, "{}", golden.model);
        assert_eq!(summary.parameters, model.trained_elements(), "{}", golden.model);
        assert_eq!(summary.multiply_adds, golden.multiply_adds, "{}", golden.model);
        assert_eq!(summary.output_shape, [1, 10], "{}", golden.model);
        let batch = Summary::new(&model, &model.input_shape(4), Dtype::F32).unwrap();
        assert_eq!(batch.multiply_adds, 4 * golden.multiply_adds, "{}", golden.model);
        assert_eq!(batch.activation_bytes(), 4 * summary.activation_bytes(), "{}", golden.model);
        let text = summary.to_string();
        assert!(text.contains("Multiply-adds") && text.lines().count() > 10, "{text}");
    }
}

fn image(be: &Arc<dyn Backend>, shape: &[usize]) -> Tensor {
    let n: usize = shape.iter().product();
    let data: Vec<f32> = (0..n).map(|i| ((i * 7919) % 1000) as f32 / 500.0 - 1.0).collect();
    Tensor::from_slice(be, &data, shape).unwrap()
}

/// A small configuration, so that plain loops are fast enough.
fn small(kind: ModelKind) -> ModelConfig {
    ModelConfig { image_size: 8, ..ModelConfig::new(kind, 5) }
}

#[test]
fn every_trained_parameter_gets_a_gradient_of_its_shape() {
    let be = reference();
    for kind in
        [ModelKind::SimpleCnn, ModelKind::SimpleCnnBn, ModelKind::SimpleCnnGap, ModelKind::Resnet20]
    {
        let model = Model::new(&be, small(kind), 3).unwrap();
        let x = image(&be, &model.input_shape(2));
        let labels = Tensor::from_slice(&be, &[4i32, 0], &[2]).unwrap();
        let logits = model.forward(&x, &mut Context::train(1, 0)).unwrap();
        assert_eq!(logits.shape(), [2, 5]);
        let gradients = loss::cross_entropy(&logits, &labels, 0.1).unwrap().backward().unwrap();
        for (name, parameter) in model.parameters() {
            let gradient = gradients.get(&parameter.get()).map(|g| g.shape().to_vec());
            let trained = parameter.role() != tilegrad_nn::Role::State;
            assert_eq!(gradient, trained.then(|| parameter.shape()), "{kind} {name}");
        }
    }
}

#[test]
fn evaluation_is_the_same_twice_and_dropout_depends_on_the_step() {
    let be = reference();
    let model = Model::new(&be, small(ModelKind::SimpleCnn), 3).unwrap();
    let x = image(&be, &model.input_shape(1));
    let run = |mut ctx: Context| {
        no_grad(|| model.forward(&x, &mut ctx)).unwrap().to_vec::<f32>().unwrap()
    };
    assert_eq!(run(Context::eval()), run(Context::eval()));
    assert_eq!(run(Context::train(1, 5)), run(Context::train(1, 5)));
    assert_ne!(run(Context::train(1, 5)), run(Context::train(1, 6)));
}

#[test]
fn images_of_the_wrong_shape_are_refused_by_name() {
    let be = reference();
    let model = Model::new(&be, small(ModelKind::Resnet20), 3).unwrap();
    let error = model.forward(&image(&be, &[1, 3, 8, 8]), &mut Context::eval()).unwrap_err();
    let says = "model: resnet20 takes images [N, 8, 8, 3] (channels last), got [1, 3, 8, 8]";
    assert_eq!(error.to_string(), says);
}

#[test]
fn a_watched_pass_names_the_layer_whose_result_went_bad() {
    let be = reference();
    let config = small(ModelKind::Resnet20);
    for (weight, layer) in [
        ("body.7.conv1.weight", "body.7.conv1"),
        ("body.7.bn1.weight", "body.7.bn1"),
        ("body.7.conv2.weight", "body.7.conv2"),
        ("body.6.shortcut.0.weight", "body.6.shortcut.0"),
        ("body.6.shortcut.1.weight", "body.6.shortcut.1"),
        ("body.7.bn2.weight", "body.7.bn2"),
        ("head.weight", "head"),
    ] {
        let model = Model::new(&be, config, 1).unwrap();
        let parameters = model.parameters();
        let (_, parameter) = parameters.iter().find(|(name, _)| name == weight).unwrap();
        // Finite itself, but too large for anything that it is multiplied with.
        let shape = parameter.shape();
        let huge = vec![3e38f32; shape.iter().product()];
        parameter.set(Tensor::from_slice(&be, &huge, &shape).unwrap());
        let x = image(&be, &model.input_shape(2));
        let mut context = Context::train(0, 0).watching();
        no_grad(|| model.forward(&x, &mut context)).unwrap();
        assert_eq!(context.culprit(), Some(layer));
    }
}
