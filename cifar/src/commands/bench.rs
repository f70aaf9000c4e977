//! `cifar bench`: how fast a model trains or classifies, on random images.
//!
//! The step is that of `torch_train.py`, the PyTorch side of the comparison: forward, cross-entropy
//! with label smoothing 0.1, backward, SGD with momentum 0.9 and weight decay 5e-4. Three steps
//! warm up, the rest are timed.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, ensure};
use clap::ValueEnum;
use tilegrad_engine::profile::{self, Pass};
use tilegrad_engine::{Backend, Dtype, Tensor, no_grad};
use tilegrad_kernels::KernelTime;
use tilegrad_kernels::philox::{Purpose, Stream};
use tilegrad_nn::{
    Context, Model, ModelConfig, Module, Optimizer, ParamGroup, Setting, Sgd, SgdConfig,
    fold_batch_norm, loss,
};

use crate::device::{self, Compute};
use crate::{model, outln};

/// Steps before the clock starts.
const WARM_UP: usize = 3;
/// Classes of the random labels.
const CLASSES: usize = 10;

/// What is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// A whole training step.
    Train,
    /// Logits only.
    Infer,
}

/// Flags of `cifar bench`.
#[derive(clap::Args)]
pub struct Args {
    /// simple-cnn, simple-cnn-bn, simple-cnn-gap, resnet20, resnet-guide, resnet18 or
    /// airbench94
    #[arg(long)]
    model: String,
    /// Images a step
    #[arg(long, value_name = "N", default_value_t = 128)]
    batch: usize,
    /// Number format of activations: f32, bf16 or f16
    #[arg(long, default_value = "f32")]
    dtype: String,
    /// Timed steps
    #[arg(long, value_name = "N", default_value_t = 15)]
    steps: usize,
    /// What is timed
    #[arg(long, value_enum, default_value_t = Mode::Train)]
    mode: Mode,
    /// Threads of the CPU device [default: one a core]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Device: cpu, cuda[:N], wgpu[:N], softcuda or reference [default: cuda where a GPU is, else cpu]
    #[arg(long)]
    device: Option<String>,
    /// One JSON line
    #[arg(long)]
    json: bool,
    /// Show where the time of the timed steps went, op by op (this makes them a little slower); which algorithms
    /// were chosen; and, where the device has a clock of its own (wgpu), the time of each kernel in as many
    /// further steps
    #[arg(long)]
    profile: bool,
}

/// Times the steps and prints the result.
pub fn run(args: Args) -> Result<()> {
    let kind = model::kind(&args.model)?;
    ensure!((1..=65_536).contains(&args.batch), "--batch must be 1 to 65536, got {}", args.batch);
    ensure!(
        (1..=1_000_000).contains(&args.steps),
        "--steps must be 1 to 1000000, got {}",
        args.steps
    );
    let precision = device::precision("dtype", &args.dtype)?;
    let compute = Compute::open_or_best(&args.device, args.threads)?;
    let (mut times, profile, kernels) = compute.enter(|| {
        let mut bench =
            Bench::new(&compute.backend, ModelConfig::new(kind, CLASSES), args.batch, args.mode)?;
        bench.precision = precision;
        let mut times = Vec::with_capacity(args.steps);
        for step in 0..WARM_UP + args.steps {
            if step == WARM_UP && args.profile {
                profile::start();
            }
            let clock = Instant::now();
            bench.step(args.mode, step as u32)?;
            compute.backend.synchronize()?;
            if step >= WARM_UP {
                times.push(clock.elapsed().as_secs_f64() * 1e3);
            }
        }
        let profile = profile::stop();
        if args.profile && compute.backend.start_kernel_times()? {
            for step in 0..args.steps {
                bench.step(args.mode, (WARM_UP + args.steps + step) as u32)?;
            }
        }
        Ok::<_, anyhow::Error>((times, profile, compute.backend.stop_kernel_times()?))
    })?;
    times.sort_by(f64::total_cmp);
    let (median, least) = (median(&times), times[0]);
    let images_per_second = args.batch as f64 / median * 1e3;
    let memory = compute.backend.memory();
    let mode = match args.mode {
        Mode::Train => "train",
        Mode::Infer => "infer",
    };
    if args.json {
        let line = serde_json::json!({
            "peer": format!("tilegrad {}", env!("CARGO_PKG_VERSION")),
            "model": args.model,
            "batch": args.batch,
            "dtype": args.dtype,
            "layout": "nhwc",
            "mode": mode,
            "threads": compute.threads(),
            "images_per_second": round(images_per_second, 1),
            "median_ms": round(median, 2),
            "min_ms": round(least, 2),
            "device": compute.backend.device().to_string(),
            "peak_bytes": memory.peak,
            "peak_resident_bytes": peak_resident(),
        });
        outln!("{line}")?;
    } else {
        outln!("{}", compute.backend.description())?;
        outln!(
            "{} {mode}, batch {}: {images_per_second:.1} images/s, median {median:.2} ms, \
             least {least:.2} ms, peak {:.1} MiB of buffers",
            args.model,
            args.batch,
            memory.peak as f64 / 1048576.0
        )?;
    }
    let mut lines = Vec::new();
    if args.profile {
        lines.extend(profile_lines(&profile, args.steps));
        lines.extend(compute.backend.choices());
        lines.extend(kernel_lines(&kernels, args.steps));
    }
    // Beside a JSON line they go to stderr.
    for line in lines {
        if args.json {
            eprintln!("{line}");
        } else {
            outln!("{line}")?;
        }
    }
    Ok(())
}

/// Ops by time.
fn profile_lines(rows: &[profile::Row], steps: usize) -> Vec<String> {
    let total: f64 = rows.iter().map(|row| row.seconds).sum();
    let mut lines =
        vec![format!("{:24} {:9} {:>9} {:>12} {:>7}", "op", "pass", "calls", "ms a step", "share")];
    for row in rows {
        let (ms, share) = (row.seconds * 1e3 / steps as f64, 100.0 * row.seconds / total);
        let (op, pass, calls) = (row.op, row.pass, row.calls);
        lines.push(format!("{op:24} {pass:9} {calls:>9} {ms:>12.3} {share:>5.1} %"));
    }
    lines
}

/// Kernels by time on the device itself.
fn kernel_lines(kernels: &[KernelTime], steps: usize) -> Vec<String> {
    if kernels.is_empty() {
        return Vec::new();
    }
    let total: f64 = kernels.iter().map(|time| time.seconds).sum();
    let mut lines =
        vec![format!("{:38} {:>9} {:>12} {:>7}", "kernel", "calls", "ms a step", "share")];
    for KernelTime { kernel, calls, seconds } in kernels {
        let (ms, share) = (seconds * 1e3 / steps as f64, 100.0 * seconds / total);
        lines.push(format!("{kernel:38} {calls:>9} {ms:>12.3} {share:>5.1} %"));
    }
    lines
}

/// A model with random images.
struct Bench {
    model: Model,
    /// The model for inference, where that is timed.
    folded: Option<Model>,
    sgd: Sgd,
    x: Tensor,
    labels: Tensor,
    precision: Dtype,
}

impl Bench {
    fn new(
        backend: &Arc<dyn Backend>,
        config: ModelConfig,
        batch: usize,
        mode: Mode,
    ) -> Result<Self> {
        let model = Model::new(backend, config, 0)?;
        let groups = ParamGroup::decay_all(5e-4);
        let sgd = Sgd::new(SgdConfig { momentum: 0.9, nesterov: false, dampening: 0.0 }, groups);
        let shape = model.input_shape(batch);
        let stream = Stream::new(0, Purpose::Test, 0, 0);
        let pixels: Vec<f32> = (0..tilegrad_kernels::elements(&shape) as u64)
            .map(|i| stream.normal(i) as f32)
            .collect();
        let stream = Stream::new(0, Purpose::Test, 0, 1);
        let labels: Vec<i32> =
            (0..batch as u64).map(|i| stream.below(i, CLASSES as u32) as i32).collect();
        Ok(Bench {
            folded: match mode {
                Mode::Train => None,
                Mode::Infer => Some(fold_batch_norm(&model)?),
            },
            model,
            sgd,
            x: Tensor::from_slice(backend, &pixels, &shape)?,
            labels: Tensor::from_slice(backend, &labels, &[batch])?,
            precision: Dtype::F32,
        })
    }

    fn step(&mut self, mode: Mode, step: u32) -> Result<()> {
        match mode {
            Mode::Train => self.train_step(step),
            Mode::Infer => self.infer_step(),
        }
    }

    fn train_step(&mut self, step: u32) -> Result<()> {
        let mut context = Context::train(0, step).with_precision(self.precision);
        let logits = self.model.forward(&self.x, &mut context)?;
        let loss = loss::cross_entropy(&logits, &self.labels, 0.1)?;
        drop(logits);
        let gradients = loss.backward()?;
        drop(loss);
        profile::time("sgd", Pass::Update, &**self.x.backend(), || {
            self.sgd.step(&self.model, &gradients, Setting::lr(0.01), None)
        })?;
        Ok(())
    }

    fn infer_step(&mut self) -> Result<()> {
        let model = self.folded.as_ref().unwrap_or(&self.model);
        let mut context = Context::eval().with_precision(self.precision);
        no_grad(|| model.forward(&self.x, &mut context))?;
        Ok(())
    }
}

/// The middle of sorted values.
fn median(sorted: &[f64]) -> f64 {
    let n = sorted.len();
    (sorted[(n - 1) / 2] + sorted[n / 2]) / 2.0
}

fn round(x: f64, digits: i32) -> f64 {
    let scale = 10f64.powi(digits);
    (x * scale).round() / scale
}

/// The most memory that this process has had resident, where the system tells (Linux).
fn peak_resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}
