//! Convolution on the CPU: which algorithm computes which pass.
//!
//! | algorithm | applies to | file |
//! |---|---|---|
//! | `direct` | every geometry, all three passes | [`direct`], [`filter_gradient`] |
//! | `winograd` | 3x3, stride 1, dilation 1, groups 1; all three passes | [`winograd`] |
//!
//! `direct` is exact on integers and the first rung. Winograd F(4x4, 3x3) does a quarter of the
//! multiplications; its transforms have fractions, so results differ from `direct` by rounding
//! (measured in `docs/cpu.md`); and it mixes the pixels of a 6x6 tile, so that a NaN or an infinity
//! reaches all 16 outputs of the tile, and values above about 1e36 can overflow.

pub mod choice;
mod direct;
mod filter_gradient;
pub mod inference;
mod packed;
mod padding;
mod winograd;

use std::fmt;
use std::str::FromStr;

use choice::ConvPass;

use super::Cpu;
use super::scalar::Scalar;
use crate::*;

const OP: &str = "conv2d";

/// A way to compute convolutions, to be forced by [`super::CpuOptions::conv`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConvAlgorithm {
    /// Register tiles over a padded image; any geometry.
    Direct,
    /// Winograd F(4x4, 3x3) where it applies, `Direct` elsewhere.
    Winograd,
}

impl ConvAlgorithm {
    /// Lower-case name.
    pub const fn name(self) -> &'static str {
        match self {
            ConvAlgorithm::Direct => "direct",
            ConvAlgorithm::Winograd => "winograd",
        }
    }
}

impl fmt::Display for ConvAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for ConvAlgorithm {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        match s {
            "direct" => Ok(ConvAlgorithm::Direct),
            "winograd" => Ok(ConvAlgorithm::Winograd),
            _ => Err(Error::argument(
                OP,
                format!("unknown algorithm '{s}': expected direct or winograd"),
            )),
        }
    }
}

/// What is done to a sum before it is stored: relu?(· + bias + residual).
#[derive(Clone, Copy)]
struct Epilogue<'a, T> {
    /// `[c_out]`
    bias: Option<&'a [T]>,
    /// As y.
    residual: Option<&'a [T]>,
    /// max(·, 0) last.
    relu: bool,
}

impl<T> Epilogue<'_, T> {
    /// Stores the sums as they are.
    fn none() -> Self {
        Epilogue { bias: None, residual: None, relu: false }
    }
}

/// The algorithm for one pass over `args`.
fn choose<T: Scalar>(cpu: &Cpu, pass: ConvPass, args: &Conv2dArgs) -> ConvAlgorithm {
    cpu.choices.choose(cpu.conv, pass, T::DTYPE, args)
}

/// y = activation(x * filter + bias)
pub fn forward<T: Scalar>(
    cpu: &Cpu,
    args: &Conv2dArgs,
    activation: Activation,
    x: &Buffer,
    filter: &Buffer,
    bias: Option<&Buffer>,
) -> Result<Buffer> {
    let x = cpu.read::<T>(OP, x, args.x_elements())?;
    let filter = cpu.read::<T>(OP, filter, args.filter_elements())?;
    let bias = bias.map(|b| cpu.read::<T>(OP, b, args.c_out)).transpose()?;
    let mut y = cpu.alloc::<T>(args.y_elements())?;
    let out = y.slice_mut(args.y_elements());
    let epilogue = Epilogue { bias, residual: None, relu: activation == Activation::Relu };
    match choose::<T>(cpu, ConvPass::Forward, args) {
        ConvAlgorithm::Direct => direct::forward(cpu, args, x, filter, epilogue, out)?,
        ConvAlgorithm::Winograd => winograd::forward(cpu, args, x, filter, epilogue, out)?,
    }
    Ok(y.into_buffer::<T>(args.y_elements()))
}

/// dx from dy.
pub fn backward_data<T: Scalar>(
    cpu: &Cpu,
    args: &Conv2dArgs,
    filter: &Buffer,
    dy: &Buffer,
) -> Result<Buffer> {
    let filter = cpu.read::<T>(OP, filter, args.filter_elements())?;
    let dy = cpu.read::<T>(OP, dy, args.y_elements())?;
    let mut dx = cpu.alloc::<T>(args.x_elements())?;
    let out = dx.slice_mut(args.x_elements());
    match choose::<T>(cpu, ConvPass::BackwardData, args) {
        ConvAlgorithm::Direct => direct::backward_data(cpu, args, filter, dy, out)?,
        ConvAlgorithm::Winograd => winograd::backward_data(cpu, args, filter, dy, out)?,
    }
    Ok(dx.into_buffer::<T>(args.x_elements()))
}

/// dfilter from x and dy.
pub fn backward_filter<T: Scalar>(
    cpu: &Cpu,
    args: &Conv2dArgs,
    x: &Buffer,
    dy: &Buffer,
) -> Result<Buffer> {
    let x = cpu.read::<T>(OP, x, args.x_elements())?;
    let dy = cpu.read::<T>(OP, dy, args.y_elements())?;
    let mut dw = cpu.alloc::<T>(args.filter_elements())?;
    let out = dw.slice_mut(args.filter_elements());
    match choose::<T>(cpu, ConvPass::BackwardFilter, args) {
        ConvAlgorithm::Direct => filter_gradient::direct(cpu, args, x, dy, out)?,
        ConvAlgorithm::Winograd => winograd::filter::backward_filter(cpu, args, x, dy, out)?,
    }
    Ok(dw.into_buffer::<T>(args.filter_elements()))
}
