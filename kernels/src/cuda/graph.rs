//! A step, recorded as a CUDA graph: its kernels are handed to the driver once, and from then on all together
//! by one call. What launching costs on the host, some microseconds a kernel, then no longer bounds the step
//! of a small model.
//!
//! A graph holds addresses. So whatever its kernels touch must stay where it is: memory that is allocated while
//! recording is set aside for the graph alone, older memory that it uses is held (see
//! [`Arena`](super::pool::Arena)), and what would tie a recording to one moment (an upload, a download, the
//! copy of a parameter that is shared) is an error.

use std::sync::Arc;

use cudarc::driver::{result, sys};

use super::Cuda;
use super::context::Context;
use super::pool::Arena;
use crate::{Recording, Result};

const OP: &str = "record";

/// A graph of the driver, while it is made.
struct Draft {
    graph: sys::CUgraph,
    context: Arc<Context>,
}

impl Drop for Draft {
    fn drop(&mut self) {
        if self.context.bind(OP).is_ok() {
            // SAFETY: from `end_capture`, destroyed only here. An executable made from it is its own copy.
            let _ = unsafe { result::graph::destroy(self.graph) };
        }
    }
}

/// A recorded step.
struct Graph {
    executable: sys::CUgraphExec,
    // After the executable: nothing replays any more when the memory goes back to the pool.
    arena: Arc<Arena>,
    context: Arc<Context>,
}

// SAFETY: the executable is a handle that the driver allows any thread to use, one at a time: `replay` launches
// into one stream, which orders the launches.
unsafe impl Send for Graph {}

impl Recording for Graph {
    fn replay(&self, steps: u32) -> Result<()> {
        const OP: &str = "replay";
        let context = &self.context;
        context.bind(OP)?;
        let (steps_at, stream) = (self.arena.steps(), context.compute);
        // SAFETY: the arena's word has 4 bytes, and the stream lives as long as the context.
        let answer = unsafe { sys::cuMemsetD32Async(steps_at, steps, 1, stream) };
        context.checked(OP, answer.result())?;
        // SAFETY: both are alive, and so is all memory in the graph, which the arena owns or holds.
        context.checked(OP, unsafe { result::graph::launch(self.executable, stream) })
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        if self.context.bind(OP).is_ok() {
            // SAFETY: made in `record`, destroyed only here; a launch that still runs is finished first.
            let _ = unsafe { result::graph::exec_destroy(self.executable) };
        }
    }
}

/// A capture that has begun; ends it when dropped, also when what is recorded panics: else the stream would go
/// on recording for good.
struct Capture<'a> {
    cuda: &'a Cuda,
    arena: Arc<Arena>,
    /// The stream is capturing.
    open: bool,
}

impl<'a> Capture<'a> {
    fn begin(cuda: &'a Cuda) -> Result<Self> {
        let arena = cuda.pool.begin_recording()?;
        let mut capture = Capture { cuda, arena, open: false };
        // Relaxed: other backends of this process may do as they like meanwhile.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        let context = &cuda.context;
        // SAFETY: the stream lives as long as the context.
        let begun = unsafe { result::stream::begin_capture(context.compute, mode) };
        context.checked(OP, begun)?;
        capture.open = true;
        Ok(capture)
    }

    fn end(&mut self) -> Result<Draft> {
        let context = &self.cuda.context;
        context.bind(OP)?;
        self.open = false;
        // SAFETY: the stream lives as long as the context.
        let graph = unsafe { result::stream::end_capture(context.compute) };
        Ok(Draft { graph: context.checked(OP, graph)?, context: context.clone() })
    }
}

impl Drop for Capture<'_> {
    fn drop(&mut self) {
        if self.open {
            let _ = self.end(); // what was recorded so far is worth nothing
        }
        self.cuda.pool.end_recording();
    }
}

/// Records what `work` hands to the compute stream.
pub fn record(cuda: &Cuda, work: &mut dyn FnMut() -> Result<()>) -> Result<Box<dyn Recording>> {
    let context = &cuda.context;
    context.bind(OP)?;
    cuda.indices.prepare()?;
    let mut capture = Capture::begin(cuda)?;
    let arena = capture.arena.clone();
    work()?;
    let draft = capture.end()?;
    drop(capture);
    let flags = sys::CUgraphInstantiate_flags(0);
    // SAFETY: the graph is whole, and alive until the draft is dropped.
    let executable = unsafe { result::graph::instantiate(draft.graph, flags) };
    let executable = context.checked(OP, executable)?;
    Ok(Box::new(Graph { executable, arena, context: context.clone() }))
}
