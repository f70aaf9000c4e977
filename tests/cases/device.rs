//! What a device does besides computing: memory, conversion, accumulation.

use tilegrad_engine::{Dtype, Tensor};

use crate::{Case, ErrorCase, Tolerance, integers, list, normal};

/// What must work.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for n in [0, 1, 7, 40013] {
        cases.push(
            Case::many("accumulate", [normal(&[n]), normal(&[n])], |x| {
                let mut sum = x[0].detach();
                sum.accumulate(&x[1])?;
                Ok(vec![sum, x[0].detach()])
            })
            .forward_only()
            .exact(),
        );
        cases.push(
            Case::many("fill", [normal(&[n])], |x| {
                let be = x[0].backend();
                let filled = x[0].filled_like(-2.5)?;
                let whole = Tensor::full(be, Dtype::I32, x[0].shape(), 7.0)?;
                Ok(vec![filled, whole])
            })
            .tolerance(Tolerance::EXACT)
            .forward_only(),
        );
        cases.push(
            Case::many("cast", [integers(&[n], -100, 100)], |x| {
                let whole = x[0].to_dtype(Dtype::I32)?;
                let back = whole.to_dtype(Dtype::F32)?;
                Ok(vec![whole, back, x[0].to_dtype(Dtype::F32)?])
            })
            .tolerance(Tolerance::EXACT)
            .forward_only(),
        );
    }
    // With a gradient, in the dtype of x.
    for n in [0, 5, 40013] {
        cases.push(
            Case::new("cast", [normal(&[n])], |x| x[0].to_dtype(Dtype::F32))
                .note("to f32")
                .tolerance(Tolerance::EXACT)
                .not_smooth(),
        );
    }
    // To integers: nearest even, saturating.
    let values = [0.5, 1.5, 2.5, -0.5, -1.5, 3e9, -3e9, 2147483000.0, 0.49, -7.0];
    cases.push(
        Case::new("cast", [list(&[values.len()], &values)], |x| x[0].to_dtype(Dtype::I32))
            .note("rounding")
            .tolerance(Tolerance::EXACT)
            .forward_only(),
    );
    cases.push(
        Case::many("upload", [normal(&[3, 5])], |x| {
            let be = x[0].backend();
            let bytes = be.download(x[0].buffer())?;
            let again = Tensor::new(be, be.upload(x[0].dtype(), &bytes)?, x[0].shape())?;
            let mut written = x[0].filled_like(0.0)?;
            be.write(written.buffer_mut(), &bytes)?;
            be.synchronize()?;
            let before = be.memory();
            be.reset_peak();
            assert!(before.in_use > 0 && be.memory().peak <= before.peak.max(be.memory().in_use));
            be.trim(); // Other cases may run on this backend: nothing can be said of what is left.
            assert!(!be.description().is_empty());
            Ok(vec![again, written])
        })
        .tolerance(Tolerance::EXACT)
        .forward_only(),
    );
    cases
}

/// What must be refused.
pub fn errors() -> Vec<ErrorCase> {
    vec![
        ErrorCase::new(
            "accumulate",
            [normal(&[2, 3]), normal(&[3, 2])],
            |x| x[0].detach().accumulate(&x[1]),
            "accumulate: shapes must be equal, got [2, 3] and [3, 2]",
        ),
        ErrorCase::new(
            "download",
            [integers(&[3], 0, 5).as_i32()],
            |x| x[0].to_vec::<f32>(),
            "download: expected f32, got i32",
        ),
        ErrorCase::new(
            "item",
            [normal(&[3])],
            |x| x[0].item(),
            "item: needs one element, got shape [3]",
        ),
        ErrorCase::new(
            "tensor",
            [normal(&[3])],
            |x| Tensor::new(x[0].backend(), x[0].buffer().clone(), &[2, 2]),
            "tensor: shape [2, 2] has 4 elements, but there are 3",
        ),
        ErrorCase::new(
            "backward",
            [normal(&[3])],
            |x| x[0].backward(),
            "backward: needs a loss of one element, got shape [3]",
        ),
        ErrorCase::new(
            "backward",
            [normal(&[1]).untracked()],
            |x| x[0].backward(),
            "backward: the loss depends on no tracked tensor",
        ),
    ]
}
