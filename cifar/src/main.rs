//! The `cifar` command. Everything is in the library; see `cli.rs`.

use std::process::ExitCode;

fn main() -> ExitCode {
    tilegrad_cifar::cli::run()
}
