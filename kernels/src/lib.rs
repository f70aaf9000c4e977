//! How tensors are computed: raw buffers in, raw buffers out. This crate knows no tensor, no
//! gradient and no layer.
//!
//! [`Backend`] is the one dispatch point of the project: a method for each pass of each kernel
//! family. Four backends implement it here:
//!
//! - [`reference::Reference`]: plain loops over f32 and f64, never optimised. It is the oracle.
//! - [`cpu::Cpu`]: SIMD chosen at run time, threads, pooled memory.
//! - [`cuda::Cuda`]: CUDA kernels, on an NVIDIA GPU or on softcuda.
//! - [`wgpu::Wgpu`]: WGSL kernels, on any GPU with Vulkan, Metal or DX12.
//!
//! A method either runs its kernel on its own device or answers [`Error::Unsupported`]; nothing
//! falls back silently. Methods may return before the device has finished (only
//! [`Backend::download`] and [`Backend::synchronize`] wait), and no method hands out a slice: the
//! host may be unable to touch a [`Buffer`]'s memory.

pub mod args;
mod axes;
mod buffer;
pub mod cpu;
pub mod cuda;
mod derived;
mod dtype;
mod error;
pub mod host;
pub mod philox;
mod reduce_layout;
pub mod reference;
mod walk;
pub mod wgpu;

pub use args::*;
pub use buffer::{Buffer, Storage};
pub use dtype::{Device, Dtype, Element};
pub use error::{Error, Result};
pub use host::MemoryStats;

/// What [`Backend::batch_norm_forward`] computes.
pub struct BatchNormOutput {
    /// Normalised, with residual and activation, `[rows, c]`.
    pub y: Buffer,
    /// Mean of each channel, `[c]`.
    pub mean: Buffer,
    /// Biased variance of each channel, `[c]`.
    pub var: Buffer,
}

/// What [`Backend::batch_norm_backward`] computes.
pub struct BatchNormGradients {
    /// `[rows, c]`
    pub dx: Buffer,
    /// `[c]`
    pub dgamma: Buffer,
    /// `[c]`
    pub dbeta: Buffer,
    /// `[rows, c]`, when a residual was added.
    pub dresidual: Option<Buffer>,
}

/// One parameter of an SGD update.
pub struct SgdParameter<'a> {
    /// Updated.
    pub parameter: &'a mut Buffer,
    /// Its gradient.
    pub gradient: &'a Buffer,
    /// Updated; unused when the momentum is 0.
    pub velocity: &'a mut Buffer,
}

/// One parameter of an AdamW update.
pub struct AdamWParameter<'a> {
    /// Updated.
    pub parameter: &'a mut Buffer,
    /// Its gradient.
    pub gradient: &'a Buffer,
    /// First moment, updated.
    pub m: &'a mut Buffer,
    /// Second moment, updated.
    pub v: &'a mut Buffer,
}

/// What a device's own clock says of one kernel: see [`Backend::stop_kernel_times`].
#[derive(Clone, Debug, PartialEq)]
pub struct KernelTime {
    /// Its name in the source.
    pub kernel: &'static str,
    /// How often it ran.
    pub calls: u64,
    /// All of its calls together.
    pub seconds: f64,
}

/// Kernels of a device in their order, to be run again and again: see [`Backend::record`].
pub trait Recording: Send {
    /// Hands all of it to the device, after what was handed in before. `steps` is how many steps after
    /// the recording this is: random streams take their numbers from so many epochs later.
    fn replay(&self, steps: u32) -> Result<()>;
}

/// The kernels of one device. Shapes are in the argument structs; every buffer's length, dtype and
/// device is checked against them. Unless stated otherwise all float buffers of a call have one
/// dtype, which is the result's. Sums are kept in f32 where that has 16 bits.
pub trait Backend: Send + Sync {
    // --- The device and its memory ------------------------------------------------------------------

    /// Which device this is.
    fn device(&self) -> Device;
    /// One line on what it runs on: processor, instruction set, threads.
    fn description(&self) -> String;
    /// Which algorithm was taken for what so far, a line each, for logs. Empty where there is no
    /// choice.
    fn choices(&self) -> Vec<String> {
        Vec::new()
    }
    /// From now on notes how long each kernel takes by the device's own clock, which makes the whole slower.
    /// False where the device has none.
    fn start_kernel_times(&self) -> Result<bool> {
        Ok(false)
    }
    /// Waits for the device. The kernels since [`Backend::start_kernel_times`], the longest first; none if no
    /// clock was running.
    fn stop_kernel_times(&self) -> Result<Vec<KernelTime>> {
        Ok(Vec::new())
    }
    /// Copies host bytes (of a whole number of elements) to the device.
    fn upload(&self, dtype: Dtype, bytes: &[u8]) -> Result<Buffer>;
    /// Overwrites all of a buffer with host bytes. Where the device can record, the buffer stays where it is,
    /// so that a recording that uses it finds the new elements.
    fn write(&self, x: &mut Buffer, bytes: &[u8]) -> Result<()> {
        check_bytes("write", x, bytes)?;
        *x = self.upload(x.dtype(), bytes)?;
        Ok(())
    }
    /// Records the kernels that `work` hands to the device instead of running them. What they write has no
    /// value before the first [`Recording::replay`]; then, and until it is dropped, each replay computes it
    /// anew from what the memory of the buffers that were there before holds by then. A buffer that is
    /// replaced instead of changed in place is not followed: see [`Buffer::identity`]. No other thread may use
    /// the backend meanwhile. `work` must have run once before, or a driver that compiles kernels when they are
    /// first used may refuse; and it must neither upload nor download, nor call [`Backend::synchronize`]. An
    /// error where the device has no such thing.
    fn record(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Box<dyn Recording>> {
        let _ = work;
        let detail = format!("device {} cannot record its kernels", self.device());
        Err(Error::argument("record", detail))
    }
    /// Waits for the device and copies a buffer to the host.
    fn download(&self, x: &Buffer) -> Result<Vec<u8>>;
    /// `len` elements of `value`.
    fn fill(&self, dtype: Dtype, len: usize, value: f64) -> Result<Buffer>;
    /// Converts elements; to integers by rounding to nearest even and saturating.
    fn cast(&self, x: &Buffer, dtype: Dtype) -> Result<Buffer>;
    /// Waits until all work handed in so far is done. What only the device sees, such as an index outside its range,
    /// is an error of the next call that waits, here or in [`Backend::download`], whichever thread makes it; once.
    fn synchronize(&self) -> Result<()>;
    /// Bytes in use, at the peak, and cached.
    fn memory(&self) -> MemoryStats;
    /// Starts a new peak.
    fn reset_peak(&self);
    /// Gives freed memory that waits to be used again back to the system, where a device keeps any:
    /// worth it when the sizes that will be asked for change, as with a smaller last batch.
    fn trim(&self);

    // --- Elementwise --------------------------------------------------------------------------------

    /// y = op(x)
    fn unary_forward(&self, op: Unary, x: &Buffer) -> Result<Buffer>;
    /// dx = dy op'(x); `saved` is x or y as [`Unary::saves`] says, and dy where it says nothing.
    fn unary_backward(&self, op: Unary, saved: &Buffer, dy: &Buffer) -> Result<Buffer>;
    /// y = a op b, broadcast.
    fn binary_forward(
        &self,
        op: Binary,
        args: &BroadcastArgs,
        a: &Buffer,
        b: &Buffer,
    ) -> Result<Buffer>;
    /// Gradients of a and b where `needs` says so, each summed over the axes along which it was
    /// broadcast.
    fn binary_backward(
        &self,
        op: Binary,
        args: &BroadcastArgs,
        a: &Buffer,
        b: &Buffer,
        dy: &Buffer,
        needs: [bool; 2],
    ) -> Result<[Option<Buffer>; 2]>;
    /// into += x, in place.
    fn accumulate(&self, into: &mut Buffer, x: &Buffer) -> Result<()>;

    // --- Reductions ---------------------------------------------------------------------------------

    /// Sum, mean or maximum over axes.
    fn reduce_forward(&self, op: Reduce, args: &ReduceArgs, x: &Buffer) -> Result<Buffer>;
    /// dx from dy; `saved` is (x, y), needed by [`Reduce::Max`] only.
    fn reduce_backward(
        &self,
        op: Reduce,
        args: &ReduceArgs,
        saved: Option<(&Buffer, &Buffer)>,
        dy: &Buffer,
    ) -> Result<Buffer>;
    /// Position of the first maximum (NaN counts as largest) among the reduced axes, row-major, as
    /// i32.
    fn argmax(&self, args: &ReduceArgs, x: &Buffer) -> Result<Buffer>;
    /// Σ x² over all elements, as one element: f32 where x has 16 bits, which would soon overflow.
    fn sum_squares(&self, x: &Buffer) -> Result<Buffer>;

    // --- Products -----------------------------------------------------------------------------------

    /// y = op(a) op(b) + bias.
    fn matmul(
        &self,
        args: &MatmulArgs,
        a: &Buffer,
        b: &Buffer,
        bias: Option<&Buffer>,
    ) -> Result<Buffer>;
    /// y = activation(x * filter + bias), bias `[c_out]`.
    fn conv2d_forward(
        &self,
        args: &Conv2dArgs,
        activation: Activation,
        x: &Buffer,
        filter: &Buffer,
        bias: Option<&Buffer>,
    ) -> Result<Buffer>;
    /// y = activation(x * filter + bias + residual), residual like y. The caller will use the same
    /// filter again: a backend may keep what it derives from it (packed, transformed) with the
    /// filter's memory, until that is changed or freed.
    fn conv2d_inference(
        &self,
        args: &Conv2dArgs,
        activation: Activation,
        x: &Buffer,
        filter: &Buffer,
        bias: Option<&Buffer>,
        residual: Option<&Buffer>,
    ) -> Result<Buffer>;
    /// dx from dy.
    fn conv2d_backward_data(
        &self,
        args: &Conv2dArgs,
        filter: &Buffer,
        dy: &Buffer,
    ) -> Result<Buffer>;
    /// dfilter from x and dy.
    fn conv2d_backward_filter(&self, args: &Conv2dArgs, x: &Buffer, dy: &Buffer) -> Result<Buffer>;

    // --- Pooling ------------------------------------------------------------------------------------

    /// y, and for each y the position `iy * w + ix` of the first maximum in its image (NaN counts
    /// as largest), i32.
    fn max_pool2d_forward(&self, args: &Pool2dArgs, x: &Buffer) -> Result<(Buffer, Buffer)>;
    /// dx from dy and the positions.
    fn max_pool2d_backward(
        &self,
        args: &Pool2dArgs,
        positions: &Buffer,
        dy: &Buffer,
    ) -> Result<Buffer>;
    /// Mean over each window, padding left out.
    fn avg_pool2d_forward(&self, args: &Pool2dArgs, x: &Buffer) -> Result<Buffer>;
    /// dx from dy.
    fn avg_pool2d_backward(&self, args: &Pool2dArgs, dy: &Buffer) -> Result<Buffer>;

    // --- Normalisation ------------------------------------------------------------------------------
    // Where x has 16 bits, values a channel may have its dtype or be f32, as a model's parameters and
    // statistics are; mean and variance come out as f32, dgamma and dbeta as gamma is.

    /// Statistics of x, and y = activation(gamma (x - mean) / sqrt(var + epsilon) + beta +
    /// residual).
    fn batch_norm_forward(
        &self,
        args: &BatchNormArgs,
        x: &Buffer,
        gamma: &Buffer,
        beta: &Buffer,
        residual: Option<&Buffer>,
    ) -> Result<BatchNormOutput>;
    /// The same y from given statistics.
    fn batch_norm_inference(
        &self,
        args: &BatchNormArgs,
        x: &Buffer,
        gamma: &Buffer,
        beta: &Buffer,
        mean: &Buffer,
        var: &Buffer,
        residual: Option<&Buffer>,
    ) -> Result<Buffer>;
    /// All gradients; `y` is needed when there is an activation, and `residual` says whether its
    /// gradient is wanted.
    fn batch_norm_backward(
        &self,
        args: &BatchNormArgs,
        x: &Buffer,
        y: Option<&Buffer>,
        gamma: &Buffer,
        mean: &Buffer,
        var: &Buffer,
        dy: &Buffer,
        residual: bool,
    ) -> Result<BatchNormGradients>;
    /// running = (1 - momentum) running + momentum batch, with the unbiased variance, rows / (rows
    /// - 1) times `var`.
    fn batch_norm_update_running(
        &self,
        args: &BatchNormArgs,
        momentum: f64,
        running_mean: &mut Buffer,
        running_var: &mut Buffer,
        mean: &Buffer,
        var: &Buffer,
    ) -> Result<()>;

    // --- Rows of classes ----------------------------------------------------------------------------

    /// y = softmax(x) over each row.
    fn softmax_forward(&self, rows: Rows, x: &Buffer) -> Result<Buffer>;
    /// dx from y and dy.
    fn softmax_backward(&self, rows: Rows, y: &Buffer, dy: &Buffer) -> Result<Buffer>;
    /// y = log softmax(x) over each row.
    fn log_softmax_forward(&self, rows: Rows, x: &Buffer) -> Result<Buffer>;
    /// dx from y and dy.
    fn log_softmax_backward(&self, rows: Rows, y: &Buffer, dy: &Buffer) -> Result<Buffer>;
    /// Loss of each row `[count]`, and the log-sum-exp of each row `[count]` for the backward pass.
    /// Both, and the gradient of the losses, are f32 where the logits have 16 bits.
    /// Targets are i32 labels `[count]` or probabilities `[count, len]` of the logits' dtype.
    fn cross_entropy_forward(
        &self,
        args: &CrossEntropyArgs,
        logits: &Buffer,
        targets: &Buffer,
    ) -> Result<(Buffer, Buffer)>;
    /// dlogits from the gradient of each row's loss.
    fn cross_entropy_backward(
        &self,
        args: &CrossEntropyArgs,
        logits: &Buffer,
        targets: &Buffer,
        log_sum_exp: &Buffer,
        dloss: &Buffer,
    ) -> Result<Buffer>;

    // --- Dropout ------------------------------------------------------------------------------------

    /// Zeroes and scales; being linear, it is its own backward pass with the same arguments.
    fn dropout(&self, args: &DropoutArgs, x: &Buffer) -> Result<Buffer>;

    // --- Movement of elements (4 bytes an element; also 16-bit floats, f64) --------------------------

    /// Permutes axes, by copying.
    fn permute(&self, args: &PermuteArgs, x: &Buffer) -> Result<Buffer>;
    /// Joins along an axis.
    fn concat(&self, args: &ConcatArgs, xs: &[&Buffer]) -> Result<Buffer>;
    /// Cuts out a box.
    fn slice(&self, args: &SliceArgs, x: &Buffer) -> Result<Buffer>;
    /// Surrounds with a constant.
    fn pad(&self, args: &PadArgs, x: &Buffer) -> Result<Buffer>;
    /// y[o, i, :] = x[o, indices[i], :]; indices are i32.
    fn gather_forward(&self, args: &GatherArgs, x: &Buffer, indices: &Buffer) -> Result<Buffer>;
    /// dx: the rows of dy added up at their indices, in order.
    fn gather_backward(&self, args: &GatherArgs, indices: &Buffer, dy: &Buffer) -> Result<Buffer>;

    // --- Optimizers (in place) ----------------------------------------------------------------------

    /// One step of SGD on every parameter; gradients are first multiplied by `gradient_scale` (one
    /// element) if given.
    fn sgd_step(
        &self,
        args: &SgdArgs,
        gradient_scale: Option<&Buffer>,
        parameters: &mut [SgdParameter<'_>],
    ) -> Result<()>;
    /// One step of AdamW on every parameter; `gradient_scale` as in SGD.
    fn adamw_step(
        &self,
        args: &AdamWArgs,
        gradient_scale: Option<&Buffer>,
        parameters: &mut [AdamWParameter<'_>],
    ) -> Result<()>;
}

/// Refuses bytes that are not those of as many elements as `x` has.
fn check_bytes(op: &'static str, x: &Buffer, bytes: &[u8]) -> Result<()> {
    let (expected, got) = (x.len() * x.dtype().size(), bytes.len());
    match got == expected {
        true => Ok(()),
        false => Err(Error::shape(op, format!("expected {expected} bytes for {x:?}, got {got}"))),
    }
}

/// Copies a host slice to `backend`'s device.
pub fn upload<T: Element>(backend: &dyn Backend, data: &[T]) -> Result<Buffer> {
    backend.upload(T::DTYPE, bytes_of(data))
}

/// The bytes of elements, for [`Backend::upload`] and [`Backend::write`].
pub fn bytes_of<T: Element>(data: &[T]) -> &[u8] {
    bytemuck::cast_slice(data)
}

/// Copies a buffer to the host; its dtype must be `T`'s.
pub fn download<T: Element>(backend: &dyn Backend, x: &Buffer) -> Result<Vec<T>> {
    if x.dtype() != T::DTYPE {
        return Err(Error::Dtype {
            op: "download",
            expected: T::DTYPE.to_string(),
            got: x.dtype(),
        });
    }
    Ok(bytemuck::pod_collect_to_vec(&backend.download(x)?))
}
