//! A backend that notes which of its methods are called, to find those that no case reaches.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use tilegrad_kernels::*;

/// Passes every call on to another backend, and remembers its name.
pub struct Recorder {
    inner: Arc<dyn Backend>,
    called: Mutex<BTreeSet<&'static str>>,
}

impl Recorder {
    /// Around `inner`.
    pub fn new(inner: Arc<dyn Backend>) -> Recorder {
        Recorder { inner, called: Mutex::default() }
    }

    /// Names of the methods called so far.
    pub fn called(&self) -> BTreeSet<&'static str> {
        self.called.lock().expect("no panic while locked").clone()
    }

    fn note(&self, name: &'static str) {
        self.called.lock().expect("no panic while locked").insert(name);
    }
}

macro_rules! forward {
    ($(fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $out:ty)?;)*) => {
        impl Backend for Recorder {
            $(fn $name(&self, $($arg: $ty),*) $(-> $out)? {
                self.note(stringify!($name));
                self.inner.$name($($arg),*)
            })*
        }
    };
}

forward! {
    fn device() -> Device;
    fn description() -> String;
    fn choices() -> Vec<String>;
    fn upload(dtype: Dtype, bytes: &[u8]) -> Result<Buffer>;
    fn write(x: &mut Buffer, bytes: &[u8]) -> Result<()>;
    fn record(work: &mut dyn FnMut() -> Result<()>) -> Result<Box<dyn Recording>>;
    fn download(x: &Buffer) -> Result<Vec<u8>>;
    fn fill(dtype: Dtype, len: usize, value: f64) -> Result<Buffer>;
    fn cast(x: &Buffer, dtype: Dtype) -> Result<Buffer>;
    fn synchronize() -> Result<()>;
    fn memory() -> MemoryStats;
    fn reset_peak();
    fn trim();
    fn unary_forward(op: Unary, x: &Buffer) -> Result<Buffer>;
    fn unary_backward(op: Unary, saved: &Buffer, dy: &Buffer) -> Result<Buffer>;
    fn binary_forward(op: Binary, args: &BroadcastArgs, a: &Buffer, b: &Buffer) -> Result<Buffer>;
    fn binary_backward(
        op: Binary, args: &BroadcastArgs, a: &Buffer, b: &Buffer, dy: &Buffer, needs: [bool; 2],
    ) -> Result<[Option<Buffer>; 2]>;
    fn accumulate(into: &mut Buffer, x: &Buffer) -> Result<()>;
    fn reduce_forward(op: Reduce, args: &ReduceArgs, x: &Buffer) -> Result<Buffer>;
    fn reduce_backward(
        op: Reduce, args: &ReduceArgs, saved: Option<(&Buffer, &Buffer)>, dy: &Buffer,
    ) -> Result<Buffer>;
    fn argmax(args: &ReduceArgs, x: &Buffer) -> Result<Buffer>;
    fn sum_squares(x: &Buffer) -> Result<Buffer>;
    fn matmul(args: &MatmulArgs, a: &Buffer, b: &Buffer, bias: Option<&Buffer>) -> Result<Buffer>;
    fn conv2d_forward(
        args: &Conv2dArgs, activation: Activation, x: &Buffer, filter: &Buffer, bias: Option<&Buffer>,
    ) -> Result<Buffer>;
    fn conv2d_inference(
        args: &Conv2dArgs, activation: Activation, x: &Buffer, filter: &Buffer, bias: Option<&Buffer>,
        residual: Option<&Buffer>,
    ) -> Result<Buffer>;
    fn conv2d_backward_data(args: &Conv2dArgs, filter: &Buffer, dy: &Buffer) -> Result<Buffer>;
    fn conv2d_backward_filter(args: &Conv2dArgs, x: &Buffer, dy: &Buffer) -> Result<Buffer>;
    fn max_pool2d_forward(args: &Pool2dArgs, x: &Buffer) -> Result<(Buffer, Buffer)>;
    fn max_pool2d_backward(args: &Pool2dArgs, positions: &Buffer, dy: &Buffer) -> Result<Buffer>;
    fn avg_pool2d_forward(args: &Pool2dArgs, x: &Buffer) -> Result<Buffer>;
    fn avg_pool2d_backward(args: &Pool2dArgs, dy: &Buffer) -> Result<Buffer>;
    fn batch_norm_forward(
        args: &BatchNormArgs, x: &Buffer, gamma: &Buffer, beta: &Buffer, residual: Option<&Buffer>,
    ) -> Result<BatchNormOutput>;
    fn batch_norm_inference(
        args: &BatchNormArgs, x: &Buffer, gamma: &Buffer, beta: &Buffer, mean: &Buffer, var: &Buffer,
        residual: Option<&Buffer>,
    ) -> Result<Buffer>;
    fn batch_norm_backward(
        args: &BatchNormArgs, x: &Buffer, y: Option<&Buffer>, gamma: &Buffer, mean: &Buffer,
        var: &Buffer, dy: &Buffer, residual: bool,
    ) -> Result<BatchNormGradients>;
    fn batch_norm_update_running(
        args: &BatchNormArgs, momentum: f64, running_mean: &mut Buffer, running_var: &mut Buffer,
        mean: &Buffer, var: &Buffer,
    ) -> Result<()>;
    fn softmax_forward(rows: Rows, x: &Buffer) -> Result<Buffer>;
    fn softmax_backward(rows: Rows, y: &Buffer, dy: &Buffer) -> Result<Buffer>;
    fn log_softmax_forward(rows: Rows, x: &Buffer) -> Result<Buffer>;
    fn log_softmax_backward(rows: Rows, y: &Buffer, dy: &Buffer) -> Result<Buffer>;
    fn cross_entropy_forward(
        args: &CrossEntropyArgs, logits: &Buffer, targets: &Buffer,
    ) -> Result<(Buffer, Buffer)>;
    fn cross_entropy_backward(
        args: &CrossEntropyArgs, logits: &Buffer, targets: &Buffer, log_sum_exp: &Buffer,
        dloss: &Buffer,
    ) -> Result<Buffer>;
    fn dropout(args: &DropoutArgs, x: &Buffer) -> Result<Buffer>;
    fn permute(args: &PermuteArgs, x: &Buffer) -> Result<Buffer>;
    fn concat(args: &ConcatArgs, xs: &[&Buffer]) -> Result<Buffer>;
    fn slice(args: &SliceArgs, x: &Buffer) -> Result<Buffer>;
    fn pad(args: &PadArgs, x: &Buffer) -> Result<Buffer>;
    fn gather_forward(args: &GatherArgs, x: &Buffer, indices: &Buffer) -> Result<Buffer>;
    fn gather_backward(args: &GatherArgs, indices: &Buffer, dy: &Buffer) -> Result<Buffer>;
    fn sgd_step(
        args: &SgdArgs, gradient_scale: Option<&Buffer>, parameters: &mut [SgdParameter<'_>],
    ) -> Result<()>;
    fn adamw_step(
        args: &AdamWArgs, gradient_scale: Option<&Buffer>, parameters: &mut [AdamWParameter<'_>],
    ) -> Result<()>;
}
