//! A tensor: a dtype, a shape and one contiguous buffer, and its place on the tape if it is
//! tracked.

use std::fmt;
use std::sync::Arc;

use tilegrad_kernels::{Buffer, Element, elements};

use crate::tape::Node;
use crate::{Backend, Dtype, Error, Result};

/// Row-major elements of one dtype on one device. Cloning is cheap: it shares the elements.
#[derive(Clone)]
pub struct Tensor {
    shape: Vec<usize>,
    buffer: Buffer,
    backend: Arc<dyn Backend>,
    node: Option<Arc<Node>>,
}

impl Tensor {
    /// Wraps a buffer of `backend`, whose length must be that of `shape`.
    pub fn new(backend: &Arc<dyn Backend>, buffer: Buffer, shape: &[usize]) -> Result<Self> {
        if buffer.len() != elements(shape) {
            return Err(Error::shape(
                "tensor",
                format!(
                    "shape {shape:?} has {} elements, but there are {}",
                    elements(shape),
                    buffer.len()
                ),
            ));
        }
        Ok(Tensor { shape: shape.to_vec(), buffer, backend: backend.clone(), node: None })
    }

    /// Copies a slice to the device.
    pub fn from_slice<T: Element>(
        backend: &Arc<dyn Backend>,
        data: &[T],
        shape: &[usize],
    ) -> Result<Self> {
        Self::new(backend, tilegrad_kernels::upload(&**backend, data)?, shape)
    }

    /// Overwrites all elements with as many of the same dtype. On devices that can record
    /// ([`crate::Recorded`]) they stay where they are, and nobody else may hold them.
    pub fn write<T: Element>(&mut self, data: &[T]) -> Result<()> {
        if T::DTYPE != self.dtype() {
            let expected = self.dtype().to_string();
            return Err(Error::Dtype { op: "write", expected, got: T::DTYPE });
        }
        self.backend.write(&mut self.buffer, tilegrad_kernels::bytes_of(data))
    }

    /// All elements equal to `value`.
    pub fn full(
        backend: &Arc<dyn Backend>,
        dtype: Dtype,
        shape: &[usize],
        value: f64,
    ) -> Result<Self> {
        Self::new(backend, backend.fill(dtype, elements(shape), value)?, shape)
    }

    /// All elements 0.
    pub fn zeros(backend: &Arc<dyn Backend>, dtype: Dtype, shape: &[usize]) -> Result<Self> {
        Self::full(backend, dtype, shape, 0.0)
    }

    /// Same shape, dtype and device, all elements equal to `value`.
    pub fn filled_like(&self, value: f64) -> Result<Self> {
        Self::full(&self.backend, self.dtype(), &self.shape, value)
    }

    /// An untracked tensor of another shape (and perhaps dtype) around a buffer that this tensor's
    /// backend made.
    pub fn wrap(&self, buffer: Buffer, shape: &[usize]) -> Tensor {
        debug_assert_eq!(buffer.len(), elements(shape));
        Tensor { shape: shape.to_vec(), buffer, backend: self.backend.clone(), node: None }
    }

    /// An untracked tensor of this shape around a buffer that this tensor's backend made.
    pub fn like(&self, buffer: Buffer) -> Tensor {
        self.wrap(buffer, &self.shape)
    }

    /// Sizes of the axes.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of axes.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.buffer.len()
    }

    /// Element type.
    pub fn dtype(&self) -> Dtype {
        self.buffer.dtype()
    }

    /// The elements, for kernels.
    pub fn buffer(&self) -> &Buffer {
        &self.buffer
    }

    /// The elements, for kernels that update in place.
    pub fn buffer_mut(&mut self) -> &mut Buffer {
        &mut self.buffer
    }

    /// Where it lives.
    pub fn backend(&self) -> &Arc<dyn Backend> {
        &self.backend
    }

    pub(crate) fn node(&self) -> Option<&Arc<Node>> {
        self.node.as_ref()
    }

    pub(crate) fn with_node(mut self, node: Arc<Node>) -> Tensor {
        self.node = Some(node);
        self
    }

    /// True when gradients flow to or through this tensor.
    pub fn is_tracked(&self) -> bool {
        self.node.is_some()
    }

    /// A new leaf of the tape with the same elements: backward will give its gradient.
    pub fn tracked(&self) -> Tensor {
        self.detach().with_node(Node::leaf())
    }

    /// The same elements without history.
    pub fn detach(&self) -> Tensor {
        Tensor { node: None, ..self.clone() }
    }

    /// Copies the elements to the host; `T` must match the dtype.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        tilegrad_kernels::download(&*self.backend, &self.buffer)
    }

    /// Copies the elements to the host as f64, whatever the dtype.
    pub fn to_f64_vec(&self) -> Result<Vec<f64>> {
        let be = &*self.backend;
        Ok(match self.dtype() {
            Dtype::F64 => self.to_vec::<f64>()?,
            Dtype::F32 => self.to_vec::<f32>()?.into_iter().map(f64::from).collect(),
            Dtype::I32 => self.to_vec::<i32>()?.into_iter().map(f64::from).collect(),
            Dtype::I8 => self.to_vec::<i8>()?.into_iter().map(f64::from).collect(),
            Dtype::U8 => self.to_vec::<u8>()?.into_iter().map(f64::from).collect(),
            Dtype::F16 | Dtype::BF16 => {
                let wide = be.cast(&self.buffer, Dtype::F32)?;
                tilegrad_kernels::download::<f32>(be, &wide)?.into_iter().map(f64::from).collect()
            }
        })
    }

    /// The only element, as f64.
    pub fn item(&self) -> Result<f64> {
        match self.to_f64_vec()?.as_slice() {
            &[v] => Ok(v),
            _ => {
                Err(Error::shape("item", format!("needs one element, got shape {:?}", self.shape)))
            }
        }
    }

    /// Copies to another backend, without history.
    pub fn to_backend(&self, backend: &Arc<dyn Backend>) -> Result<Tensor> {
        let bytes = self.backend.download(&self.buffer)?;
        Self::new(backend, backend.upload(self.dtype(), &bytes)?, &self.shape)
    }

    /// Converts the elements: [`crate::ops::cast`].
    pub fn to_dtype(&self, dtype: Dtype) -> Result<Tensor> {
        crate::ops::cast(self, dtype)
    }

    /// self += x, in place, without history. Shapes must be equal.
    pub fn accumulate(&mut self, x: &Tensor) -> Result<()> {
        if x.shape != self.shape {
            return Err(Error::shape(
                "accumulate",
                format!("shapes must be equal, got {:?} and {:?}", self.shape, x.shape),
            ));
        }
        let backend = self.backend.clone();
        backend.accumulate(&mut self.buffer, &x.buffer)
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor({} {:?} on {}", self.dtype(), self.shape, self.backend.device())?;
        if let Some(node) = &self.node {
            write!(f, ", node {}", node.id())?;
        }
        f.write_str(")")
    }
}
