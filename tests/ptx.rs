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
/// `inputs` in scripts/make-ptx.py. Headers lie in kernels/cuda/.
fn inputs(sources: &str, source: &str) -> Vec<(String, String)> {
    let (mut found, mut queue): (Vec<(String, String)>, _) = (Vec::new(), vec![source.to_string()]);
    let mut next = 0;
    while let Some(name) = queue.get(next).cloned() {
        next += 1;
        if found.iter().any(|(known, _)| *known == name) {
            continue;
        }
        let place = if found.is_empty() { sources } else { "cuda" };
        let text = fs::read_to_string(folder(place).join(&name))
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
fn digest(sources: &str, source: &str, made_with: &str) -> String {
    let rest = made_with.strip_prefix("// nvrtc ").expect("the third line names the compiler");
    let (version, flags) = rest.split_once(' ').expect("version and flags");
    let mut hash = Sha256::new();
    hash.update(format!("{flags}\nnvrtc {version}\n"));
    for (name, text) in inputs(sources, source) {
        hash.update(format!("{name} {}\n{text}", text.len()));
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Folders of sources, and of what they are compiled to: the kernels, and the planted faults of softcuda's tests.
const FOLDERS: [(&str, &str); 2] =
    [("cuda", "ptx"), ("softcuda/tests/faults", "softcuda/tests/faults")];

#[test]
fn every_source_has_the_ptx_that_was_made_from_it() {
    let mut compilers = Vec::new();
    for (sources, results) in FOLDERS {
        let found = stems(sources, "cu");
        assert!(found.len() > 5, "{found:?}");
        assert_eq!(
            found,
            stems(results, "ptx"),
            "kernels/{sources}/*.cu and kernels/{results}/*.ptx"
        );
        let mut flags = Vec::new();
        for stem in found {
            let path = folder(results).join(format!("{stem}.ptx"));
            let ptx = fs::read_to_string(path).expect("readable");
            let lines: Vec<&str> = ptx.lines().take(6).collect();
            let digest = digest(sources, &format!("{stem}.cu"), lines[2]);
            assert_eq!(
                lines[1],
                format!("// sha256 {digest}"),
                "{stem}.cu or one of its headers changed: run scripts/make-ptx.py"
            );
            let head = [".version 8.0", ".target sm_80", ".address_size 64"];
            assert_eq!(lines[3..], head, "{stem}.ptx");
            compilers.extend(lines[2].split(' ').nth(2).map(str::to_string));
            flags.push(lines[2].to_string());
        }
        flags.dedup();
        assert_eq!(flags.len(), 1, "different flags in kernels/{results}: {flags:?}");
    }
    compilers.dedup();
    assert_eq!(compilers.len(), 1, "PTX from different compilers: {compilers:?}");
}
