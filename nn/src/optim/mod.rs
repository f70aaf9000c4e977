//! Optimizers: they turn gradients into changes of the parameters, in place.

mod adamw;
mod sgd;

use std::collections::BTreeMap;
use std::sync::RwLockWriteGuard;

use tilegrad_engine::{Error as EngineError, Gradients, Result as EngineResult, Tensor};

pub use adamw::{AdamW, AdamWConfig};
pub use sgd::{Sgd, SgdConfig};

use crate::error::{Error, Result};
use crate::module::{Module, Role};
use crate::schedule::Setting;

/// Changes a model's parameters by their gradients.
pub trait Optimizer: Send {
    /// `sgd` or `adamw`: the name in checkpoints.
    fn name(&self) -> &'static str;

    /// One step. `setting` gives the learning rate and, if it has one, the momentum (AdamW's β1) of
    /// this step; gradients are first multiplied by `gradient_scale` (one element, see
    /// [`crate::clip`]) if given.
    ///
    /// Parameters without a gradient, and those that no group selects, stay as they are. Values are
    /// changed in place where nobody else holds them, so drop snapshots and the tape first:
    /// [`Tensor::backward`] has used it up.
    fn step(
        &mut self,
        model: &dyn Module,
        gradients: &Gradients,
        setting: Setting,
        gradient_scale: Option<&Tensor>,
    ) -> EngineResult<()>;

    /// All that a continued run needs, by name.
    fn state(&self) -> OptimizerState;

    /// Continues from `state`, which was taken from a run of the same optimizer on the same model.
    /// `origin` names it in errors. Nothing changes if there is an error.
    fn load_state(&mut self, model: &dyn Module, state: OptimizerState, origin: &str)
    -> Result<()>;
}

/// State of an optimizer.
#[derive(Clone, Debug, Default)]
pub struct OptimizerState {
    /// The optimizer's name.
    pub name: String,
    /// Steps done.
    pub step: u64,
    /// `velocity.NAME` of SGD, `m.NAME` and `v.NAME` of AdamW, where NAME is the parameter's.
    pub tensors: BTreeMap<String, Tensor>,
}

type Predicate = Box<dyn Fn(&str, Role) -> bool + Send + Sync>;

/// Parameters that share options. A parameter belongs to the first group that selects it.
pub struct ParamGroup {
    selects: Predicate,
    /// Factor of the learning rate.
    pub lr_scale: f64,
    /// Weight decay.
    pub weight_decay: f64,
}

impl ParamGroup {
    /// The parameters of which `selects(name, role)` is true.
    pub fn new(
        selects: impl Fn(&str, Role) -> bool + Send + Sync + 'static,
        weight_decay: f64,
    ) -> Self {
        ParamGroup { selects: Box::new(selects), lr_scale: 1.0, weight_decay }
    }

    /// The parameters with one of these roles.
    pub fn of_roles(roles: &'static [Role], weight_decay: f64) -> Self {
        Self::new(|_, role| roles.contains(&role), weight_decay)
    }

    /// Multiplies the learning rate of this group.
    pub fn with_lr_scale(mut self, lr_scale: f64) -> Self {
        self.lr_scale = lr_scale;
        self
    }

    /// One group of all parameters, decayed alike: what PyTorch does with `model.parameters()`.
    pub fn decay_all(weight_decay: f64) -> Vec<ParamGroup> {
        vec![Self::new(|_, _| true, weight_decay)]
    }

    /// Weights are decayed; biases and normalisations are not, since shrinking them regularises
    /// nothing.
    pub fn decay_weights_only(weight_decay: f64) -> Vec<ParamGroup> {
        vec![
            Self::of_roles(&[Role::Weight], weight_decay),
            Self::of_roles(&[Role::Bias, Role::Norm], 0.0),
        ]
    }

    /// Whether the group takes this parameter.
    pub fn selects(&self, name: &str, role: Role) -> bool {
        role != Role::State && (self.selects)(name, role)
    }
}

/// A parameter that takes part in a step, locked.
struct Update<'m, 'g> {
    name: String,
    value: RwLockWriteGuard<'m, Tensor>,
    gradient: &'g Tensor,
}

/// The parameters of each group that have a gradient.
fn updates<'m, 'g>(
    model: &'m dyn Module,
    groups: &[ParamGroup],
    gradients: &'g Gradients,
) -> EngineResult<Vec<Vec<Update<'m, 'g>>>> {
    let mut by_group: Vec<Vec<Update>> = groups.iter().map(|_| Vec::new()).collect();
    for (name, parameter) in model.parameters() {
        let Some(group) = groups.iter().position(|g| g.selects(&name, parameter.role())) else {
            continue;
        };
        let value = parameter.write();
        let Some(gradient) = gradients.get(&value) else { continue };
        if gradient.shape() != value.shape() {
            let (got, right) = (gradient.shape(), value.shape());
            return Err(EngineError::shape(
                "optimizer",
                format!("gradient of {name} has shape {got:?}, the parameter {right:?}"),
            ));
        }
        by_group[group].push(Update { name, value, gradient });
    }
    Ok(by_group)
}

/// Makes sure that there is a moment for every parameter: zero at first.
fn ensure_moments(
    moments: &mut BTreeMap<String, Tensor>,
    groups: &[Vec<Update<'_, '_>>],
) -> EngineResult<()> {
    for update in groups.iter().flatten() {
        if !moments.contains_key(&update.name) {
            moments.insert(update.name.clone(), update.value.filled_like(0.0)?);
        }
    }
    Ok(())
}

/// Takes the tensors called `prefix` + parameter name out of `state`, after checking their shapes.
fn take_moments(
    model: &dyn Module,
    prefix: &str,
    state: &mut OptimizerState,
    origin: &str,
) -> Result<BTreeMap<String, Tensor>> {
    let mut moments = BTreeMap::new();
    for (name, parameter) in model.parameters() {
        let key = format!("{prefix}{name}");
        let Some(tensor) = state.tensors.remove(&key) else { continue };
        if tensor.shape() != parameter.shape() {
            return Err(Error::TensorShape {
                origin: origin.to_string(),
                name: key,
                expected: parameter.shape(),
                got: tensor.shape().to_vec(),
            });
        }
        moments.insert(name, tensor);
    }
    Ok(moments)
}

/// Checks whose state it is.
fn check_owner(state: &OptimizerState, expected: &str, origin: &str) -> Result<()> {
    if state.name != expected {
        return Err(Error::WrongOptimizer {
            origin: origin.to_string(),
            expected: expected.to_string(),
            got: state.name.clone(),
        });
    }
    Ok(())
}

/// What is left over belongs to no parameter of the model.
fn check_used_up(state: &OptimizerState, origin: &str) -> Result<()> {
    match state.tensors.keys().next() {
        Some(name) => {
            Err(Error::UnexpectedTensor { origin: origin.to_string(), name: name.clone() })
        }
        None => Ok(()),
    }
}

/// Names with a prefix, for [`OptimizerState::tensors`].
fn prefixed<'a>(
    prefix: &'a str,
    moments: &'a BTreeMap<String, Tensor>,
) -> impl Iterator<Item = (String, Tensor)> + 'a {
    moments.iter().map(move |(name, tensor)| (format!("{prefix}{name}"), tensor.clone()))
}
