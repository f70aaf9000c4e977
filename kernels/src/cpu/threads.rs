//! Threads of a backend, and the two shapes of loop that kernels use.

use super::workers::Workers;
use crate::{Device, Error, Result};

/// Elements a task of a memory-bound kernel handles: 64 KiB of f32, a small part of L2, and long
/// against the microsecond that handing out a task costs.
pub const TASK_ELEMENTS: usize = 16 * 1024;

/// The calling thread and its helpers.
pub struct Threads(Workers);

impl Threads {
    /// `count` threads, the caller's included; by default one a core that this process may use.
    pub fn new(count: Option<usize>) -> Result<Self> {
        if count == Some(0) {
            return Err(Error::argument("cpu", "threads must be at least 1, got 0"));
        }
        let cores = || std::thread::available_parallelism().map_or(1, |n| n.get());
        Workers::new(count.unwrap_or_else(cores) - 1)
            .map(Threads)
            .map_err(|e| Error::Unavailable { device: Device::Cpu, reason: e.to_string() })
    }

    /// Number of threads.
    pub fn count(&self) -> usize {
        self.0.count() + 1
    }

    /// Runs `task(0)` to `task(count - 1)`, in any order, on any thread. (Not generic further down,
    /// so that the machinery is compiled once and not once a kernel.)
    pub fn run(&self, count: usize, task: impl Fn(usize) + Sync) {
        self.0.run(count, &task);
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
