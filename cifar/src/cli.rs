//! The command line: parsing, dispatch, exit codes.
//!
//! - 0: done
//! - 1: an error, said in one line on stderr
//! - 2: a wrong command line
//! - 130, 143: stopped by Ctrl-C or SIGTERM, after saving

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::commands::{bench, data, devices, eval, export, predict, summary, train};

/// CIFAR-10 from files to a trained model, on hand-written kernels
#[derive(Parser)]
#[command(name = "cifar", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Train a model
    Train(Box<train::Args>),
    /// Measure a checkpoint's accuracy on test images
    Eval(eval::Args),
    /// Say what images show
    Predict(predict::Args),
    /// Write a checkpoint's weights for other programs
    Export(export::Args),
    /// Import, download, make or look at data
    #[command(subcommand)]
    Data(data::DataCommand),
    /// Show a model's layers, parameters, multiply-adds and bytes
    Summary(summary::Args),
    /// Time training steps or inference on random images
    Bench(bench::Args),
    /// List the devices that can compute
    Devices(devices::Args),
}

/// Parses the command line, runs the command, and turns its outcome into an exit code.
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let outcome = match cli.command {
        Command::Train(args) => train::run(*args),
        Command::Eval(args) => eval::run(args).map(|()| ExitCode::SUCCESS),
        Command::Predict(args) => predict::run(args).map(|()| ExitCode::SUCCESS),
        Command::Export(args) => export::run(args).map(|()| ExitCode::SUCCESS),
        Command::Data(command) => data::run(command).map(|()| ExitCode::SUCCESS),
        Command::Summary(args) => summary::run(args).map(|()| ExitCode::SUCCESS),
        Command::Bench(args) => bench::run(args).map(|()| ExitCode::SUCCESS),
        Command::Devices(args) => devices::run(args).map(|()| ExitCode::SUCCESS),
    };
    match outcome {
        Ok(code) => code,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            fail(&describe(&error));
            ExitCode::FAILURE
        }
    }
}

/// The message of an error and of its causes, where they say something new: some errors quote
/// theirs.
pub fn describe(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text = if text.is_empty() { cause } else { format!("{text}: {cause}") };
        }
    }
    text
}

/// Prints `error: message` as one line; where even stderr is gone there is nobody to tell.
fn fail(message: &str) {
    let line = message.lines().map(str::trim).collect::<Vec<_>>().join(" ");
    let _ = writeln!(io::stderr(), "error: {line}");
}

/// Help and version as clap prints them; anything else as one line.
fn usage(error: &clap::Error) -> ExitCode {
    use clap::error::ErrorKind::*;
    if matches!(error.kind(), DisplayHelp | DisplayVersion) {
        return match write!(io::stdout(), "{}", error.render()) {
            Err(e) if e.kind() != io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
            _ => ExitCode::SUCCESS,
        };
    }
    let text = error.render().to_string();
    if matches!(error.kind(), DisplayHelpOnMissingArgumentOrSubcommand) {
        let _ = write!(io::stderr(), "{text}");
        return ExitCode::from(2);
    }
    // clap's message, up to its usage lines.
    let message: Vec<&str> = text
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"))
        .filter(|line| !line.is_empty())
        .collect();
    fail(message.join(" ").trim_start_matches("error: "));
    ExitCode::from(2)
}

/// Whether the reader of our output has gone, as `head` does: no error of ours.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
    })
}

/// Writes a line to stdout; a failure to do so is an error, where `println!` would panic.
#[macro_export]
macro_rules! outln {
    ($($arg:tt)*) => {{
        use ::std::io::Write as _;
        ::std::writeln!(::std::io::stdout(), $($arg)*)
    }};
}
