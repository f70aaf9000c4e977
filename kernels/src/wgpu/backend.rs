//! [`Backend`] for wgpu: every method hands over to the file of its kernel family.

use super::{Wgpu, elementwise, memory};
use crate::*;

impl Backend for Wgpu {
    fn device(&self) -> Device {
        self.context.device
    }

    fn description(&self) -> String {
        self.context.description()
    }

    fn upload(&self, dtype: Dtype, bytes: &[u8]) -> Result<Buffer> {
        const OP: &str = "upload";
        if !bytes.len().is_multiple_of(dtype.size()) {
            let (got, size) = (bytes.len(), dtype.size());
            let detail =
                format!("{got} bytes are not a whole number of {dtype} ({size} bytes each)");
            return Err(Error::shape(OP, detail));
        }
        let len = bytes.len() / dtype.size();
        let memory = self.pool.alloc(OP, memory::storable(self, OP, dtype)?, len)?;
        self.recorder.upload(OP, memory.block(), bytes)?;
        Ok(memory.into_buffer(dtype, len))
    }

    fn download(&self, x: &Buffer) -> Result<Vec<u8>> {
        const OP: &str = "download";
        let memory = self.own(OP, x)?;
        let bytes = x.len() * x.dtype().size();
        let mut all = self.recorder.download(OP, &[(memory.block(), bytes)])?;
        Ok(all.swap_remove(0))
    }

    fn synchronize(&self) -> Result<()> {
        self.recorder.synchronize("synchronize")
    }

    fn memory(&self) -> MemoryStats {
        self.pool.stats()
    }

    fn reset_peak(&self) {
        self.pool.reset_peak()
    }

    fn trim(&self) {
        self.pool.trim()
    }

    fn fill(&self, dtype: Dtype, len: usize, value: f64) -> Result<Buffer> {
        memory::fill(self, dtype, len, value)
    }

    fn cast(&self, x: &Buffer, dtype: Dtype) -> Result<Buffer> {
        memory::cast(self, x, dtype)
    }

    fn unary_forward(&self, op: Unary, x: &Buffer) -> Result<Buffer> {
        elementwise::unary_forward(self, op, x)
    }

    fn unary_backward(&self, op: Unary, saved: &Buffer, dy: &Buffer) -> Result<Buffer> {
        elementwise::unary_backward(self, op, saved, dy)
    }

    fn binary_forward(
        &self,
        _op: Binary,
        _args: &BroadcastArgs,
        _a: &Buffer,
        _b: &Buffer,
    ) -> Result<Buffer> {
        self.missing("binary_forward")
    }

    fn binary_backward(
        &self,
        _op: Binary,
        _args: &BroadcastArgs,
        _a: &Buffer,
        _b: &Buffer,
        _dy: &Buffer,
        _needs: [bool; 2],
    ) -> Result<[Option<Buffer>; 2]> {
        self.missing("binary_backward")
    }

    fn accumulate(&self, into: &mut Buffer, x: &Buffer) -> Result<()> {
        elementwise::accumulate(self, into, x)
    }

    fn reduce_forward(&self, _op: Reduce, _args: &ReduceArgs, _x: &Buffer) -> Result<Buffer> {
        self.missing("reduce_forward")
    }

    fn reduce_backward(
        &self,
        _op: Reduce,
        _args: &ReduceArgs,
        _saved: Option<(&Buffer, &Buffer)>,
        _dy: &Buffer,
    ) -> Result<Buffer> {
        self.missing("reduce_backward")
    }

    fn argmax(&self, _args: &ReduceArgs, _x: &Buffer) -> Result<Buffer> {
        self.missing("argmax")
    }

    fn sum_squares(&self, _x: &Buffer) -> Result<Buffer> {
        self.missing("sum_squares")
    }

    fn matmul(
        &self,
        _args: &MatmulArgs,
        _a: &Buffer,
        _b: &Buffer,
        _bias: Option<&Buffer>,
    ) -> Result<Buffer> {
        self.missing("matmul")
    }

    fn conv2d_forward(
        &self,
        _args: &Conv2dArgs,
        _activation: Activation,
        _x: &Buffer,
        _filter: &Buffer,
        _bias: Option<&Buffer>,
    ) -> Result<Buffer> {
        self.missing("conv2d_forward")
    }

    fn conv2d_inference(
        &self,
        _args: &Conv2dArgs,
        _activation: Activation,
        _x: &Buffer,
        _filter: &Buffer,
        _bias: Option<&Buffer>,
        _residual: Option<&Buffer>,
    ) -> Result<Buffer> {
        self.missing("conv2d_inference")
    }

    fn conv2d_backward_data(
        &self,
        _args: &Conv2dArgs,
        _filter: &Buffer,
        _dy: &Buffer,
    ) -> Result<Buffer> {
        self.missing("conv2d_backward_data")
    }

    fn conv2d_backward_filter(
        &self,
        _args: &Conv2dArgs,
        _x: &Buffer,
        _dy: &Buffer,
    ) -> Result<Buffer> {
        self.missing("conv2d_backward_filter")
    }

    fn max_pool2d_forward(&self, _args: &Pool2dArgs, _x: &Buffer) -> Result<(Buffer, Buffer)> {
        self.missing("max_pool2d_forward")
    }

    fn max_pool2d_backward(
        &self,
        _args: &Pool2dArgs,
        _positions: &Buffer,
        _dy: &Buffer,
    ) -> Result<Buffer> {
        self.missing("max_pool2d_backward")
    }

    fn avg_pool2d_forward(&self, _args: &Pool2dArgs, _x: &Buffer) -> Result<Buffer> {
        self.missing("avg_pool2d_forward")
    }

    fn avg_pool2d_backward(&self, _args: &Pool2dArgs, _dy: &Buffer) -> Result<Buffer> {
        self.missing("avg_pool2d_backward")
    }

    fn batch_norm_forward(
        &self,
        _args: &BatchNormArgs,
        _x: &Buffer,
        _gamma: &Buffer,
        _beta: &Buffer,
        _residual: Option<&Buffer>,
    ) -> Result<BatchNormOutput> {
        self.missing("batch_norm_forward")
    }

    fn batch_norm_inference(
        &self,
        _args: &BatchNormArgs,
        _x: &Buffer,
        _gamma: &Buffer,
        _beta: &Buffer,
        _mean: &Buffer,
        _var: &Buffer,
        _residual: Option<&Buffer>,
    ) -> Result<Buffer> {
        self.missing("batch_norm_inference")
    }

    fn batch_norm_backward(
        &self,
        _args: &BatchNormArgs,
        _x: &Buffer,
        _y: Option<&Buffer>,
        _gamma: &Buffer,
        _mean: &Buffer,
        _var: &Buffer,
        _dy: &Buffer,
        _residual: bool,
    ) -> Result<BatchNormGradients> {
        self.missing("batch_norm_backward")
    }

    fn batch_norm_update_running(
        &self,
        _args: &BatchNormArgs,
        _momentum: f64,
        _running_mean: &mut Buffer,
        _running_var: &mut Buffer,
        _mean: &Buffer,
        _var: &Buffer,
    ) -> Result<()> {
        self.missing("batch_norm_update_running")
    }

    fn softmax_forward(&self, _rows: Rows, _x: &Buffer) -> Result<Buffer> {
        self.missing("softmax_forward")
    }

    fn softmax_backward(&self, _rows: Rows, _y: &Buffer, _dy: &Buffer) -> Result<Buffer> {
        self.missing("softmax_backward")
    }

    fn log_softmax_forward(&self, _rows: Rows, _x: &Buffer) -> Result<Buffer> {
        self.missing("log_softmax_forward")
    }

    fn log_softmax_backward(&self, _rows: Rows, _y: &Buffer, _dy: &Buffer) -> Result<Buffer> {
        self.missing("log_softmax_backward")
    }

    fn cross_entropy_forward(
        &self,
        _args: &CrossEntropyArgs,
        _logits: &Buffer,
        _targets: &Buffer,
    ) -> Result<(Buffer, Buffer)> {
        self.missing("cross_entropy_forward")
    }

    fn cross_entropy_backward(
        &self,
        _args: &CrossEntropyArgs,
        _logits: &Buffer,
        _targets: &Buffer,
        _log_sum_exp: &Buffer,
        _dloss: &Buffer,
    ) -> Result<Buffer> {
        self.missing("cross_entropy_backward")
    }

    fn dropout(&self, _args: &DropoutArgs, _x: &Buffer) -> Result<Buffer> {
        self.missing("dropout")
    }

    fn permute(&self, _args: &PermuteArgs, _x: &Buffer) -> Result<Buffer> {
        self.missing("permute")
    }

    fn concat(&self, _args: &ConcatArgs, _xs: &[&Buffer]) -> Result<Buffer> {
        self.missing("concat")
    }

    fn slice(&self, _args: &SliceArgs, _x: &Buffer) -> Result<Buffer> {
        self.missing("slice")
    }

    fn pad(&self, _args: &PadArgs, _x: &Buffer) -> Result<Buffer> {
        self.missing("pad")
    }

    fn gather_forward(&self, _args: &GatherArgs, _x: &Buffer, _indices: &Buffer) -> Result<Buffer> {
        self.missing("gather_forward")
    }

    fn gather_backward(
        &self,
        _args: &GatherArgs,
        _indices: &Buffer,
        _dy: &Buffer,
    ) -> Result<Buffer> {
        self.missing("gather_backward")
    }

    fn sgd_step(
        &self,
        _args: &SgdArgs,
        _gradient_scale: Option<&Buffer>,
        _parameters: &mut [SgdParameter<'_>],
    ) -> Result<()> {
        self.missing("sgd_step")
    }

    fn adamw_step(
        &self,
        _args: &AdamWArgs,
        _gradient_scale: Option<&Buffer>,
        _parameters: &mut [AdamWParameter<'_>],
    ) -> Result<()> {
        self.missing("adamw_step")
    }
}
