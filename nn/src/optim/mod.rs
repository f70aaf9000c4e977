//! Optimizers: they turn gradients into changes of the parameters, in place.

mod adamw;
mod combined;
mod muon;
mod sgd;

use std::collections::BTreeMap;
use std::sync::RwLockWriteGuard;

use tilegrad_engine::{Error as EngineError, Gradients, Result as EngineResult, Tensor};

pub use adamw::{AdamW, AdamWConfig};
pub use combined::Combined;
pub use muon::{Muon, MuonConfig, orthogonalise};
pub use sgd::{Sgd, SgdConfig};

use crate::error::{Error, Result};
use crate::module::{Module, Parameter, Role};
use crate::schedule::{Schedule, Setting};

/// Changes a model's parameters by their gradients.
pub trait Optimizer: Send {
    /// `sgd`, `adamw`, `muon`: the name in checkpoints.
    fn name(&self) -> &'static str;

    /// Its groups.
    fn groups(&self) -> Vec<&ParamGroup>;

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
    /// `velocity.NAME` of SGD, `m.NAME` and `v.NAME` of AdamW, `momentum.NAME` of Muon, where NAME
    /// is the parameter's; with the number of the part in front where several are [`Combined`].
    pub tensors: BTreeMap<String, Tensor>,
}

type Predicate = Box<dyn Fn(&str, &Parameter) -> bool + Send + Sync>;

/// Parameters that share options. A parameter belongs to the first group that selects it.
pub struct ParamGroup {
    selects: Predicate,
    /// Factor of the learning rate.
    pub lr_scale: f64,
    /// Weight decay.
    pub weight_decay: f64,
    /// The group's own, instead of the setting that all groups are told.
    schedule: Option<Box<dyn Schedule>>,
}

impl ParamGroup {
    /// The parameters of which `selects(name, role)` is true.
    pub fn new(
        selects: impl Fn(&str, Role) -> bool + Send + Sync + 'static,
        weight_decay: f64,
    ) -> Self {
        Self::matching(move |name, parameter| selects(name, parameter.role()), weight_decay)
    }

    /// The parameters of which `selects(name, parameter)` is true: for a choice by shape.
    pub fn matching(
        selects: impl Fn(&str, &Parameter) -> bool + Send + Sync + 'static,
        weight_decay: f64,
    ) -> Self {
        ParamGroup { selects: Box::new(selects), lr_scale: 1.0, weight_decay, schedule: None }
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

    /// Gives this group a schedule of its own, of the optimizer's steps: it then does not listen to
    /// the setting that [`Optimizer::step`] is given. When the schedule has ended (see
    /// [`Schedule::ended`]) [`freeze_ended`] takes the group's parameters off the tape.
    pub fn with_schedule(mut self, schedule: impl Schedule + 'static) -> Self {
        self.schedule = Some(Box::new(schedule));
        self
    }

    /// Setting of this group for the update after `step` updates; `common` is that of all groups.
    fn setting(&self, step: u64, common: Setting) -> Setting {
        let setting = self.schedule.as_ref().map_or(common, |schedule| schedule.at(step));
        Setting { lr: setting.lr * self.lr_scale, ..setting }
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
    pub fn selects(&self, name: &str, parameter: &Parameter) -> bool {
        parameter.role() != Role::State && (self.selects)(name, parameter)
    }
}

/// The group that a parameter belongs to.
fn group_of(groups: &[&ParamGroup], name: &str, parameter: &Parameter) -> Option<usize> {
    groups.iter().position(|group| group.selects(name, parameter))
}

/// Takes parameters off the tape whose group has a schedule of its own that has ended by `step`:
/// the backward pass then spends nothing on gradients that only they would need. To be called
/// before the forward pass, also of a run that was resumed.
pub fn freeze_ended(optimizer: &dyn Optimizer, model: &dyn Module, step: u64) {
    let groups = optimizer.groups();
    let ended = |group: &ParamGroup| group.schedule.as_ref().is_some_and(|s| s.ended(step));
    if !groups.iter().any(|group| ended(group)) {
        return;
    }
    for (name, parameter) in model.parameters() {
        if group_of(&groups, &name, parameter).is_some_and(|group| ended(groups[group])) {
            parameter.freeze();
        }
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
    let groups: Vec<&ParamGroup> = groups.iter().collect();
    for (name, parameter) in model.parameters() {
        let Some(group) = group_of(&groups, &name, parameter) else { continue };
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
