//! `cifar train`: from flags to a run.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, ensure};

use crate::config::{Config, Overrides};
use crate::device::Compute;
use crate::presets;
use crate::train::{self, Limits, Start};

/// Flags of `cifar train`. Of a flag given twice the last value counts.
#[derive(clap::Args)]
#[command(args_override_self = true)]
pub struct Args {
    /// Start from a recipe: quick, guide, speedrun, or one named like a model
    #[arg(long, value_name = "NAME")]
    preset: Option<String>,
    /// Read settings from a TOML file; flags win over it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Directory of the run [default: runs/train-N, the next free]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Continue the run in this directory
    #[arg(long, value_name = "DIR", conflicts_with_all = ["out", "preset"])]
    resume: Option<PathBuf>,
    /// Save and stop when the run has made so many steps in all
    #[arg(long, value_name = "N")]
    max_steps: Option<u64>,
    /// Threads of the CPU device [default: one a core]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Print nothing within an epoch
    #[arg(long)]
    no_progress: bool,
    #[command(flatten)]
    settings: Overrides,
}

/// Trains, and says by its exit code how that ended.
pub fn run(args: Args) -> Result<ExitCode> {
    ensure!(args.max_steps != Some(0), "--max-steps must be at least 1, got 0");
    let given = match &args.config {
        Some(path) => args.settings.over(Overrides::read(path)?),
        None => args.settings,
    };
    let (config, start) = match args.resume {
        Some(dir) => (saved_config(&dir, &given)?, Start::Resume(dir)),
        None => {
            let preset = match &args.preset {
                Some(name) => name.as_str(),
                None => presets::implied(&given)?,
            };
            (given.over(presets::preset(preset)?).resolve()?, Start::New(args.out))
        }
    };
    let compute = Compute::open(&config.device, args.threads)?;
    let limits = Limits { max_steps: args.max_steps, quiet: args.no_progress };
    let code = compute.enter(|| train::run(&compute, config, start, limits))?;
    Ok(ExitCode::from(code))
}

/// The configuration of a run to resume, with `given` on top, which must not change what the run
/// computes.
fn saved_config(dir: &Path, given: &Overrides) -> Result<Config> {
    let path = dir.join("config.toml");
    ensure!(path.is_file(), "{} holds no run to resume: it has no config.toml", dir.display());
    let saved = Overrides::read(&path)?;
    let config = saved.clone().resolve()?;
    if let Some((name, here, there)) = given.conflict(&config)? {
        anyhow::bail!(
            "--{name} {here} contradicts the run in {}, which has {there}: a resumed run keeps \
             its settings",
            dir.display()
        );
    }
    given.clone().over(saved).resolve()
}
