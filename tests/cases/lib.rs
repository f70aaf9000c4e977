//! The case table: every op of the engine and every method of `Backend`, as data.
//!
//! A [`Case`] is a closure over tensors and what to feed it. From it `tests/parity.rs`,
//! `tests/gradients.rs`, `tests/exact.rs`, `tests/determinism.rs`, `tests/errors.rs` and
//! `tests/coverage.rs` derive their checks, for each backend in [`backends()`]. To add an op, add a
//! few lines to the file of its family; an op without a case fails `tests/coverage.rs`.

mod backends;
mod case;
mod compare;
mod input;
mod recorder;
mod validation;

pub mod batch_norm;
pub mod classes;
pub mod conv2d;
pub mod device;
pub mod elementwise;
pub mod formula;
pub mod matmul;
pub mod movement;
pub mod optimizer;
pub mod pool2d;
pub mod reduce;

use std::collections::HashMap;

pub use backends::{
    TestBackend, at, backends, cpu_with, cuda_backends, cuda_device, cuda_rungs, cuda_with, cudas,
    default_backends, exact_backends, half_backends, has_subgroup_tile, is_required, open_cuda,
    open_wgpu, oracle, oracle_of, thread_counts, wgpu_backends, wgpu_rungs, wgpu_with, wgpus,
};
pub use case::{Case, ErrorCase, Outputs};
pub use compare::{Failures, Tolerance, compare, relative_norm, same_bits, same_values};
pub use input::{
    Input, Special, Values, constant, distinct, integers, labels, list, normal, positive,
    probabilities, rounded, uniform,
};
pub use recorder::Recorder;
pub use validation::validation_errors;

/// One family of ops: its name, its cases, its wrong inputs.
pub struct Family {
    /// Name of the file.
    pub name: &'static str,
    /// What must work.
    pub cases: fn() -> Vec<Case>,
    /// What must be refused.
    pub errors: fn() -> Vec<ErrorCase>,
}

impl Family {
    /// The cases to run: all, or with `TILEGRAD_SAMPLE=7` every seventh of each op, where a checker makes all of them
    /// too slow (compute-sanitizer). What is left out is said.
    pub fn sample(&self) -> Vec<Case> {
        let all = (self.cases)();
        let Ok(every) = std::env::var("TILEGRAD_SAMPLE") else { return all };
        let every: usize = every.parse().unwrap_or(0);
        assert!(every > 0, "TILEGRAD_SAMPLE must be a number from 1");
        let count = all.len();
        let mut seen: HashMap<&str, usize> = HashMap::new();
        let mut next = |op| {
            let n = seen.entry(op).or_default();
            *n += 1;
            *n - 1
        };
        let kept: Vec<Case> = all.into_iter().filter(|case| next(case.op) % every == 0).collect();
        eprintln!(
            "SKIPPED {} of {count} cases of {}: TILEGRAD_SAMPLE",
            count - kept.len(),
            self.name
        );
        kept
    }
}

macro_rules! families {
    ($($name:ident),* $(,)?) => {
        &[$(Family { name: stringify!($name), cases: $name::cases, errors: $name::errors }),*]
    };
}

/// The whole table.
pub const FAMILIES: &[Family] = families![
    elementwise,
    reduce,
    matmul,
    conv2d,
    pool2d,
    batch_norm,
    classes,
    movement,
    optimizer,
    device,
];

/// All cases of the family called `name`.
pub fn family(name: &str) -> &'static Family {
    FAMILIES.iter().find(|f| f.name == name).unwrap_or_else(|| panic!("no family {name}"))
}

/// Makes one `#[test]` a family that calls `check(family)`.
#[macro_export]
macro_rules! test_each_family {
    ($check:path) => {
        $crate::test_each_family!($check: elementwise, reduce, matmul, conv2d, pool2d, batch_norm,
            classes, movement, optimizer, device);

        #[test]
        fn every_family_is_tested() {
            assert_eq!($crate::FAMILIES.len(), 10, "add the new family to test_each_family!");
        }
    };
    ($check:path: $($name:ident),*) => {
        $(#[test] fn $name() { $check($crate::family(stringify!($name))); })*
    };
}
