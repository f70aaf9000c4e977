//! What a training run prints: a line an epoch, and in between a bar on a terminal or now and then
//! a plain line.

use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::metrics::{Row, Sums};
use super::run_dir::RunDir;
use crate::outln;

/// Between two plain lines within an epoch.
const INTERVAL: Duration = Duration::from_secs(30);

/// Prints, and logs what it prints.
pub struct Progress {
    bar: Option<ProgressBar>,
    quiet: bool,
    last_line: Instant,
    epochs: u32,
}

impl Progress {
    /// For a run of `epochs`. `quiet` leaves out everything within an epoch.
    pub fn new(epochs: u32, quiet: bool) -> Progress {
        let bar = (!quiet && stderr().is_terminal()).then(|| {
            // Nothing is drawn before the first step.
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
            let style = ProgressStyle::with_template("{prefix} {bar:20} {pos}/{len} {wide_msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar
        });
        Progress { bar, quiet, last_line: Instant::now(), epochs }
    }

    /// Prints and logs a line. Nobody reading it is no reason to stop training.
    pub fn line(&mut self, run: &mut RunDir, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| {
                let _ = outln!("{line}");
            }),
            None => {
                let _ = outln!("{line}");
            }
        }
        run.log(line);
        self.last_line = Instant::now();
    }

    /// The table's head.
    pub fn header(&mut self, run: &mut RunDir) {
        let line = format!(
            "{:>9}  {:>10} {:>8}  {:>9} {:>8}  {:>9}  {:>9}  {:>8}  {:>7}  {:>7}",
            "epoch",
            "train loss",
            "accuracy",
            "test loss",
            "accuracy",
            "lr",
            "grad norm",
            "images/s",
            "time",
            "ETA"
        );
        self.line(run, &line);
    }

    /// A line of the table.
    pub fn row(&mut self, run: &mut RunDir, row: &Row, eta: f64, best: bool) {
        let line = format!(
            "{:>9}  {:>10.4} {:>6.2} %  {:>9.4} {:>6.2} %  {:>9.3e}  {:>9.4}  {:>8.0}  \
             {:>7}  {:>7}{}",
            format!("{}/{}", row.epoch, self.epochs),
            row.train_loss,
            100.0 * row.train_accuracy,
            row.test_loss,
            100.0 * row.test_accuracy,
            row.lr,
            row.grad_norm,
            row.images_per_second,
            duration(row.seconds),
            duration(eta),
            if best { "  best" } else { "" }
        );
        let line = match row.skipped {
            Some(steps) if steps > 0 => format!("{line}  {steps} skipped (f16 overflow)"),
            _ => line,
        };
        self.line(run, &line);
    }

    /// After each step: `done` of `steps` in this epoch.
    pub fn step(&mut self, run: &mut RunDir, epoch: u32, done: u64, steps: u64, sums: &Sums) {
        if self.quiet {
            return;
        }
        let state = || {
            let skipped = match sums.skipped {
                0 => String::new(),
                steps => format!(", {steps} skipped"),
            };
            format!(
                "loss {:.4}, acc {:.2} %, lr {:.2e}, norm {:.2}, {:.0} img/s{skipped}",
                sums.mean_loss(),
                100.0 * sums.accuracy(),
                sums.lr,
                sums.mean_grad_norm(),
                sums.images_per_second()
            )
        };
        if let Some(bar) = &self.bar {
            if bar.is_hidden() {
                bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(5));
            }
            bar.set_prefix(format!("{}/{}", epoch + 1, self.epochs));
            bar.set_length(steps);
            bar.set_message(state());
            bar.set_position(done);
        } else if self.last_line.elapsed() >= INTERVAL {
            let line =
                format!("  epoch {}/{}, step {done}/{steps}: {}", epoch + 1, self.epochs, state());
            self.line(run, &line);
        }
    }

    /// While test images are classified.
    pub fn evaluating(&self) {
        if let Some(bar) = &self.bar {
            bar.set_message("testing");
        }
    }

    /// Takes the bar away.
    pub fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Seconds as a short text: `8.3 s`, `4m05`, `2h07`.
pub fn duration(seconds: f64) -> String {
    let whole = seconds.max(0.0) as u64;
    match whole {
        0..60 => format!("{seconds:.1} s"),
        60..3600 => format!("{}m{:02}", whole / 60, whole % 60),
        _ => format!("{}h{:02}", whole / 3600, whole % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::duration;

    #[test]
    fn durations_are_short() {
        assert_eq!(duration(8.26), "8.3 s");
        assert_eq!(duration(245.0), "4m05");
        assert_eq!(duration(7620.0), "2h07");
    }
}
