//! Of a trainer, from within.

use tilegrad_nn::{Module, Role};

use super::*;
use crate::config::Overrides;

#[test]
fn f16_gradients_that_overflow_skip_the_step() {
    let dir = tempfile::tempdir().unwrap();
    let compute = Compute::open("cpu", Some(1)).unwrap();
    let config = Overrides {
        model: Some("simple-cnn-gap".into()),
        synthetic_train: Some(30),
        synthetic_test: Some(10),
        batch: Some(10),
        epochs: Some(1),
        precision: Some("f16".into()),
        ..Default::default()
    };
    let start = Start::New(Some(dir.path().join("run")));
    let limits = Limits { max_steps: None, quiet: true };
    let (config, stop) = (config.resolve().unwrap(), Stop::default());
    let mut trainer = Trainer::new(&compute, config, start, limits, stop).unwrap();
    let weights = |trainer: &Trainer| -> Vec<f32> {
        let trained = |p: &tilegrad_nn::Parameter| p.role() != Role::State;
        let values = trainer.model.parameters().into_iter().filter(|(_, p)| trained(p));
        values.flat_map(|(_, p)| p.get().to_vec::<f32>().unwrap()).collect()
    };
    let before = weights(&trainer);
    // Far too large: every gradient of an activation becomes infinite.
    trainer.position.loss_scale =
        serde_json::from_str(r#"{"scale":1e30,"good":3,"skipped":0}"#).unwrap();
    let mut batches = trainer.train.epoch(0, 0);
    let stats = trainer.step(&mut batches).unwrap();
    assert!(stats.skipped && stats.loss.is_finite());
    trainer.position.add(&stats, 0.1);
    assert!(weights(&trainer) == before);
    let scale = trainer.position.loss_scale;
    assert_eq!((scale.scale(), scale.skipped()), (5e29, 1));
    // The next one is good, with the norm of a run in f32.
    trainer.position.loss_scale = Default::default();
    let stats = trainer.step(&mut batches).unwrap();
    assert!(!stats.skipped && (0.01..100.0).contains(&stats.grad_norm), "{stats:?}");
    assert!(weights(&trainer) != before);
    trainer.position.add(&stats, 0.1);
    drop(batches);
    assert_eq!(trainer.train().unwrap(), 0);
    let read = |name| std::fs::read_to_string(dir.path().join("run").join(name)).unwrap();
    assert!(read("metrics.jsonl").contains(r#""skipped":1"#));
    assert!(read("log.txt").contains("1 skipped (f16 overflow)"));
}

#[test]
fn a_signal_after_the_last_epoch_asks_for_no_resume() {
    let dir = tempfile::tempdir().unwrap();
    let compute = Compute::open("cpu", Some(1)).unwrap();
    let config = Overrides {
        model: Some("simple-cnn-gap".into()),
        synthetic_train: Some(20),
        synthetic_test: Some(10),
        batch: Some(10),
        epochs: Some(1),
        ..Default::default()
    };
    let start = Start::New(Some(dir.path().join("run")));
    let limits = Limits { max_steps: None, quiet: true };
    let (config, stop) = (config.resolve().unwrap(), Stop::default());
    let mut trainer = Trainer::new(&compute, config, start, limits, stop.clone()).unwrap();
    assert_eq!(trainer.train().unwrap(), 0);
    stop.raise(signal_hook::consts::SIGINT);
    assert_eq!(trainer.must_stop().unwrap(), None);
    assert_eq!(trainer.train().unwrap(), 130);
    let log = std::fs::read_to_string(dir.path().join("run/log.txt")).unwrap();
    assert!(!log.contains("--resume") && log.matches("best   epoch 1").count() == 2, "{log}");
}
