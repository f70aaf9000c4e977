//! A convolution layer.

use std::sync::Arc;

use tilegrad_engine::{Activation, Backend, Conv2dOptions, Result, Tensor, ops};
use tilegrad_kernels::Conv2dArgs;

use crate::fold::{ChannelAffine, FoldedConv2d};
use crate::init::{self, Init, Rng};
use crate::module::{Context, LayerRow, Module, Parameter, Role};

/// What a [`Conv2d`] is made from.
#[derive(Clone, Copy, Debug)]
pub struct Conv2dConfig {
    /// Input channels; divisible by `options.groups`.
    pub c_in: usize,
    /// Output channels.
    pub c_out: usize,
    /// Window `[rows, columns]`.
    pub kernel: [usize; 2],
    /// Stride, padding, dilation, groups.
    pub options: Conv2dOptions,
    /// Whether a bias is added.
    pub bias: bool,
    /// Applied to the result inside the kernel.
    pub activation: Activation,
    /// How the filter starts; the bias starts as PyTorch's, U(-1/√fan_in, 1/√fan_in).
    pub init: Init,
    /// Whether the filter stays as it is; the bias is trained.
    pub frozen: bool,
}

impl Conv2dConfig {
    /// A square window, stride 1, no padding, with bias, started as PyTorch starts it.
    pub fn new(c_in: usize, c_out: usize, kernel: usize) -> Self {
        Conv2dConfig {
            c_in,
            c_out,
            kernel: [kernel; 2],
            options: Conv2dOptions::default(),
            bias: true,
            activation: Activation::Identity,
            init: Init::TorchDefault,
            frozen: false,
        }
    }

    /// Same stride along both axes.
    pub fn stride(mut self, stride: usize) -> Self {
        self.options.stride = [stride; 2];
        self
    }

    /// Same padding on all sides.
    pub fn padding(mut self, padding: usize) -> Self {
        self.options.padding = [padding; 2];
        self
    }

    /// With or without bias.
    pub fn bias(mut self, bias: bool) -> Self {
        self.bias = bias;
        self
    }

    /// An activation inside the kernel.
    pub fn activation(mut self, activation: Activation) -> Self {
        self.activation = activation;
        self
    }

    /// Another start.
    pub fn init(mut self, init: Init) -> Self {
        self.init = init;
        self
    }

    /// A filter that is not trained.
    pub fn frozen(mut self) -> Self {
        self.frozen = true;
        self
    }
}

/// y = activation(x * filter + bias): x `[N, H, W, c_in]`, filter `[c_out, kh, kw, c_in / groups]`,
/// bias `[c_out]`.
pub struct Conv2d {
    pub(crate) weight: Parameter,
    pub(crate) bias: Option<Parameter>,
    pub(crate) config: Conv2dConfig,
}

impl Conv2d {
    /// Draws the filter, then the bias.
    pub fn new(backend: &Arc<dyn Backend>, config: Conv2dConfig, rng: &mut Rng) -> Result<Self> {
        let shape = filter_shape(&config);
        let weight = config.init.draw(backend, &shape, rng)?;
        let bias = match config.bias {
            true => {
                let bound = 1.0 / (init::fans(&shape).0.max(1) as f64).sqrt();
                let values = init::uniform(backend, &[config.c_out], -bound, bound, rng)?;
                Some(Parameter::new(Role::Bias, values))
            }
            false => None,
        };
        let role = if config.frozen { Role::State } else { Role::Weight };
        Ok(Conv2d { weight: Parameter::new(role, weight), bias, config })
    }
}

fn filter_shape(config: &Conv2dConfig) -> [usize; 4] {
    let [kh, kw] = config.kernel;
    [config.c_out, kh, kw, config.c_in / config.options.groups.max(1)]
}

/// `3` for equal sizes, `3x1` for others.
fn pair([a, b]: [usize; 2]) -> String {
    if a == b { a.to_string() } else { format!("{a}x{b}") }
}

impl Module for Conv2d {
    fn kind(&self) -> &'static str {
        "Conv2d"
    }

    fn forward(&self, x: &Tensor, _ctx: &mut Context) -> Result<Tensor> {
        let bias = self.bias.as_ref().map(|bias| bias.get_as(x.dtype())).transpose()?;
        let Conv2dConfig { options, activation, .. } = self.config;
        ops::conv2d(x, &self.weight.get_as(x.dtype())?, bias.as_ref(), options, activation)
    }

    fn visit<'a>(&'a self, prefix: &str, f: &mut dyn FnMut(String, &'a Parameter)) {
        f(format!("{prefix}weight"), &self.weight);
        if let Some(bias) = &self.bias {
            f(format!("{prefix}bias"), bias);
        }
    }

    fn folded(&self) -> Result<Option<Arc<dyn Module>>> {
        Ok(Some(Arc::new(FoldedConv2d::new(self)?)))
    }

    fn folded_with(&self, affine: &ChannelAffine) -> Result<Option<Arc<dyn Module>>> {
        match self.config.activation {
            Activation::Identity => Ok(Some(Arc::new(FoldedConv2d::with(self, affine)?))),
            Activation::Relu => Ok(None),
        }
    }

    fn describe(&self, name: &str, x: &[usize], rows: &mut Vec<LayerRow>) -> Result<Vec<usize>> {
        let Conv2dConfig {
            c_in, c_out, kernel: [kh, kw], options, bias, activation, frozen, ..
        } = self.config;
        let args = Conv2dArgs::new(x, &filter_shape(&self.config), options)?;
        let mut kind = format!("Conv2d({c_in}, {c_out}, {kh}x{kw}");
        if options.stride != [1, 1] {
            kind += &format!(", stride {}", pair(options.stride));
        }
        if options.padding != [0, 0] {
            kind += &format!(", padding {}", pair(options.padding));
        }
        if options.dilation != [1, 1] {
            kind += &format!(", dilation {}", pair(options.dilation));
        }
        if options.groups != 1 {
            kind += &format!(", groups {}", options.groups);
        }
        kind.push(')');
        if frozen {
            kind += ", frozen";
        }
        if activation == Activation::Relu {
            kind += " + ReLU";
        }
        rows.push(LayerRow {
            name: name.to_string(),
            kind,
            out_shape: args.y_shape().to_vec(),
            parameters: if frozen { 0 } else { args.filter_elements() }
                + if bias { c_out } else { 0 },
            multiply_adds: args.flops() / 2,
        });
        Ok(args.y_shape().to_vec())
    }
}
