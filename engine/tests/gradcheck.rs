//! The gradient check must find what is wrong, not only pass what is right.

use tilegrad_engine::gradcheck::{Failure, Tolerance, check, check_within};
use tilegrad_engine::{Backend, Error, Op, Result, Saved, Tensor, apply, ops, reference};

/// y = x², with a gradient that goes wrong in some way.
#[derive(Clone, Copy, PartialEq)]
enum Square {
    Right,
    OffBy1Percent,
    LastElementNan,
    Missing,
    WrongShape,
    /// Ignores `needs` and answers less when both inputs are tracked.
    DependsOnNeeds,
}

impl Op for Square {
    fn name(&self) -> &'static str {
        "square"
    }

    fn forward(&self, _be: &dyn Backend, inputs: &[&Tensor]) -> Result<(Tensor, Saved)> {
        let y: Vec<f64> = inputs[0].to_vec::<f64>()?.iter().map(|x| x * x).collect();
        let y = Tensor::from_slice(inputs[0].backend(), &y, inputs[0].shape())?;
        Ok((y, Saved::new([inputs[0]])))
    }

    fn backward(
        &self,
        _be: &dyn Backend,
        saved: Saved,
        dy: Tensor,
        needs: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let [x] = saved.take();
        let mut dx: Vec<f64> =
            x.to_vec::<f64>()?.iter().zip(dy.to_vec::<f64>()?).map(|(x, g)| 2.0 * x * g).collect();
        let mut shape = x.shape().to_vec();
        match self {
            Square::Right => {}
            Square::OffBy1Percent => dx.iter_mut().for_each(|g| *g *= 1.01),
            Square::LastElementNan => *dx.last_mut().unwrap() = f64::NAN,
            Square::Missing => return Ok(vec![None; needs.len()]),
            Square::WrongShape => shape.insert(0, 1),
            Square::DependsOnNeeds => {
                if needs.iter().all(|&n| n) {
                    dx.fill(0.0);
                }
            }
        }
        let dx = Tensor::from_slice(x.backend(), &dx, &shape)?;
        let mut gradients = vec![None; needs.len()];
        gradients[0] = Some(dx);
        Ok(gradients)
    }
}

fn input(data: &[f64]) -> Tensor {
    Tensor::from_slice(&reference(), data, &[data.len()]).unwrap()
}

fn run(op: Square) -> std::result::Result<(), Failure> {
    check(&[input(&[1.5, -2.0, 30.0])], |t| apply(op, &[&t[0]]))
}

#[test]
fn right_passes() {
    run(Square::Right).unwrap();
}

#[test]
fn wrong_values_fail_with_their_place() {
    let failure = run(Square::OffBy1Percent).unwrap_err();
    let Failure::Mismatch { input: 0, element: 0, analytic, numeric, .. } = failure else {
        panic!("{failure}");
    };
    assert!((analytic / numeric - 1.01).abs() < 1e-6);
    assert!(failure.to_string().starts_with("gradient of input 0, element 0: "), "{failure}");
}

#[test]
fn nan_fails() {
    let failure = run(Square::LastElementNan).unwrap_err();
    assert!(matches!(failure, Failure::Mismatch { input: 0, element: 2, .. }), "{failure}");
}

#[test]
fn an_infinite_difference_fails() {
    // √x at 0 has an infinite derivative, and below 0 no value.
    let failure = check(&[input(&[0.0])], |t| ops::sqrt(&t[0])).unwrap_err();
    assert!(matches!(failure, Failure::Mismatch { .. }), "{failure}");
    let big = [input(&[1e308])];
    let failure = check(&big, |t| ops::mul(&t[0], &ops::affine(&t[0], 1.0, 0.0)?)).unwrap_err();
    assert!(matches!(failure, Failure::Mismatch { .. }), "{failure}");
}

#[test]
fn a_missing_gradient_counts_as_zero() {
    let failure = run(Square::Missing).unwrap_err();
    assert!(matches!(failure, Failure::Mismatch { analytic: 0.0, .. }), "{failure}");
}

#[test]
fn a_gradient_of_another_shape_fails() {
    let failure = run(Square::WrongShape).unwrap_err();
    assert!(matches!(failure, Failure::Form { input: 0, .. }), "{failure}");
}

#[test]
fn a_gradient_that_depends_on_other_inputs_being_tracked_fails() {
    let inputs = [input(&[1.5, -2.0])];
    let both = [inputs[0].clone(), inputs[0].clone()];
    let f = |t: &[Tensor]| apply(Square::DependsOnNeeds, &[&t[0], &t[1]]);
    assert_eq!(check(&both, f), Err(Failure::Inconsistent { input: 0 }));
}

#[test]
fn the_tolerance_is_what_the_caller_says() {
    let loose = Tolerance { relative: 0.02, ..Tolerance::default() };
    let x = [input(&[1.5, -2.0])];
    check_within(loose, &x, |t| apply(Square::OffBy1Percent, &[&t[0]])).unwrap();
}

#[test]
fn integers_are_passed_on_and_f32_is_refused() {
    let device = reference();
    let x = Tensor::from_slice(&device, &[1.0f64, 2.0, 3.0], &[3]).unwrap();
    let indices = Tensor::from_slice(&device, &[2i32, 0, 2], &[3]).unwrap();
    check(&[x, indices], |t| ops::gather(&t[0], 0, &t[1])).unwrap();
    let single = Tensor::from_slice(&device, &[1.0f32], &[1]).unwrap();
    let failure = check(&[single], |t| ops::exp(&t[0])).unwrap_err();
    assert!(matches!(failure, Failure::Error(Error::Dtype { .. })), "{failure}");
}
