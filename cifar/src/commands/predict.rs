//! `cifar predict`: what images show, with probabilities.

use std::io::{IsTerminal, stdout};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use tilegrad_engine::{Tensor, no_grad, ops};
use tilegrad_nn::{Context, Module};

use crate::augment::Normalisation;
use crate::data::import::decode_square;
use crate::device::Compute;
use crate::model::{self, Loaded};
use crate::outln;
use crate::train::run_dir;

/// Largest image file that is read.
const FILE_LIMIT: u64 = 256 << 20;
/// Images classified at once.
const BATCH: usize = 64;
/// Characters of the bar of a certain class.
const BAR: usize = 30;

/// Flags of `cifar predict`.
#[derive(clap::Args)]
pub struct Args {
    /// PNG or JPEG files of any size
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,
    /// Weights, or the directory of a run [default: the best weights of the newest run under runs/]
    #[arg(long, value_name = "CHECKPOINT")]
    model_file: Option<PathBuf>,
    /// Classes to show
    #[arg(long, value_name = "N", default_value_t = 5)]
    top: usize,
    /// Device: cpu, cuda[:N], wgpu[:N], softcuda or reference [default: cuda where a GPU is, else cpu]
    #[arg(long)]
    device: Option<String>,
    /// Threads of the CPU device [default: one a core]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// One JSON line an image
    #[arg(long)]
    json: bool,
}

/// Classifies and prints.
pub fn run(args: Args) -> Result<()> {
    ensure!(args.top >= 1, "--top must be at least 1, got 0");
    let path = match &args.model_file {
        Some(path) => run_dir::checkpoint_in(path)?,
        None => run_dir::newest_checkpoint()
            .context("there is no runs/*/weights/best.safetensors here; give --model-file")?,
    };
    let compute = Compute::open_or_best(&args.device, args.threads)?;
    let loaded = model::open(&path, &compute.backend)?;
    for images in args.images.chunks(BATCH) {
        let rows = compute.enter(|| classify(&compute, &loaded, images))?;
        for (image, probabilities) in images.iter().zip(rows) {
            print(&args, image, &loaded.meta.classes, &probabilities)?;
        }
    }
    Ok(())
}

/// Probabilities of each image.
fn classify(compute: &Compute, loaded: &Loaded, images: &[PathBuf]) -> Result<Vec<Vec<f32>>> {
    let (size, n) = (loaded.meta.image_size, images.len());
    let normalisation = Normalisation::new(loaded.meta.mean, loaded.meta.std);
    let mut values = vec![0.0; n * size * size * 3];
    for (image, values) in images.iter().zip(values.chunks_mut(size * size * 3)) {
        normalisation.apply(&read_image(image, size)?, values);
    }
    let x = Tensor::from_slice(&compute.backend, &values, &[n, size, size, 3])?;
    let probabilities = no_grad(|| {
        let logits = loaded.model.forward(&x, &mut Context::eval())?;
        ops::softmax(&logits)?.to_vec::<f32>()
    })?;
    Ok(probabilities.chunks(loaded.meta.classes.len()).map(<[f32]>::to_vec).collect())
}

/// An image file as `[size, size, 3]` bytes.
fn read_image(path: &Path, size: usize) -> Result<Vec<u8>> {
    let cannot = || format!("cannot read the image {}", path.display());
    let bytes = std::fs::metadata(path).with_context(cannot)?.len();
    ensure!(bytes <= FILE_LIMIT, "{}: {bytes} bytes are too many for an image", path.display());
    decode_square(&std::fs::read(path).with_context(cannot)?, size).with_context(cannot)
}

fn print(args: &Args, image: &Path, classes: &[String], probabilities: &[f32]) -> Result<()> {
    let mut order: Vec<usize> = (0..classes.len()).collect();
    order.sort_by(|&a, &b| probabilities[b].total_cmp(&probabilities[a]));
    order.truncate(args.top);
    if args.json {
        let top: Vec<_> = order
            .iter()
            .map(|&c| serde_json::json!({"class": classes[c], "probability": probabilities[c]}))
            .collect();
        outln!("{}", serde_json::json!({"image": image.display().to_string(), "top": top}))?;
        return Ok(());
    }
    if args.images.len() > 1 {
        outln!("{}", image.display())?;
    }
    let width = order.iter().map(|&c| classes[c].chars().count()).max().unwrap_or(0);
    for c in order {
        let p = probabilities[c];
        outln!("{:width$}  {:>6.2} %  {}", classes[c], 100.0 * p, bar(p))?;
    }
    Ok(())
}

/// A bar as long as the probability; in eighths of a character on a terminal.
fn bar(p: f32) -> String {
    let eighths = (p * (8 * BAR) as f32).round() as usize;
    if !stdout().is_terminal() {
        return "#".repeat((eighths + 4) / 8);
    }
    let mut bar = "█".repeat(eighths / 8);
    if !eighths.is_multiple_of(8) {
        bar.extend(['▏', '▎', '▍', '▌', '▋', '▊', '▉'].get(eighths % 8 - 1));
    }
    bar
}
