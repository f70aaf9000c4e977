//! `cifar train`: same bits whatever the threads and interruptions, and nothing lost.

mod common;

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use common::*;
use tempfile::tempdir;

#[test]
fn a_run_leaves_everything_in_its_directory() {
    let dir = tempdir().unwrap();
    let text = ok(tiny(dir.path(), &[]));
    assert!(text.contains("run    runs/train-1"), "{text}");
    let run = dir.path().join("runs/train-1");
    for name in ["config.toml", "log.txt", "metrics.csv", "metrics.jsonl", "state.safetensors"] {
        assert!(run.join(name).is_file(), "{name}");
    }
    for name in ["curves.png", "confusion.png"] {
        assert_eq!(&fs::read(run.join(name)).unwrap()[..4], b"\x89PNG", "{name}");
    }
    let csv = fs::read_to_string(run.join("metrics.csv")).unwrap();
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(
        lines[0],
        "epoch,step,train_loss,train_accuracy,test_loss,test_accuracy,lr,grad_norm,\
         images_per_second,seconds"
    );
    assert!(lines.len() == 3 && lines[2].starts_with("2,12,"), "{csv}");
    let config = fs::read_to_string(run.join("config.toml")).unwrap();
    assert!(config.contains("# threads: 1\n") && config.contains("batch = 16\n"), "{config}");
    // The next run gets the next number, and a configuration can be used again.
    let again = cifar(dir.path(), &["train", "--config", "runs/train-1/config.toml"]);
    assert!(ok(again).contains("runs/train-2"));
    assert_eq!(last(&run), last(&dir.path().join("runs/train-2")));
}

#[test]
fn threads_and_workers_do_not_change_a_bit() {
    let dir = tempdir().unwrap();
    ok(tiny(dir.path(), &["--out", "one"]));
    ok(tiny(dir.path(), &["--threads", "2", "--workers", "2", "--out", "two"]));
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    assert_eq!(last(&one), last(&two));
    let best = "weights/best.safetensors";
    assert_eq!(fs::read(one.join(best)).unwrap(), fs::read(two.join(best)).unwrap());
}

/// Every augmentation, dropout, accumulation of 2 batches, both kinds of optimizer: stop twice,
/// once within each epoch.
#[test]
fn a_resumed_run_ends_with_the_same_bits() {
    let dir = tempdir().unwrap();
    let common =
        ["--model", "simple-cnn-bn", "--rotation", "10", "--cutmix", "1", "--clip-norm", "1"];
    for (optimizer, lr) in [("sgd", "0.02"), ("adamw", "0.001")] {
        let train = |out: &str, more: &[&str]| {
            let mut command = tiny(dir.path(), &common);
            command.args(["--accumulate", "2", "--optimizer", optimizer, "--lr", lr]);
            command.args(["--out", out]).args(more);
            ok(command)
        };
        let (whole, parts) = (format!("{optimizer}-whole"), format!("{optimizer}-parts"));
        train(&whole, &[]);
        let text = train(&parts, &["--max-steps", "2"]);
        assert!(text.contains(&format!("cifar train --resume {parts}")), "{text}");
        ok(cifar(dir.path(), &["train", "--resume", &parts, "--max-steps", "4"]));
        let text = ok(cifar(dir.path(), &["train", "--resume", &parts]));
        assert!(text.contains("after step 4"), "{text}");
        let (whole, parts) = (dir.path().join(whole), dir.path().join(parts));
        assert_eq!(last(&whole), last(&parts), "{optimizer}");
        let rows = |run: &std::path::Path| {
            let csv = fs::read_to_string(run.join("metrics.csv")).unwrap();
            // All but the timings.
            csv.lines().map(|l| l.rsplitn(3, ',').last().unwrap().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(rows(&whole), rows(&parts), "{optimizer}");
    }
}

/// The whole recipe, scaled down: whitening, Muon beside SGD, a bias that is frozen after its first
/// epoch, alternating flips. Stop before and after the freezing.
#[test]
fn a_speedrun_is_the_same_with_any_threads_and_after_any_stop() {
    let dir = tempdir().unwrap();
    let train = |out: &str, more: &[&str]| {
        let mut command = cifar(dir.path(), &["train", "--preset", "speedrun", "--epochs", "2"]);
        command.args(["--synthetic-train", "60", "--synthetic-test", "20", "--batch", "20"]);
        command.args(["--whiten-bias-epochs", "1", "--out", out]).args(more);
        ok(command)
    };
    let text = train("whole", &["--threads", "1"]);
    assert!(text.contains("last   epoch 2: test accuracy"), "{text}");
    train("two", &["--threads", "2", "--workers", "2"]);
    let stopped = train("parts", &["--max-steps", "2"]);
    assert!(!stopped.contains("last   epoch"), "{stopped}");
    ok(cifar(dir.path(), &["train", "--resume", "parts", "--max-steps", "4"]));
    let resumed = ok(cifar(dir.path(), &["train", "--resume", "parts"]));
    let line = |text: &str| text.lines().find(|l| l.starts_with("last ")).unwrap().to_string();
    assert_eq!(line(&text), line(&resumed));
    let run = |name: &str| last(&dir.path().join(name));
    assert!(run("whole") == run("two") && run("whole") == run("parts"));

    // The record has both accuracies, and `eval` finds them again.
    let jsonl = fs::read_to_string(dir.path().join("parts/metrics.jsonl")).unwrap();
    let rows: Vec<serde_json::Value> =
        jsonl.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert!(rows[0].get("tta_accuracy").is_none());
    let weights = ["eval", "whole/weights/last.safetensors", "--synthetic-test", "20", "--json"];
    for (flags, key) in [(&[][..], "test_accuracy"), (&["--tta"][..], "tta_accuracy")] {
        let text = ok(cifar(dir.path(), &[&weights[..], flags].concat()));
        let found: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(found["accuracy"], rows[1][key], "{key}: {text} {jsonl}");
    }
    // A run that is done stays as it is.
    let again = ok(cifar(dir.path(), &["train", "--resume", "whole"]));
    assert_eq!(line(&again), line(&text));
    assert!(run("whole") == run("parts"));
}

#[test]
fn a_finished_run_resumed_stays_as_it_is() {
    let dir = tempdir().unwrap();
    let run = trained(dir.path());
    let before = last(&run);
    let text = ok(cifar(dir.path(), &["train", "--resume", "run"]));
    assert!(text.contains("best   epoch"), "{text}");
    assert_eq!(last(&run), before);
}

#[test]
fn a_resumed_run_keeps_its_settings() {
    let dir = tempdir().unwrap();
    ok(tiny(dir.path(), &["--out", "run", "--max-steps", "2"]));
    let error = refused(cifar(dir.path(), &["train", "--resume", "run", "--lr", "0.1"]));
    assert!(error.contains("--lr 0.1") && error.contains("0.05"), "{error}");
    let other = ["train", "--resume", "run", "--synthetic-train", "97"];
    assert!(refused(cifar(dir.path(), &other)).contains("--synthetic-train"));
    let same = ["train", "--resume", "run", "--lr", "0.05", "--max-steps", "3", "--workers", "2"];
    ok(cifar(dir.path(), &same));
}

#[test]
fn presets_files_and_flags_take_precedence_in_this_order() {
    let dir = tempdir().unwrap();
    fs::write(dir.path().join("run.toml"), "epochs = 1\nbatch = 8\nsynthetic-train = 16\n")
        .unwrap();
    let args = ["train", "--preset", "guide", "--config", "run.toml", "--batch", "16"];
    let mut command = cifar(dir.path(), &args);
    command.args(["--synthetic-test", "10", "--max-steps", "1", "--out", "run"]);
    ok(command);
    let config = fs::read_to_string(dir.path().join("run/config.toml")).unwrap();
    for line in ["model = \"simple-cnn\"", "epochs = 1", "batch = 16", "rotation = 15.0"] {
        assert!(config.lines().any(|l| l == line), "{line}: {config}");
    }
}

#[test]
fn impossible_runs_are_refused_before_anything_is_made() {
    let dir = tempdir().unwrap();
    fs::write(dir.path().join("typo.toml"), "epochs = 3\nbatchsize = 3\n").unwrap();
    fs::write(dir.path().join("type.toml"), "epochs = \"many\"\n").unwrap();
    fs::create_dir(dir.path().join("empty")).unwrap();
    let cases: &[(&[&str], &str)] = &[
        (&["--batch", "0"], "--batch must be at least 1, got 0"),
        (&["--epochs", "0"], "--epochs must be at least 1, got 0"),
        (&["--lr", "-0.1"], "--lr must be a number of at least 0, got -0.1"),
        (&["--lr", "NaN"], "--lr must be a number of at least 0, got NaN"),
        (&["--lr", "fast"], "invalid value 'fast' for '--lr"),
        (&["--accumulate", "70000"], "--accumulate must be 1 to 65536, got 70000"),
        (&["--momentum", "1"], "--momentum must be 0 to below 1, got 1"),
        (&["--label-smoothing", "1.5"], "--label-smoothing must be 0 to 1, got 1.5"),
        (&["--weight-decay", "-1"], "--weight-decay"),
        (&["--rotation", "inf"], "--rotation"),
        (&["--crop", "100"], "--crop must be at most 64 pixels"),
        (&["--threads", "0"], "--threads must be 1 to 1024, got 0"),
        (&["--max-steps", "0"], "--max-steps must be at least 1"),
        (&["--model", "vgg16"], "unknown model 'vgg16': expected simple-cnn"),
        (&["--preset", "best"], "unknown preset 'best': expected one of quick"),
        (&["--optimizer", "adam"], "adam"),
        (&["--optimizer", "muon", "--head-lr", "0"], "--head-lr must be above 0 with muon, got 0"),
        (&["--newton-schulz", "0"], "--newton-schulz must be 1 to 100 iterations, got 0"),
        (&["--sgd-momentum", "1"], "--sgd-momentum must be 0 to below 1, got 1"),
        (&["--alternating-flip", "--flip=false"], "but --flip=false says never"),
        (&["--padding", "mirror"], "invalid value 'mirror' for '--padding"),
        (&["--preset", "speedrun", "--crop", "30"], "crop_padding is 30"),
        (&["--device", "cuda:99"], "device cuda:99 is not available"),
        (&["--device", "tpu"], "unknown device 'tpu'"),
        (&["--precision", "f64"], "--precision must be f32, bf16 or f16"),
        (&["--graph", "--device", "cpu"], "record: device cpu cannot record its kernels"),
        (
            &["--graph", "--optimizer", "muon"],
            "--graph needs an optimizer that changes parameters in",
        ),
        (&["--graph", "--accumulate", "2"], "--graph records steps of one batch"),
        (&["--data", "nowhere"], "nowhere"),
        (&["--data", "empty"], "empty"),
        (&["--config", "missing.toml"], "cannot read the configuration missing.toml"),
        (&["--config", "typo.toml"], "typo.toml: line 2: unknown field `batchsize`"),
        (&["--config", "type.toml"], "type.toml: line 1"),
        (&["--weights", "missing.safetensors"], "missing.safetensors"),
        (&["--weights", "."], ". holds no weights/best.safetensors"),
        (&["--dropout", "1"], "--dropout must be 0 to below 1, got 1"),
        (&["--resume", "nowhere"], "nowhere holds no run to resume"),
        (&["--learning-rate", "1"], "--learning-rate"),
    ];
    for (flags, message) in cases {
        let mut args = vec!["train"];
        args.extend(*flags);
        let error = refused(cifar(dir.path(), &args));
        assert!(error.contains(message), "{flags:?}: {error}");
    }
    assert!(!dir.path().join("runs").exists());
}

#[test]
fn a_directory_with_a_run_is_not_overwritten() {
    let dir = tempdir().unwrap();
    let run = trained(dir.path());
    let before = last(&run);
    let error = refused(tiny(dir.path(), &["--out", "run"]));
    assert!(error.contains("already holds a run"), "{error}");
    assert_eq!(last(&run), before);
}

#[test]
fn a_run_that_diverges_stops_with_step_rate_and_place() {
    let dir = tempdir().unwrap();
    let more = ["--lr", "1e30", "--schedule", "constant", "--out", "run"];
    let error = refused(tiny(dir.path(), &more));
    for part in ["step ", "learning rate 1e30", "finite", "run/state.safetensors"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    // What the message names is there, and whole.
    let mut again = cifar(dir.path(), &["eval", "run", "--synthetic-test", "10", "--json"]);
    assert!(again.output().unwrap().status.success());
}

#[test]
fn a_run_starts_from_another_runs_best_weights() {
    let dir = tempdir().unwrap();
    let best = trained(dir.path()).join("weights/best.safetensors");
    let best = best.to_str().unwrap();
    for (weights, out) in [("run", "of-run"), (best, "of-file"), ("", "of-nothing")] {
        ok(tiny(dir.path(), &["--weights", weights, "--out", out, "--max-steps", "1"]));
    }
    let last = |out: &str| last(&dir.path().join(out));
    assert_eq!(last("of-run"), last("of-file"));
    assert_ne!(last("of-run"), last("of-nothing"));
}

#[test]
fn dropout_is_the_models_own_unless_given() {
    let dir = tempdir().unwrap();
    for (model, given, expected) in [
        ("simple-cnn", None, "dropout = 0.5"),
        // The recipe of its preset.
        ("simple-cnn-bn", None, "dropout = 0.3"),
        ("simple-cnn-gap", None, "dropout = 0.0"),
        ("simple-cnn-gap", Some("0.25"), "dropout = 0.25"),
    ] {
        let out = format!("{model}-{}", given.is_some());
        let mut command = tiny(dir.path(), &["--model", model, "--out", &out, "--max-steps", "1"]);
        if let Some(given) = given {
            command.args(["--dropout", given]);
        }
        ok(command);
        let run = dir.path().join(&out);
        let config = fs::read_to_string(run.join("config.toml")).unwrap();
        assert!(config.lines().any(|line| line == expected), "{model}: {config}");
        // The model that was trained has it too.
        let json = expected.replace("dropout = ", "\\\"dropout\\\":");
        assert!(String::from_utf8_lossy(&last(&run)).contains(&json), "{model}: {json}");
    }
}

#[test]
fn patience_ends_a_run_early() {
    let dir = tempdir().unwrap();
    // At learning rate 0, and without batch norm, every epoch is like the first.
    let mut command = cifar(dir.path(), &["train", "--synthetic-train", "16", "--batch", "16"]);
    command.args(["--synthetic-test", "10", "--model", "simple-cnn", "--lr", "0"]);
    command.args(["--epochs", "9", "--patience", "2", "--out", "run", "--threads", "1"]);
    let text = ok(command);
    assert!(text.contains("no better test accuracy in 2 epochs"), "{text}");
    let csv = fs::read_to_string(dir.path().join("run/metrics.csv")).unwrap();
    assert_eq!(csv.lines().count(), 4, "{csv}");
}

/// The only step of each epoch spoils the weights: its gradient was finite, what it left is not.
#[test]
fn weights_that_a_step_spoiled_are_not_saved() {
    let dir = tempdir().unwrap();
    let more = ["--synthetic-train", "16", "--lr", "1e30", "--schedule", "constant"];
    let error = refused(tiny(dir.path(), &[&more[..], &["--out", "run"]].concat()));
    for part in ["step 1", "last good checkpoint is run/state.safetensors (step 0)"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    assert!(!dir.path().join("run/weights/best.safetensors").exists());
    // What is there is the state before that step: it resumes, and meets the same end.
    assert_eq!(refused(cifar(dir.path(), &["train", "--resume", "run"])), error);
}

#[test]
fn a_run_goes_on_with_its_data_elsewhere_but_not_with_other_data() {
    let dir = tempdir().unwrap();
    let make = |out: &str, seed: &str| {
        let size = ["--train", "96", "--test", "40", "--seed", seed, "--out", out];
        ok(cifar(dir.path(), &[&["data", "synthetic"], &size[..]].concat()));
    };
    make("here", "1");
    make("other", "2");
    let train = ["train", "--model", "simple-cnn-gap", "--batch", "16", "--epochs", "1"];
    let train = [&train[..], &["--data", "here"]].concat();
    ok(cifar(dir.path(), &[&train[..], &["--out", "whole"]].concat()));
    ok(cifar(dir.path(), &[&train[..], &["--out", "run", "--max-steps", "3"]].concat()));
    assert!(dir.path().join("run/metrics.csv").is_file(), "no metrics before the first epoch ends");
    fs::rename(dir.path().join("here"), dir.path().join("there")).unwrap();
    let resume = |data| cifar(dir.path(), &["train", "--resume", "run", "--data", data]);
    assert!(refused(resume("other")).contains("trained on other images"));
    ok(resume("there"));
    assert_eq!(last(&dir.path().join("run")), last(&dir.path().join("whole")));
}

/// A file cut short under a run: an error with its name, nothing learnt is lost, and with the file
/// mended the run ends as if nothing had happened.
#[test]
fn a_data_file_that_shrinks_ends_the_run_with_a_save() {
    let dir = tempdir().unwrap();
    let made = ["data", "synthetic", "--train", "96", "--test", "40", "--out", "data"];
    ok(cifar(dir.path(), &made));
    let train = |more: &[&str]| {
        let flags = ["train", "--model", "simple-cnn-gap", "--batch", "16", "--epochs", "400"];
        cifar(dir.path(), &[&flags[..], &["--threads", "1", "--data", "data"], more].concat())
    };
    let mut child =
        train(&["--out", "run"]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let log = dir.path().join("run/log.txt");
    while !fs::read_to_string(&log).is_ok_and(|text| text.contains("2/400")) {
        assert!(child.try_wait().unwrap().is_none(), "the run ended by itself");
        std::thread::sleep(Duration::from_millis(5));
    }
    let path = dir.path().join("data/data_batch_2.bin");
    let good = fs::read(&path).unwrap();
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(5000).unwrap();
    let output = child.wait_with_output().unwrap();
    fs::write(&path, good).unwrap();
    let text = stderr(&output);
    assert_eq!((output.status.code(), text.lines().count()), (Some(1), 1), "{text}");
    for part in ["data/data_batch_2.bin: was cut short", "has 5000", "train --resume run"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let step = text.split("saved after step ").nth(1).unwrap();
    let step: u64 = step.split(',').next().unwrap().parse().unwrap();
    let end = (step + 5).to_string();
    ok(cifar(dir.path(), &["train", "--resume", "run", "--max-steps", &end]));
    ok(train(&["--out", "whole", "--max-steps", &end]));
    assert_eq!(last(&dir.path().join("run")), last(&dir.path().join("whole")));
}

#[test]
fn one_process_at_a_time_trains_in_a_directory() {
    let dir = tempdir().unwrap();
    ok(tiny(dir.path(), &["--out", "run", "--max-steps", "2"]));
    let state = fs::read(dir.path().join("run/state.safetensors")).unwrap();
    let log = fs::File::open(dir.path().join("run/log.txt")).unwrap();
    log.lock().unwrap();
    let error = refused(cifar(dir.path(), &["train", "--resume", "run"]));
    assert!(error.contains("another process is training in run"), "{error}");
    assert_eq!(fs::read(dir.path().join("run/state.safetensors")).unwrap(), state);
    log.unlock().unwrap();
    ok(cifar(dir.path(), &["train", "--resume", "run"]));
}

#[test]
fn a_foreign_configuration_is_not_overwritten() {
    let dir = tempdir().unwrap();
    fs::create_dir(dir.path().join("run")).unwrap();
    fs::write(dir.path().join("run/config.toml"), "mine = true").unwrap();
    refused(tiny(dir.path(), &["--out", "run"]));
    assert_eq!(fs::read_to_string(dir.path().join("run/config.toml")).unwrap(), "mine = true");
}
