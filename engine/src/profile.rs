//! Where the time of a step goes: seconds of each op's forward and backward pass.
//!
//! Off by default, at the cost of one relaxed load an op. While it is on, every op waits until its
//! device is done, so that its time is its own. All threads of the process are counted together.
//!
//! ```
//! use tilegrad_engine::{Tensor, cpu, ops, profile};
//!
//! let device = cpu()?;
//! let x = Tensor::from_slice(&device, &[1.0f32, 2.0], &[2])?.tracked();
//! profile::start();
//! ops::sum(&ops::exp(&x)?, &[])?.backward()?;
//! for row in profile::stop() {
//!     println!("{:12} {:8} {:4} calls {:.6} s", row.op, row.pass, row.calls, row.seconds);
//! }
//! # Ok::<(), tilegrad_engine::Error>(())
//! ```

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use crate::Backend;

/// What was being computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pass {
    /// The result of an op.
    Forward,
    /// The gradients of its inputs.
    Backward,
    /// New values of parameters.
    Update,
}

impl fmt::Display for Pass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Pass::Forward => "forward",
            Pass::Backward => "backward",
            Pass::Update => "update",
        })
    }
}

/// Time that one pass of one op took.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The op's name.
    pub op: &'static str,
    /// Which pass.
    pub pass: Pass,
    /// How often it ran.
    pub calls: u64,
    /// Wall-clock seconds of all calls together.
    pub seconds: f64,
}

static ENABLED: AtomicBool = AtomicBool::new(false);

/// Calls and seconds.
type Totals = HashMap<(&'static str, Pass), (u64, f64)>;

fn totals() -> MutexGuard<'static, Option<Totals>> {
    static TOTALS: Mutex<Option<Totals>> = Mutex::new(None);
    TOTALS.lock().unwrap_or_else(|e| e.into_inner())
}

/// Starts timing from zero.
pub fn start() {
    *totals() = Some(HashMap::new());
    ENABLED.store(true, Relaxed);
}

/// Stops timing. One row for each pass of each op that ran since [`start`], the longest first;
/// none if it was not on.
pub fn stop() -> Vec<Row> {
    ENABLED.store(false, Relaxed);
    let totals = totals().take().unwrap_or_default();
    let mut rows: Vec<Row> = totals
        .into_iter()
        .map(|((op, pass), (calls, seconds))| Row { op, pass, calls, seconds })
        .collect();
    rows.sort_by(|a, b| b.seconds.total_cmp(&a.seconds).then((a.op, a.pass).cmp(&(b.op, b.pass))));
    rows
}

/// Runs `f`, and when timing is on, counts it as one call of `op`. The engine does this for every
/// op; what lies outside it (the step of an optimizer) may do so too.
pub fn time<R>(op: &'static str, pass: Pass, backend: &dyn Backend, f: impl FnOnce() -> R) -> R {
    if !ENABLED.load(Relaxed) {
        return f();
    }
    let start = Instant::now();
    let result = f();
    // A device error shows again, as an error, where the result is read.
    let _ = backend.synchronize();
    let seconds = start.elapsed().as_secs_f64();
    if let Some(totals) = totals().as_mut() {
        let (calls, sum) = totals.entry((op, pass)).or_default();
        *calls += 1;
        *sum += seconds;
    }
    result
}
