//! Several optimizers as one, each for its part of a model.

use tilegrad_engine::{Error as EngineError, Gradients, Result as EngineResult, Tensor};

use super::{Optimizer, OptimizerState, ParamGroup, group_of};
use crate::error::{Error, Result};
use crate::module::{Module, Role};
use crate::schedule::Setting;

/// Optimizers whose groups share a model's parameters out among them, such as [`super::Muon`] for
/// filters and [`super::Sgd`] for the rest. Each step is one step of every part, with the same
/// setting; groups that need another learning rate have a factor or a schedule of their own.
pub struct Combined {
    name: &'static str,
    parts: Vec<Box<dyn Optimizer>>,
}

impl Combined {
    /// `name` is for checkpoints. Every trained parameter of `model` must belong to exactly one
    /// part: one that nobody updates, or two do, is an error that names it.
    pub fn new(
        name: &'static str,
        model: &dyn Module,
        parts: Vec<Box<dyn Optimizer>>,
    ) -> EngineResult<Self> {
        for (parameter_name, parameter) in model.parameters() {
            if parameter.role() == Role::State {
                continue;
            }
            let taken = parts
                .iter()
                .filter(|part| group_of(&part.groups(), &parameter_name, parameter).is_some())
                .map(|part| part.name())
                .collect::<Vec<_>>();
            if taken.len() != 1 {
                let by = if taken.is_empty() { "none".to_string() } else { taken.join(", ") };
                let detail = format!(
                    "parameter {parameter_name} must belong to one of the combined optimizers, \
                     but belongs to {by}"
                );
                return Err(EngineError::argument("optimizer", detail));
            }
        }
        Ok(Combined { name, parts })
    }
}

/// In front of the names of part `i`'s tensors.
fn prefix(i: usize) -> String {
    format!("{i}.")
}

impl Optimizer for Combined {
    fn name(&self) -> &'static str {
        self.name
    }

    fn groups(&self) -> Vec<&ParamGroup> {
        self.parts.iter().flat_map(|part| part.groups()).collect()
    }

    fn step(
        &mut self,
        model: &dyn Module,
        gradients: &Gradients,
        setting: Setting,
        gradient_scale: Option<&Tensor>,
    ) -> EngineResult<()> {
        for part in &mut self.parts {
            part.step(model, gradients, setting, gradient_scale)?;
        }
        Ok(())
    }

    fn state(&self) -> OptimizerState {
        let mut all = OptimizerState { name: self.name.to_string(), ..Default::default() };
        for (i, part) in self.parts.iter().enumerate() {
            let state = part.state();
            all.step = state.step;
            let named = state.tensors.into_iter();
            all.tensors.extend(named.map(|(name, x)| (format!("{}{name}", prefix(i)), x)));
        }
        all
    }

    fn load_state(
        &mut self,
        model: &dyn Module,
        mut state: OptimizerState,
        origin: &str,
    ) -> Result<()> {
        super::check_owner(&state, self.name, origin)?;
        let mut states: Vec<OptimizerState> = self
            .parts
            .iter()
            .map(|part| OptimizerState {
                name: part.name().to_string(),
                step: state.step,
                ..Default::default()
            })
            .collect();
        for (name, tensor) in std::mem::take(&mut state.tensors) {
            let mine = (0..states.len())
                .find_map(|i| Some((i, name.strip_prefix(&prefix(i))?.to_string())));
            let Some((i, inner)) = mine else {
                return Err(Error::UnexpectedTensor { origin: origin.to_string(), name });
            };
            states[i].tensors.insert(inner, tensor);
        }
        let before: Vec<OptimizerState> = self.parts.iter().map(|part| part.state()).collect();
        for (i, state) in states.into_iter().enumerate() {
            if let Err(error) = self.parts[i].load_state(model, state, origin) {
                // Parts that have taken their new state get their old one back.
                for (part, old) in self.parts.iter_mut().zip(before) {
                    part.load_state(model, old, origin)?;
                }
                return Err(error);
            }
        }
        Ok(())
    }
}
