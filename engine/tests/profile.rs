//! Timing of ops. One test: the timer belongs to the whole process.

use tilegrad_engine::profile::{self, Pass};
use tilegrad_engine::{Tensor, ops, reference};

#[test]
fn counts_what_runs_between_start_and_stop() {
    let x = Tensor::from_slice(&reference(), &[1.0f64, 2.0], &[2]).unwrap().tracked();
    let step = || ops::sum(&ops::exp(&ops::exp(&x).unwrap()).unwrap(), &[]).unwrap().backward();
    step().unwrap();
    assert!(profile::stop().is_empty());

    profile::start();
    step().unwrap();
    profile::time("sgd", Pass::Update, &**x.backend(), || ());
    let rows = profile::stop();
    step().unwrap();
    let calls = |op, pass| rows.iter().find(|r| r.op == op && r.pass == pass).map(|r| r.calls);
    assert_eq!(calls("exp", Pass::Forward), Some(2));
    assert_eq!(calls("exp", Pass::Backward), Some(2));
    assert_eq!(calls("sum", Pass::Forward), Some(1));
    assert_eq!(calls("sgd", Pass::Update), Some(1));
    assert_eq!(rows.len(), 5);
    assert!(rows.is_sorted_by(|a, b| a.seconds >= b.seconds));
}
