//! Initial weights.
//!
//! Random numbers come from the counter-based generator, a stream a parameter: a parameter's values
//! depend only on the seed and on how many parameters were drawn before it, so every device starts
//! from the same bits.
//!
//! Kaiming (He et al. 2015, eq. 10) keeps the variance of activations, std = gain / √fan; Xavier
//! (Glorot and Bengio 2010, eq. 16) compromises between both passes, std = gain √(2 / (fan_in +
//! fan_out)). A uniform distribution of that standard deviation is U(-√3 std, √3 std).

use std::sync::Arc;

use tilegrad_engine::{Backend, Dtype, Error, Result, Tensor};
use tilegrad_kernels::elements;
use tilegrad_kernels::philox::{Purpose, Stream};

/// Seed, and the number of parameters drawn so far.
#[derive(Clone, Debug)]
pub struct Rng {
    /// `None`: zeros instead of random numbers.
    seed: Option<u64>,
    drawn: u32,
    dtype: Dtype,
}

impl Rng {
    /// Draws f32 parameters.
    pub fn new(seed: u64) -> Self {
        Rng::with_dtype(seed, Dtype::F32)
    }

    /// Draws parameters of another float type (f64 for checks on the reference backend).
    pub fn with_dtype(seed: u64, dtype: Dtype) -> Self {
        Rng { seed: Some(seed), drawn: 0, dtype }
    }

    /// Makes every drawn parameter zero: for a model whose parameters will be loaded.
    pub fn zeros() -> Self {
        Rng { seed: None, drawn: 0, dtype: Dtype::F32 }
    }

    /// Element type of the parameters.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// The next parameter's stream; `None` for zeros.
    fn next_stream(&mut self) -> Option<Stream> {
        let stream = self.seed.map(|seed| Stream::new(seed, Purpose::Init, 0, self.drawn));
        self.drawn += 1;
        stream
    }
}

/// Which side's variance Kaiming initialisation keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fan {
    /// That of activations in the forward pass.
    In,
    /// That of gradients in the backward pass.
    Out,
}

/// Gain for layers that no nonlinearity follows.
pub const GAIN_LINEAR: f64 = 1.0;

/// Gain before relu: it halves the second moment.
pub const GAIN_RELU: f64 = std::f64::consts::SQRT_2;

/// Gain before tanh, as PyTorch has it.
pub const GAIN_TANH: f64 = 5.0 / 3.0;

/// Gain before a leaky relu of this slope: √(2 / (1 + slope²)).
pub fn gain_leaky_relu(slope: f64) -> f64 {
    (2.0 / (1.0 + slope * slope)).sqrt()
}

/// How a layer's weights start.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// What PyTorch does when not told otherwise: Kaiming uniform with the gain of a leaky relu of
    /// slope √5, which makes U(-1/√fan_in, 1/√fan_in).
    TorchDefault,
    /// [`kaiming_uniform`].
    KaimingUniform(Fan, f64),
    /// [`kaiming_normal`].
    KaimingNormal(Fan, f64),
    /// [`xavier_uniform`] with this gain.
    XavierUniform(f64),
    /// [`xavier_normal`] with this gain.
    XavierNormal(f64),
    /// [`partial_identity`]; a filter of one group only.
    PartialIdentity,
}

impl Init {
    /// Draws a weight `[out, in]` or a filter `[c_out, kh, kw, c_in / groups]`.
    pub fn draw(
        self,
        backend: &Arc<dyn Backend>,
        shape: &[usize],
        rng: &mut Rng,
    ) -> Result<Tensor> {
        match self {
            Init::TorchDefault => {
                kaiming_uniform(backend, shape, Fan::In, gain_leaky_relu(5f64.sqrt()), rng)
            }
            Init::KaimingUniform(fan, gain) => kaiming_uniform(backend, shape, fan, gain, rng),
            Init::KaimingNormal(fan, gain) => kaiming_normal(backend, shape, fan, gain, rng),
            Init::XavierUniform(gain) => xavier_uniform(backend, shape, gain, rng),
            Init::XavierNormal(gain) => xavier_normal(backend, shape, gain, rng),
            Init::PartialIdentity => partial_identity(backend, shape, rng),
        }
    }
}

/// Inputs that reach one output, and outputs that one input reaches (as PyTorch counts: groups are
/// left out of the second). The first axis is that of outputs, the last that of inputs, those
/// between are the window.
pub fn fans(shape: &[usize]) -> (usize, usize) {
    match shape {
        [] => (1, 1),
        [n] => (*n, *n),
        [out, rest @ ..] => {
            let window = elements(&rest[..rest.len() - 1]);
            (elements(rest), out * window)
        }
    }
}

fn kaiming_std(shape: &[usize], fan: Fan, gain: f64) -> f64 {
    let (fan_in, fan_out) = fans(shape);
    gain / (if fan == Fan::In { fan_in } else { fan_out }.max(1) as f64).sqrt()
}

fn xavier_std(shape: &[usize], gain: f64) -> f64 {
    let (fan_in, fan_out) = fans(shape);
    gain * (2.0 / (fan_in + fan_out).max(1) as f64).sqrt()
}

/// U(lo, hi).
pub fn uniform(
    backend: &Arc<dyn Backend>,
    shape: &[usize],
    lo: f64,
    hi: f64,
    rng: &mut Rng,
) -> Result<Tensor> {
    draw(backend, shape, rng, |stream, i| lo + (hi - lo) * stream.uniform(i) as f64)
}

/// Normal distribution with this mean and standard deviation.
pub fn normal(
    backend: &Arc<dyn Backend>,
    shape: &[usize],
    mean: f64,
    std: f64,
    rng: &mut Rng,
) -> Result<Tensor> {
    draw(backend, shape, rng, |stream, i| mean + std * stream.normal(i))
}

/// Kaiming initialisation, uniform.
pub fn kaiming_uniform(
    backend: &Arc<dyn Backend>,
    shape: &[usize],
    fan: Fan,
    gain: f64,
    rng: &mut Rng,
) -> Result<Tensor> {
    let bound = 3f64.sqrt() * kaiming_std(shape, fan, gain);
    uniform(backend, shape, -bound, bound, rng)
}

/// Kaiming initialisation, normal.
pub fn kaiming_normal(
    backend: &Arc<dyn Backend>,
    shape: &[usize],
    fan: Fan,
    gain: f64,
    rng: &mut Rng,
) -> Result<Tensor> {
    normal(backend, shape, 0.0, kaiming_std(shape, fan, gain), rng)
}

/// Xavier initialisation, uniform.
pub fn xavier_uniform(
    backend: &Arc<dyn Backend>,
    shape: &[usize],
    gain: f64,
    rng: &mut Rng,
) -> Result<Tensor> {
    let bound = 3f64.sqrt() * xavier_std(shape, gain);
    uniform(backend, shape, -bound, bound, rng)
}

/// Xavier initialisation, normal.
pub fn xavier_normal(
    backend: &Arc<dyn Backend>,
    shape: &[usize],
    gain: f64,
    rng: &mut Rng,
) -> Result<Tensor> {
    normal(backend, shape, 0.0, xavier_std(shape, gain), rng)
}

/// Filters `[c_out, kh, kw, c_in]` of which the first min(c_out, c_in) pass their own channel on: 1
/// at the centre tap of channel i in filter i, 0 elsewhere. The others start as
/// [`Init::TorchDefault`] (Jordan 2024, arXiv 2404.00498, §3.3, after Zagoruyko and Komodakis'
/// DiracNets).
pub fn partial_identity(
    backend: &Arc<dyn Backend>,
    shape: &[usize],
    rng: &mut Rng,
) -> Result<Tensor> {
    let &[c_out, kh, kw, c_in] = shape else {
        let detail = format!("filters must be [c_out, kh, kw, c_in], got {shape:?}");
        return Err(Error::shape("partial_identity", detail));
    };
    let bound = 1.0 / (fans(shape).0.max(1) as f64).sqrt();
    let (identities, centre) = (c_out.min(c_in), (kh / 2) * kw + kw / 2);
    draw(backend, shape, rng, |stream, i| {
        let (filter, tap, channel) =
            (i as usize / (kh * kw * c_in), i as usize / c_in % (kh * kw), i as usize % c_in);
        match filter < identities {
            true if tap == centre && channel == filter => 1.0,
            true => 0.0,
            false => -bound + 2.0 * bound * stream.uniform(i) as f64,
        }
    })
}

/// Computes every element on the host and copies them to the device.
fn draw(
    backend: &Arc<dyn Backend>,
    shape: &[usize],
    rng: &mut Rng,
    value: impl Fn(&Stream, u64) -> f64,
) -> Result<Tensor> {
    let Some(stream) = rng.next_stream() else {
        return Tensor::zeros(backend, rng.dtype, shape);
    };
    let values = (0..elements(shape) as u64).map(|i| value(&stream, i));
    if rng.dtype == Dtype::F64 {
        return Tensor::from_slice(backend, &values.collect::<Vec<f64>>(), shape);
    }
    let values: Vec<f32> = values.map(|v| v as f32).collect();
    Tensor::from_slice(backend, &values, shape)?.to_dtype(rng.dtype)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tilegrad_engine::reference;

    #[test]
    fn fans_count_the_window() {
        assert_eq!(fans(&[10, 64]), (64, 10));
        assert_eq!(fans(&[32, 3, 5, 4]), (60, 480));
    }

    #[test]
    fn distributions_have_the_stated_spread() {
        let be = reference();
        let moments = |init: Init| {
            let x =
                init.draw(&be, &[64, 3, 3, 32], &mut Rng::new(1)).unwrap().to_f64_vec().unwrap();
            let n = x.len() as f64;
            let largest = x.iter().fold(0f64, |m, v| m.max(v.abs()));
            (x.iter().sum::<f64>() / n, (x.iter().map(|v| v * v).sum::<f64>() / n).sqrt(), largest)
        };
        let (fan_in, fan_out) = (288f64, 576f64);
        for (init, std) in [
            (Init::TorchDefault, 1.0 / (3.0 * fan_in).sqrt()),
            (Init::KaimingUniform(Fan::Out, GAIN_RELU), (2.0 / fan_out).sqrt()),
            (Init::KaimingNormal(Fan::In, GAIN_RELU), (2.0 / fan_in).sqrt()),
            (Init::XavierUniform(1.0), (2.0 / (fan_in + fan_out)).sqrt()),
            (Init::XavierNormal(GAIN_TANH), 5.0 / 3.0 * (2.0 / (fan_in + fan_out)).sqrt()),
        ] {
            let (mean, spread, largest) = moments(init);
            assert!(mean.abs() < 0.03 * std, "{init:?}: mean {mean}");
            assert!((spread / std - 1.0).abs() < 0.02, "{init:?}: {spread} instead of {std}");
            if matches!(init, Init::TorchDefault) {
                assert!(largest <= 1.0 / fan_in.sqrt());
            }
        }
    }

    #[test]
    fn identities_pass_their_channel_on_and_further_filters_are_random() {
        let be = reference();
        let draw = |shape: &[usize]| {
            Init::PartialIdentity.draw(&be, shape, &mut Rng::new(1)).unwrap().to_f64_vec().unwrap()
        };
        // 3 filters over 2 channels: 9 taps, the centre is tap 4.
        let w = draw(&[3, 3, 3, 2]);
        for filter in 0..2 {
            let one = filter * 18 + 4 * 2 + filter;
            assert!((filter * 18..(filter + 1) * 18).all(|i| w[i] == f64::from(i == one)));
        }
        let bound = 1.0 / 18f64.sqrt();
        assert!(w[36..].iter().all(|v| v.abs() <= bound && *v != 0.0), "{:?}", &w[36..]);
        // More channels than filters: every filter is an identity.
        let w = draw(&[2, 3, 3, 4]);
        assert_eq!((w[4 * 4], w[36 + 4 * 4 + 1]), (1.0, 1.0));
        assert_eq!(w.iter().sum::<f64>(), 2.0);
    }

    #[test]
    fn each_parameter_has_its_own_numbers_and_the_seed_decides_them() {
        let be = reference();
        let draw = |seed| {
            let mut rng = Rng::new(seed);
            let mut one =
                || normal(&be, &[4], 0.0, 1.0, &mut rng).unwrap().to_vec::<f32>().unwrap();
            (one(), one())
        };
        let (a, b) = draw(3);
        assert_ne!(a, b);
        assert_eq!((a.clone(), b), draw(3));
        assert_ne!(a, draw(4).0);
    }
}
