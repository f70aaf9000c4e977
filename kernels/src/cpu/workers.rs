//! A fixed set of worker threads that take part in one job at a time, with little delay.
//!
//! At batch 1 a kernel runs for some 10 µs, and a network is twenty of them in a row: waking a
//! sleeping thread for each would cost more than the second core gives. So a worker that has
//! finished its part watches for the next job for a while before it goes to sleep, and joining or
//! ending a job takes one atomic operation:
//!
//! ```text
//!   state   | number of the job | OPEN | workers inside |
//!
//!   caller:  writes the job, opens it, takes tasks itself, closes it, waits until nobody is inside
//!   worker:  sees an open job that it has not joined yet, enters, takes tasks, leaves
//! ```
//!
//! A worker that is late finds the job closed, and nobody waits for it. The job's data may be read
//! only between entering and leaving, and the caller does not return before all have left: that is
//! what lets tasks borrow from the caller's stack.

use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a worker watches for another job before it sleeps: longer than the serial parts between
/// two kernels of a step, short against a scheduler's time slice.
const WATCH: Duration = Duration::from_micros(100);

/// Workers inside the job: the low bits of the state.
const INSIDE: u64 = (1 << 16) - 1;
/// The job may be joined.
const OPEN: u64 = 1 << 16;
/// The workers shall end.
const STOP: u64 = 1 << 17;
/// One more job: its number is the rest of the state.
const JOB: u64 = 1 << 18;

/// What to do, `task(0)` to `task(count - 1)`.
#[derive(Clone, Copy)]
struct Job {
    task: *const (dyn Fn(usize) + Sync + 'static),
    count: usize,
}

struct Shared {
    state: AtomicU64,
    /// Written by the caller while the job is closed and nobody is inside; read by those inside.
    job: UnsafeCell<Option<Job>>,
    /// The next task of the job.
    next: AtomicUsize,
    /// The first panic of a task.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    /// Workers that sleep, or are about to.
    sleepers: AtomicUsize,
    bed: Mutex<()>,
    bell: Condvar,
}

// SAFETY: `job` is the only part that is not Sync by itself; it is written only while no worker may
// read it (see its comment), and what it points to is Sync and alive while it may be read.
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointer in `job` may be used from any thread.
unsafe impl Send for Shared {}

/// The threads. Dropping them ends them.
pub struct Workers {
    shared: Arc<Shared>,
    handles: Vec<JoinHandle<()>>,
    /// Held by the caller whose job it is.
    turn: Mutex<()>,
}

impl Workers {
    /// `count` threads besides the callers. They watch for jobs only if there is a core for each.
    pub fn new(count: usize) -> std::io::Result<Workers> {
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            job: UnsafeCell::new(None),
            next: AtomicUsize::new(0),
            panic: Mutex::new(None),
            sleepers: AtomicUsize::new(0),
            bed: Mutex::new(()),
            bell: Condvar::new(),
        });
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        let watch = if count < cores { WATCH } else { Duration::ZERO };
        let mut workers = Workers { shared, handles: Vec::new(), turn: Mutex::new(()) };
        for i in 0..count.min(INSIDE as usize) {
            let shared = workers.shared.clone();
            let thread = std::thread::Builder::new().name(format!("tilegrad-{}", i + 1));
            workers.handles.push(thread.spawn(move || shared.work(watch))?);
        }
        Ok(workers)
    }

    /// Number of threads.
    pub fn count(&self) -> usize {
        self.handles.len()
    }

    /// Runs `task(0)` to `task(count - 1)`, in any order, on the caller and the workers. While
    /// another caller's job runs (or from inside a task) the caller does it alone.
    pub fn run(&self, count: usize, task: &(dyn Fn(usize) + Sync)) {
        let turn = match self.turn.try_lock() {
            _ if count <= 1 || self.handles.is_empty() => None,
            Ok(turn) => Some(turn),
            // A task of an earlier job panicked; its job is over.
            Err(std::sync::TryLockError::Poisoned(e)) => Some(e.into_inner()),
            Err(std::sync::TryLockError::WouldBlock) => None,
        };
        let Some(_turn) = turn else { return (0..count).for_each(task) };
        let shared = &*self.shared;
        // SAFETY: only the lifetime is changed. Workers use the pointer only while they are inside
        // the job, and this function does not return before they have left.
        let task: *const (dyn Fn(usize) + Sync + 'static) =
            unsafe { std::mem::transmute(std::ptr::from_ref(task)) };
        let job = Job { task, count };
        // SAFETY: we hold the turn, the last job is closed, and its caller waited until nobody was
        // inside: no one else may touch it.
        unsafe { *shared.job.get() = Some(job) };
        shared.next.store(0, Ordering::Relaxed);
        // Nobody is inside, and the job before is closed: the rest of the state is its number. SeqCst
        // here and in `sleep`: either we see the sleeper, or it sees the job.
        let number = shared.state.load(Ordering::Relaxed) / JOB;
        shared.state.store(number.wrapping_add(1).wrapping_mul(JOB) | OPEN, Ordering::SeqCst);
        if shared.sleepers.load(Ordering::SeqCst) > 0 {
            let _bed = shared.bed.lock().unwrap_or_else(PoisonError::into_inner);
            shared.bell.notify_all();
        }
        shared.take_tasks(job);
        shared.state.fetch_and(!OPEN, Ordering::AcqRel);
        let mut spins = 0u32;
        while shared.state.load(Ordering::Acquire) & INSIDE != 0 {
            spins += 1;
            // Beyond some µs the worker may have lost its core, perhaps to us.
            if spins < 2000 { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
        let panic = shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.shared.state.fetch_or(STOP, Ordering::SeqCst);
        {
            let _bed = self.shared.bed.lock().unwrap_or_else(PoisonError::into_inner);
            self.shared.bell.notify_all();
        }
        for handle in self.handles.drain(..) {
            // A worker catches the panics of tasks and has none of its own.
            let _ = handle.join();
        }
    }
}

impl Shared {
    /// Takes tasks until none is left.
    fn take_tasks(&self, job: Job) {
        // SAFETY: the caller of `run` is in it, or a worker is inside the job: `run` has not
        // returned, so the task it was given is alive.
        let task = unsafe { &*job.task };
        let tasks = || {
            loop {
                let i = self.next.fetch_add(1, Ordering::Relaxed);
                if i >= job.count {
                    break;
                }
                task(i);
            }
        };
        // A panic must not leave the job open or the worker inside: it continues in the caller.
        if let Err(panic) = catch_unwind(AssertUnwindSafe(tasks)) {
            self.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(panic);
        }
    }

    /// A worker's life.
    fn work(&self, watch: Duration) {
        let mut done = 0;
        while let Some(state) = self.wait(done, watch) {
            done = state / JOB;
            if state & OPEN == 0 {
                continue; // Too late.
            }
            let entered =
                self.state.compare_exchange(state, state + 1, Ordering::Acquire, Ordering::Relaxed);
            match entered {
                Ok(_) => {
                    // SAFETY: we are inside: the caller wrote the job before it opened it and does
                    // not touch it before we leave.
                    if let Some(job) = unsafe { *self.job.get() } {
                        self.take_tasks(job);
                    }
                    self.state.fetch_sub(1, Ordering::Release);
                }
                // Somebody else entered, or the job was closed: look again.
                Err(_) => done = done.wrapping_sub(1),
            }
        }
    }

    /// The state when its job is no longer number `done`; `None` when the workers shall end.
    fn wait(&self, done: u64, watch: Duration) -> Option<u64> {
        let news = |state: u64| state & STOP != 0 || state / JOB != done;
        let mut state = self.state.load(Ordering::Acquire);
        let mut start = None;
        while !news(state) {
            if watch.is_zero() || start.get_or_insert_with(Instant::now).elapsed() > watch {
                state = self.sleep(&news);
                break;
            }
            for _ in 0..32 {
                std::hint::spin_loop();
                state = self.state.load(Ordering::Acquire);
                if news(state) {
                    break;
                }
            }
        }
        (state & STOP == 0).then_some(state)
    }

    /// Sleeps until there is news.
    fn sleep(&self, news: &dyn Fn(u64) -> bool) -> u64 {
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        let mut bed = self.bed.lock().unwrap_or_else(PoisonError::into_inner);
        let state = loop {
            let state = self.state.load(Ordering::SeqCst);
            if news(state) {
                break state;
            }
            bed = self.bell.wait(bed).unwrap_or_else(PoisonError::into_inner);
        };
        drop(bed);
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
        state
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count_runs(workers: &Workers, tasks: usize) {
        let runs: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
        workers.run(tasks, &|i| {
            runs[i].fetch_add(1, Ordering::Relaxed);
        });
        assert!(runs.iter().all(|r| r.load(Ordering::Relaxed) == 1), "{tasks} tasks");
    }

    #[test]
    fn every_task_runs_once_whether_workers_watch_or_sleep() {
        for threads in [0, 1, 4] {
            let workers = Workers::new(threads).unwrap();
            for round in 0..2000 {
                count_runs(&workers, round % 7);
                if round % 500 == 0 {
                    std::thread::sleep(4 * WATCH);
                }
            }
            count_runs(&workers, 10_000);
        }
    }

    #[test]
    fn a_job_inside_a_job_and_jobs_of_several_callers_all_finish() {
        let workers = Workers::new(2).unwrap();
        let sum = AtomicUsize::new(0);
        let add = |i: usize| {
            sum.fetch_add(i, Ordering::Relaxed);
        };
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        workers.run(4, &|_| workers.run(5, &add));
                    }
                });
            }
        });
        assert_eq!(sum.into_inner(), 3 * 200 * 4 * 10);
    }

    #[test]
    fn a_panic_reaches_the_caller_after_the_other_tasks_and_the_workers_go_on() {
        let workers = Workers::new(1).unwrap();
        for bad in 0..8 {
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                workers.run(8, &|i| assert_ne!(i, bad, "task {bad}"));
            }));
            let message = outcome.unwrap_err();
            let message = message.downcast_ref::<String>().unwrap();
            assert!(message.contains(&format!("task {bad}")), "{message}");
            count_runs(&workers, 100);
        }
    }
}
