//! `eval`, `predict`, `summary`, `bench`, `devices`.

mod common;

use std::fs;
use std::process::Stdio;

use common::*;
use serde_json::Value;
use tempfile::tempdir;

fn json(text: &str) -> Value {
    assert_eq!(text.trim_end().lines().count(), 1, "{text}");
    serde_json::from_str(text).unwrap()
}

#[test]
fn eval_prints_what_training_measured() {
    let dir = tempdir().unwrap();
    let run = trained(dir.path());
    let csv = fs::read_to_string(run.join("metrics.csv")).unwrap();
    let best = csv
        .lines()
        .skip(1)
        .map(|line| line.split(',').nth(5).unwrap().parse::<f64>().unwrap())
        .fold(0.0, f64::max);
    let args = ["eval", "run", "--synthetic-test", "40", "--threads", "1"];
    let value = json(&ok(cifar(dir.path(), &[&args[..], &["--json"]].concat())));
    assert!((value["accuracy"].as_f64().unwrap() - best).abs() < 1e-6, "{value} {best}");
    assert!(value["loss"].as_f64().unwrap() > 0.0);
    assert_eq!(value["images"], 40);
    let file = ["eval", "run/weights/best.safetensors", "--synthetic-test", "40", "--batch", "7"];
    let table = ok(cifar(dir.path(), &[&file[..], &["--confusion", "c.png"]].concat()));
    assert!(table.contains("triangle") && table.contains("all"), "{table}");
    assert!(dir.path().join("c.png").is_file());
}

#[test]
fn an_exported_state_dict_is_read_back_with_the_same_result() {
    let dir = tempdir().unwrap();
    // Not the data's own mean and deviation: the export must bring them along.
    ok(tiny(dir.path(), &["--normalise", "half", "--out", "run"]));
    let data = ["--synthetic-test", "40", "--threads", "1", "--json"];
    let own = json(&ok(cifar(dir.path(), &[&["eval", "run"], &data[..]].concat())));
    ok(cifar(dir.path(), &["export", "run", "--format", "torch", "--out", "t.safetensors"]));
    let torch = ["eval", "t.safetensors", "--torch", "simple-cnn-gap"];
    let read = json(&ok(cifar(dir.path(), &[&torch[..], &data[..]].concat())));
    assert_eq!(own, read);
    let missing = ["export", "missing", "--format", "torch", "--out", "x"];
    assert!(refused(cifar(dir.path(), &missing)).contains("missing"));
}

#[test]
fn a_checkpoint_that_is_not_whole_is_refused() {
    let dir = tempdir().unwrap();
    let run = trained(dir.path());
    let good = fs::read(run.join("weights/best.safetensors")).unwrap();
    let mut flipped = good.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let files: [(&str, &[u8]); 4] =
        [("cut", &good[..good.len() / 2]), ("flipped", &flipped), ("empty", b""), ("text", b"hi")];
    for (name, bytes) in files {
        fs::write(dir.path().join(name), bytes).unwrap();
        for args in [["eval", name], ["predict", "--model-file"]] {
            let mut command = cifar(dir.path(), &args);
            if args[0] == "predict" {
                command.args([name, "image.png"]);
            }
            assert!(refused(command).contains(name));
        }
    }
    assert!(refused(cifar(dir.path(), &["eval", "missing"])).contains("missing"));
    // The state of a run too; what was saved stays.
    fs::write(run.join("state.safetensors"), &good[..100]).unwrap();
    assert!(
        refused(cifar(dir.path(), &["train", "--resume", "run"])).contains("state.safetensors")
    );
    // Weights of another model.
    let args = ["train", "--model", "resnet20", "--weights", "run/weights/best.safetensors"];
    let error = refused(cifar(dir.path(), &args));
    assert!(error.contains("simple-cnn-gap") && error.contains("resnet20"), "{error}");
}

#[test]
fn predict_shows_the_likeliest_classes() {
    let dir = tempdir().unwrap();
    trained(dir.path());
    let picture = image::RgbImage::from_fn(50, 40, |x, y| image::Rgb([x as u8, y as u8, 99]));
    picture.save(dir.path().join("a.png")).unwrap();
    let args = ["predict", "a.png", "--model-file", "run"];
    let text = ok(cifar(dir.path(), &args));
    assert_eq!(text.lines().count(), 5, "{text}");
    let value = json(&ok(cifar(dir.path(), &[&args[..], &["--json", "--top", "10"]].concat())));
    let top = value["top"].as_array().unwrap();
    let sum: f64 = top.iter().map(|t| t["probability"].as_f64().unwrap()).sum();
    assert!(top.len() == 10 && (sum - 1.0).abs() < 1e-5, "{value}");
    assert!(top[0]["probability"].as_f64() >= top[1]["probability"].as_f64());
    // No image, no model.
    fs::write(dir.path().join("b.png"), b"no picture").unwrap();
    let bad = ["predict", "b.png", "--model-file", "run"];
    assert!(refused(cifar(dir.path(), &bad)).contains("b.png"));
    assert!(refused(cifar(dir.path(), &["predict", "a.png"])).contains("--model-file"));
}

#[test]
fn bench_prints_one_line_with_the_keys_of_the_peer_script() {
    let dir = tempdir().unwrap();
    for mode in ["train", "infer"] {
        let args = ["bench", "--model", "simple-cnn", "--batch", "4", "--dtype", "f32", "--steps"];
        let mut command = cifar(dir.path(), &args);
        command.args(["2", "--mode", mode, "--threads", "1", "--json", "--profile"]);
        let value = json(&ok(command));
        for key in ["peer", "model", "batch", "dtype", "layout", "mode", "threads"] {
            assert!(!value[key].is_null(), "{key}: {value}");
        }
        for key in ["images_per_second", "median_ms", "min_ms", "peak_bytes"] {
            assert!(value[key].as_f64().unwrap() > 0.0, "{key}: {value}");
        }
        assert!(value["peer"].as_str().unwrap().starts_with("tilegrad "));
        assert_eq!((&value["mode"], &value["batch"]), (&Value::from(mode), &Value::from(4)));
    }
    for flags in [["--batch", "0"], ["--steps", "0"], ["--dtype", "f64"], ["--model", "vgg"]] {
        let mut command = cifar(dir.path(), &["bench"]);
        if flags[0] != "--model" {
            command.args(["--model", "resnet20"]);
        }
        command.args(flags);
        assert!(refused(command).contains(flags[1]));
    }
}

#[test]
fn summary_and_devices_print_tables() {
    let dir = tempdir().unwrap();
    let text = ok(cifar(dir.path(), &["summary", "--model", "resnet20"]));
    assert!(text.contains("BatchNorm2d(16)") && text.contains("Multiply-adds"), "{text}");
    let text = ok(cifar(dir.path(), &["devices"]));
    assert!(text.lines().any(|l| l.starts_with("cpu") && l.contains("available")), "{text}");
    let cuda = text.lines().find(|l| l.starts_with("cuda")).expect("every device has a line");
    assert!(cuda.contains("absent     no NVIDIA driver") || cuda.contains("available"), "{text}");
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let dir = tempdir().unwrap();
    let mut command = cifar(dir.path(), &["summary", "--model", "resnet18"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}", stderr(&output));
}
