//! Every schedule against PyTorch's over whole runs, to 1e-6 relative:
//! `scripts/golden_schedules.py` makes the file.

use serde::Deserialize;
use tilegrad_nn::schedule::*;

#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    kind: String,
    lr: f64,
    #[serde(default)]
    step_size: u64,
    #[serde(default)]
    gamma: f64,
    #[serde(default)]
    t_max: u64,
    #[serde(default)]
    eta_min: f64,
    #[serde(default)]
    total_steps: u64,
    #[serde(default)]
    pct_start: f64,
    #[serde(default)]
    div_factor: f64,
    #[serde(default)]
    final_div_factor: f64,
    #[serde(default)]
    cycle_momentum: bool,
    #[serde(default)]
    start_factor: f64,
    #[serde(default)]
    steps: u64,
    #[serde(default)]
    warmup: u64,
    #[serde(default)]
    total: u64,
    values: Vec<(u64, f64, Option<f64>)>,
}

fn build(case: &Case) -> Box<dyn Schedule> {
    let Case { lr, eta_min, start_factor, .. } = *case;
    match case.kind.as_str() {
        "step" => Box::new(StepLr { lr, step_size: case.step_size, gamma: case.gamma }),
        "cosine" => Box::new(CosineAnnealing { lr, t_max: case.t_max, eta_min }),
        "one_cycle" => Box::new(OneCycle {
            pct_start: case.pct_start,
            div_factor: case.div_factor,
            final_div_factor: case.final_div_factor,
            momentum: case.cycle_momentum.then_some((0.85, 0.95)),
            ..OneCycle::new(lr, case.total_steps)
        }),
        "warmup" => Box::new(LinearWarmup { lr, start_factor, steps: case.steps }),
        "decay" => Box::new(LinearDecay { lr, end: eta_min, steps: case.steps }),
        "warmup_cosine" => {
            Box::new(warmup_cosine(lr, start_factor, case.warmup, case.total, eta_min))
        }
        "three_parts" => Box::new(
            Sequential::new(LinearWarmup { lr, start_factor: 0.1, steps: 50 })
                .then(50, StepLr { lr, step_size: 100, gamma: 0.5 })
                .then(400, CosineAnnealing { lr, t_max: case.total - 400, eta_min: 1e-4 }),
        ),
        "chained" => {
            Box::new(
                Chained::new(lr)
                    .with(LinearWarmup { lr, start_factor: 0.2, steps: 40 })
                    .with(StepLr { lr, step_size: 30, gamma: 0.7 }),
            )
        }
        other => panic!("no schedule '{other}'"),
    }
}

#[test]
fn schedules_equal_torch_over_whole_runs() {
    let golden: Golden = serde_json::from_str(include_str!("golden/schedules.json")).unwrap();
    assert!(golden.cases.len() >= 17);
    for case in &golden.cases {
        let schedule = build(case);
        // At a minimum of 0, a difference of rounding errors of the peak cannot be relative to the
        // value.
        let close =
            |got: f64, right: f64| (got - right).abs() <= 1e-6 * right.abs() + 1e-14 * case.lr;
        for &(step, lr, momentum) in &case.values {
            let got = schedule.at(step);
            let at = format!("{} at step {step}: {got:?}, torch {lr} {momentum:?}", case.kind);
            assert!(close(got.lr, lr), "{at}");
            match (got.momentum, momentum) {
                (Some(a), Some(b)) => assert!(close(a, b), "{at}"),
                (a, b) => assert_eq!(a, b, "{at}"),
            }
        }
    }
}

#[test]
fn only_a_decay_to_0_ends() {
    let ended = |end, step| LinearDecay { lr: 0.1, end, steps: 5 }.ended(step);
    assert!(!ended(0.0, 4) && ended(0.0, 5) && ended(0.0, 9) && !ended(0.01, 9));
    assert_eq!(LinearDecay { lr: 0.1, end: 0.0, steps: 0 }.at(0).lr, 0.0);
    assert!(!Constant { lr: 0.0 }.ended(7));
}
