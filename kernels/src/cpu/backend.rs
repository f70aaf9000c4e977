//! [`Backend`] for the CPU: every method hands over to the file of its kernel family, in the dtype of
//! its first buffer. 16-bit floats without a kernel of their own are widened, see [`super::widened`].

use half::bf16;

use super::widened::{f16, half};
use super::{
    Cpu, batch_norm, conv2d, cross_entropy, dropout, elementwise, matmul, memory, movement,
    optimizer, pool2d, reduce, softmax,
};
use crate::*;

/// `$function::<T>(arguments)` with T bf16 or f32 as `$x` is.
macro_rules! typed {
    ($x:expr, $($function:ident)::+ ( $($argument:expr),* $(,)? )) => {
        match $x.dtype() {
            Dtype::BF16 => $($function)::+::<bf16>($($argument),*),
            _ => $($function)::+::<f32>($($argument),*),
        }
    };
}

impl Backend for Cpu {
    fn device(&self) -> Device {
        Device::Cpu
    }

    fn description(&self) -> String {
        format!("cpu, {}, {} threads", self.isa(), self.threads())
    }

    fn choices(&self) -> Vec<String> {
        self.choices.lines()
    }

    fn upload(&self, dtype: Dtype, bytes: &[u8]) -> Result<Buffer> {
        memory::upload(self, dtype, bytes)
    }

    fn download(&self, x: &Buffer) -> Result<Vec<u8>> {
        memory::download(x)
    }

    fn fill(&self, dtype: Dtype, len: usize, value: f64) -> Result<Buffer> {
        memory::fill(self, dtype, len, value)
    }

    fn cast(&self, x: &Buffer, dtype: Dtype) -> Result<Buffer> {
        memory::cast(self, x, dtype)
    }

    fn synchronize(&self) -> Result<()> {
        Ok(()) // every method returns when its work is done
    }

    fn memory(&self) -> MemoryStats {
        self.memory.stats()
    }

    fn reset_peak(&self) {
        self.memory.reset_peak()
    }

    fn trim(&self) {
        self.memory.trim()
    }

    fn unary_forward(&self, op: Unary, x: &Buffer) -> Result<Buffer> {
        if let Some(dtype) = f16(x) {
            let [x] = self.widen(op.name(), [x])?;
            return self.narrow_one(dtype, self.unary_forward(op, &x));
        }
        typed!(x, elementwise::unary_forward(self, op, x))
    }

    fn unary_backward(&self, op: Unary, saved: &Buffer, dy: &Buffer) -> Result<Buffer> {
        if let Some(dtype) = f16(dy) {
            let [saved, dy] = self.widen(op.name(), [saved, dy])?;
            return self.narrow_one(dtype, self.unary_backward(op, &saved, &dy));
        }
        typed!(dy, elementwise::unary_backward(self, op, saved, dy))
    }

    fn binary_forward(
        &self,
        op: Binary,
        args: &BroadcastArgs,
        a: &Buffer,
        b: &Buffer,
    ) -> Result<Buffer> {
        if let Some(dtype) = half(a) {
            let [a, b] = self.widen(op.name(), [a, b])?;
            return self.narrow_one(dtype, self.binary_forward(op, args, &a, &b));
        }
        elementwise::binary_forward(self, op, args, a, b)
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
        if let Some(dtype) = half(dy) {
            let [a, b, dy] = self.widen(op.name(), [a, b, dy])?;
            let [da, db] = self.binary_backward(op, args, &a, &b, &dy, needs)?;
            let narrow = |d: Option<Buffer>| d.map(|d| self.cast(&d, dtype)).transpose();
            return Ok([narrow(da)?, narrow(db)?]);
        }
        elementwise::binary_backward(self, op, args, a, b, dy, needs)
    }

    fn accumulate(&self, into: &mut Buffer, x: &Buffer) -> Result<()> {
        if let Some(dtype) = f16(into) {
            let [mut wide, x] = self.widen("accumulate", [into, x])?;
            self.accumulate(&mut wide, &x)?;
            *into = self.cast(&wide, dtype)?;
            return Ok(());
        }
        typed!(x, elementwise::accumulate(self, into, x))
    }

    fn reduce_forward(&self, op: Reduce, args: &ReduceArgs, x: &Buffer) -> Result<Buffer> {
        if let Some(dtype) = half(x) {
            let [x] = self.widen("reduce", [x])?;
            return self.narrow_one(dtype, self.reduce_forward(op, args, &x));
        }
        reduce::forward(self, op, args, x)
    }

    fn reduce_backward(
        &self,
        op: Reduce,
        args: &ReduceArgs,
        saved: Option<(&Buffer, &Buffer)>,
        dy: &Buffer,
    ) -> Result<Buffer> {
        if let Some(dtype) = half(dy) {
            let wide = match saved {
                Some((x, y)) => Some(self.widen("reduce", [x, y])?),
                None => None,
            };
            let saved = wide.as_ref().map(|[x, y]| (x, y));
            let [dy] = self.widen("reduce", [dy])?;
            return self.narrow_one(dtype, self.reduce_backward(op, args, saved, &dy));
        }
        reduce::backward(self, op, args, saved, dy)
    }

    fn argmax(&self, args: &ReduceArgs, x: &Buffer) -> Result<Buffer> {
        if half(x).is_some() {
            let [x] = self.widen("argmax", [x])?;
            return self.argmax(args, &x);
        }
        reduce::argmax(self, args, x)
    }

    fn sum_squares(&self, x: &Buffer) -> Result<Buffer> {
        if half(x).is_some() {
            let [x] = self.widen("sum_squares", [x])?;
            return self.sum_squares(&x);
        }
        reduce::sum_squares(self, x)
    }

    fn matmul(
        &self,
        args: &MatmulArgs,
        a: &Buffer,
        b: &Buffer,
        bias: Option<&Buffer>,
    ) -> Result<Buffer> {
        if let Some(dtype) = f16(a) {
            let [a, b] = self.widen("matmul", [a, b])?;
            let bias = self.widen_some("matmul", dtype, bias)?;
            return self.narrow_one(dtype, self.matmul(args, &a, &b, bias.as_ref()));
        }
        typed!(a, matmul::matmul(self, args, a, b, bias))
    }

    fn conv2d_forward(
        &self,
        args: &Conv2dArgs,
        activation: Activation,
        x: &Buffer,
        filter: &Buffer,
        bias: Option<&Buffer>,
    ) -> Result<Buffer> {
        if let Some(dtype) = f16(x) {
            let [x, filter] = self.widen("conv2d", [x, filter])?;
            let bias = self.widen_some("conv2d", dtype, bias)?;
            let y = self.conv2d_forward(args, activation, &x, &filter, bias.as_ref());
            return self.narrow_one(dtype, y);
        }
        typed!(x, conv2d::forward(self, args, activation, x, filter, bias))
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
        if let Some(dtype) = f16(x) {
            let [x, filter] = self.widen("conv2d", [x, filter])?;
            let bias = self.widen_some("conv2d", dtype, bias)?;
            let residual = self.widen_some("conv2d", dtype, residual)?;
            let (bias, residual) = (bias.as_ref(), residual.as_ref());
            let y = self.conv2d_inference(args, activation, &x, &filter, bias, residual);
            return self.narrow_one(dtype, y);
        }
        typed!(x, conv2d::inference::forward(self, args, activation, x, filter, bias, residual))
    }

    fn conv2d_backward_data(
        &self,
        args: &Conv2dArgs,
        filter: &Buffer,
        dy: &Buffer,
    ) -> Result<Buffer> {
        if let Some(dtype) = f16(dy) {
            let [filter, dy] = self.widen("conv2d", [filter, dy])?;
            return self.narrow_one(dtype, self.conv2d_backward_data(args, &filter, &dy));
        }
        typed!(dy, conv2d::backward_data(self, args, filter, dy))
    }

    fn conv2d_backward_filter(&self, args: &Conv2dArgs, x: &Buffer, dy: &Buffer) -> Result<Buffer> {
        if let Some(dtype) = f16(x) {
            let [x, dy] = self.widen("conv2d", [x, dy])?;
            return self.narrow_one(dtype, self.conv2d_backward_filter(args, &x, &dy));
        }
        typed!(x, conv2d::backward_filter(self, args, x, dy))
    }

    fn max_pool2d_forward(&self, args: &Pool2dArgs, x: &Buffer) -> Result<(Buffer, Buffer)> {
        if let Some(dtype) = f16(x) {
            let [x] = self.widen("max_pool2d", [x])?;
            let (y, positions) = self.max_pool2d_forward(args, &x)?;
            return Ok((self.cast(&y, dtype)?, positions));
        }
        typed!(x, pool2d::max_forward(self, args, x))
    }

    fn max_pool2d_backward(
        &self,
        args: &Pool2dArgs,
        positions: &Buffer,
        dy: &Buffer,
    ) -> Result<Buffer> {
        // Where windows overlap, sums are kept in f32.
        if let Some(dtype) = half(dy).filter(|&d| d == Dtype::F16 || !pool2d::is_2x2(args)) {
            let [dy] = self.widen("max_pool2d", [dy])?;
            return self.narrow_one(dtype, self.max_pool2d_backward(args, positions, &dy));
        }
        typed!(dy, pool2d::max_backward(self, args, positions, dy))
    }

    fn avg_pool2d_forward(&self, args: &Pool2dArgs, x: &Buffer) -> Result<Buffer> {
        if let Some(dtype) = half(x) {
            let [x] = self.widen("avg_pool2d", [x])?;
            return self.narrow_one(dtype, self.avg_pool2d_forward(args, &x));
        }
        pool2d::avg_forward(self, args, x)
    }

    fn avg_pool2d_backward(&self, args: &Pool2dArgs, dy: &Buffer) -> Result<Buffer> {
        if let Some(dtype) = half(dy) {
            let [dy] = self.widen("avg_pool2d", [dy])?;
            return self.narrow_one(dtype, self.avg_pool2d_backward(args, &dy));
        }
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
        if let Some(dtype) = f16(x) {
            let [wide] = self.widen("batch_norm", [x])?;
            let residual = self.widen_some("batch_norm", dtype, residual)?;
            let [gamma, beta] = self.per_channel([gamma, beta])?;
            let residual = residual.as_ref();
            let out = self.batch_norm_forward(args, &wide, &gamma, &beta, residual)?;
            return Ok(BatchNormOutput { y: self.cast(&out.y, dtype)?, ..out });
        }
        typed!(x, batch_norm::forward(self, args, x, gamma, beta, residual))
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
        if let Some(dtype) = f16(x) {
            let [x] = self.widen("batch_norm", [x])?;
            let residual = self.widen_some("batch_norm", dtype, residual)?;
            let [gamma, beta, mean, var] = self.per_channel([gamma, beta, mean, var])?;
            let r = residual.as_ref();
            let y = self.batch_norm_inference(args, &x, &gamma, &beta, &mean, &var, r);
            return self.narrow_one(dtype, y);
        }
        typed!(x, batch_norm::inference(self, args, x, gamma, beta, mean, var, residual))
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
        if let Some(dtype) = f16(x) {
            let [x, dy] = self.widen("batch_norm", [x, dy])?;
            let y = self.widen_some("batch_norm", dtype, y)?;
            let [wide_gamma, mean, var] = self.per_channel([gamma, mean, var])?;
            let (g, y) = (&wide_gamma, y.as_ref());
            let all = self.batch_norm_backward(args, &x, y, g, &mean, &var, &dy, residual)?;
            return Ok(BatchNormGradients {
                dx: self.cast(&all.dx, dtype)?,
                dgamma: self.cast(&all.dgamma, gamma.dtype())?,
                dbeta: self.cast(&all.dbeta, gamma.dtype())?,
                dresidual: all.dresidual.map(|d| self.cast(&d, dtype)).transpose()?,
            });
        }
        typed!(x, batch_norm::backward(self, args, x, y, gamma, mean, var, dy, residual))
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
        if let Some(dtype) = half(running_mean) {
            let [mut wide_mean, mut wide_var] =
                self.widen("batch_norm", [running_mean, running_var])?;
            let [mean, var] = self.per_channel([mean, var])?;
            let running = (&mut wide_mean, &mut wide_var);
            self.batch_norm_update_running(args, momentum, running.0, running.1, &mean, &var)?;
            [*running_mean, *running_var] = self.narrow(dtype, [wide_mean, wide_var])?;
            return Ok(());
        }
        batch_norm::update_running(self, args, momentum, running_mean, running_var, mean, var)
    }

    fn softmax_forward(&self, rows: Rows, x: &Buffer) -> Result<Buffer> {
        if let Some(dtype) = half(x) {
            let [x] = self.widen("softmax", [x])?;
            return self.narrow_one(dtype, self.softmax_forward(rows, &x));
        }
        softmax::forward(self, rows, x)
    }

    fn softmax_backward(&self, rows: Rows, y: &Buffer, dy: &Buffer) -> Result<Buffer> {
        if let Some(dtype) = half(dy) {
            let [y, dy] = self.widen("softmax", [y, dy])?;
            return self.narrow_one(dtype, self.softmax_backward(rows, &y, &dy));
        }
        softmax::backward(self, rows, y, dy)
    }

    fn log_softmax_forward(&self, rows: Rows, x: &Buffer) -> Result<Buffer> {
        if let Some(dtype) = half(x) {
            let [x] = self.widen("log_softmax", [x])?;
            return self.narrow_one(dtype, self.log_softmax_forward(rows, &x));
        }
        softmax::log_forward(self, rows, x)
    }

    fn log_softmax_backward(&self, rows: Rows, y: &Buffer, dy: &Buffer) -> Result<Buffer> {
        if let Some(dtype) = half(dy) {
            let [y, dy] = self.widen("log_softmax", [y, dy])?;
            return self.narrow_one(dtype, self.log_softmax_backward(rows, &y, &dy));
        }
        softmax::log_backward(self, rows, y, dy)
    }

    fn cross_entropy_forward(
        &self,
        args: &CrossEntropyArgs,
        logits: &Buffer,
        targets: &Buffer,
    ) -> Result<(Buffer, Buffer)> {
        if let Some(dtype) = half(logits) {
            let [logits] = self.widen("cross_entropy", [logits])?;
            let soft = Some(targets).filter(|t| t.dtype().is_float());
            let soft = self.widen_some("cross_entropy", dtype, soft)?;
            return self.cross_entropy_forward(args, &logits, soft.as_ref().unwrap_or(targets));
        }
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
        if let Some(dtype) = half(logits) {
            let [logits] = self.widen("cross_entropy", [logits])?;
            let soft = Some(targets).filter(|t| t.dtype().is_float());
            let soft = self.widen_some("cross_entropy", dtype, soft)?;
            let targets = soft.as_ref().unwrap_or(targets);
            let dx = self.cross_entropy_backward(args, &logits, targets, log_sum_exp, dloss);
            return self.narrow_one(dtype, dx);
        }
        cross_entropy::backward(self, args, logits, targets, log_sum_exp, dloss)
    }

    fn dropout(&self, args: &DropoutArgs, x: &Buffer) -> Result<Buffer> {
        if let Some(dtype) = f16(x) {
            let [x] = self.widen("dropout", [x])?;
            return self.narrow_one(dtype, self.dropout(args, &x));
        }
        typed!(x, dropout::dropout(self, args, x))
    }

    fn permute(&self, args: &PermuteArgs, x: &Buffer) -> Result<Buffer> {
        if let Some(dtype) = half(x) {
            let [x] = self.widen("permute", [x])?;
            return self.narrow_one(dtype, self.permute(args, &x));
        }
        movement::permute(self, args, x)
    }

    fn concat(&self, args: &ConcatArgs, xs: &[&Buffer]) -> Result<Buffer> {
        if let Some(dtype) = xs.first().and_then(|x| half(x)) {
            let wide = xs.iter().map(|x| self.widen_one("concat", dtype, x));
            let wide: Vec<Buffer> = wide.collect::<Result<_>>()?;
            let wide: Vec<&Buffer> = wide.iter().collect();
            return self.narrow_one(dtype, self.concat(args, &wide));
        }
        movement::concat(self, args, xs)
    }

    fn slice(&self, args: &SliceArgs, x: &Buffer) -> Result<Buffer> {
        if let Some(dtype) = half(x) {
            let [x] = self.widen("slice", [x])?;
            return self.narrow_one(dtype, self.slice(args, &x));
        }
        movement::slice(self, args, x)
    }

    fn pad(&self, args: &PadArgs, x: &Buffer) -> Result<Buffer> {
        if let Some(dtype) = half(x) {
            let [x] = self.widen("pad", [x])?;
            return self.narrow_one(dtype, self.pad(args, &x));
        }
        movement::pad(self, args, x)
    }

    fn gather_forward(&self, args: &GatherArgs, x: &Buffer, indices: &Buffer) -> Result<Buffer> {
        if let Some(dtype) = half(x) {
            let [x] = self.widen("gather", [x])?;
            return self.narrow_one(dtype, self.gather_forward(args, &x, indices));
        }
        movement::gather_forward(self, args, x, indices)
    }

    fn gather_backward(&self, args: &GatherArgs, indices: &Buffer, dy: &Buffer) -> Result<Buffer> {
        if let Some(dtype) = half(dy) {
            let [dy] = self.widen("gather", [dy])?;
            return self.narrow_one(dtype, self.gather_backward(args, indices, &dy));
        }
        movement::gather_backward(self, args, indices, dy)
    }

    fn sgd_step(
        &self,
        args: &SgdArgs,
        gradient_scale: Option<&Buffer>,
        parameters: &mut [SgdParameter<'_>],
    ) -> Result<()> {
        if parameters.iter().any(|p| half(p.parameter).is_some()) {
            return self.sgd_step_widened(args, gradient_scale, parameters);
        }
        optimizer::sgd_step(self, args, gradient_scale, parameters)
    }

    fn adamw_step(
        &self,
        args: &AdamWArgs,
        gradient_scale: Option<&Buffer>,
        parameters: &mut [AdamWParameter<'_>],
    ) -> Result<()> {
        if parameters.iter().any(|p| half(p.parameter).is_some()) {
            return self.adamw_step_widened(args, gradient_scale, parameters);
        }
        optimizer::adamw_step(self, args, gradient_scale, parameters)
    }
}
