//! An op without a case fails here: every function that the engine offers, and every method of
//! `Backend`.

use std::collections::BTreeSet;
use std::sync::Arc;

use tilegrad::{FAMILIES, Recorder, TestBackend, oracle};

const LARGEST: usize = 3000;

/// Names of the public functions in `engine/src/ops/mod.rs`: the lower-case words of its `pub use`
/// items.
fn engine_ops() -> BTreeSet<String> {
    let source = include_str!("../engine/src/ops/mod.rs");
    let mut ops = BTreeSet::new();
    let mut rest = source;
    while let Some(start) = rest.find("pub use") {
        let end = rest[start..].find(';').expect("a use ends with ;") + start;
        for item in rest[start + "pub use".len()..end].split([',', '{', '}', '\n']) {
            // `add::add` names a function of a file, `add::{` opens a list, `BatchNorm` is a type.
            let name = item.trim().rsplit("::").next().unwrap_or_default();
            let lower =
                name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
            if !name.is_empty() && lower && name != "self" {
                ops.insert(name.to_string());
            }
        }
        rest = &rest[end..];
    }
    ops
}

/// Names of the methods of `trait Backend` in `kernels/src/lib.rs`.
fn backend_methods() -> BTreeSet<String> {
    let source = include_str!("../kernels/src/lib.rs");
    let start = source.find("pub trait Backend").expect("the trait is there");
    let body = &source[start..start + source[start..].find("\n}\n").expect("the trait ends")];
    let names = body.lines().filter_map(|l| l.strip_prefix("    fn ")?.split('(').next());
    names.map(str::to_string).collect()
}

#[test]
fn every_op_of_the_engine_has_a_case() {
    let ops = engine_ops();
    assert!(ops.len() > 30, "{ops:?}");
    let covered: BTreeSet<String> =
        FAMILIES.iter().flat_map(|f| (f.cases)()).map(|c| c.op.to_string()).collect();
    let missing: Vec<_> = ops.difference(&covered).collect();
    assert!(missing.is_empty(), "ops without a case in tests/cases: {missing:?}");
}

#[test]
fn every_op_that_can_be_given_wrong_inputs_has_an_error_case() {
    // These take any shape and any finite option.
    let any = [
        "affine",
        "cast",
        "neg",
        "exp",
        "log",
        "sqrt",
        "tanh",
        "sigmoid",
        "relu",
        "leaky_relu",
        "gelu",
        "silu",
    ];
    let refused: BTreeSet<&str> =
        FAMILIES.iter().flat_map(|f| (f.errors)()).map(|c| c.op).collect();
    let ops = engine_ops();
    let missing: Vec<_> = ops
        .iter()
        .filter(|o| !refused.contains(o.as_str()) && !any.contains(&o.as_str()))
        .collect();
    assert!(missing.is_empty(), "ops without an error case in tests/cases: {missing:?}");
}

#[test]
fn every_method_of_the_backend_is_reached_by_a_case() {
    let recorder = Arc::new(Recorder::new(oracle().backend.clone()));
    let on =
        TestBackend { name: "recorder".to_string(), backend: recorder.clone(), ..oracle().clone() };
    for case in FAMILIES.iter().flat_map(|f| (f.cases)()) {
        if case.inputs.iter().map(|i| i.elements()).sum::<usize>() <= LARGEST {
            case.outputs(&on).unwrap_or_else(|e| panic!("{}: {e}", case.label));
        }
    }
    let called: BTreeSet<String> = recorder.called().into_iter().map(str::to_string).collect();
    // `device` is asked only where something is wrong, `choices` only for a log; `record`, which a backend that
    // others use at the same time cannot, and the times of kernels have tests of their own (recorded.rs, wgpu.rs).
    let others = ["device", "choices", "record", "start_kernel_times", "stop_kernel_times"];
    let asked = |m: &String| !others.contains(&m.as_str());
    let expected: BTreeSet<String> = backend_methods().into_iter().filter(asked).collect();
    let missing: Vec<_> = expected.difference(&called).collect();
    assert!(missing.is_empty(), "methods of Backend that no case reaches: {missing:?}");
}
