//! Checkpoints and PyTorch state dicts: what comes back is what went in, and what is wrong is
//! refused by name.

use std::fs;
use std::sync::Arc;

use tilegrad_engine::{Backend, Tensor, reference};
use tilegrad_nn::tensor_file::TensorFile;
use tilegrad_nn::{
    Checkpoint, Context, Error, Model, ModelConfig, ModelKind, Module, Optimizer, ParamGroup,
    Setting, Sgd, SgdConfig, loss, torch,
};

fn small(kind: ModelKind) -> ModelConfig {
    ModelConfig { image_size: 4, ..ModelConfig::new(kind, 3) }
}

fn train_step(be: &Arc<dyn Backend>, model: &Model, sgd: &mut Sgd, step: u32) {
    let shape = model.input_shape(2);
    let n: usize = shape.iter().product();
    let data: Vec<f32> =
        (0..n).map(|i| ((i * 31 + step as usize) % 17) as f32 / 8.0 - 1.0).collect();
    let x = Tensor::from_slice(be, &data, &shape).unwrap();
    let labels = Tensor::from_slice(be, &[2i32, 0], &[2]).unwrap();
    let logits = model.forward(&x, &mut Context::train(7, step)).unwrap();
    let gradients = loss::cross_entropy(&logits, &labels, 0.0).unwrap().backward().unwrap();
    sgd.step(model, &gradients, Setting::lr(0.05), None).unwrap();
}

fn values(model: &Model) -> Vec<(String, Vec<f32>)> {
    let parameters = model.parameters().into_iter();
    parameters.map(|(name, p)| (name, p.get().to_vec::<f32>().unwrap())).collect()
}

#[test]
fn a_run_continued_from_a_checkpoint_has_the_same_bits() {
    let (be, dir) = (reference(), tempfile::tempdir().unwrap());
    let path = dir.path().join("last.safetensors");
    let model = Model::new(&be, small(ModelKind::SimpleCnnBn), 1).unwrap();
    let sgd = || Sgd::new(SgdConfig::default(), ParamGroup::decay_weights_only(5e-4));
    let mut first = sgd();
    for step in 0..2 {
        train_step(&be, &model, &mut first, step);
    }
    let mut checkpoint = Checkpoint::of_model(&model).unwrap();
    checkpoint.set("mean", &[0.1f32, 0.2, 0.3]).unwrap();
    checkpoint.set("classes", &["cat", "\"dog\""]).unwrap();
    checkpoint.insert_optimizer(&first).unwrap();
    checkpoint.save(&path).unwrap();
    let bytes = fs::read(&path).unwrap();
    checkpoint.save(&path).unwrap();
    assert_eq!(fs::read(&path).unwrap(), bytes, "equal contents make equal files");

    let loaded = Checkpoint::load(&path).unwrap();
    assert_eq!(loaded.get::<Vec<f32>>("mean").unwrap(), [0.1, 0.2, 0.3]);
    assert_eq!(loaded.get::<Vec<String>>("classes").unwrap(), ["cat", "\"dog\""]);
    let other = loaded.build_model(&be).unwrap();
    assert_eq!(values(&other), values(&model));
    let mut second = sgd();
    loaded.load_optimizer(&other, &mut second).unwrap();
    for step in 2..4 {
        train_step(&be, &model, &mut first, step);
        train_step(&be, &other, &mut second, step);
    }
    assert_eq!(values(&other), values(&model));
}

#[test]
fn wrong_checkpoints_are_refused_and_change_nothing() {
    let (be, dir) = (reference(), tempfile::tempdir().unwrap());
    let path = dir.path().join("best.safetensors");
    let resnet = Model::new(&be, small(ModelKind::Resnet20), 1).unwrap();
    Checkpoint::of_model(&resnet).unwrap().save(&path).unwrap();
    let checkpoint = Checkpoint::load(&path).unwrap();

    let says = |error: Error, parts: &[&str]| {
        let text = error.to_string();
        assert!(parts.iter().all(|part| text.contains(part)), "{text}");
        assert!(!text.contains('\n'), "one line: {text}");
    };
    let cnn = Model::new(&be, small(ModelKind::SimpleCnn), 2).unwrap();
    says(checkpoint.load_model(&cnn).unwrap_err(), &["best.safetensors", "resnet20", "simple-cnn"]);
    let wider = ModelConfig { classes: 7, ..small(ModelKind::Resnet20) };
    let wider = Model::new(&be, wider, 2).unwrap();
    let before = values(&wider);
    let error = checkpoint.load_model(&wider).unwrap_err();
    says(error, &["best.safetensors", "head.weight", "[3, 64]", "[7, 64]"]);
    assert_eq!(values(&wider), before);
    says(checkpoint.get::<u32>("epoch").unwrap_err(), &["best.safetensors", "'epoch'", "missing"]);
    let mut sgd = Sgd::new(SgdConfig::default(), ParamGroup::decay_all(0.0));
    says(checkpoint.load_optimizer(&resnet, &mut sgd).unwrap_err(), &["'optimizer'", "missing"]);

    let missing = dir.path().join("none.safetensors");
    says(Checkpoint::load(&missing).err().unwrap(), &["none.safetensors", "No such file"]);
    let good = fs::read(&path).unwrap();
    fs::write(&path, &good[..good.len() / 2]).unwrap();
    says(
        Checkpoint::load(&path).err().unwrap(),
        &["best.safetensors", "not a whole safetensors file"],
    );
    let mut flipped = good.clone();
    *flipped.last_mut().unwrap() ^= 1;
    fs::write(&path, flipped).unwrap();
    says(Checkpoint::load(&path).err().unwrap(), &["best.safetensors", "damaged", "checksum"]);
    torch::save(&resnet, &path, Default::default()).unwrap();
    says(Checkpoint::load(&path).err().unwrap(), &["best.safetensors", "not a checkpoint"]);
}

#[test]
fn a_torch_state_dict_round_trips() {
    let (be, dir) = (reference(), tempfile::tempdir().unwrap());
    let path = dir.path().join("torch.safetensors");
    for kind in [ModelKind::SimpleCnn, ModelKind::Resnet20] {
        let config = ModelConfig { image_size: 8, ..ModelConfig::new(kind, 10) };
        let model = Model::new(&be, config, 1).unwrap();
        torch::save(&model, &path, Default::default()).unwrap();
        let other = Model::new(&be, config, 2).unwrap();
        torch::load(&other, &path).unwrap();
        assert_eq!(values(&other), values(&model));
    }
}

#[test]
fn a_foreign_state_dict_is_refused_with_torchs_shapes() {
    let be = reference();
    let model = Model::new(&be, small(ModelKind::SimpleCnn), 1).unwrap();
    let good = torch::state_dict(&model).unwrap();

    let mut dict = good.clone();
    dict.remove("features.3.bias");
    let error = torch::load_state_dict(&model, dict, "x.safetensors").unwrap_err().to_string();
    assert!(error.contains("x.safetensors: tensor 'features.3.bias'"), "{error}");

    let mut dict = good.clone();
    dict.insert("extra.weight".into(), good["features.0.bias"].clone());
    let error = torch::load_state_dict(&model, dict, "x").unwrap_err().to_string();
    assert!(error.contains("no tensor 'extra.weight'"), "{error}");

    let mut dict = good.clone();
    dict.get_mut("features.0.weight").unwrap().shape = vec![32, 3, 1, 9];
    let error = torch::load_state_dict(&model, dict, "x").unwrap_err().to_string();
    assert!(error.contains("[32, 3, 1, 9]") && error.contains("[32, 3, 3, 3]"), "{error}");
}

#[test]
fn a_plain_file_has_no_checksum_and_is_read() {
    // As other programs write it: no metadata at all.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("plain.safetensors");
    let header = br#"{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header);
    bytes.extend_from_slice(&1.5f32.to_le_bytes());
    fs::write(&path, bytes).unwrap();
    let file = TensorFile::load(&path).unwrap();
    assert_eq!(file.tensors["w"].bytes, 1.5f32.to_le_bytes());
}
