//! Ctrl-C and SIGTERM save; a disk that is full loses nothing that was saved.
#![cfg(unix)]

mod common;

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::*;
use tempfile::tempdir;

/// Waits until `path` has a line that contains `text`.
fn wait_for(path: &Path, text: &str) {
    let begun = Instant::now();
    while !fs::read_to_string(path).is_ok_and(|log| log.contains(text)) {
        assert!(begun.elapsed() < Duration::from_secs(120), "no '{text}' in {}", path.display());
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn kill(child: &Child, signal: &str) {
    // The shell's own kill: a program of that name is missing on small systems.
    let script = format!("kill {signal} {}", child.id());
    assert!(Command::new("sh").args(["-c", &script]).status().unwrap().success());
}

#[test]
fn a_signal_saves_and_the_run_can_go_on() {
    for (signal, code) in [("-INT", 130), ("-TERM", 143)] {
        let dir = tempdir().unwrap();
        // Long enough to be interrupted: the last value of a flag counts.
        let mut command = tiny(dir.path(), &["--out", "run", "--epochs", "100000"]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let mut child = child.unwrap();
        wait_for(&dir.path().join("run/log.txt"), "2/100000");
        kill(&child, signal);
        assert_eq!(child.wait().unwrap().code(), Some(code));
        let log = fs::read_to_string(dir.path().join("run/log.txt")).unwrap();
        assert!(log.contains("continue with: cifar train --resume run"), "{log}");
        let resume = ["train", "--resume", "run", "--max-steps"];
        let step: u64 = {
            let line = log.lines().find(|l| l.starts_with("stopped after step")).unwrap();
            line.split([' ', ';']).nth(3).unwrap().parse().unwrap()
        };
        let more = (step + 1).to_string();
        let text = ok(cifar(dir.path(), &[&resume[..], &[more.as_str()]].concat()));
        assert!(text.contains(&format!("after step {more}")), "{text}");
    }
}

/// `ulimit -f` stands in for a full disk: writes beyond it fail with an error, once SIGXFSZ is
/// ignored.
#[test]
fn a_save_that_fails_names_the_file_and_keeps_the_last_one() {
    let dir = tempdir().unwrap();
    ok(tiny(dir.path(), &["--out", "run", "--max-steps", "2"]));
    let run = dir.path().join("run");
    let state = fs::read(run.join("state.safetensors")).unwrap();
    let script = format!(
        "trap '' XFSZ; ulimit -f 4; exec '{}' train --resume run",
        env!("CARGO_BIN_EXE_cifar")
    );
    let output = Command::new("sh").args(["-c", &script]).current_dir(dir.path()).output().unwrap();
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(
        text.contains("safetensors") && text.contains("previous checkpoint is intact"),
        "{text}"
    );
    assert_eq!(fs::read(run.join("state.safetensors")).unwrap(), state);
    ok(cifar(dir.path(), &["train", "--resume", "run"]));
}

#[test]
fn a_first_save_that_fails_leaves_the_directory_free() {
    let dir = tempdir().unwrap();
    let flags = TINY.join(" ");
    let script = format!(
        "trap '' XFSZ; ulimit -f 4; exec '{}' {flags} --out run",
        env!("CARGO_BIN_EXE_cifar")
    );
    let output = Command::new("sh").args(["-c", &script]).current_dir(dir.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("safetensors"), "{}", stderr(&output));
    ok(tiny(dir.path(), &["--out", "run", "--max-steps", "1"]));
}
