//! The PTX that is checked in was made from the sources that are checked in.

use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels").join(name)
}

/// Stems of the files of one kind in a folder, sorted.
fn stems(name: &str, extension: &str) -> Vec<String> {
    let files = fs::read_dir(folder(name)).expect("readable").map(|e| e.expect("readable").path());
    let of_kind = files.filter(|p| p.extension().is_some_and(|e| e == extension));
    let mut stems: Vec<String> =
        of_kind.map(|p| p.file_stem().expect("named").to_string_lossy().into_owned()).collect();
    stems.sort();
    stems
}

/// A source and the headers that it includes, directly or not, in order of first mention: as
/// `inputs` in scripts/make-ptx.py.
fn inputs(source: &str) -> Vec<(String, String)> {
    let (mut found, mut queue): (Vec<(String, String)>, _) = (Vec::new(), vec![source.to_string()]);
    let mut next = 0;
    while let Some(name) = queue.get(next).cloned() {
        next += 1;
        if found.iter().any(|(known, _)| *known == name) {
            continue;
        }
        let text = fs::read_to_string(folder("cuda").join(&name))
            .unwrap_or_else(|e| panic!("{source} includes {name}: {e}"));
        for line in text.lines() {
            let included = line.strip_prefix("#include \"").and_then(|rest| rest.split('"').next());
            queue.extend(included.map(str::to_string));
        }
        found.push((name, text));
    }
    found
}

/// The hash that make-ptx.py writes, given its third line: "// nvrtc VERSION FLAGS".
fn digest(source: &str, made_with: &str) -> String {
    let rest = made_with.strip_prefix("// nvrtc ").expect("the third line names the compiler");
    let (version, flags) = rest.split_once(' ').expect("version and flags");
    let mut hash = Sha256::new();
    hash.update(format!("{flags}\nnvrtc {version}\n"));
    for (name, text) in inputs(source) {
        hash.update(format!("{name} {}\n{text}", text.len()));
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn every_source_has_the_ptx_that_was_made_from_it() {
    let sources = stems("cuda", "cu");
    assert!(sources.len() > 5, "{sources:?}");
    assert_eq!(sources, stems("ptx", "ptx"), "kernels/cuda/*.cu and kernels/ptx/*.ptx");
    let mut compilers = Vec::new();
    for stem in sources {
        let ptx = fs::read_to_string(folder("ptx").join(format!("{stem}.ptx"))).expect("readable");
        let lines: Vec<&str> = ptx.lines().take(6).collect();
        let expected = format!("// sha256 {}", digest(&format!("{stem}.cu"), lines[2]));
        assert_eq!(
            lines[1], expected,
            "{stem}.cu or one of its headers changed: run scripts/make-ptx.py"
        );
        assert_eq!(lines[3..], [".version 8.0", ".target sm_80", ".address_size 64"], "{stem}.ptx");
        compilers.push(lines[2].to_string());
    }
    compilers.dedup();
    assert_eq!(compilers.len(), 1, "PTX from different compilers: {compilers:?}");
}
