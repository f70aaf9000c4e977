//! Parameters, and the modules that own them.

use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tilegrad_engine::{Dtype, Result, Tensor};
use tilegrad_kernels::philox::{Purpose, Stream};

use crate::fold::ChannelAffine;

/// What a [`Parameter`] is to an optimizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A weight of a linear or convolution layer.
    Weight,
    /// An additive bias.
    Bias,
    /// The scale or shift of a normalisation.
    Norm,
    /// State that is not trained: running statistics, frozen weights.
    State,
}

/// A tensor that a module owns: trained (a tracked leaf) or kept as state.
///
/// It has a lock, so that a model can be evaluated from several threads while its reference is
/// shared.
pub struct Parameter {
    role: Role,
    value: RwLock<Tensor>,
}

impl Parameter {
    /// Wraps initial values.
    pub fn new(role: Role, value: Tensor) -> Self {
        let value = if role == Role::State { value.detach() } else { value.tracked() };
        Parameter { role, value: RwLock::new(value) }
    }

    /// What it is to an optimizer.
    pub fn role(&self) -> Role {
        self.role
    }

    fn read(&self) -> RwLockReadGuard<'_, Tensor> {
        self.value.read().unwrap_or_else(|e| e.into_inner())
    }

    /// Exclusive access, so that an optimizer can hold many parameters at once.
    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, Tensor> {
        self.value.write().unwrap_or_else(|e| e.into_inner())
    }

    /// The current value. It is a snapshot: a later update copies instead of changing it.
    pub fn get(&self) -> Tensor {
        self.read().clone()
    }

    /// The current value rounded to `dtype`, through which gradients flow back to the value itself:
    /// the weights of a layer whose input has another dtype than they.
    pub fn get_as(&self, dtype: Dtype) -> Result<Tensor> {
        self.get().to_dtype(dtype)
    }

    /// Its shape.
    pub fn shape(&self) -> Vec<usize> {
        self.read().shape().to_vec()
    }

    /// Changes the value in place, keeping its identity on the tape.
    pub fn update<R>(&self, f: impl FnOnce(&mut Tensor) -> R) -> R {
        f(&mut self.write())
    }

    /// Takes the value off the tape until [`Parameter::set`] puts it there again: backward computes
    /// no gradient for it, nor any that only it would need.
    pub fn freeze(&self) {
        self.update(|value| {
            if value.is_tracked() {
                *value = value.detach();
            }
        });
    }

    /// Replaces the value by one of the same shape; gradients of earlier snapshots no longer match.
    pub fn set(&self, value: Tensor) {
        let value = if self.role == Role::State { value.detach() } else { value.tracked() };
        self.update(|v| *v = value);
    }
}

/// What a forward pass is for.
#[derive(Clone, Debug)]
pub struct Context {
    training: bool,
    seed: u64,
    step: u32,
    dropouts: u32,
    precision: Option<Dtype>,
    watch: Option<Watch>,
}

/// Looks for the layer where numbers went bad.
#[derive(Clone, Debug, Default)]
struct Watch {
    /// Names of the layers around the one that runs.
    path: Vec<String>,
    /// The first layer whose result was not finite.
    culprit: Option<String>,
}

impl Context {
    /// Training step `step` of a run with `seed`: batch statistics, dropout active.
    pub fn train(seed: u64, step: u32) -> Self {
        Context { training: true, seed, step, dropouts: 0, precision: None, watch: None }
    }

    /// Running statistics, no dropout.
    pub fn eval() -> Self {
        Context { training: false, seed: 0, step: 0, dropouts: 0, precision: None, watch: None }
    }

    /// Activations, and weights where they meet them, in `dtype` between a model's input and its
    /// result; parameters, statistics and gradients of parameters keep theirs. Without this, all is
    /// in the dtype of the input.
    pub fn with_precision(self, dtype: Dtype) -> Self {
        Context { precision: Some(dtype), ..self }
    }

    /// The dtype of activations, if it is not to be that of the input.
    pub fn precision(&self) -> Option<Dtype> {
        self.precision
    }

    /// Whether this is a training step.
    pub fn is_training(&self) -> bool {
        self.training
    }

    /// A stream of random words for the next dropout layer of this step.
    pub fn dropout_stream(&mut self) -> Stream {
        self.dropouts += 1;
        Stream::new(self.seed, Purpose::Dropout, self.step, self.dropouts)
    }

    /// Also looks at the result of every layer, waiting for the device each time: see
    /// [`Context::culprit`].
    pub fn watching(mut self) -> Self {
        self.watch = Some(Watch::default());
        self
    }

    /// Dotted name of the first layer whose result held NaN or infinity, after a forward pass that
    /// was watched.
    pub fn culprit(&self) -> Option<&str> {
        self.watch.as_ref()?.culprit.as_deref()
    }

    /// Runs a layer inside another, under its name.
    pub fn run(&mut self, name: &str, layer: &dyn Module, x: &Tensor) -> Result<Tensor> {
        self.within(name, |ctx| layer.forward(x, ctx))
    }

    /// Runs part of a layer under a name, for parts that are more than one module's `forward`.
    pub fn within(
        &mut self,
        name: &str,
        part: impl FnOnce(&mut Context) -> Result<Tensor>,
    ) -> Result<Tensor> {
        if self.watch.is_none() {
            return part(self);
        }
        if let Some(watch) = &mut self.watch {
            watch.path.push(name.to_string());
        }
        let y = part(self)?;
        let squares = y.wrap(y.backend().sum_squares(y.buffer())?, &[1]).item()?;
        if let Some(watch) = &mut self.watch {
            // Parts end before the whole: the innermost name is the first to be noted.
            if !squares.is_finite() && watch.culprit.is_none() {
                watch.culprit = Some(watch.path.join("."));
            }
            watch.path.pop();
        }
        Ok(y)
    }
}

/// Anything that maps a tensor to a tensor and owns parameters.
pub trait Module: Send + Sync {
    /// The layer's type, for summaries: `Conv2d`.
    fn kind(&self) -> &'static str;

    /// Computes the result.
    fn forward(&self, x: &Tensor, ctx: &mut Context) -> Result<Tensor>;

    /// Calls `f` with the name (PyTorch's: `layer1.0.conv1.weight`) and value of every own and
    /// inner parameter, in a fixed order. `prefix` is empty or ends with a dot.
    fn visit<'a>(&'a self, prefix: &str, f: &mut dyn FnMut(String, &'a Parameter));

    /// Shape of the result for an input of shape `x`, and one row a layer for summaries.
    fn describe(&self, name: &str, x: &[usize], rows: &mut Vec<LayerRow>) -> Result<Vec<usize>>;

    /// Weights `[outputs, h * w * c]` of linear layers that read a flattened image, by name, with
    /// `[h, w, c]`. A framework that stores images channels first flattens in another order: see
    /// [`crate::torch`].
    fn flattened(&self) -> Vec<(String, [usize; 3])> {
        Vec::new()
    }

    /// This layer for inference, with its parameters as they are now: see
    /// [`crate::fold_batch_norm`]. `None` where that is the layer itself.
    fn folded(&self) -> Result<Option<Arc<dyn Module>>> {
        Ok(None)
    }

    /// What this layer does in evaluation, if that is y = activation(scale x + shift) a channel.
    fn channel_affine(&self) -> Result<Option<ChannelAffine>> {
        Ok(None)
    }

    /// This layer and then `affine` as one layer for inference, if this one is linear.
    fn folded_with(&self, _affine: &ChannelAffine) -> Result<Option<Arc<dyn Module>>> {
        Ok(None)
    }

    /// Every parameter with its name, in the order of [`Module::visit`].
    fn parameters(&self) -> Vec<(String, &Parameter)> {
        let mut all = Vec::new();
        self.visit("", &mut |name, parameter| all.push((name, parameter)));
        all
    }
}

/// What a summary says about one layer.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerRow {
    /// Dotted name.
    pub name: String,
    /// Type with its options: `Conv2d(3, 16, 3x3, stride 1, padding 1)`.
    pub kind: String,
    /// Shape of its result, batch first.
    pub out_shape: Vec<usize>,
    /// Trained elements.
    pub parameters: usize,
    /// Multiply-adds of convolutions and products for this input; other layers count 0.
    pub multiply_adds: u64,
}
