//! Muon: momentum, orthogonalised by Newton-Schulz iterations.

use std::collections::BTreeMap;

use tilegrad_engine::{
    Dtype, Error as EngineError, Gradients, Result as EngineResult, Tensor, no_grad, ops,
};
use tilegrad_kernels::elements;

use super::{Optimizer, OptimizerState, ParamGroup};
use crate::error::Result;
use crate::module::Module;
use crate::schedule::Setting;

/// Options of [`Muon`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MuonConfig {
    /// Momentum, where the schedule gives none.
    pub momentum: f64,
    /// Nesterov's form.
    pub nesterov: bool,
    /// Newton-Schulz iterations.
    pub iterations: usize,
    /// Number format of the iterations. The momentum and the parameters keep their own.
    pub dtype: Dtype,
}

impl Default for MuonConfig {
    /// Five iterations in f32, Nesterov momentum 0.95 (Jordan et al. 2024).
    fn default() -> Self {
        MuonConfig { momentum: 0.95, nesterov: true, iterations: 5, dtype: Dtype::F32 }
    }
}

/// Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks", with the
/// normalised filters of its first use, on CIFAR-10. A filter `[c_out, kh, kw, c_in]` is seen as a
/// matrix `[c_out, kh kw c_in]`, and with g its gradient
///
/// v = momentum v + g;   u = g + momentum v if Nesterov, else v;
/// p = √c_out p / ‖p‖;   p −= lr orthogonalise(u).
///
/// An orthogonal update changes a layer's result by as much along every direction, whereas the
/// gradient's few large singular values would leave the rare directions unlearned. Since its size
/// is fixed, the learning rate means something only beside a fixed norm of p: that of an orthogonal
/// matrix with c_out rows, here restored before each step. A weight decay would do nothing, and is
/// an error. The scale of the loss does not matter.
pub struct Muon {
    config: MuonConfig,
    groups: Vec<ParamGroup>,
    momentum: BTreeMap<String, Tensor>,
    step: u64,
}

impl Muon {
    /// Momenta start at 0.
    pub fn new(config: MuonConfig, groups: Vec<ParamGroup>) -> Self {
        Muon { config, groups, momentum: BTreeMap::new(), step: 0 }
    }
}

const OP: &str = "muon";
const MOMENTUM: &str = "momentum.";

/// √(Σ x²), of shape `[1]`.
fn norm(x: &Tensor) -> EngineResult<Tensor> {
    ops::sqrt(&x.wrap(x.backend().sum_squares(x.buffer())?, &[1]))
}

/// a x + b y, two constants and two tensors of one shape.
fn combine(a: f64, x: &Tensor, b: f64, y: &Tensor) -> EngineResult<Tensor> {
    ops::add(&ops::affine(x, a, 0.0)?, &ops::affine(y, b, 0.0)?)
}

/// U S' Vᵀ where g = U S Vᵀ is the singular value decomposition of the matrix g, and S' is near the
/// identity: `iterations` times, from X = g / (‖g‖ + 1e-7),
///
/// A = X Xᵀ;   X = a X + (b A + c A²) X,   (a, b, c) = (3.4445, −4.7750, 2.0315).
///
/// That maps each singular value σ to a σ + b σ³ + c σ⁵ and leaves U and V alone. The coefficients
/// (Jordan et al. 2024) make the slope at 0 steep, so that small singular values rise fast, and
/// give up on converging: after 5 iterations all that were above 2e-3 ‖g‖ lie in 0.68 to 1.21, after
/// 3 those above 0.02 ‖g‖. Of the two Gram matrices the smaller is used: X (b A + c A²) with A = Xᵀ X where
/// g has more rows than columns.
///
/// The iterations run in `dtype`; the result has g's. Untracked.
pub fn orthogonalise(g: &Tensor, iterations: usize, dtype: Dtype) -> EngineResult<Tensor> {
    let &[rows, columns] = g.shape() else {
        return Err(EngineError::shape(OP, format!("needs a matrix, got {:?}", g.shape())));
    };
    const EPSILON: f64 = 1e-7;
    const COEFFICIENTS: (f64, f64, f64) = (3.4445, -4.7750, 2.0315);
    let (a, b, c) = COEFFICIENTS;
    let tall = rows > columns;
    no_grad(|| {
        let g = g.detach();
        let mut x = ops::div(&g, &ops::affine(&norm(&g)?, 1.0, EPSILON)?)?.to_dtype(dtype)?;
        for _ in 0..iterations {
            let gram = ops::matmul(&x, &x, tall, !tall)?;
            let square = ops::matmul(&gram, &gram, false, false)?;
            let polynomial = combine(b, &gram, c, &square)?;
            let (left, right) = if tall { (&x, &polynomial) } else { (&polynomial, &x) };
            x = ops::add(&ops::affine(&x, a, 0.0)?, &ops::matmul(left, right, false, false)?)?;
        }
        x.to_dtype(g.dtype())
    })
}

impl Optimizer for Muon {
    fn name(&self) -> &'static str {
        "muon"
    }

    fn groups(&self) -> Vec<&ParamGroup> {
        self.groups.iter().collect()
    }

    fn step(
        &mut self,
        model: &dyn Module,
        gradients: &Gradients,
        setting: Setting,
        gradient_scale: Option<&Tensor>,
    ) -> EngineResult<()> {
        let MuonConfig { nesterov, iterations, dtype, .. } = self.config;
        let mut updates = super::updates(model, &self.groups, gradients)?;
        super::ensure_moments(&mut self.momentum, &updates)?;
        for (group, updates) in self.groups.iter().zip(&mut updates) {
            if group.weight_decay != 0.0 {
                return Err(EngineError::argument(
                    OP,
                    format!(
                        "weight decay does nothing to normalised filters: it must be 0, got {}",
                        group.weight_decay
                    ),
                ));
            }
            let setting = group.setting(self.step, setting);
            let momentum = setting.momentum.unwrap_or(self.config.momentum);
            for update in updates {
                let shape = update.value.shape().to_vec();
                let [rows, columns @ ..] = shape.as_slice() else { continue };
                if columns.is_empty() {
                    let detail =
                        format!("takes matrices and filters, {} has shape {shape:?}", update.name);
                    return Err(EngineError::shape(OP, detail));
                }
                let matrix = [*rows, elements(columns)];
                let (p, v) = no_grad(|| {
                    let mut g = update.gradient.detach();
                    if let Some(scale) = gradient_scale {
                        g = ops::mul(&g, scale)?;
                    }
                    let v = combine(momentum, &self.momentum[&update.name], 1.0, &g)?;
                    let u = if nesterov { combine(1.0, &g, momentum, &v)? } else { v.clone() };
                    let u = orthogonalise(&ops::reshape(&u, &matrix)?, iterations, dtype)?;
                    // The floor is for a filter of zeros, which stays one.
                    let p = update.value.detach();
                    let norm = norm(&p)?;
                    let norm = ops::max(&norm, &norm.filled_like(f32::MIN_POSITIVE.into())?)?;
                    let p = ops::affine(&ops::div(&p, &norm)?, (*rows as f64).sqrt(), 0.0)?;
                    let u = ops::reshape(&u, &shape)?;
                    EngineResult::Ok((combine(1.0, &p, -setting.lr, &u)?, v))
                })?;
                *update.value.buffer_mut() = p.buffer().clone();
                self.momentum.insert(update.name.clone(), v);
            }
        }
        self.step += 1;
        Ok(())
    }

    fn state(&self) -> OptimizerState {
        OptimizerState {
            name: self.name().to_string(),
            step: self.step,
            tensors: super::prefixed(MOMENTUM, &self.momentum).collect(),
        }
    }

    fn load_state(
        &mut self,
        model: &dyn Module,
        mut state: OptimizerState,
        origin: &str,
    ) -> Result<()> {
        super::check_owner(&state, self.name(), origin)?;
        let momentum = super::take_moments(model, MOMENTUM, &mut state, origin)?;
        super::check_used_up(&state, origin)?;
        (self.momentum, self.step) = (momentum, state.step);
        Ok(())
    }
}
