//! `cifar export`: a checkpoint's weights for other programs.

use std::path::PathBuf;

use anyhow::Result;
use clap::ValueEnum;

use crate::device::Compute;
use crate::train::run_dir;
use crate::{model, outln};

/// What `cifar export` can write.
#[derive(Clone, Copy, ValueEnum)]
enum Format {
    /// A PyTorch state dict as safetensors: PyTorch's names, filters in OIHW
    Torch,
}

/// Flags of `cifar export`.
#[derive(clap::Args)]
pub struct Args {
    /// Weights, or the directory of a run (its best weights)
    checkpoint: PathBuf,
    /// What to write
    #[arg(long, value_name = "NAME")]
    format: Format,
    /// File to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// Writes the file.
pub fn run(args: Args) -> Result<()> {
    let compute = Compute::open("cpu", Some(1))?;
    let path = run_dir::checkpoint_in(&args.checkpoint)?;
    let loaded = model::open(&path, &compute.backend)?;
    match args.format {
        Format::Torch => model::save_torch(&args.out, &loaded)?,
    }
    outln!("{}: {} as a PyTorch state dict", args.out.display(), loaded.model.config().kind)?;
    Ok(())
}
