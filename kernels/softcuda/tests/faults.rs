//! Planted faults: kernels with one mistake each, as they are made in CUDA C++ (`faults/*.cu`, compiled by
//! `scripts/make-ptx.py`), each found, and named by kind, kernel and the line of its source.
//!
//! Each source says on its second line what is to be found, in pieces of the message, and marks the line with
//! `// FAULT`. Its kernel bears the name of the file and takes x, y and n; one called `.._fixed` is the same without
//! the mistake, in which nothing may be found.

mod common;
mod host;

use std::fs;
use std::path::{Path, PathBuf};

use common::checked;
use cudarc::driver::result;
use cudarc::driver::sys::CUresult;
use host::{Host, arg, code, last_error, launch, load_ptx};
use tilegrad_softcuda::{Device, Error, Launch, Place};

/// What each is launched with: numbers in x, and in y.
const N: [(&str, usize, usize); 19] = [
    ("atomic_forgotten", 64, 2),
    ("barrier_divergence", 48, 48),
    ("copy_not_waited_for", 64, 64),
    ("deadlock", 64, 64),
    ("dynamic_shared_missing", 64, 64),
    ("leak", 64, 64),
    ("misaligned", 64, 64),
    ("missing_second_barrier", 128, 64),
    ("null_pointer", 64, 64),
    ("off_by_one_guard", 48, 48),
    ("out_of_bounds", 64, 64),
    ("shared_race", 64, 64),
    ("shared_too_small", 64, 64),
    ("shuffle_from_outside", 64, 64),
    ("transposed_stride", 40, 40),
    ("uninitialised_global", 64, 64),
    ("uninitialised_shared", 48, 1),
    ("use_after_free", 64, 64),
    ("warp_in_step", 64, 1),
];

/// All have two warps.
const THREADS: u32 = 64;

struct Fault {
    name: &'static str,
    x: usize,
    y: usize,
    ptx: String,
    /// Pieces of the message.
    expected: Vec<String>,
    /// The marked line; none where only the host is wrong.
    line: Option<u32>,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults")
}

fn faults() -> Vec<Fault> {
    let mut files: Vec<String> = fs::read_dir(folder())
        .expect("readable")
        .map(|e| e.expect("readable").file_name().to_string_lossy().into_owned())
        .filter_map(|name| name.strip_suffix(".cu").map(str::to_string))
        .collect();
    files.sort();
    assert_eq!(files, N.map(|(name, ..)| name), "a fault without its line in the list");
    let read = |name: &str, kind: &str| {
        fs::read_to_string(folder().join(format!("{name}.{kind}"))).expect("readable")
    };
    let fault = |(name, x, y)| {
        let source = read(name, "cu");
        let expected = source.lines().nth(1).and_then(|l| l.strip_prefix("// expects: "));
        let expected = expected.unwrap_or_else(|| panic!("{name}.cu: '// expects: ' on line 2"));
        let marked: Vec<_> =
            source.lines().zip(1..).filter(|(l, _)| l.ends_with("// FAULT")).collect();
        assert!(marked.len() <= 1, "{name}.cu: one fault each");
        Fault {
            name,
            x,
            y,
            ptx: read(name, "ptx"),
            expected: expected.split("; ").map(str::to_string).collect(),
            line: marked.first().map(|&(_, line)| line),
        }
    };
    N.into_iter().map(fault).collect()
}

impl Fault {
    fn numbers(&self) -> Vec<u8> {
        (0..self.x).flat_map(|i| (i as f32).to_le_bytes()).collect()
    }

    fn check_message(&self, message: &str) {
        for piece in &self.expected {
            assert!(message.contains(piece), "{}: no '{piece}' in: {message}", self.name);
        }
    }

    /// Runs a kernel of the file through the library.
    fn run(&self, device: &Device, kernel: &str) -> Result<(), Error> {
        let module = device.load(&format!("{}.ptx", self.name), &self.ptx)?;
        let (x, y) = (device.alloc(4 * self.x)?, device.alloc(4 * self.y)?);
        device.write(x, &self.numbers())?;
        if self.name == "use_after_free" {
            device.free(x)?;
        }
        let given = if self.name == "null_pointer" { 0 } else { x };
        let n = (self.x as u32).to_le_bytes();
        let params: [&[u8]; 3] = [&given.to_le_bytes(), &y.to_le_bytes(), &n];
        let launch = Launch { grid: [1, 1, 1], block: [THREADS, 1, 1], shared_bytes: 0 };
        device.launch(&module.function(kernel)?, launch, &params)?;
        device.free(x)?;
        if self.name != "leak" {
            device.free(y)?;
        }
        Ok(())
    }
}

/// Where a fault of a kernel was.
fn place(error: &Error) -> &Place {
    match error {
        Error::OutOfBounds { place, .. }
        | Error::UseAfterFree { place, .. }
        | Error::Misaligned { place, .. }
        | Error::Uninitialised { place, .. }
        | Error::SharedRace { place, .. }
        | Error::Barrier { place, .. }
        | Error::Deadlock { place, .. }
        | Error::Fault { place, .. } => place,
        other => panic!("no fault of a kernel: {other}"),
    }
}

#[test]
fn each_fault_is_found_and_named() {
    for fault in faults() {
        let device = checked();
        let outcome = fault.run(&device, fault.name);
        let Some(line) = fault.line else {
            outcome.unwrap_or_else(|e| panic!("{}: {e}", fault.name));
            let leaks = device.leaks();
            assert_eq!(leaks.len(), 1, "{leaks:?}");
            fault.check_message(&leaks[0].to_string());
            continue;
        };
        let error = match outcome {
            Err(error) => error,
            Ok(()) => panic!("{}: nothing was found", fault.name),
        };
        println!("{error}");
        fault.check_message(&error.to_string());
        let place = place(&error);
        assert_eq!(place.kernel, fault.name, "{error}");
        assert_eq!(place.source, Some((format!("{}.cu", fault.name), line)), "{error}");
        // The line of the PTX is one of this kernel's.
        let entry = format!(".entry {}(", fault.name);
        let starts = fault.ptx.lines().position(|l| l.contains(&entry)).expect("the kernel");
        assert!(place.line as usize > starts, "{error}");
    }
}

#[test]
fn nothing_is_found_in_their_correct_twins() {
    let mut twins = 0;
    for fault in faults() {
        let twin = format!("{}_fixed", fault.name);
        if fault.ptx.contains(&format!(".entry {twin}(")) {
            let device = checked();
            fault.run(&device, &twin).unwrap_or_else(|e| panic!("{twin}: {e}"));
            assert_eq!(device.leaks(), [], "{twin}");
            twins += 1;
        }
    }
    assert!(twins >= 10, "{twins}");
}

/// What a host program sees through the Driver API: CUDA's code, and the same words.
#[test]
fn each_fault_has_its_code_in_the_driver() {
    for fault in faults() {
        let host = Host::new();
        let function = host::function(load_ptx(&fault.ptx).unwrap(), fault.name).unwrap();
        let x = host.buffer(&fault.numbers());
        // SAFETY: freed below, or with the context.
        let y = unsafe { result::malloc_sync(4 * fault.y).unwrap() };
        let n = fault.x as u32;
        let mut given = x;
        match fault.name {
            // SAFETY: allocated above, and not used by the host any more.
            "use_after_free" => unsafe { result::free_sync(x).unwrap() },
            "null_pointer" => given = 0,
            _ => {}
        }
        let args = &mut [arg(&given), arg(&y), arg(&n)];
        let outcome = launch(function, (1, THREADS, 0), host.stream, args);
        if fault.line.is_none() {
            outcome.unwrap();
            // SAFETY: allocated above.
            unsafe { result::free_sync(x).unwrap() };
            let before = host::findings();
            let Host { cuda, alone, .. } = host;
            drop(cuda);
            assert_eq!(host::findings(), before + 1, "y leaks");
            drop(alone);
            continue;
        }
        let expected = match fault.expected[0].split(':').next() {
            Some("out of bounds" | "use after free") => CUresult::CUDA_ERROR_ILLEGAL_ADDRESS,
            Some("misaligned") => CUresult::CUDA_ERROR_MISALIGNED_ADDRESS,
            _ => CUresult::CUDA_ERROR_LAUNCH_FAILED,
        };
        assert_eq!(code(outcome), expected, "{}: {}", fault.name, last_error());
        fault.check_message(&last_error());
        assert!(last_error().contains(&format!("kernel {} (", fault.name)), "{}", last_error());
    }
}
