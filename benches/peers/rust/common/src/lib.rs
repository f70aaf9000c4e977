//! What the peers' programs share: arguments, the timing of a training step with its line of JSON, and
//! the line protocol by which `matmul` asks another process for one timed round.

use std::io::{BufRead, Write};
use std::time::{Duration, Instant};

/// What to train and how long; the flags of `cifar bench` and of the PyTorch script.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainOptions {
    /// `simple-cnn`, `resnet20` or `resnet18`.
    pub model: String,
    /// Images of a step.
    pub batch: usize,
    /// Timed steps.
    pub steps: usize,
    /// Steps before them.
    pub warmup: usize,
    /// Worker threads.
    pub threads: usize,
}

impl TrainOptions {
    /// From the command line: `--model M [--batch N] [--steps N] [--warmup N] [--threads N]`.
    pub fn from_args(args: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options =
            TrainOptions { model: String::new(), batch: 128, steps: 8, warmup: 3, threads: 2 };
        let mut args = args;
        while let Some(flag) = args.next() {
            let value = args.next().ok_or(format!("{flag} needs a value"))?;
            let number = || match value.parse() {
                Ok(n) if n > 0 => Ok(n),
                _ => Err(format!("{flag} needs a number of at least 1, got '{value}'")),
            };
            match flag.as_str() {
                "--model" => options.model = value,
                "--batch" => options.batch = number()?,
                "--steps" => options.steps = number()?,
                "--warmup" => options.warmup = number()?,
                "--threads" => options.threads = number()?,
                // Accepted so that every peer can be started with the same flags.
                "--dtype" if value == "f32" => {}
                "--dtype" => return Err(format!("this peer trains in f32 only, got {value}")),
                _ => return Err(format!("unknown flag {flag}")),
            }
        }
        if options.model.is_empty() {
            return Err("--model is missing: simple-cnn, resnet20 or resnet18".into());
        }
        Ok(options)
    }

    /// Times `step` and prints one line of JSON with the keys of the PyTorch script.
    pub fn report<E>(
        &self,
        peer: &str,
        layout: &str,
        mut step: impl FnMut() -> Result<(), E>,
    ) -> Result<(), E> {
        for _ in 0..self.warmup {
            step()?;
        }
        let mut seconds = Vec::with_capacity(self.steps);
        for _ in 0..self.steps {
            let start = Instant::now();
            step()?;
            seconds.push(start.elapsed().as_secs_f64());
        }
        let middle = median(&mut seconds);
        let TrainOptions { model, batch, threads, .. } = self;
        println!(
            "{{\"peer\": \"{peer}\", \"model\": \"{model}\", \"batch\": {batch}, \"dtype\": \"f32\", \
             \"layout\": \"{layout}\", \"mode\": \"train\", \"threads\": {threads}, \
             \"images_per_second\": {:.1}, \"median_ms\": {:.2}, \"min_ms\": {:.2}}}",
            *batch as f64 / middle,
            middle * 1e3,
            seconds[0] * 1e3
        );
        Ok(())
    }
}

/// Sorts `values`, at least one, and returns the middle one.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    if values.len() % 2 == 1 { values[half] } else { (values[half - 1] + values[half]) / 2.0 }
}

/// `len` values in [-1, 1), the same ones each time.
pub fn values(len: usize) -> Vec<f32> {
    (0..len).map(|i| (i * 7919 % 1000) as f32 / 500.0 - 1.0).collect()
}

/// One matrix product y = a b: a `[m, k]`, b `[k, n]` or, if `transpose_b`, `[n, k]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Rows of a and y.
    pub m: usize,
    /// Columns of b and y.
    pub n: usize,
    /// Terms of a sum.
    pub k: usize,
    /// Whether b lies in memory as its transpose.
    pub transpose_b: bool,
    /// Whether the operands are bf16 and not f32.
    pub bf16: bool,
}

impl Shape {
    /// Multiplications and additions of the product.
    pub fn flops(&self) -> f64 {
        2.0 * self.m as f64 * self.n as f64 * self.k as f64
    }

    /// The request by which another process is asked for a round of `seconds`.
    pub fn request(&self, seconds: f64) -> String {
        let Shape { m, n, k, transpose_b, bf16 } = *self;
        let dtype = if bf16 { "bf16" } else { "f32" };
        format!("{m} {n} {k} {} {dtype} {seconds}", if transpose_b { "t" } else { "n" })
    }

    /// The other end of [`Shape::request`].
    pub fn from_request(line: &str) -> Option<(Shape, f64)> {
        let mut words = line.split_whitespace();
        let mut number = || words.next()?.parse().ok();
        let (m, n, k) = (number()?, number()?, number()?);
        let transpose_b = words.next()? == "t";
        let bf16 = words.next()? == "bf16";
        let seconds = words.next()?.parse().ok()?;
        Some((Shape { m, n, k, transpose_b, bf16 }, seconds))
    }
}

/// Median seconds of one call of `f`: one call to warm up, then calls until `seconds` are over, at
/// least three.
pub fn time(seconds: f64, mut f: impl FnMut()) -> f64 {
    f();
    let (begin, budget) = (Instant::now(), Duration::from_secs_f64(seconds));
    let mut samples = Vec::new();
    while samples.len() < 3 || begin.elapsed() < budget {
        let start = Instant::now();
        f();
        samples.push(start.elapsed().as_secs_f64());
    }
    median(&mut samples)
}

/// Answers requests from standard input until it ends: a line with the seconds of one product, or
/// `unsupported` where `round` has none.
pub fn serve(mut round: impl FnMut(Shape, f64) -> Option<f64>) -> std::io::Result<()> {
    let mut out = std::io::stdout();
    for line in std::io::stdin().lock().lines() {
        match Shape::from_request(&line?).and_then(|(shape, seconds)| round(shape, seconds)) {
            Some(seconds) => writeln!(out, "{seconds:e}")?,
            None => writeln!(out, "unsupported")?,
        }
        out.flush()?;
    }
    Ok(())
}

/// Tells rayon's users in this process, and the crates that read its variable, how many threads to use.
pub fn set_threads(threads: usize) {
    // SAFETY: programs call this first in `main`, while there is no other thread.
    unsafe { std::env::set_var("RAYON_NUM_THREADS", threads.to_string()) };
}
