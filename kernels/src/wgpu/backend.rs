//! [`Backend`] for wgpu: every method hands over to the file of its kernel family.

use super::{
    Wgpu, broadcast, cross_entropy, dropout, elementwise, memory, movement, optimizer, pool2d,
    reduce, softmax,
};
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
        self.indices.download(self, OP, memory, bytes)
    }

    fn synchronize(&self) -> Result<()> {
        const OP: &str = "synchronize";
        self.recorder.synchronize(OP)?;
        self.indices.check(self, OP)
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
        op: Binary,
        args: &BroadcastArgs,
        a: &Buffer,
        b: &Buffer,
    ) -> Result<Buffer> {
        broadcast::binary_forward(self, op, args, a, b)
    }

    fn binary_backward(
        &self,
        op: Binary,
        args: &BroadcastArgs,
        a: &Buffer,
        b: &Buffer,
        dy: &Buffer,
        needs: [bool; 2],
    ) -> Result<[Option<Buffer>; 2]> {
        broadcast::binary_backward(self, op, args, a, b, dy, needs)
    }

    fn accumulate(&self, into: &mut Buffer, x: &Buffer) -> Result<()> {
        elementwise::accumulate(self, into, x)
    }

    fn reduce_forward(&self, op: Reduce, args: &ReduceArgs, x: &Buffer) -> Result<Buffer> {
        reduce::forward(self, op, args, x)
    }

    fn reduce_backward(
        &self,
        op: Reduce,
        args: &ReduceArgs,
        saved: Option<(&Buffer, &Buffer)>,
        dy: &Buffer,
    ) -> Result<Buffer> {
        reduce::backward(self, op, args, saved, dy)
    }

    fn argmax(&self, args: &ReduceArgs, x: &Buffer) -> Result<Buffer> {
        reduce::argmax(self, args, x)
    }

    fn sum_squares(&self, x: &Buffer) -> Result<Buffer> {
        reduce::sum_squares(self, x)
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

    fn max_pool2d_forward(&self, args: &Pool2dArgs, x: &Buffer) -> Result<(Buffer, Buffer)> {
        pool2d::max_forward(self, args, x)
    }

    fn max_pool2d_backward(
        &self,
        args: &Pool2dArgs,
        positions: &Buffer,
        dy: &Buffer,
    ) -> Result<Buffer> {
        pool2d::max_backward(self, args, positions, dy)
    }

    fn avg_pool2d_forward(&self, args: &Pool2dArgs, x: &Buffer) -> Result<Buffer> {
        pool2d::avg_forward(self, args, x)
    }

    fn avg_pool2d_backward(&self, args: &Pool2dArgs, dy: &Buffer) -> Result<Buffer> {
        pool2d::avg_backward(self, args, dy)
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

    fn softmax_forward(&self, rows: Rows, x: &Buffer) -> Result<Buffer> {
        softmax::forward(self, rows, x)
    }

    fn softmax_backward(&self, rows: Rows, y: &Buffer, dy: &Buffer) -> Result<Buffer> {
        softmax::backward(self, rows, y, dy)
    }

    fn log_softmax_forward(&self, rows: Rows, x: &Buffer) -> Result<Buffer> {
        softmax::log_forward(self, rows, x)
    }

    fn log_softmax_backward(&self, rows: Rows, y: &Buffer, dy: &Buffer) -> Result<Buffer> {
        softmax::log_backward(self, rows, y, dy)
    }

    fn cross_entropy_forward(
        &self,
        args: &CrossEntropyArgs,
        logits: &Buffer,
        targets: &Buffer,
    ) -> Result<(Buffer, Buffer)> {
        cross_entropy::forward(self, args, logits, targets)
    }

    fn cross_entropy_backward(
        &self,
        args: &CrossEntropyArgs,
        logits: &Buffer,
        targets: &Buffer,
        log_sum_exp: &Buffer,
        dloss: &Buffer,
    ) -> Result<Buffer> {
        cross_entropy::backward(self, args, logits, targets, log_sum_exp, dloss)
    }

    fn dropout(&self, args: &DropoutArgs, x: &Buffer) -> Result<Buffer> {
        dropout::dropout(self, args, x)
    }

    fn permute(&self, args: &PermuteArgs, x: &Buffer) -> Result<Buffer> {
        movement::permute(self, args, x)
    }

    fn concat(&self, args: &ConcatArgs, xs: &[&Buffer]) -> Result<Buffer> {
        movement::concat(self, args, xs)
    }

    fn slice(&self, args: &SliceArgs, x: &Buffer) -> Result<Buffer> {
        movement::slice(self, args, x)
    }

    fn pad(&self, args: &PadArgs, x: &Buffer) -> Result<Buffer> {
        movement::pad(self, args, x)
    }

    fn gather_forward(&self, args: &GatherArgs, x: &Buffer, indices: &Buffer) -> Result<Buffer> {
        movement::gather_forward(self, args, x, indices)
    }

    fn gather_backward(&self, args: &GatherArgs, indices: &Buffer, dy: &Buffer) -> Result<Buffer> {
        movement::gather_backward(self, args, indices, dy)
    }

    fn sgd_step(
        &self,
        args: &SgdArgs,
        gradient_scale: Option<&Buffer>,
        parameters: &mut [SgdParameter<'_>],
    ) -> Result<()> {
        optimizer::sgd_step(self, args, gradient_scale, parameters)
    }

    fn adamw_step(
        &self,
        args: &AdamWArgs,
        gradient_scale: Option<&Buffer>,
        parameters: &mut [AdamWParameter<'_>],
    ) -> Result<()> {
        optimizer::adamw_step(self, args, gradient_scale, parameters)
    }
}
