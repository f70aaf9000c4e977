//! [`Backend`] for the reference: every method checks its buffers and hands slices to its family's
//! loops.

use super::elementwise::Side;
use super::memory::{floats, movable};
use super::{
    Reference, batch_norm, conv2d, cross_entropy, dropout, elementwise, matmul, memory, movement,
    pool2d, reduce, softmax,
};
use crate::*;

impl Backend for Reference {
    // --- The device and its memory --------------------------------------------------------------

    fn device(&self) -> Device {
        Device::Reference
    }

    fn description(&self) -> String {
        "reference: plain loops, 1 thread, f32 and f64".to_string()
    }

    fn upload(&self, dtype: Dtype, bytes: &[u8]) -> Result<Buffer> {
        self.copy_from_host(dtype, bytes)
    }

    fn download(&self, x: &Buffer) -> Result<Vec<u8>> {
        self.copy_to_host("download", x)
    }

    fn fill(&self, dtype: Dtype, len: usize, value: f64) -> Result<Buffer> {
        self.filled(dtype, len, value)
    }

    fn cast(&self, x: &Buffer, dtype: Dtype) -> Result<Buffer> {
        self.converted(x, dtype)
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }

    fn memory(&self) -> MemoryStats {
        self.memory.stats()
    }

    fn reset_peak(&self) {
        self.memory.reset_peak();
    }

    fn trim(&self) {
        self.memory.trim();
    }

    // --- Elementwise ----------------------------------------------------------------------------

    fn unary_forward(&self, op: Unary, x: &Buffer) -> Result<Buffer> {
        floats!(op.name(), x, F => {
            let x = self.read::<F>(op.name(), x, x.len())?;
            self.output(x.len(), |y| elementwise::unary_forward(op, x, y))
        })
    }

    fn unary_backward(&self, op: Unary, saved: &Buffer, dy: &Buffer) -> Result<Buffer> {
        floats!(op.name(), dy, F => {
            let dy = self.read::<F>(op.name(), dy, dy.len())?;
            let saved = self.read::<F>(op.name(), saved, dy.len())?;
            self.output(dy.len(), |dx| elementwise::unary_backward(op, saved, dy, dx))
        })
    }

    fn binary_forward(
        &self,
        op: Binary,
        args: &BroadcastArgs,
        a: &Buffer,
        b: &Buffer,
    ) -> Result<Buffer> {
        floats!(op.name(), a, F => {
            let a = self.read::<F>(op.name(), a, elements(&args.a))?;
            let b = self.read::<F>(op.name(), b, elements(&args.b))?;
            self.output(elements(&args.out), |y| elementwise::binary_forward(op, args, a, b, y))
        })
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
        floats!(op.name(), dy, F => {
            let a = self.read::<F>(op.name(), a, elements(&args.a))?;
            let b = self.read::<F>(op.name(), b, elements(&args.b))?;
            let dy = self.read::<F>(op.name(), dy, elements(&args.out))?;
            let side = |side, len| {
                self.output(len, |d| elementwise::binary_backward(op, args, side, a, b, dy, d))
            };
            Ok([
                needs[0].then(|| side(Side::A, a.len())).transpose()?,
                needs[1].then(|| side(Side::B, b.len())).transpose()?,
            ])
        })
    }

    fn accumulate(&self, into: &mut Buffer, x: &Buffer) -> Result<()> {
        const OP: &str = "accumulate";
        floats!(OP, into, F => {
            let x = self.read::<F>(OP, x, into.len())?;
            elementwise::accumulate(self.update::<F>(OP, into, x.len())?, x);
            Ok(())
        })
    }

    // --- Reductions -----------------------------------------------------------------------------

    fn reduce_forward(&self, op: Reduce, args: &ReduceArgs, x: &Buffer) -> Result<Buffer> {
        floats!(op.name(), x, F => {
            let x = self.read::<F>(op.name(), x, elements(&args.shape))?;
            self.output(args.out_elements(), |y| reduce::reduce_forward(op, args, x, y))
        })
    }

    fn reduce_backward(
        &self,
        op: Reduce,
        args: &ReduceArgs,
        saved: Option<(&Buffer, &Buffer)>,
        dy: &Buffer,
    ) -> Result<Buffer> {
        floats!(op.name(), dy, F => self.reduce_gradient::<F>(op, args, saved, dy))
    }

    fn argmax(&self, args: &ReduceArgs, x: &Buffer) -> Result<Buffer> {
        const OP: &str = "argmax";
        reduce::check_not_empty(args)?;
        floats!(OP, x, F => {
            let x = self.read::<F>(OP, x, elements(&args.shape))?;
            self.output(args.out_elements(), |y| reduce::argmax(args, x, y))
        })
    }

    fn sum_squares(&self, x: &Buffer) -> Result<Buffer> {
        const OP: &str = "sum_squares";
        floats!(OP, x, F => {
            let x = self.read::<F>(OP, x, x.len())?;
            self.output(1, |y| y[0] = reduce::sum_squares(x))
        })
    }

    // --- Products -------------------------------------------------------------------------------

    fn matmul(
        &self,
        args: &MatmulArgs,
        a: &Buffer,
        b: &Buffer,
        bias: Option<&Buffer>,
    ) -> Result<Buffer> {
        const OP: &str = "matmul";
        floats!(OP, a, F => {
            let a = self.read::<F>(OP, a, args.a_elements())?;
            let b = self.read::<F>(OP, b, args.b_elements())?;
            let bias = self.read_if::<F>(OP, bias, args.n)?;
            self.output(args.y_elements(), |y| matmul::matmul(args, a, b, bias, y))
        })
    }

    fn conv2d_forward(
        &self,
        args: &Conv2dArgs,
        activation: Activation,
        x: &Buffer,
        filter: &Buffer,
        bias: Option<&Buffer>,
    ) -> Result<Buffer> {
        const OP: &str = "conv2d";
        floats!(OP, x, F => {
            let x = self.read::<F>(OP, x, args.x_elements())?;
            let filter = self.read::<F>(OP, filter, args.filter_elements())?;
            let bias = self.read_if::<F>(OP, bias, args.c_out)?;
            self.output(args.y_elements(), |y| {
                conv2d::conv2d_forward(args, activation, x, filter, bias, y);
            })
        })
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
        const OP: &str = "conv2d_inference";
        floats!(OP, x, F => {
            let x = self.read::<F>(OP, x, args.x_elements())?;
            let filter = self.read::<F>(OP, filter, args.filter_elements())?;
            let bias = self.read_if::<F>(OP, bias, args.c_out)?;
            let residual = self.read_if::<F>(OP, residual, args.y_elements())?;
            self.output(args.y_elements(), |y| {
                conv2d::conv2d_inference(args, activation, x, filter, bias, residual, y);
            })
        })
    }

    fn conv2d_backward_data(
        &self,
        args: &Conv2dArgs,
        filter: &Buffer,
        dy: &Buffer,
    ) -> Result<Buffer> {
        const OP: &str = "conv2d";
        floats!(OP, dy, F => {
            let filter = self.read::<F>(OP, filter, args.filter_elements())?;
            let dy = self.read::<F>(OP, dy, args.y_elements())?;
            self.output(args.x_elements(), |dx| conv2d::conv2d_backward_data(args, filter, dy, dx))
        })
    }

    fn conv2d_backward_filter(&self, args: &Conv2dArgs, x: &Buffer, dy: &Buffer) -> Result<Buffer> {
        const OP: &str = "conv2d";
        floats!(OP, dy, F => {
            let x = self.read::<F>(OP, x, args.x_elements())?;
            let dy = self.read::<F>(OP, dy, args.y_elements())?;
            self.output(args.filter_elements(), |d| conv2d::conv2d_backward_filter(args, x, dy, d))
        })
    }

    // --- Pooling --------------------------------------------------------------------------------

    fn max_pool2d_forward(&self, args: &Pool2dArgs, x: &Buffer) -> Result<(Buffer, Buffer)> {
        const OP: &str = "max_pool2d";
        floats!(OP, x, F => {
            let x = self.read::<F>(OP, x, args.x_elements())?;
            self.outputs([args.y_elements(); 2], |y, positions| {
                pool2d::max_pool2d_forward::<F>(args, x, y, positions);
            })
        })
    }

    fn max_pool2d_backward(
        &self,
        args: &Pool2dArgs,
        positions: &Buffer,
        dy: &Buffer,
    ) -> Result<Buffer> {
        const OP: &str = "max_pool2d";
        floats!(OP, dy, F => {
            let positions = self.read::<i32>(OP, positions, args.y_elements())?;
            let dy = self.read::<F>(OP, dy, args.y_elements())?;
            pool2d::check_positions(args, positions)?;
            self.output(args.x_elements(), |dx| {
                pool2d::max_pool2d_backward(args, positions, dy, dx);
            })
        })
    }

    fn avg_pool2d_forward(&self, args: &Pool2dArgs, x: &Buffer) -> Result<Buffer> {
        const OP: &str = "avg_pool2d";
        floats!(OP, x, F => {
            let x = self.read::<F>(OP, x, args.x_elements())?;
            self.output(args.y_elements(), |y| pool2d::avg_pool2d_forward(args, x, y))
        })
    }

    fn avg_pool2d_backward(&self, args: &Pool2dArgs, dy: &Buffer) -> Result<Buffer> {
        const OP: &str = "avg_pool2d";
        floats!(OP, dy, F => {
            let dy = self.read::<F>(OP, dy, args.y_elements())?;
            self.output(args.x_elements(), |dx| pool2d::avg_pool2d_backward(args, dy, dx))
        })
    }

    // --- Normalisation --------------------------------------------------------------------------

    fn batch_norm_forward(
        &self,
        args: &BatchNormArgs,
        x: &Buffer,
        gamma: &Buffer,
        beta: &Buffer,
        residual: Option<&Buffer>,
    ) -> Result<BatchNormOutput> {
        const OP: &str = "batch_norm";
        let (mean, var) = floats!(OP, x, F => {
            let x = self.read::<F>(OP, x, args.elements())?;
            self.outputs([args.c; 2], |mean, var| {
                batch_norm::batch_norm_statistics::<F>(args, x, mean, var);
            })
        })?;
        let y = self.batch_norm_inference(args, x, gamma, beta, &mean, &var, residual)?;
        Ok(BatchNormOutput { y, mean, var })
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
        const OP: &str = "batch_norm";
        floats!(OP, x, F => {
            let x = self.read::<F>(OP, x, args.elements())?;
            let channel = |x| self.read::<F>(OP, x, args.c);
            let (gamma, beta) = (channel(gamma)?, channel(beta)?);
            let (mean, var) = (channel(mean)?, channel(var)?);
            let residual = self.read_if::<F>(OP, residual, args.elements())?;
            self.output(args.elements(), |y| {
                batch_norm::batch_norm_apply(args, x, gamma, beta, mean, var, residual, y);
            })
        })
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
        const OP: &str = "batch_norm";
        floats!(OP, dy, F => {
            self.batch_norm_gradients::<F>(args, x, y, gamma, mean, var, dy, residual)
        })
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
        const OP: &str = "batch_norm";
        floats!(OP, mean, F => {
            let (mean, var) = (self.read(OP, mean, args.c)?, self.read(OP, var, args.c)?);
            let running_mean = self.update::<F>(OP, running_mean, args.c)?;
            let running_var = self.update(OP, running_var, args.c)?;
            batch_norm::batch_norm_update_running(
                args, momentum, running_mean, running_var, mean, var,
            );
            Ok(())
        })
    }

    // --- Rows of classes ------------------------------------------------------------------------

    fn softmax_forward(&self, rows: Rows, x: &Buffer) -> Result<Buffer> {
        const OP: &str = "softmax";
        floats!(OP, x, F => {
            let x = self.read::<F>(OP, x, rows.elements())?;
            self.output(x.len(), |y| softmax::softmax_forward(rows, x, y))
        })
    }

    fn softmax_backward(&self, rows: Rows, y: &Buffer, dy: &Buffer) -> Result<Buffer> {
        const OP: &str = "softmax";
        floats!(OP, dy, F => {
            let y = self.read::<F>(OP, y, rows.elements())?;
            let dy = self.read(OP, dy, rows.elements())?;
            self.output(y.len(), |dx| softmax::softmax_backward(rows, y, dy, dx))
        })
    }

    fn log_softmax_forward(&self, rows: Rows, x: &Buffer) -> Result<Buffer> {
        const OP: &str = "log_softmax";
        floats!(OP, x, F => {
            let x = self.read::<F>(OP, x, rows.elements())?;
            self.output(x.len(), |y| softmax::log_softmax_forward(rows, x, y))
        })
    }

    fn log_softmax_backward(&self, rows: Rows, y: &Buffer, dy: &Buffer) -> Result<Buffer> {
        const OP: &str = "log_softmax";
        floats!(OP, dy, F => {
            let y = self.read::<F>(OP, y, rows.elements())?;
            let dy = self.read(OP, dy, rows.elements())?;
            self.output(y.len(), |dx| softmax::log_softmax_backward(rows, y, dy, dx))
        })
    }

    fn cross_entropy_forward(
        &self,
        args: &CrossEntropyArgs,
        logits: &Buffer,
        targets: &Buffer,
    ) -> Result<(Buffer, Buffer)> {
        const OP: &str = "cross_entropy";
        floats!(OP, logits, F => {
            let logits = self.read::<F>(OP, logits, args.rows.elements())?;
            let targets = self.targets(args.rows, targets)?;
            self.outputs([args.rows.count; 2], |loss, lse| {
                cross_entropy::cross_entropy_forward::<F>(args, logits, targets, loss, lse);
            })
        })
    }

    fn cross_entropy_backward(
        &self,
        args: &CrossEntropyArgs,
        logits: &Buffer,
        targets: &Buffer,
        log_sum_exp: &Buffer,
        dloss: &Buffer,
    ) -> Result<Buffer> {
        const OP: &str = "cross_entropy";
        floats!(OP, logits, F => {
            let logits = self.read::<F>(OP, logits, args.rows.elements())?;
            let targets = self.targets(args.rows, targets)?;
            let lse = self.read(OP, log_sum_exp, args.rows.count)?;
            let dloss = self.read(OP, dloss, args.rows.count)?;
            self.output(logits.len(), |dx| {
                cross_entropy::cross_entropy_backward(args, logits, targets, lse, dloss, dx);
            })
        })
    }

    // --- Dropout --------------------------------------------------------------------------------

    fn dropout(&self, args: &DropoutArgs, x: &Buffer) -> Result<Buffer> {
        const OP: &str = "dropout";
        floats!(OP, x, F => {
            let x = self.read::<F>(OP, x, args.len)?;
            self.output(x.len(), |y| dropout::dropout(args, x, y))
        })
    }

    // --- Movement of elements -------------------------------------------------------------------

    fn permute(&self, args: &PermuteArgs, x: &Buffer) -> Result<Buffer> {
        const OP: &str = "permute";
        movable!(OP, x, T => {
            let x = self.read::<T>(OP, x, elements(&args.shape))?;
            self.output(x.len(), |y| movement::permute(args, x, y))
        })
    }

    fn concat(&self, args: &ConcatArgs, xs: &[&Buffer]) -> Result<Buffer> {
        const OP: &str = "concat";
        let [first, ..] = xs else {
            return Err(Error::argument(OP, "needs at least 1 input, got none"));
        };
        movable!(OP, first, T => {
            let xs = self.concat_inputs::<T>(args, xs)?;
            self.output(elements(&args.out_shape), |y| movement::concat(args, &xs, y))
        })
    }

    fn slice(&self, args: &SliceArgs, x: &Buffer) -> Result<Buffer> {
        const OP: &str = "slice";
        movable!(OP, x, T => {
            let x = self.read::<T>(OP, x, elements(&args.shape))?;
            self.output(elements(&args.sizes), |y| movement::slice(args, x, y))
        })
    }

    fn pad(&self, args: &PadArgs, x: &Buffer) -> Result<Buffer> {
        const OP: &str = "pad";
        movable!(OP, x, T => {
            let x = self.read::<T>(OP, x, elements(&args.shape))?;
            let value = memory::element(args.value);
            self.output(elements(&args.out_shape()), |y| movement::pad(args, value, x, y))
        })
    }

    fn gather_forward(&self, args: &GatherArgs, x: &Buffer, indices: &Buffer) -> Result<Buffer> {
        const OP: &str = "gather";
        movable!(OP, x, T => {
            let x = self.read::<T>(OP, x, args.outer * args.axis * args.inner)?;
            let indices = self.read(OP, indices, args.count)?;
            movement::check_indices(args, indices)?;
            let len = elements(&args.out_shape);
            self.output(len, |y| movement::gather_forward(args, x, indices, y))
        })
    }

    fn gather_backward(&self, args: &GatherArgs, indices: &Buffer, dy: &Buffer) -> Result<Buffer> {
        const OP: &str = "gather";
        floats!(OP, dy, F => {
            let dy = self.read::<F>(OP, dy, elements(&args.out_shape))?;
            let indices = self.read(OP, indices, args.count)?;
            movement::check_indices(args, indices)?;
            let len = args.outer * args.axis * args.inner;
            self.output(len, |dx| movement::gather_backward(args, indices, dy, dx))
        })
    }

    // --- Optimizers -----------------------------------------------------------------------------

    fn sgd_step(
        &self,
        args: &SgdArgs,
        gradient_scale: Option<&Buffer>,
        parameters: &mut [SgdParameter<'_>],
    ) -> Result<()> {
        let Some(first) = parameters.first() else { return Ok(()) };
        floats!("sgd", first.parameter, F => self.sgd::<F>(args, gradient_scale, parameters))
    }

    fn adamw_step(
        &self,
        args: &AdamWArgs,
        gradient_scale: Option<&Buffer>,
        parameters: &mut [AdamWParameter<'_>],
    ) -> Result<()> {
        let Some(first) = parameters.first() else { return Ok(()) };
        floats!("adamw", first.parameter, F => self.adamw::<F>(args, gradient_scale, parameters))
    }
}
