//! Runs the `cifar` binary on tiny runs.

#![allow(dead_code, missing_docs)]

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A command in an empty directory, for which `runs/` is a relative path.
pub fn cifar<S: AsRef<OsStr>>(dir: &Path, args: &[S]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cifar"));
    command.current_dir(dir).args(args);
    // Without it Mesa's Vulkan driver complains on stderr, where tests look.
    command.env("XDG_RUNTIME_DIR", dir);
    command
}

/// A tiny training run: 96 images, 6 steps an epoch, 2 epochs.
pub const TINY: [&str; 15] = [
    "train",
    "--model",
    "simple-cnn-gap",
    "--synthetic-train",
    "96",
    "--synthetic-test",
    "40",
    "--batch",
    "16",
    "--epochs",
    "2",
    "--lr",
    "0.05",
    "--threads",
    "1",
];

/// A tiny run with more flags.
pub fn tiny(dir: &Path, more: &[&str]) -> Command {
    let mut command = cifar(dir, &TINY);
    command.args(more);
    command
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs it; it must succeed.
pub fn ok(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}{}", stdout(&output), stderr(&output));
    stdout(&output)
}

/// Runs it; it must fail with one line, `error: ...`, which is returned. Before it may stand which device
/// was taken.
pub fn refused(mut command: Command) -> String {
    let output = command.output().unwrap();
    let text = stderr(&output);
    let code = output.status.code();
    assert!(code == Some(1) || code == Some(2), "{command:?}: {code:?} {text}");
    let lines = text.lines().skip_while(|line| line.starts_with("device: ")).collect::<Vec<_>>();
    assert!(matches!(lines[..], [error] if error.starts_with("error: ")), "{command:?}: {text}");
    lines[0].to_string()
}

/// The weights of the last save.
pub fn last(run: &Path) -> Vec<u8> {
    std::fs::read(run.join("weights/last.safetensors")).unwrap()
}

/// A run that is finished, made once a test.
pub fn trained(dir: &Path) -> PathBuf {
    ok(tiny(dir, &["--out", "run"]));
    dir.join("run")
}
