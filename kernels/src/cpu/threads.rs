//! Worker threads: a rayon pool and the two shapes of loop that kernels use.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rayon::Yield;
use rayon::prelude::*;

use crate::{Device, Error, Result};

/// Elements a task of a memory-bound kernel handles: 64 KiB of f32, a small part of L2, and long
/// against the few microseconds that handing out a task costs.
pub const TASK_ELEMENTS: usize = 16 * 1024;

/// How long a thread looks for work after its last: longer than what lies between two kernels of a
/// network, short against a scheduler's time slice.
const WATCH: Duration = Duration::from_micros(100);

/// A pool of worker threads.
///
/// At batch 1 a kernel takes some 10 µs and a network is twenty of them in a row. Rayon's threads go
/// to sleep after a few looks for work, and a thread that has to be woken comes too late for such a
/// kernel, every time: so a job on each of them looks longer.
pub struct Threads {
    pool: rayon::ThreadPool,
    /// Threads that look for work.
    watching: Arc<AtomicUsize>,
    /// Whether there is a core for each thread to look for work on.
    may_watch: bool,
}

impl Threads {
    /// `count` threads; by default one a core that this process may use.
    pub fn new(count: Option<usize>) -> Result<Self> {
        if count == Some(0) {
            return Err(Error::argument("cpu", "threads must be at least 1, got 0"));
        }
        rayon::ThreadPoolBuilder::new()
            .num_threads(count.unwrap_or(0))
            .thread_name(|i| format!("tilegrad-{i}"))
            .build()
            .map(|pool| {
                let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
                let may_watch = pool.current_num_threads() <= cores;
                Threads { pool, watching: Arc::default(), may_watch }
            })
            .map_err(|e| Error::Unavailable { device: Device::Cpu, reason: e.to_string() })
    }

    /// Number of threads.
    pub fn count(&self) -> usize {
        self.pool.current_num_threads()
    }

    /// Runs `f` on a worker thread.
    pub fn enter<R: Send>(&self, f: impl FnOnce() -> R + Send) -> R {
        self.pool.install(f)
    }

    /// Runs `task(0)` to `task(count - 1)`, in any order, on any thread.
    ///
    /// Each thread begins with its own share of the indices, a contiguous one and the same each time: what
    /// it wrote in one kernel it reads in the next, from its own caches. Then it helps the others.
    pub fn run(&self, count: usize, task: impl Fn(usize) + Sync) {
        self.run_both((0, &|_| ()), (count, &task));
    }

    /// Runs all tasks of `first` and then all of `second`, which may rely on them. One hand-over to
    /// the threads where two calls of [`Threads::run`] take two.
    ///
    /// Not generic, so that rayon's machinery is compiled once and not once a kernel.
    pub fn run_both(
        &self,
        (firsts, first): (usize, &(dyn Fn(usize) + Sync)),
        (seconds, second): (usize, &(dyn Fn(usize) + Sync)),
    ) {
        if firsts + seconds <= 1 || self.count() == 1 {
            (0..firsts).for_each(first);
            return (0..seconds).for_each(second);
        }
        /// Counts a task also when it panics: others wait for the count.
        struct Done<'a>(&'a AtomicUsize);
        impl Drop for Done<'_> {
            fn drop(&mut self) {
                self.0.fetch_add(1, Ordering::Release);
            }
        }
        let done = AtomicUsize::new(0);
        let (first_shares, second_shares) = (self.shares(firsts), self.shares(seconds));
        self.enter(|| {
            self.watch();
            let threads = self.count().min(firsts.max(seconds));
            (0..threads).into_par_iter().with_max_len(1).for_each(|_| {
                // A thread that is late finds none left, and nobody waits for it to wake up.
                first_shares.for_each(|i| {
                    let _done = Done(&done);
                    first(i);
                });
                // Those of `first` that are not done are running on threads that wait for nobody.
                let mut polls = 0;
                while done.load(Ordering::Acquire) < firsts {
                    polls += 1;
                    match polls < 100 {
                        true => std::hint::spin_loop(),
                        false => std::thread::yield_now(),
                    }
                }
                second_shares.for_each(second);
            });
        });
    }

    /// Makes the other threads look for work, if they do not already. To be called on a thread of the
    /// pool.
    fn watch(&self) {
        if !self.may_watch || self.watching.load(Ordering::Relaxed) > 0 {
            return;
        }
        let caller = rayon::current_thread_index();
        self.watching.store(self.count() - 1, Ordering::Relaxed);
        let watching = self.watching.clone();
        self.pool.spawn_broadcast(move |context| {
            if Some(context.index()) == caller {
                return;
            }
            let mut last = Instant::now();
            while last.elapsed() < WATCH {
                match rayon::yield_now() {
                    Some(Yield::Executed) => last = Instant::now(),
                    _ => std::hint::spin_loop(),
                }
            }
            watching.fetch_sub(1, Ordering::Relaxed);
        });
    }

    fn shares(&self, count: usize) -> Shares {
        let threads = self.count();
        let next = (0..threads).map(|t| Next(AtomicUsize::new(count * t / threads)));
        Shares { next: next.collect(), count }
    }

    /// Cuts `out` into pieces of `piece` elements (the last may be shorter) and runs `task(index,
    /// piece)` on each.
    pub fn chunks<T: Send>(
        &self,
        out: &mut [T],
        piece: usize,
        task: impl Fn(usize, &mut [T]) + Sync,
    ) {
        let pieces = Pieces::new(out, piece);
        // SAFETY: each index is run once.
        self.run(pieces.count(), |i| task(i, unsafe { pieces.get(i) }));
    }

    /// As [`Threads::chunks`] on two outputs at once: task i gets piece i of each.
    pub fn chunks2<A: Send, B: Send>(
        &self,
        (a, piece_a): (&mut [A], usize),
        (b, piece_b): (&mut [B], usize),
        task: impl Fn(usize, &mut [A], &mut [B]) + Sync,
    ) {
        let (a, b) = (Pieces::new(a, piece_a), Pieces::new(b, piece_b));
        // SAFETY: each index is run once.
        self.run(a.count().min(b.count()), |i| unsafe { task(i, a.get(i), b.get(i)) });
    }
}

/// Indices below `count`, a contiguous share for each thread.
struct Shares {
    /// The next index of each share.
    next: Vec<Next>,
    count: usize,
}

/// Alone in its cache lines: all threads but its own seldom touch it.
#[repr(align(128))]
struct Next(AtomicUsize);

impl Shares {
    /// Runs what is left of this thread's share, then what is left of the others'.
    fn for_each(&self, task: impl Fn(usize)) {
        let threads = self.next.len();
        let me = rayon::current_thread_index().unwrap_or(0);
        for share in (0..threads).map(|i| (me + i) % threads) {
            let end = self.count * (share + 1) / threads;
            loop {
                let i = self.next[share].0.fetch_add(1, Ordering::Relaxed);
                if i >= end {
                    break;
                }
                task(i);
            }
        }
    }
}

/// A slice cut into pieces of one size, the last perhaps shorter.
struct Pieces<T> {
    all: SharedMut<T>,
    piece: usize,
}

impl<T> Pieces<T> {
    fn new(slice: &mut [T], piece: usize) -> Self {
        Pieces { all: SharedMut::new(slice), piece: piece.max(1) }
    }

    fn count(&self) -> usize {
        self.all.len.div_ceil(self.piece)
    }

    /// Piece `i`.
    ///
    /// # Safety
    /// At most once for each `i`.
    #[allow(clippy::mut_from_ref)]
    unsafe fn get(&self, i: usize) -> &mut [T] {
        let start = i * self.piece;
        // SAFETY: pieces do not overlap, and nobody else holds this one.
        unsafe { self.all.slice(start, self.piece.min(self.all.len - start)) }
    }
}

/// A mutable slice that several tasks write to, each its own part.
pub struct SharedMut<T> {
    start: *mut T,
    len: usize,
}

// SAFETY: access is only through unsafe methods, whose callers promise disjoint parts.
unsafe impl<T: Send> Sync for SharedMut<T> {}

impl<T> SharedMut<T> {
    /// Shares `slice`, which must not be used otherwise while this exists.
    pub fn new(slice: &mut [T]) -> Self {
        SharedMut { start: slice.as_mut_ptr(), len: slice.len() }
    }

    /// Elements `start` to `start + len`.
    ///
    /// # Safety
    /// No other task may hold any of them.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn slice(&self, start: usize, len: usize) -> &mut [T] {
        assert!(start + len <= self.len);
        // SAFETY: in bounds by the assertion, unique by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), len) }
    }

    /// Elements `start` to `start + len`, to be read.
    ///
    /// # Safety
    /// Nobody may write them meanwhile.
    pub unsafe fn read(&self, start: usize, len: usize) -> &[T] {
        assert!(start + len <= self.len);
        // SAFETY: in bounds by the assertion, not written by the caller's promise.
        unsafe { std::slice::from_raw_parts(self.start.add(start), len) }
    }

    /// Pointer to element `index`.
    ///
    /// # Safety
    /// Writes through it must stay inside the slice and apart from those of other tasks.
    pub unsafe fn pointer(&self, index: usize) -> *mut T {
        assert!(index <= self.len);
        // SAFETY: in bounds by the assertion.
        unsafe { self.start.add(index) }
    }
}
