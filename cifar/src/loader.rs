//! Batches, prepared on other threads while the training step runs.
//!
//! What a batch holds depends only on (seed, epoch, position): any number of workers gives the
//! same batches in the same order, and an epoch can be entered in its middle, as a resumed run
//! does.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

use anyhow::{Result, bail};

use crate::augment::{Augmentation, Mixing, Normalisation, SampleAddress, Scratch};
use crate::data::{Dataset, ImageBuffer, Order, permutation};

/// What batches look like and how they are made.
#[derive(Clone, Debug)]
pub struct LoaderOptions {
    /// Samples in a batch; the last one of an epoch may be smaller.
    pub batch: usize,
    /// Decides order and augmentation.
    pub seed: u64,
    /// A new order each epoch; otherwise the data set's.
    pub shuffle: bool,
    /// None: images are only normalised.
    pub augmentation: Option<Augmentation>,
    /// Mean of each channel, of values in 0..1.
    pub mean: [f32; 3],
    /// Standard deviation of each channel, of values in 0..1.
    pub std: [f32; 3],
    /// Threads that prepare batches; 0: the caller's thread does.
    pub workers: usize,
    /// Mixing of the samples of a batch, which makes targets soft.
    pub mixing: Option<Mixing>,
}

impl LoaderOptions {
    /// Every image once, in order, only normalised: what accuracies are measured on.
    pub fn evaluation(batch: usize, mean: [f32; 3], std: [f32; 3], workers: usize) -> Self {
        LoaderOptions {
            batch,
            seed: 0,
            shuffle: false,
            augmentation: None,
            mean,
            std,
            workers,
            mixing: None,
        }
    }
}

/// Some samples, ready for a model.
#[derive(Debug, Default)]
pub struct Batch {
    /// `[size, height, width, 3]`, normalised.
    pub images: Vec<f32>,
    /// `[size]`
    pub labels: Vec<i32>,
    /// `[size, classes]`, each row summing to 1, when samples were mixed.
    pub soft_targets: Option<Vec<f32>>,
    /// `[size]`: which images of the data set these are.
    pub indices: Vec<u32>,
    /// How many samples.
    pub size: usize,
    /// Where `images` goes when the batch is dropped.
    pool: Option<Arc<Pool>>,
}

impl Drop for Batch {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.take() {
            pool.give_back(std::mem::take(&mut self.images));
        }
    }
}

/// Image buffers between two uses.
#[derive(Debug, Default)]
struct Pool {
    buffers: Mutex<Vec<Vec<f32>>>,
}

impl Pool {
    fn take(&self) -> Vec<f32> {
        lock(&self.buffers).pop().unwrap_or_default()
    }

    fn give_back(&self, buffer: Vec<f32>) {
        if buffer.capacity() > 0 {
            lock(&self.buffers).push(buffer);
        }
    }
}

/// Locks even after a panic elsewhere: no invariant spans two fields.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Makes the batches of a data set, epoch by epoch.
#[derive(Clone, Debug)]
pub struct Loader {
    shared: Arc<Shared>,
}

/// What every worker reads.
#[derive(Debug)]
struct Shared {
    data: Arc<Dataset>,
    options: LoaderOptions,
    normalisation: Normalisation,
    pool: Arc<Pool>,
}

impl Loader {
    /// Checks the options against the data.
    ///
    /// Errors: no images, a batch of 0, deviations that are not positive, an augmentation that
    /// images of this size cannot bear.
    pub fn new(data: Arc<Dataset>, options: LoaderOptions) -> Result<Loader> {
        if data.is_empty() {
            bail!("loader: the data set has no images");
        }
        if options.batch == 0 {
            bail!("loader: batch size is 0, but must be at least 1");
        }
        let mean_ok = options.mean.iter().all(|m| m.is_finite());
        if !mean_ok || !options.std.iter().all(|s| s.is_finite() && *s > 0.0) {
            bail!(
                "loader: mean {:?} must be finite and std {:?} positive",
                options.mean,
                options.std
            );
        }
        if let Some(augmentation) = &options.augmentation {
            augmentation.check(data.size).map_err(anyhow::Error::msg)?;
        }
        if let Some(mixing) = &options.mixing {
            mixing.check().map_err(anyhow::Error::msg)?;
        }
        let normalisation = Normalisation::new(options.mean, options.std);
        let pool = Arc::new(Pool::default());
        Ok(Loader { shared: Arc::new(Shared { data, options, normalisation, pool }) })
    }

    /// The data set it reads.
    pub fn dataset(&self) -> &Arc<Dataset> {
        &self.shared.data
    }

    /// Batches in a whole epoch.
    pub fn batches(&self) -> usize {
        self.samples().div_ceil(self.shared.options.batch)
    }

    /// Samples in a whole epoch.
    pub fn samples(&self) -> usize {
        self.shared.data.len()
    }

    /// The batches of one epoch from number `start_batch` on. Dropping the iterator stops its
    /// threads.
    pub fn epoch(&self, epoch: u32, start_batch: usize) -> Epoch {
        let Shared { data, options, .. } = &*self.shared;
        let order = if options.shuffle {
            permutation(data.len(), options.seed, Order::Epoch, epoch)
        } else {
            (0..data.len() as u32).collect()
        };
        let end = self.batches();
        let start = start_batch.min(end);
        let plan = Arc::new(Plan { shared: self.shared.clone(), order, epoch, end });
        let workers = options.workers.min(end - start);
        // Two batches ahead of the consumer for each worker: one in the making and one ready.
        let queue = Arc::new(Queue {
            state: Mutex::new(State {
                next: start,
                delivered: start,
                ready: VecDeque::new(),
                stop: false,
                failed: false,
            }),
            ahead: 2 * workers,
            room: Condvar::new(),
            filled: Condvar::new(),
        });
        let threads = (0..workers)
            .map(|i| {
                let (plan, queue) = (plan.clone(), queue.clone());
                std::thread::Builder::new()
                    .name(format!("loader-{i}"))
                    .spawn(move || work(&plan, &queue))
                    .expect("the system starts a thread")
            })
            .collect();
        Epoch { plan, queue, threads, scratch: Buffers::default() }
    }
}

/// What preparing batches needs; each thread keeps its own.
#[derive(Default)]
struct Buffers {
    read: ImageBuffer,
    augment: Scratch,
}

/// One epoch's order of samples.
struct Plan {
    shared: Arc<Shared>,
    order: Vec<u32>,
    epoch: u32,
    /// One past the last batch.
    end: usize,
}

impl Plan {
    /// Batch number `k`, from nothing but this plan.
    fn prepare(&self, k: usize, scratch: &mut Buffers) -> Result<Batch> {
        let Shared { data, options, normalisation, pool } = &*self.shared;
        let start = k * options.batch;
        let indices = &self.order[start..(start + options.batch).min(self.order.len())];
        let image_len = data.image_bytes();
        let mut images = pool.take();
        images.resize(indices.len() * image_len, 0.0);
        let augmentation = options.augmentation.unwrap_or_default();
        for (&sample, out) in indices.iter().zip(images.chunks_exact_mut(image_len)) {
            let address = SampleAddress { seed: options.seed, epoch: self.epoch, sample };
            let image = data.image(sample as usize, &mut scratch.read)?;
            let scratch = &mut scratch.augment;
            augmentation.apply(image, data.size, address, normalisation, scratch, out);
        }
        let labels: Vec<i32> = indices.iter().map(|&i| data.labels[i as usize].into()).collect();
        let n = indices.len();
        let soft_targets = options.mixing.filter(Mixing::is_on).map(|mixing| {
            let classes = data.classes.len();
            let mut targets = vec![0.0; n * classes];
            for (row, &label) in targets.chunks_exact_mut(classes).zip(&labels) {
                row[label as usize] = 1.0;
            }
            let address = SampleAddress { seed: options.seed, epoch: self.epoch, sample: k as u32 };
            mixing.apply(&mut images, &mut targets, n, data.size, address);
            targets
        });
        let indices = indices.to_vec();
        Ok(Batch { images, labels, soft_targets, indices, size: n, pool: Some(pool.clone()) })
    }
}

/// Where workers and consumer meet.
struct Queue {
    state: Mutex<State>,
    /// How many batches may be begun beyond those delivered.
    ahead: usize,
    /// A batch was delivered, or work shall stop.
    room: Condvar,
    /// A batch was finished, or a worker failed.
    filled: Condvar,
}

struct State {
    /// The next batch to begin.
    next: usize,
    /// The next batch to deliver, which is `ready[0]` once made.
    delivered: usize,
    ready: VecDeque<Option<Result<Batch>>>,
    stop: bool,
    failed: bool,
}

/// Tells the consumer when a worker panics, so that it does not wait for ever.
struct Alarm<'a>(&'a Queue);

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            lock(&self.0.state).failed = true;
            self.0.filled.notify_all();
        }
    }
}

/// A worker: begins the next batch when there is room, until all are begun.
fn work(plan: &Plan, queue: &Queue) {
    let _alarm = Alarm(queue);
    let mut scratch = Buffers::default();
    loop {
        let k = {
            let mut state = lock(&queue.state);
            loop {
                if state.stop || state.next == plan.end {
                    return;
                }
                if state.next < state.delivered + queue.ahead {
                    break;
                }
                state = queue.room.wait(state).unwrap_or_else(|p| p.into_inner());
            }
            state.next += 1;
            state.ready.push_back(None);
            state.next - 1
        };
        let batch = plan.prepare(k, &mut scratch);
        let mut state = lock(&queue.state);
        let place = k - state.delivered;
        state.ready[place] = Some(batch);
        queue.filled.notify_all();
    }
}

/// The batches of one epoch, in order.
pub struct Epoch {
    plan: Arc<Plan>,
    queue: Arc<Queue>,
    threads: Vec<JoinHandle<()>>,
    scratch: Buffers,
}

impl Iterator for Epoch {
    type Item = Result<Batch>;

    /// An error is that of the data set: see [`Dataset::image`].
    ///
    /// # Panics
    /// If a worker did.
    fn next(&mut self) -> Option<Result<Batch>> {
        let mut state = lock(&self.queue.state);
        let k = state.delivered;
        if k == self.plan.end {
            return None;
        }
        if self.threads.is_empty() {
            state.delivered += 1;
            drop(state);
            return Some(self.plan.prepare(k, &mut self.scratch));
        }
        loop {
            if let Some(Some(_)) = state.ready.front() {
                state.delivered += 1;
                let batch = state.ready.pop_front().flatten();
                self.queue.room.notify_all();
                return batch;
            }
            assert!(!state.failed, "loader: a worker thread panicked");
            state = self.queue.filled.wait(state).unwrap_or_else(|p| p.into_inner());
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.plan.end - lock(&self.queue.state).delivered;
        (left, Some(left))
    }
}

impl ExactSizeIterator for Epoch {}

impl Drop for Epoch {
    fn drop(&mut self) {
        lock(&self.queue.state).stop = true;
        self.queue.room.notify_all();
        for thread in self.threads.drain(..) {
            // A worker's panic was reported by `next`, or nobody waits for its batch any more.
            let _ = thread.join();
        }
    }
}
