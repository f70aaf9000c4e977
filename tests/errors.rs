//! Wrong shapes, dtypes and devices: each is refused, with the documented words.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tilegrad::{
    Case, Failures, Family, TestBackend, cuda_backends, default_backends, oracle, wgpu_backends,
};
use tilegrad_engine::{Device, Dtype, Error};

/// A bad index is reported to whichever thread next waits for the GPU, so that one test at a time uses it.
fn alone() -> MutexGuard<'static, ()> {
    static DEVICES: Mutex<()> = Mutex::new(());
    DEVICES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Wrong shapes and arguments, as the table lists them.
fn check(family: &Family) {
    let _alone = alone();
    let mut failures = Failures::default();
    for case in (family.errors)() {
        for on in f32_backends() {
            let what = || {
                let shapes: Vec<_> = case.inputs.iter().map(|i| &i.shape).collect();
                format!("{} {shapes:?} on {}", case.op, on.name)
            };
            failures.check(what, case.outcome(on));
        }
    }
    failures.finish(family.name);
}

tilegrad::test_each_family!(check);

/// The first case of each op that touches elements.
fn one_case_an_op() -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for case in tilegrad::FAMILIES.iter().flat_map(|f| (f.cases)()) {
        let empty = case.inputs.iter().any(|i| i.elements() == 0);
        if !empty && case.smooth && !cases.iter().any(|c| c.op == case.op) {
            cases.push(case);
        }
    }
    assert!(cases.len() > 40, "only {} ops", cases.len());
    cases
}

/// Each backend once.
fn f32_backends() -> impl Iterator<Item = &'static TestBackend> {
    let gpus = cuda_backends().iter().chain(wgpu_backends());
    default_backends().iter().chain(gpus.filter(|on| on.dtype == Dtype::F32))
}

/// Those that must refuse what the reference accepts.
fn without_reference() -> impl Iterator<Item = &'static TestBackend> {
    f32_backends().filter(|on| on.backend.device() != Device::Reference)
}

/// reshape moves nothing; the others of these pass any dtype on by design.
const ANY_DTYPE: [&str; 4] = ["reshape", "upload", "fill", "cast"];

#[test]
fn f64_is_for_the_reference_only() {
    let _alone = alone();
    let mut failures = Failures::default();
    for case in one_case_an_op().iter().filter(|c| !ANY_DTYPE.contains(&c.op)) {
        for on in without_reference() {
            let inputs = case.tensors(&on.backend, Dtype::F64);
            let outcome = match inputs.and_then(|inputs| (case.run)(&inputs)) {
                Ok(_) => Err("was accepted".to_string()),
                Err(Error::Unsupported { dtype: Dtype::F64, .. }) => Ok(()),
                Err(e) => Err(format!("says '{e}' instead of '.. not supported on .. for f64'")),
            };
            failures.check(|| format!("{} in f64 on {}", case.label, on.name), outcome);
        }
    }
    failures.finish("f64");
}

/// Ops on labels as well as on floats, which accept i32 where this test would want them not to.
const MOVEMENT: [&str; 6] = ["permute", "concat", "slice", "pad", "gather", "reshape"];

#[test]
fn integers_where_floats_belong_are_refused() {
    let _alone = alone();
    let mut failures = Failures::default();
    for case in one_case_an_op() {
        if MOVEMENT.contains(&case.op) || ANY_DTYPE.contains(&case.op) {
            continue;
        }
        for on in f32_backends() {
            let mut wrong = case.clone();
            wrong.inputs = wrong.inputs.into_iter().map(|i| i.to_integers().as_i32()).collect();
            let inputs = wrong.tensors(&on.backend, on.dtype);
            let outcome = match inputs.and_then(|inputs| (case.run)(&inputs)) {
                Ok(_) => Err("was accepted".to_string()),
                Err(Error::Dtype { .. } | Error::Unsupported { .. }) => Ok(()),
                Err(e) => Err(format!("says '{e}' instead of '.. expected f32, got i32'")),
            };
            failures.check(|| format!("{} in i32 on {}", case.label, on.name), outcome);
        }
    }
    failures.finish("i32 in place of floats");
}

#[test]
fn tensors_of_two_devices_do_not_mix() {
    let _alone = alone();
    let mut failures = Failures::default();
    for case in one_case_an_op() {
        if case.inputs.len() < 2 {
            continue;
        }
        for on in without_reference() {
            let outcome = mixed(&case, on);
            failures.check(|| format!("{} on {}", case.label, on.name), outcome);
        }
    }
    failures.finish("mixed devices");
}

/// The second input on the reference backend, the others on `on`.
fn mixed(case: &Case, on: &TestBackend) -> Result<(), String> {
    let mut inputs = case.tensors(&on.backend, on.dtype).map_err(|e| e.to_string())?;
    let elsewhere = case.tensors(&oracle().backend, on.dtype).map_err(|e| e.to_string())?;
    inputs[1] = elsewhere[1].clone();
    match (case.run)(&inputs) {
        Ok(_) => Err("was accepted".to_string()),
        Err(e) => {
            let device = on.backend.device();
            let expected = format!(
                "buffer is on reference, but the kernel runs on {device}; copy it there first"
            );
            match e.to_string().ends_with(&expected) {
                true => Ok(()),
                false => Err(format!("says '{e}' instead of '.. {expected}'")),
            }
        }
    }
}
