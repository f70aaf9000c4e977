//! What a case feeds to its op: shapes and distributions, the same numbers on every backend.

use std::sync::Arc;

use tilegrad_engine::{Backend, Dtype, Result, Tensor};
use tilegrad_kernels::philox::{Purpose, Stream};

use crate::TestBackend;

/// How elements are drawn. Every value is exact in f32, so that all backends see the same number.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// Normally distributed.
    Normal {
        /// Mean.
        mean: f64,
        /// Standard deviation.
        std: f64,
    },
    /// Uniform in [lo, hi).
    Uniform {
        /// Smallest.
        lo: f64,
        /// One past the largest.
        hi: f64,
    },
    /// Integers in [lo, hi], as floats.
    Integers {
        /// Smallest.
        lo: i32,
        /// Largest.
        hi: i32,
    },
    /// A permutation of n values that lie 1/8 apart and never at 0: no ties, and no kink of relu
    /// within reach of a finite difference.
    Distinct,
    /// All equal.
    Constant(f64),
    /// These.
    List(Vec<f64>),
    /// Each row over the last axis positive, with sum 1.
    Probabilities,
    /// i32 in 0..below: labels or indices.
    Labels {
        /// One past the largest.
        below: usize,
    },
}

/// Elements that replace ordinary ones.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Special {
    /// All elements of the first input equal.
    AllEqual,
    /// One element of the first input is +inf.
    OneInfinite,
    /// One element of the first input is -inf.
    OneNegativeInfinite,
    /// One element of the first input is NaN.
    OneNan,
}

impl Special {
    /// All of them.
    pub const ALL: [Special; 4] =
        [Special::AllEqual, Special::OneInfinite, Special::OneNegativeInfinite, Special::OneNan];
}

/// One input tensor.
#[derive(Clone, Debug)]
pub struct Input {
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its elements.
    pub values: Values,
    /// What replaces some of them.
    pub special: Option<Special>,
    /// Whether its gradient is checked; never for integers.
    pub tracked: bool,
    /// Stored as i32.
    pub integer: bool,
}

impl Input {
    fn new(shape: &[usize], values: Values) -> Input {
        let integer = matches!(values, Values::Labels { .. });
        Input { shape: shape.to_vec(), values, special: None, tracked: !integer, integer }
    }

    /// Without a gradient.
    pub fn untracked(mut self) -> Input {
        self.tracked = false;
        self
    }

    /// As i32, without a gradient.
    pub fn as_i32(mut self) -> Input {
        self.integer = true;
        self.untracked()
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// The same input with small integers as values.
    pub fn to_integers(&self) -> Input {
        let values = match self.values {
            Values::Labels { .. } => self.values.clone(),
            Values::Distinct => Values::Distinct,
            _ => Values::Integers { lo: -4, hi: 4 },
        };
        Input { values, ..self.clone() }
    }

    /// The elements, from `stream`.
    pub fn draw(&self, stream: Stream) -> Vec<f64> {
        let n = self.elements();
        let uniform = |i: usize| stream.uniform(i as u64) as f64;
        let at = |i: usize| match &self.values {
            Values::Normal { mean, std } => mean + std * stream.normal(i as u64),
            Values::Uniform { lo, hi } => lo + (hi - lo) * uniform(i),
            Values::Integers { lo, hi } => {
                f64::from(lo + stream.below(i as u64, (hi - lo + 1) as u32) as i32)
            }
            Values::Constant(v) => *v,
            Values::List(v) => v[i],
            Values::Labels { below } => f64::from(stream.below(i as u64, *below as u32)),
            Values::Distinct | Values::Probabilities => 0.1 + uniform(i),
        };
        let mut data: Vec<f64> = (0..n).map(at).collect();
        match self.values {
            Values::Distinct => {
                // The ranks of random numbers are a random permutation.
                let mut order: Vec<usize> = (0..n).collect();
                order.sort_by(|&i, &j| data[i].total_cmp(&data[j]).then(i.cmp(&j)));
                for (rank, i) in order.into_iter().enumerate() {
                    data[i] = (rank as f64 - (n / 2) as f64 + 0.5) / 8.0;
                }
            }
            Values::Probabilities => {
                for row in data.chunks_mut(self.shape.last().copied().unwrap_or(1).max(1)) {
                    let sum: f64 = row.iter().sum();
                    row.iter_mut().for_each(|v| *v /= sum);
                }
            }
            _ => {}
        }
        if n > 0 {
            match self.special {
                Some(Special::AllEqual) => data.fill(0.5),
                Some(Special::OneInfinite) => data[n / 2] = f64::INFINITY,
                Some(Special::OneNegativeInfinite) => data[n / 2] = f64::NEG_INFINITY,
                Some(Special::OneNan) => data[n / 2] = f64::NAN,
                None => {}
            }
        }
        data.iter_mut().for_each(|v| *v = f64::from(*v as f32));
        data
    }

    /// The elements as a tensor of `dtype` (or i32), tracked if it is to be.
    pub fn tensor(
        &self,
        backend: &Arc<dyn Backend>,
        dtype: Dtype,
        stream: Stream,
    ) -> Result<Tensor> {
        self.tensor_from(self.draw(stream), backend, dtype)
    }

    /// The same of elements that are first rounded as those of `on` are.
    pub fn tensor_on(&self, on: &TestBackend, dtype: Dtype, stream: Stream) -> Result<Tensor> {
        let mut data = self.draw(stream);
        if !self.integer {
            data.iter_mut().for_each(|v| *v = rounded(*v, on.rounding));
        }
        self.tensor_from(data, &on.backend, dtype)
    }

    fn tensor_from(
        &self,
        data: Vec<f64>,
        backend: &Arc<dyn Backend>,
        dtype: Dtype,
    ) -> Result<Tensor> {
        let dtype = if self.integer { Dtype::I32 } else { dtype };
        let tensor = tensor_of(backend, &data, &self.shape, dtype)?;
        Ok(if self.tracked { tensor.tracked() } else { tensor })
    }
}

/// The nearest value of a 16-bit dtype; of another, the value itself (inputs are f32 at most).
pub fn rounded(v: f64, dtype: Dtype) -> f64 {
    match dtype {
        Dtype::BF16 => half::bf16::from_f64(v).to_f64(),
        Dtype::F16 => half::f16::from_f64(v).to_f64(),
        _ => v,
    }
}

/// A tensor of `dtype` from f64 values.
pub fn tensor_of(
    backend: &Arc<dyn Backend>,
    data: &[f64],
    shape: &[usize],
    dtype: Dtype,
) -> Result<Tensor> {
    match dtype {
        Dtype::F64 => Tensor::from_slice(backend, data, shape),
        Dtype::I32 => {
            let data: Vec<i32> = data.iter().map(|&v| v as i32).collect();
            Tensor::from_slice(backend, &data, shape)
        }
        _ => {
            let data: Vec<f32> = data.iter().map(|&v| v as f32).collect();
            Tensor::from_slice(backend, &data, shape)?.to_dtype(dtype)
        }
    }
}

/// The stream of input number `index` of the case called `label`.
pub fn stream_of(label: &str, index: usize) -> Stream {
    // FNV-1a: any fixed hash would do.
    let hash =
        label.bytes().fold(0x811c_9dc5u32, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193));
    Stream::new(0, Purpose::Test, hash, index as u32)
}

/// Standard normal elements.
pub fn normal(shape: &[usize]) -> Input {
    Input::new(shape, Values::Normal { mean: 0.0, std: 1.0 })
}

/// Uniform in [lo, hi).
pub fn uniform(shape: &[usize], lo: f64, hi: f64) -> Input {
    Input::new(shape, Values::Uniform { lo, hi })
}

/// Uniform in [0.25, 4): for logarithms, roots, divisors, variances.
pub fn positive(shape: &[usize]) -> Input {
    uniform(shape, 0.25, 4.0)
}

/// Integers in [lo, hi], as floats.
pub fn integers(shape: &[usize], lo: i32, hi: i32) -> Input {
    Input::new(shape, Values::Integers { lo, hi })
}

/// No two equal, none at 0.
pub fn distinct(shape: &[usize]) -> Input {
    Input::new(shape, Values::Distinct)
}

/// All equal.
pub fn constant(shape: &[usize], value: f64) -> Input {
    Input::new(shape, Values::Constant(value))
}

/// These elements.
pub fn list(shape: &[usize], values: &[f64]) -> Input {
    Input::new(shape, Values::List(values.to_vec()))
}

/// Rows that sum to 1.
pub fn probabilities(shape: &[usize]) -> Input {
    Input::new(shape, Values::Probabilities).untracked()
}

/// i32 in 0..below.
pub fn labels(shape: &[usize], below: usize) -> Input {
    Input::new(shape, Values::Labels { below })
}
