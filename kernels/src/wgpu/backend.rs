//! [`Backend`] for wgpu: every method hands over to the file of its kernel family.

use super::{
    Wgpu, batch_norm, broadcast, conv2d, cross_entropy, dropout, elementwise, matmul, memory,
    movement, optimizer, pool2d, reduce, softmax,
};
use crate::*;

impl Backend for Wgpu {
    fn device(&self) -> Device {
        self.context.device
    }

    fn description(&self) -> String {
        self.context.description()
    }

    fn start_kernel_times(&self) -> Result<bool> {
        self.recorder.start_clock("start_kernel_times")
    }

    fn stop_kernel_times(&self) -> Result<Vec<KernelTime>> {
        self.recorder.stop_clock("stop_kernel_times")
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
        args: &MatmulArgs,
        a: &Buffer,
        b: &Buffer,
        bias: Option<&Buffer>,
    ) -> Result<Buffer> {
        matmul::matmul(self, args, a, b, bias)
    }

    fn conv2d_forward(
        &self,
        args: &Conv2dArgs,
        activation: Activation,
        x: &Buffer,
        filter: &Buffer,
        bias: Option<&Buffer>,
    ) -> Result<Buffer> {
        conv2d::forward(self, args, activation, x, filter, bias)
    }

    fn conv2d_inference(
        &self,
        args: &Conv2dArgs,
        activation: Activation,
        x: &Buffer,
        filter: &Buffer,
        bias: Option<&Buffer>,
        residual: Option<&Buffer>,
    ) -> Result<Buffer> {
        conv2d::inference(self, args, activation, x, filter, bias, residual)
    }

    fn conv2d_backward_data(
        &self,
        args: &Conv2dArgs,
        filter: &Buffer,
        dy: &Buffer,
    ) -> Result<Buffer> {
        conv2d::backward_data(self, args, filter, dy)
    }

    fn conv2d_backward_filter(&self, args: &Conv2dArgs, x: &Buffer, dy: &Buffer) -> Result<Buffer> {
        conv2d::backward_filter(self, args, x, dy)
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
        args: &BatchNormArgs,
        x: &Buffer,
        gamma: &Buffer,
        beta: &Buffer,
        residual: Option<&Buffer>,
    ) -> Result<BatchNormOutput> {
        batch_norm::forward(self, args, x, gamma, beta, residual)
    }

    fn batch_norm_inference(
        &self,
        args: &BatchNormArgs,
        x: &Buffer,
        gamma: &Buffer,
        beta: &Buffer,
        mean: &Buffer,
        var: &Buffer,
        residual: Option<&Buffer>,
    ) -> Result<Buffer> {
        batch_norm::inference(self, args, x, gamma, beta, mean, var, residual)
    }

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
    ) -> Result<BatchNormGradients> {
        batch_norm::backward(self, args, x, y, gamma, mean, var, dy, residual)
    }

    fn batch_norm_update_running(
        &self,
        args: &BatchNormArgs,
        momentum: f64,
        running_mean: &mut Buffer,
        running_var: &mut Buffer,
        mean: &Buffer,
        var: &Buffer,
    ) -> Result<()> {
        batch_norm::update_running(self, args, momentum, running_mean, running_var, mean, var)
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
