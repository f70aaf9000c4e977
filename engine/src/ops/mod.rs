//! One file an op: its maths, its shape rule, its forward and its backward pass.
//!
//! An op is a function of tensors that answers with a new tensor. What ops of one kind share lies
//! beside them: `unary.rs` and `binary.rs` (elementwise) and `reduce.rs` (over axes). Notation in
//! these files: x (or a and b) is an input, y the result, dy the gradient of the loss by y, and dx
//! what the op must answer: the gradient by x.

mod binary;
mod reduce;
mod unary;

pub mod add;
pub mod affine;
pub mod amax;
pub mod argmax;
pub mod avg_pool2d;
pub mod batch_norm;
pub mod cast;
pub mod concat;
pub mod conv2d;
pub mod cross_entropy;
pub mod div;
pub mod dropout;
pub mod exp;
pub mod gather;
pub mod gelu;
pub mod leaky_relu;
pub mod linear;
pub mod log;
pub mod log_softmax;
pub mod matmul;
pub mod max;
pub mod max_pool2d;
pub mod mean;
pub mod mul;
pub mod pad;
pub mod permute;
pub mod relu;
pub mod reshape;
pub mod sigmoid;
pub mod silu;
pub mod slice;
pub mod softmax;
pub mod sqrt;
pub mod sub;
pub mod sum;
pub mod tanh;

#[doc(inline)]
pub use self::{
    add::add,
    affine::{affine, neg},
    amax::amax,
    argmax::argmax,
    avg_pool2d::{avg_pool2d, global_avg_pool2d},
    batch_norm::{BatchNorm, batch_norm, batch_norm_inference},
    cast::cast,
    concat::concat,
    conv2d::{conv2d, conv2d_inference},
    cross_entropy::cross_entropy,
    div::div,
    dropout::dropout,
    exp::exp,
    gather::gather,
    gelu::gelu,
    leaky_relu::leaky_relu,
    linear::linear,
    log::log,
    log_softmax::log_softmax,
    matmul::matmul,
    max::max,
    max_pool2d::max_pool2d,
    mean::mean,
    mul::mul,
    pad::pad,
    permute::permute,
    relu::relu,
    reshape::reshape,
    sigmoid::sigmoid,
    silu::silu,
    slice::slice,
    softmax::softmax,
    sqrt::sqrt,
    sub::sub,
    sum::sum,
    tanh::tanh,
};

use crate::{Error, Result, Tensor};

/// An error unless `x`, which `op` calls `name`, has this shape.
fn expect_shape(op: &'static str, name: &str, x: &Tensor, shape: &[usize]) -> Result<()> {
    if x.shape() == shape {
        return Ok(());
    }
    Err(Error::shape(op, format!("{name} must be {shape:?}, got {:?}", x.shape())))
}

/// An error if `x`, which `op` calls `name` and treats as a constant, waits for a gradient that
/// would never come.
fn expect_constant(op: &'static str, name: &str, x: &Tensor) -> Result<()> {
    if x.is_tracked() {
        return Err(Error::argument(
            op,
            format!("no gradient reaches {name}, so a tracked tensor must be detached first"),
        ));
    }
    Ok(())
}
