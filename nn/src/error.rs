//! What can go wrong above the engine: files and names. Computing errors pass through.

use std::io;
use std::path::PathBuf;

/// Result of loading, saving or configuring.
pub type Result<T> = std::result::Result<T, Error>;

/// Every message names the file or tensor, what was found, and what would have been right.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An op failed.
    #[error(transparent)]
    Engine(#[from] tilegrad_engine::Error),
    /// A model name that is not one of ours.
    #[error("unknown model '{name}': expected {expected}")]
    UnknownModel {
        /// What was written.
        name: String,
        /// The names that exist.
        expected: String,
    },
    /// A file that could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file that could not be written. What was there before is untouched.
    #[error("cannot save {}: {source}; the previous file, if any, is unchanged", path.display())]
    Save {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file that is not what it should be.
    #[error("{}: {detail}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// A tensor that the model needs and `origin` does not have.
    #[error("{origin}: tensor '{name}' with shape {shape:?} is missing: is it for another model?")]
    MissingTensor {
        /// The file, or where else the tensors came from.
        origin: String,
        /// Name of the tensor.
        name: String,
        /// The shape that the model expects.
        shape: Vec<usize>,
    },
    /// A tensor that the model does not have.
    #[error("{origin}: the model has no tensor '{name}': is it for another model?")]
    UnexpectedTensor {
        /// The file, or where else the tensors came from.
        origin: String,
        /// Name of the tensor.
        name: String,
    },
    /// A tensor of another shape than the model's.
    #[error("{origin}: tensor '{name}' has shape {got:?}, but the model expects {expected:?}")]
    TensorShape {
        /// The file, or where else the tensors came from.
        origin: String,
        /// Name of the tensor.
        name: String,
        /// The model's shape.
        expected: Vec<usize>,
        /// The shape found.
        got: Vec<usize>,
    },
    /// A tensor of an element type that cannot be used here.
    #[error("{origin}: tensor '{name}' has element type {got}, expected {expected}")]
    TensorDtype {
        /// The file, or where else the tensors came from.
        origin: String,
        /// Name of the tensor.
        name: String,
        /// What would be right.
        expected: String,
        /// The type found.
        got: String,
    },
    /// Metadata that is absent or does not say what it should.
    #[error("{origin}: metadata '{key}': {detail}")]
    Metadata {
        /// The file, or where else the tensors came from.
        origin: String,
        /// Which entry.
        key: String,
        /// What is wrong.
        detail: String,
    },
    /// Optimizer state that belongs to another optimizer.
    #[error("{origin}: holds state of optimizer '{got}', but this run uses '{expected}'")]
    WrongOptimizer {
        /// The file, or where else the state came from.
        origin: String,
        /// The optimizer in use.
        expected: String,
        /// The optimizer that the state is of.
        got: String,
    },
}
