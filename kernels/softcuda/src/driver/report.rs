//! What is said besides result codes: the last error's text, findings on standard error, leaks, counters.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::c_char;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::call::export;
use super::state::{self, Session};
use super::status::{Failure, Outcome};
use crate::Profile;

/// Findings (faults of kernels and leaks) since the process started.
static FINDINGS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static LAST: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Keeps an error's text for `softcudaLastError`, shows it if it is to be seen at once.
pub fn remember(call: &str, failure: Failure) {
    let text = format!("{call}: {}", failure.text);
    if failure.sticky {
        FINDINGS.fetch_add(1, Ordering::Relaxed);
        state::lose_context(&failure);
    }
    if failure.shown {
        say(&text);
    }
    // The thread may be ending, with its storage gone already; then nobody can ask.
    let _ = LAST.try_with(|last| *last.borrow_mut() = text);
}

/// Prints a line for a person. Where standard error is closed, nobody is there to read it, and `eprintln!` would
/// panic.
fn say(text: &str) {
    let _ = writeln!(io::stderr(), "softcuda: {text}");
}

export! {
    /// Extra: copies the text of this thread's last error (UTF-8, ended by a 0, cut to `capacity` bytes) and stores
    /// in `length` how many bytes the whole text has.
    fn softcudaLastError(buffer: *mut c_char, capacity: usize, length: *mut usize) anytime {
        let text = LAST.try_with(|last| last.borrow().clone()).unwrap_or_default();
        // SAFETY: the caller vouches for both pointers.
        unsafe { write_text(&text, buffer, capacity)?; super::call::offer(length, text.len()) }
    }
    /// Extra: how many faults of kernels and leaks were found since the process started.
    fn softcudaFindings(count: *mut u64) anytime {
        // SAFETY: the caller vouches for the pointer.
        unsafe { super::call::put(count, FINDINGS.load(Ordering::Relaxed)) }
    }
}

/// Copies text as C wants it: ended by a 0, cut to what fits.
///
/// # Safety
///
/// `buffer` must be null, or valid for writes of `capacity` bytes.
pub unsafe fn write_text(text: &str, buffer: *mut c_char, capacity: usize) -> Outcome {
    if buffer.is_null() || capacity == 0 {
        return Ok(());
    }
    let bytes = text.len().min(capacity - 1);
    // SAFETY: `bytes` is less than `capacity`, and the text has as many.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr().cast(), buffer, bytes);
        buffer.add(bytes).write(0);
    }
    Ok(())
}

/// Asks the C library to end the session when the program ends, in case that nobody destroys the context.
pub fn at_exit() {
    extern "C" fn end() {
        let _ = std::panic::catch_unwind(|| state::end_session(true));
    }
    // SAFETY: `end` is a function without arguments that does not unwind.
    let _ = unsafe { libc::atexit(end) };
}

/// Counters of all launches, by kernel.
struct Totals(BTreeMap<String, (u64, Vec<(&'static str, u64)>)>);

/// Of the whole process: a program may have contexts one after another.
static TOTALS: Mutex<Totals> = Mutex::new(Totals(BTreeMap::new()));

/// Counts a launch.
pub fn count(kernel: &str, profile: &Profile) {
    TOTALS.lock().unwrap_or_else(PoisonError::into_inner).add(kernel, profile);
}

impl Totals {
    /// Adds a launch.
    fn add(&mut self, kernel: &str, profile: &Profile) {
        let columns = columns(profile);
        let (launches, sums) = self.0.entry(kernel.into()).or_default();
        *launches += 1;
        if sums.is_empty() {
            *sums = columns;
        } else {
            sums.iter_mut().zip(columns).for_each(|(sum, (_, value))| sum.1 += value);
        }
    }

    /// As CSV, a kernel a line.
    fn csv(&self) -> String {
        let names: Vec<&str> = columns(&Profile::default()).iter().map(|&(name, _)| name).collect();
        let mut text = format!("kernel,launches,{}\n", names.join(","));
        for (kernel, (launches, sums)) in &self.0 {
            let sums: Vec<String> = sums.iter().map(|(_, value)| value.to_string()).collect();
            let _ = writeln!(text, "{kernel},{launches},{}", sums.join(","));
        }
        text
    }
}

/// What can be summed up over launches.
fn columns(profile: &Profile) -> Vec<(&'static str, u64)> {
    let all = profile.total();
    let Profile { global_load: load, global_store: store, shared_load, shared_store, .. } = profile;
    vec![
        ("warp_instructions", all.warps),
        ("lane_instructions", all.lanes),
        ("flops", profile.flops),
        ("global_load_requests", load.requests),
        ("global_load_bytes", load.bytes),
        ("global_load_sectors", load.units),
        ("global_load_ideal_sectors", load.ideal),
        ("global_store_requests", store.requests),
        ("global_store_bytes", store.bytes),
        ("global_store_sectors", store.units),
        ("global_store_ideal_sectors", store.ideal),
        ("shared_load_bytes", shared_load.bytes),
        ("shared_store_bytes", shared_store.bytes),
        ("shared_bank_conflicts", shared_load.conflicts() + shared_store.conflicts()),
        ("branches", profile.branches),
        ("divergent_branches", profile.divergent_branches),
    ]
}

/// Reports the end of a session: leaks (unless a fault kept the program from freeing) and counters.
pub fn at_end(mut session: Session, profile: Option<PathBuf>) {
    let faulted = session.fault.is_some();
    // These own memory of the device that no host program can free.
    session.executables.clear();
    session.graphs.clear();
    session.captures.clear();
    session.kernels.clear();
    session.modules.clear();
    if !faulted {
        let leaks = session.device.leaks();
        FINDINGS.fetch_add(leaks.len() as u64, Ordering::Relaxed);
        const SHOWN: usize = 10;
        leaks.iter().take(SHOWN).for_each(|leak| say(&leak.to_string()));
        if leaks.len() > SHOWN {
            let bytes: usize = leaks.iter().map(|leak| leak.bytes).sum();
            say(&format!("{} leaks in all, {bytes} bytes", leaks.len()));
        }
    }
    if let Some(path) = profile
        && let Err(error) =
            fs::write(&path, TOTALS.lock().unwrap_or_else(PoisonError::into_inner).csv())
    {
        say(&format!("SOFTCUDA_PROFILE={}: {error}", path.display()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_summed_up_by_kernel() {
        let mut totals = Totals(BTreeMap::new());
        let profile = Profile { flops: 5, branches: 2, ..Profile::default() };
        totals.add("b", &profile);
        totals.add("a", &profile);
        totals.add("b", &profile);
        let csv = totals.csv();
        let lines: Vec<Vec<&str>> = csv.lines().map(|line| line.split(',').collect()).collect();
        let column = |name| lines[0].iter().position(|&n| n == name).expect("a column");
        assert_eq!((lines[1][0], lines[1][1], lines[1][column("flops")]), ("a", "1", "5"));
        assert_eq!((lines[2][0], lines[2][1], lines[2][column("branches")]), ("b", "2", "4"));
        assert!(lines.iter().all(|line| line.len() == lines[0].len()));
    }
}
