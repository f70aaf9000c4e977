//! One line of the table.

use std::sync::Arc;

use tilegrad_engine::{Backend, Dtype, Result, Tensor};

use crate::input::{Input, Special, stream_of};
use crate::{TestBackend, Tolerance, normal};

/// The error says what went wrong, for a report.
type Outcome<T> = std::result::Result<T, String>;

type Run = Arc<dyn Fn(&[Tensor]) -> Result<Vec<Tensor>> + Send + Sync>;

/// An op, what to feed it, and how exact its result must be.
#[derive(Clone)]
pub struct Case {
    /// Name of the op: of a function in `engine/src/ops`, or of a method of `Backend`.
    pub op: &'static str,
    /// The op with its sizes and options.
    pub label: String,
    /// Its inputs.
    pub inputs: Vec<Input>,
    /// Runs it. If differentiable, the first result is the one to differentiate.
    pub run: Run,
    /// Allowed error, forward and backward.
    pub tolerance: Tolerance,
    /// The result has a derivative by every tracked input.
    pub differentiable: bool,
    /// No rounding on small integers, forward or backward: all backends must agree bit for bit.
    pub exact_on_integers: bool,
    /// Can be checked against finite differences: no infinity, NaN, tie or kink.
    pub smooth: bool,
}

/// What a case computes on one backend, as f64.
pub struct Outputs {
    /// Results: shape and elements.
    pub results: Vec<(Vec<usize>, Vec<f64>)>,
    /// Gradient of each tracked input: its index and elements.
    pub gradients: Vec<(usize, Vec<f64>)>,
}

impl Outputs {
    /// Every array with its name.
    pub fn arrays(&self) -> impl Iterator<Item = (String, &[f64])> {
        let results = self.results.iter().enumerate();
        let gradients = self.gradients.iter();
        results
            .map(|(i, (_, v))| (format!("result {i}"), v.as_slice()))
            .chain(gradients.map(|(i, v)| (format!("gradient of input {i}"), v.as_slice())))
    }
}

impl Case {
    /// A differentiable op with one result, exact to 4 roundings unless said otherwise.
    pub fn new(
        op: &'static str,
        inputs: impl IntoIterator<Item = Input>,
        run: impl Fn(&[Tensor]) -> Result<Tensor> + Send + Sync + 'static,
    ) -> Case {
        Case::many(op, inputs, move |x| Ok(vec![run(x)?]))
    }

    /// The same with several results.
    pub fn many(
        op: &'static str,
        inputs: impl IntoIterator<Item = Input>,
        run: impl Fn(&[Tensor]) -> Result<Vec<Tensor>> + Send + Sync + 'static,
    ) -> Case {
        let inputs: Vec<Input> = inputs.into_iter().collect();
        let shapes: Vec<String> = inputs.iter().map(|i| format!(" {:?}", i.shape)).collect();
        Case {
            op,
            label: format!("{op}{}", shapes.concat()),
            inputs,
            run: Arc::new(run),
            tolerance: Tolerance::elementwise(4.0),
            differentiable: true,
            exact_on_integers: false,
            smooth: true,
        }
    }

    /// Adds options to the label.
    pub fn note(mut self, note: impl AsRef<str>) -> Case {
        self.label = format!("{} {}", self.label, note.as_ref());
        self
    }

    /// Sets the allowed error.
    pub fn tolerance(mut self, tolerance: Tolerance) -> Case {
        self.tolerance = tolerance;
        self
    }

    /// The op has no derivative.
    pub fn forward_only(mut self) -> Case {
        self.differentiable = false;
        self.inputs.iter_mut().for_each(|i| i.tracked = false);
        self
    }

    /// Has an infinity, a tie or a kink, where finite differences say nothing.
    pub fn not_smooth(mut self) -> Case {
        self.smooth = false;
        self
    }

    /// Integers in, exact results out.
    pub fn exact(mut self) -> Case {
        self.exact_on_integers = true;
        self
    }

    /// Variants of this case, each with a special first input.
    pub fn with(&self, specials: &[Special]) -> Vec<Case> {
        let variant = |&special: &Special| {
            let mut case = self.clone().note(format!("{special:?}"));
            case.inputs[0].special = Some(special);
            case.smooth = false;
            case.exact_on_integers = false;
            case
        };
        specials.iter().map(variant).collect()
    }

    /// Has an infinity or a NaN among its inputs.
    pub fn has_special(&self) -> bool {
        self.inputs.iter().any(|i| i.special.is_some_and(|s| s != Special::AllEqual))
    }

    /// The input tensors on `backend`.
    pub fn tensors(&self, backend: &Arc<dyn Backend>, dtype: Dtype) -> Result<Vec<Tensor>> {
        let inputs = self.inputs.iter().enumerate();
        inputs.map(|(i, x)| x.tensor(backend, dtype, stream_of(&self.label, i))).collect()
    }

    /// Forward, and backward if differentiable.
    pub fn outputs(&self, on: &TestBackend) -> Outcome<Outputs> {
        let describe = |e: tilegrad_engine::Error| e.to_string();
        let inputs = self.inputs.iter().enumerate();
        let inputs = inputs.map(|(i, x)| x.tensor_on(on, on.dtype, stream_of(&self.label, i)));
        let inputs: Vec<Tensor> = inputs.collect::<Result<_>>().map_err(describe)?;
        let results = (self.run)(&inputs).map_err(describe)?;
        let mut gradients = Vec::new();
        if self.differentiable && self.inputs.iter().any(|i| i.tracked) {
            let y = &results[0];
            if !y.is_tracked() {
                return Err("the result is not tracked".to_string());
            }
            let dy = self.output_gradient(y, on).map_err(describe)?;
            let found = y.backward_from(&dy).map_err(describe)?;
            for (i, x) in inputs.iter().enumerate().filter(|(_, x)| x.is_tracked()) {
                let g = found.get(x).ok_or_else(|| format!("input {i} got no gradient"))?;
                if g.shape() != x.shape() {
                    return Err(format!(
                        "gradient of input {i} has shape {:?}, the input {:?}",
                        g.shape(),
                        x.shape()
                    ));
                }
                gradients.push((i, g.to_f64_vec().map_err(describe)?));
            }
        } else if results.iter().any(Tensor::is_tracked) {
            return Err("the result is tracked, but nothing that it depends on is".to_string());
        }
        let results = results.iter().map(|y| Ok((y.shape().to_vec(), y.to_f64_vec()?)));
        let results = results.collect::<Result<_>>().map_err(describe)?;
        Ok(Outputs { results, gradients })
    }

    /// The gradient that flows into the first result: integers in an integer case, normal
    /// otherwise.
    fn output_gradient(&self, y: &Tensor, on: &TestBackend) -> Result<Tensor> {
        let mut dy = normal(y.shape()).untracked();
        if self.label.ends_with(INTEGERS) {
            dy = dy.to_integers();
        }
        dy.tensor_on(on, y.dtype(), stream_of(&self.label, 1000))
    }

    /// The same case on small integers.
    pub fn on_integers(&self) -> Case {
        let mut case = self.clone().note(INTEGERS);
        case.inputs = case.inputs.iter().map(Input::to_integers).collect();
        case
    }
}

const INTEGERS: &str = "integers";

/// Inputs that an op must refuse, and the words it must do it with.
pub struct ErrorCase {
    /// The op's name.
    pub op: &'static str,
    /// What it is given.
    pub inputs: Vec<Input>,
    /// Runs it.
    pub run: Run,
    /// The whole message.
    pub message: String,
}

impl ErrorCase {
    /// `run` on `inputs` must fail with exactly `message`.
    pub fn new<T>(
        op: &'static str,
        inputs: impl IntoIterator<Item = Input>,
        run: impl Fn(&[Tensor]) -> Result<T> + Send + Sync + 'static,
        message: impl Into<String>,
    ) -> ErrorCase {
        ErrorCase {
            op,
            inputs: inputs.into_iter().collect(),
            run: Arc::new(move |x| run(x).map(|_| Vec::new())),
            message: message.into(),
        }
    }

    /// The message on one backend.
    pub fn outcome(&self, on: &TestBackend) -> Outcome<()> {
        let inputs = self.inputs.iter().enumerate();
        let tensors = inputs.map(|(i, x)| x.tensor(&on.backend, on.dtype, stream_of(self.op, i)));
        let tensors: Vec<Tensor> = tensors.collect::<Result<_>>().map_err(|e| e.to_string())?;
        // What depends on data that only the device has seen is reported when the host next waits for it.
        let waited = (self.run)(&tensors).and_then(|y| Ok((y, on.backend.synchronize()?)));
        match waited {
            Ok(_) => Err(format!("was accepted; it should say '{}'", self.message)),
            Err(e) if e.to_string() == self.message => Ok(()),
            Err(e) => Err(format!("says '{e}' instead of '{}'", self.message)),
        }
    }
}
