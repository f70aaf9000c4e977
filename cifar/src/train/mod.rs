//! Training: a run from its configuration to its last epoch, and again from wherever it stopped.
//!
//! All randomness is addressed by (seed, epoch, sample) or (seed, step), so a run's state is its
//! parameters, its optimizer's state and its position. `--resume` continues in the middle of an
//! epoch with the same bits.

mod checkpoint;
mod diagnose;
pub mod evaluate;
pub mod metrics;
mod optimize;
mod pass;
pub mod progress;
pub mod run_dir;
pub mod signals;
mod step;
mod tta;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use tilegrad_engine::Dtype;
use tilegrad_nn::Model;

use crate::augment::{Augmentation, Mixing};
use crate::cli::describe;
use crate::config::{Config, Normalisation, OptimizerKind};
use crate::data::{self, Dataset, Split};
use crate::device::{self, Compute};
use crate::loader::{Loader, LoaderOptions};
use crate::model::{self, Meta};
use crate::plots;
use checkpoint::Position;
use evaluate::{Evaluation, Views, evaluate};
use metrics::Row;
use optimize::Update;
use pass::StepGraph;
use progress::Progress;
use run_dir::{RunDir, write_atomically};
use signals::Stop;

/// Where a run begins.
pub enum Start {
    /// In a new directory: this one, or the next free under `runs/`.
    New(Option<PathBuf>),
    /// Where the run in this directory stopped.
    Resume(PathBuf),
}

/// What bounds this process, but is no part of the run.
pub struct Limits {
    /// Save and stop after so many optimizer steps of the run.
    pub max_steps: Option<u64>,
    /// Print nothing within an epoch.
    pub quiet: bool,
}

/// Both splits of the data that `config` names.
pub fn load_data(config: &Config) -> Result<(Dataset, Dataset)> {
    if config.data == "synthetic" {
        let set = data::synthetic::generate(config.synthetic_train, config.synthetic_test, 0);
        return Ok(set);
    }
    let dir = std::path::Path::new(&config.data);
    let train = Dataset::load(dir, Split::Train)?;
    let test = Dataset::load(dir, Split::Test)?;
    ensure!(
        train.classes == test.classes && train.size == test.size,
        "{}: training and test images differ in classes or size",
        dir.display()
    );
    Ok((train, test))
}

/// Trains, and returns the exit code: 0, or 128 + the signal that stopped it.
pub fn run(compute: &Compute, config: Config, start: Start, limits: Limits) -> Result<u8> {
    let stop = Stop::listen()?;
    let mut trainer = Trainer::new(compute, config, start, limits, stop)?;
    let outcome = trainer.train();
    trainer.progress.clear();
    if let Err(error) = &outcome {
        trainer.run.log(&format!("error: {}", describe(error)));
    }
    outcome
}

/// Mean and standard deviation that images are normalised with.
fn normalisation(config: &Config, train: &Dataset) -> Result<([f32; 3], [f32; 3])> {
    match config.normalise {
        Normalisation::Dataset => train.mean_std(),
        Normalisation::Half => Ok(([0.5; 3], [0.5; 3])),
    }
}

/// Batches of both splits. A test batch has as many images as a training batch: those of a training
/// batch, so that the memory pool serves both with the same blocks.
fn loaders(
    config: &Config,
    train: Dataset,
    test: Dataset,
    mean: [f32; 3],
    std: [f32; 3],
) -> Result<(Loader, Loader)> {
    let augmentation = Augmentation {
        flip: config.flip,
        alternating_flip: config.alternating_flip,
        crop_padding: config.crop,
        padding: config.padding,
        rotation_degrees: config.rotation as f32,
        ..Augmentation::NONE
    };
    let mixing = Mixing { mixup_alpha: config.mixup as f32, cutmix_alpha: config.cutmix as f32 };
    let options = LoaderOptions {
        batch: config.batch,
        seed: config.seed,
        shuffle: true,
        augmentation: (augmentation != Augmentation::NONE).then_some(augmentation),
        mean,
        std,
        workers: config.workers,
        mixing: mixing.is_on().then_some(mixing),
    };
    let test_options = LoaderOptions::evaluation(config.batch, mean, std, config.workers);
    Ok((Loader::new(Arc::new(train), options)?, Loader::new(Arc::new(test), test_options)?))
}

/// A run in progress.
struct Trainer {
    compute: Compute,
    config: Config,
    limits: Limits,
    stop: Stop,
    train: Loader,
    test: Loader,
    model: Model,
    update: Update,
    meta: Meta,
    position: Position,
    /// Of activations.
    precision: Dtype,
    /// Images of the last batch.
    batch_size: usize,
    /// Images of the first pass: those of its size are recorded from the second on.
    warm: Option<usize>,
    /// The recorded pass.
    graph: Option<StepGraph>,
    /// Steps that the last save holds.
    saved_step: u64,
    /// Whether this process has made no step yet.
    first_step: bool,
    run: RunDir,
    progress: Progress,
}

impl Trainer {
    fn new(
        compute: &Compute,
        config: Config,
        start: Start,
        limits: Limits,
        stop: Stop,
    ) -> Result<Trainer> {
        let precision = device::precision("precision", &config.precision)?;
        compute.check_precision(precision)?;
        ensure!(
            !config.graph || config.accumulate == 1,
            "--graph records steps of one batch, but --accumulate is {}",
            config.accumulate
        );
        ensure!(
            !config.graph || config.optimizer != OptimizerKind::Muon,
            "--graph needs an optimizer that changes parameters in place, sgd or adamw, got muon"
        );
        if config.graph {
            compute.backend.record(&mut || Ok(()))?; // says so now if the device cannot
        }
        let (train, test) = load_data(&config)?;
        let fingerprint = format!("{}-{}", train.fingerprint()?, test.fingerprint()?);
        let (mean, std) = normalisation(&config, &train)?;
        let (train, test) = loaders(&config, train, test, mean, std)?;
        let data = train.dataset().clone();
        let model = model::build(&config, &data, &compute.backend)?;
        let steps_per_epoch = train.batches().div_ceil(config.accumulate) as u64;
        let mut update = Update::new(&config, &model, steps_per_epoch)?;
        let mut meta = Meta::new(&config.model, &data, mean, std, &fingerprint);
        let mut position = Position::default();
        let resumed = matches!(start, Start::Resume(_));
        let run = match start {
            Start::New(out) => {
                match config.weights.as_str() {
                    "" => model::whiten(&model, &data, mean, std)?,
                    weights => {
                        let path = run_dir::checkpoint_in(weights.as_ref())?;
                        model::load_weights(&path, &model)?;
                    }
                }
                RunDir::create(out.as_deref())?
            }
            Start::Resume(dir) => {
                let run = RunDir::open(&dir)?;
                position = checkpoint::load(&run, &model, &mut update, &mut meta)?;
                run
            }
        };
        let progress = Progress::new(config.epochs, limits.quiet);
        let compute = compute.clone();
        let mut trainer = Trainer {
            compute,
            config,
            limits,
            stop,
            train,
            test,
            model,
            update,
            meta,
            batch_size: 0,
            warm: None,
            graph: None,
            saved_step: position.step,
            first_step: true,
            position,
            precision,
            run,
            progress,
        };
        trainer.announce(resumed);
        if !resumed {
            let facts = trainer.facts();
            let text = format!("{facts}\n{}", trainer.config.to_toml()?);
            let config = trainer.run.config();
            write_atomically(&config, text.as_bytes())?;
            trainer.save().inspect_err(|_| {
                // Without a state there is no run: the directory must be free for the next try.
                let _ = std::fs::remove_file(&config);
            })?;
        }
        // Also after a crash between the state and the metrics of an epoch, and before the first.
        trainer.saving(|t| t.run.write_metrics(&t.position.rows))?;
        Ok(trainer)
    }

    fn line(&mut self, line: &str) {
        self.progress.line(&mut self.run, line);
    }

    /// Comments for `config.toml`: what a run's numbers depend on beside its settings.
    fn facts(&self) -> String {
        // A comment of a TOML file: text without control characters.
        let words = std::env::args_os().map(|word| word.to_string_lossy().into_owned());
        let command = words.collect::<Vec<_>>().join(" ");
        format!(
            "# tilegrad {}\n# device: {}\n# threads: {}\n# data: {}\n# command: {}\n",
            env!("CARGO_PKG_VERSION"),
            self.compute.backend.description(),
            self.compute.threads(),
            self.meta.dataset,
            command.replace(char::is_control, " "),
        )
    }

    fn announce(&mut self, resumed: bool) {
        let data = self.train.dataset().clone();
        let description = self.compute.backend.description();
        self.line(&format!("tilegrad {} on {description}", env!("CARGO_PKG_VERSION")));
        self.line(&format!(
            "data   {}: {} training and {} test images of {} classes, {}x{}, fingerprint {}",
            self.config.data,
            data.len(),
            self.test.dataset().len(),
            data.classes.len(),
            data.size,
            data.size,
            self.meta.dataset
        ));
        let parameters = self.model.trained_elements();
        self.line(&format!(
            "model  {}: {parameters} parameters; {} epochs of {} steps, batch {}",
            self.config.model,
            self.config.epochs,
            self.update.steps_per_epoch(),
            self.config.batch * self.config.accumulate
        ));
        let path = self.run.path().display().to_string();
        if resumed {
            let (epoch, step) = (self.position.epoch + 1, self.position.step);
            self.line(&format!("resume {path}: epoch {epoch}, after step {step}"));
        } else {
            self.line(&format!("run    {path}, seed {}", self.config.seed));
        }
    }

    /// Writes which algorithms the device chose to the log; that is too much for the terminal.
    fn log_choices(&mut self) {
        for line in self.compute.backend.choices() {
            self.run.log(&line);
        }
    }

    /// Whether no epoch is left.
    fn ended(&self) -> bool {
        self.position.finished || self.position.epoch >= self.config.epochs
    }

    /// All epochs that are left.
    fn train(&mut self) -> Result<u8> {
        if !self.ended() {
            self.progress.header(&mut self.run);
        }
        while !self.ended() {
            if let Some(code) = self.epoch()? {
                return Ok(code);
            }
        }
        if self.config.tta
            && let Some(code) = self.test_with_tta()?
        {
            return Ok(code);
        }
        let best = self.position.best.context("the run has no finished epoch")?;
        let path = self.run.best().display().to_string();
        self.line(&format!(
            "best   epoch {}: test accuracy {:.2} %, weights in {path}",
            best.epoch,
            100.0 * best.accuracy
        ));
        // A signal that came too late to stop anything is still told to who sent it.
        Ok(self.stop.exit_code().unwrap_or(0))
    }

    /// The rest of the current epoch. An exit code if the run stops here.
    fn epoch(&mut self) -> Result<Option<u8>> {
        let begun = Instant::now();
        let seconds_before = self.position.sums.seconds;
        let steps = self.update.steps_per_epoch();
        let first_batch = self.position.sums.steps as usize * self.config.accumulate;
        let mut batches = self.train.epoch(self.position.epoch, first_batch);
        while self.position.sums.steps < steps {
            if let Some(code) = self.must_stop()? {
                return Ok(Some(code));
            }
            let clock = Instant::now();
            let stats = self.step(&mut batches)?;
            self.position.add(&stats, clock.elapsed().as_secs_f64());
            if std::mem::take(&mut self.first_step) {
                self.log_choices();
            }
            let sums = &self.position.sums;
            self.progress.step(&mut self.run, self.position.epoch, sums.steps, steps, sums);
            let every = self.config.save_every;
            let epoch_ends = self.position.sums.steps == steps;
            if every > 0 && self.position.step.is_multiple_of(every) && !epoch_ends {
                self.save()?;
            }
        }
        drop(batches);
        self.progress.evaluating();
        let stop = self.stop.clone();
        let how = Views { precision: self.precision, tta: false };
        let (model, backend) = (&self.model, &self.compute.backend);
        let evaluation = evaluate(model, backend, &self.test, how, || stop.exit_code().is_some())
            .map_err(|error| self.saved_before(error))?;
        let Some(evaluation) = evaluation else {
            // Asked to stop while testing: a resumed run begins with this epoch's test.
            return self.must_stop();
        };
        anyhow::ensure!(
            evaluation.loss.is_finite(),
            "step {}: the test loss is {} after epoch {}, at learning rate {:e}; the last good \
             checkpoint is {} (step {})",
            self.position.step,
            evaluation.loss,
            self.position.epoch + 1,
            self.position.sums.lr,
            self.run.state().display(),
            self.saved_step
        );
        let sums = self.position.sums;
        let row = Row {
            epoch: self.position.epoch + 1,
            step: self.position.step,
            train_loss: sums.mean_loss(),
            train_accuracy: sums.accuracy(),
            test_loss: evaluation.loss,
            test_accuracy: evaluation.accuracy(),
            lr: sums.lr,
            grad_norm: sums.mean_grad_norm(),
            images_per_second: sums.images_per_second(),
            seconds: seconds_before + begun.elapsed().as_secs_f64(),
            tta_accuracy: None,
            skipped: (self.precision == Dtype::F16).then_some(sums.skipped),
        };
        self.finish_epoch(row, &evaluation)?;
        self.must_stop()
    }

    /// Notes an epoch's row, and saves everything.
    fn finish_epoch(&mut self, row: Row, evaluation: &Evaluation) -> Result<()> {
        let best = self.position.finish_epoch(row, self.config.patience);
        self.meta.epoch = row.epoch;
        self.meta.step = row.step;
        self.meta.test_accuracy = Some(row.test_accuracy);
        self.meta.test_loss = Some(row.test_loss);
        // Best before state: after a crash in between, the resumed run tests this epoch again and
        // writes both.
        if best {
            let path = self.run.best();
            self.saving(|t| Ok(model::checkpoint(&t.model, &t.meta)?.save(&path)?))?;
        }
        self.save()?;
        self.saving(|t| t.run.write_metrics(&t.position.rows))?;
        let left = f64::from(self.config.epochs - row.epoch);
        let eta = if self.position.finished { 0.0 } else { left * row.seconds };
        self.progress.row(&mut self.run, &row, eta, best);
        if self.position.finished && row.epoch < self.config.epochs {
            let patience = self.config.patience;
            self.line(&format!("no better test accuracy in {patience} epochs: stopping early"));
        }
        self.draw(best.then_some(evaluation));
        Ok(())
    }

    /// Measures the last epoch's accuracy by the mean over views of each image, and notes it beside
    /// the plain one. An exit code if the run was stopped meanwhile; resumed, it measures again.
    fn test_with_tta(&mut self) -> Result<Option<u8>> {
        let row = *self.position.rows.last().context("the run has no finished epoch")?;
        let accuracy = match row.tta_accuracy {
            Some(accuracy) => accuracy,
            None => {
                let stop = self.stop.clone();
                let stopped = || stop.exit_code().is_some();
                let (model, backend) = (&self.model, &self.compute.backend);
                let how = Views { precision: self.precision, tta: true };
                match evaluate(model, backend, &self.test, how, stopped)? {
                    Some(evaluation) => evaluation.accuracy(),
                    None => return self.must_stop(),
                }
            }
        };
        if row.tta_accuracy.is_none() {
            if let Some(row) = self.position.rows.last_mut() {
                row.tta_accuracy = Some(accuracy);
            }
            self.save()?;
            self.saving(|t| t.run.write_metrics(&t.position.rows))?;
        }
        self.line(&format!(
            "last   epoch {}: test accuracy {:.2} %, with six views of each image {:.2} %",
            row.epoch,
            100.0 * row.test_accuracy,
            100.0 * accuracy
        ));
        Ok(None)
    }

    /// Pictures are worth a warning, not the run.
    fn draw(&mut self, best: Option<&Evaluation>) {
        let data = std::path::Path::new(&self.config.data).file_name().unwrap_or_default();
        let title = format!(
            "{} on {}: best test accuracy {:.2} %",
            self.config.model,
            data.display(),
            100.0 * self.position.best.map_or(0.0, |best| best.accuracy)
        );
        let curves = plots::curves(&self.run.curves(), &title, &self.position.rows);
        let classes = &self.train.dataset().classes;
        let confusion =
            best.map_or(Ok(()), |b| plots::confusion(&self.run.confusion(), classes, &b.confusion));
        if let Err(e) = curves.and(confusion) {
            self.line(&format!("warning: {}", describe(&e)));
        }
    }

    /// Saves and gives an exit code if a signal or `--max-steps` says so.
    fn must_stop(&mut self) -> Result<Option<u8>> {
        let signal = self.stop.exit_code();
        let enough = self.limits.max_steps.is_some_and(|max| self.position.step >= max);
        // At the end of the last epoch there is nothing left to stop, and all is saved.
        if self.ended() || !(signal.is_some() || enough) {
            return Ok(None);
        }
        self.save()?;
        let step = self.position.step;
        let dir = self.run.path().display().to_string();
        let why = if signal.is_some() { "stopped" } else { "--max-steps reached" };
        self.line(&format!("{why} after step {step}; continue with: cifar train --resume {dir}"));
        Ok(Some(signal.unwrap_or(0)))
    }

    /// Writes `state.safetensors`, from which a run resumes, then `weights/last.safetensors`.
    fn save(&mut self) -> Result<()> {
        // A step can spoil the weights that its own, finite gradient was for.
        if let Some(name) = diagnose::bad_parameter(&self.model)? {
            anyhow::bail!(
                "step {}: {name} is no longer finite, so this state is not saved; the last good \
                 checkpoint is {} (step {})",
                self.position.step,
                self.run.state().display(),
                self.saved_step
            );
        }
        self.meta.epoch = self.position.epoch;
        self.meta.step = self.position.step;
        // Files are made in memory first: they take the place of the step's idle blocks.
        self.compute.backend.trim();
        self.saving(|t| {
            checkpoint::save(&t.run, &t.model, &t.update, &t.meta, &t.position)?;
            Ok(model::checkpoint(&t.model, &t.meta)?.save(t.run.last())?)
        })?;
        self.saved_step = self.position.step;
        Ok(())
    }

    /// Saves a run that an error from outside ends, such as images that cannot be read any more:
    /// the steps made are good. Returns the error, with where the run goes on.
    fn saved_before(&mut self, error: anyhow::Error) -> anyhow::Error {
        let error = describe(&error);
        match self.save() {
            Ok(()) => anyhow!(
                "{error}; saved after step {}, continue with: cifar train --resume {}",
                self.position.step,
                self.run.path().display()
            ),
            Err(second) => anyhow!("{error}; {}", describe(&second)),
        }
    }

    /// Says about a failed save that what was saved before is still there.
    fn saving(&self, save: impl FnOnce(&Self) -> Result<()>) -> Result<()> {
        let Err(error) = save(self) else { return Ok(()) };
        let state = self.run.state();
        if state.is_file() {
            bail!(
                "{}; the previous checkpoint is intact: {}, resume with --resume {}",
                describe(&error),
                state.display(),
                self.run.path().display()
            );
        }
        Err(error)
    }
}

#[cfg(test)]
mod tests;
