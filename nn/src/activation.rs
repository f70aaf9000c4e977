//! Activations as layers. Where one follows a convolution or a batch normalisation, the fused form
//! is faster: [`crate::Conv2dConfig::activation`], [`crate::BatchNorm2d::with_activation`].

use tilegrad_engine::{Result, Tensor, ops};

use crate::module::{Context, LayerRow, Module, Parameter};
use crate::pooling::free_row;

macro_rules! activation {
    ($layer:ident, $name:literal, $doc:literal, |$self:ident, $x:ident| $y:expr) => {
        impl Module for $layer {
            fn kind(&self) -> &'static str {
                $name
            }

            fn forward(&$self, $x: &Tensor, _ctx: &mut Context) -> Result<Tensor> {
                $y
            }

            fn visit<'a>(&'a self, _prefix: &str, _f: &mut dyn FnMut(String, &'a Parameter)) {}

            fn describe(
                &self,
                name: &str,
                x: &[usize],
                rows: &mut Vec<LayerRow>,
            ) -> Result<Vec<usize>> {
                rows.push(free_row(name, $name.to_string(), x));
                Ok(x.to_vec())
            }
        }
    };
    ($layer:ident, $name:literal, $doc:literal, $op:ident) => {
        #[doc = $doc]
        #[derive(Clone, Copy, Debug)]
        pub struct $layer;

        activation!($layer, $name, $doc, |self, x| ops::$op(x));
    };
}

activation!(Relu, "ReLU", "max(x, 0)", relu);
activation!(Gelu, "GELU", "x Φ(x), exact (Hendrycks and Gimpel 2016)", gelu);
activation!(Silu, "SiLU", "x sigmoid(x) (Elfwing et al. 2018)", silu);
activation!(Tanh, "Tanh", "Hyperbolic tangent", tanh);
activation!(Sigmoid, "Sigmoid", "1 / (1 + e^-x)", sigmoid);

/// x where positive, `slope * x` elsewhere.
#[derive(Clone, Copy, Debug)]
pub struct LeakyRelu {
    /// Slope for x <= 0; PyTorch's default is 0.01.
    pub slope: f64,
}

activation!(LeakyRelu, "LeakyReLU", "", |self, x| ops::leaky_relu(x, self.slope));
