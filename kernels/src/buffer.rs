//! A contiguous run of elements on some device.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use crate::{Device, Dtype};

/// Device memory behind a [`Buffer`]. The host may be unable to touch it; each backend downcasts to
/// its own kind.
pub trait Storage: Any + Send + Sync {
    /// Where the memory is.
    fn device(&self) -> Device;
    /// For the owning backend.
    fn as_any(&self) -> &dyn Any;
    /// For the owning backend, when it is the only holder.
    fn as_any_mut(&mut self) -> &mut dyn Any;
}

/// `len` elements of one dtype on one device. Cloning shares the memory; a kernel that updates a
/// buffer in place takes `&mut Buffer` and copies first when others hold it, so that a buffer
/// behaves as a value.
#[derive(Clone)]
pub struct Buffer {
    dtype: Dtype,
    len: usize,
    storage: Arc<dyn Storage>,
}

impl Buffer {
    /// Wraps device memory; only backends call this.
    pub fn new(dtype: Dtype, len: usize, storage: Arc<dyn Storage>) -> Self {
        Buffer { dtype, len, storage }
    }

    /// Element type.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when it holds no element.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where it lives.
    pub fn device(&self) -> Device {
        self.storage.device()
    }

    /// A number that changes when the buffer moves to other memory, and that no other memory has as long as
    /// this is in use.
    pub fn identity(&self) -> usize {
        Arc::as_ptr(&self.storage).cast::<()>() as usize
    }

    /// The memory, for the owning backend.
    pub fn storage(&self) -> &dyn Storage {
        self.storage.as_ref()
    }

    /// The memory, if nobody else holds it.
    pub fn storage_mut(&mut self) -> Option<&mut dyn Storage> {
        Arc::get_mut(&mut self.storage).map(|s| s as &mut dyn Storage)
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} x {} on {})", self.len, self.dtype, self.device())
    }
}
