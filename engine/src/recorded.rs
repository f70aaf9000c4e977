//! Work that is recorded once and replayed: on a GPU, where handing over a kernel costs the host more time
//! than a small one takes.

use std::sync::Arc;

use tilegrad_kernels::Recording;

use crate::{Backend, Error, Result};

/// What `work` computes, and the kernels that compute it again. Shapes, learning rates, scales: all that the
/// host decided is fixed. What tensors held before is read anew by each replay (see [`crate::Tensor::write`]),
/// and random streams move on. A tensor that has got another buffer since (see
/// [`tilegrad_kernels::Buffer::identity`]) is not followed.
pub struct Recorded<T> {
    // First the recording: its memory is shared with the output.
    recording: Box<dyn Recording>,
    output: T,
}

impl<T> Recorded<T> {
    /// Records `work`, which must have run once before (see [`Backend::record`]), without computing anything.
    /// An error where the device cannot record: CUDA devices can.
    pub fn new(backend: &Arc<dyn Backend>, work: impl FnOnce() -> Result<T>) -> Result<Self> {
        let (mut work, mut output) = (Some(work), None);
        let recording = backend.record(&mut || {
            let work = work.take().ok_or_else(|| Error::argument("record", "was begun twice"))?;
            output = Some(work()?);
            Ok(())
        })?;
        let output = output.ok_or_else(|| Error::argument("record", "nothing was recorded"))?;
        Ok(Recorded { recording, output })
    }

    /// What `work` computed; to be read after a replay.
    pub fn output(&self) -> &T {
        &self.output
    }

    /// Computes it again, as if `steps` steps had passed since it was recorded: random streams of step s (their
    /// epoch) take the numbers of step s + `steps`. The tensors of the output are overwritten.
    pub fn replay(&self, steps: u32) -> Result<()> {
        self.recording.replay(steps)
    }
}
