//! What reading the sources can prove: nothing unfinished, nothing overlong, every op where a
//! stranger looks for it.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// All files below the source folders with one of these extensions.
fn sources(extensions: &[&str]) -> Vec<PathBuf> {
    fn collect(directory: &Path, extensions: &[&str], found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).expect("readable").map(|e| e.expect("readable")) {
            let path = entry.path();
            let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
            if path.is_dir() {
                if path.file_name().is_none_or(|n| n != "target" && n != "runs" && n != ".venv") {
                    collect(&path, extensions, found);
                }
            } else if extensions.contains(&extension) {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    let crates = ["kernels", "engine", "nn", "cifar"];
    for folder in crates.into_iter().chain(["tests", "benches", "scripts", "shaders", "docs"]) {
        if root().join(folder).is_dir() {
            collect(&root().join(folder), extensions, &mut found);
        }
    }
    found.sort();
    assert!(found.len() > 50, "sources not found");
    found
}

fn short(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

/// Complaints about each line of each file.
fn complain(extensions: &[&str], about: impl Fn(&Path, &str) -> Option<String>) -> Vec<String> {
    let mut complaints = Vec::new();
    for path in sources(extensions) {
        let text = fs::read_to_string(&path).expect("UTF-8");
        for (number, line) in text.lines().enumerate() {
            if let Some(what) = about(&path, line) {
                complaints.push(format!("{}:{}: {what}", short(&path), number + 1));
            }
        }
    }
    complaints
}

const CODE: [&str; 7] = ["rs", "py", "wgsl", "cu", "sh", "js", "html"];

#[test]
fn lines_are_at_most_120_columns() {
    let long = |_: &Path, line: &str| {
        let columns = line.chars().count();
        (columns > 120).then(|| format!("{columns} columns"))
    };
    let complaints = complain(&CODE, long);
    assert!(complaints.is_empty(), "overlong lines:\n{}", complaints.join("\n"));
}

#[test]
fn files_are_at_most_600_lines() {
    /// One table of argument structs, read by looking things up in it.
    const EXCEPTIONS: [&str; 1] = ["kernels/src/args.rs"];
    let complaints: Vec<String> = sources(&CODE)
        .iter()
        .filter_map(|path| {
            let lines = fs::read_to_string(path).expect("UTF-8").lines().count();
            let exempt = EXCEPTIONS.contains(&short(path).as_str());
            (lines > 600 && !exempt).then(|| format!("{}: {lines} lines", short(path)))
        })
        .collect();
    assert!(complaints.is_empty(), "overlong files:\n{}", complaints.join("\n"));
}

#[test]
fn nothing_is_unfinished() {
    // Put together here, so that this file does not find itself.
    let words =
        ["TO|DO", "FIX|ME", "XX|X", "to|do!(", "unimple|mented!("].map(|w| w.replace('|', ""));
    let complaints = complain(&CODE, |_, line| {
        words
            .iter()
            .find(|w| line.contains(w.as_str()))
            .map(|w| format!("'{w}' in: {}", line.trim()))
    });
    assert!(complaints.is_empty(), "unfinished:\n{}", complaints.join("\n"));
}

#[test]
fn unsafe_code_is_in_the_kernels_and_their_benchmarks_only() {
    let complaints = complain(&["rs"], |path, line| {
        let code = line.split("//").next().unwrap_or_default();
        let is_unsafe = ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"]
            .iter()
            .any(|w| code.contains(w));
        let folders = ["kernels", "benches"].map(|f| root().join(f));
        let allowed =
            folders.iter().any(|f| path.starts_with(f)) || path.ends_with("tests/style.rs");
        (is_unsafe && !allowed).then(|| line.trim().to_string())
    });
    assert!(complaints.is_empty(), "unsafe outside kernels/:\n{}", complaints.join("\n"));
}

#[test]
fn every_file_opens_with_what_it_is() {
    let complaints: Vec<String> = sources(&["rs"])
        .iter()
        .filter(|path| !fs::read_to_string(path).expect("UTF-8").starts_with("//! "))
        .map(|path| short(path))
        .collect();
    assert!(complaints.is_empty(), "files without a first line of documentation: {complaints:?}");
}

/// Files in `engine/src/ops` that hold what several ops share.
const SHARED: [&str; 4] = ["mod", "unary", "binary", "reduce"];

/// The kernel family of each op, where it is not called as the op is.
const FAMILIES: [(&str, &[&str]); 7] = [
    ("memory", &["cast"]),
    (
        "elementwise",
        &[
            "add",
            "affine",
            "div",
            "exp",
            "gelu",
            "leaky_relu",
            "log",
            "max",
            "mul",
            "relu",
            "sigmoid",
            "silu",
            "sqrt",
            "sub",
            "tanh",
        ],
    ),
    ("reduce", &["amax", "argmax", "mean", "sum"]),
    ("matmul", &["linear"]),
    ("pool2d", &["avg_pool2d", "max_pool2d"]),
    ("softmax", &["log_softmax"]),
    ("movement", &["concat", "gather", "pad", "permute", "slice"]),
];

fn ops() -> Vec<String> {
    let files = fs::read_dir(root().join("engine/src/ops")).expect("readable");
    let stem = |e: std::io::Result<fs::DirEntry>| {
        Some(e.expect("readable").path().file_stem()?.to_str()?.to_string())
    };
    let mut ops: Vec<String> =
        files.filter_map(stem).filter(|s| !SHARED.contains(&s.as_str())).collect();
    ops.sort();
    assert!(ops.len() > 30, "{ops:?}");
    ops
}

#[test]
fn every_op_has_a_reference_and_a_cpu_kernel() {
    for op in ops() {
        if op == "reshape" {
            continue; // moves nothing
        }
        let family = FAMILIES
            .iter()
            .find(|(_, ops)| ops.contains(&op.as_str()))
            .map_or(op.as_str(), |f| f.0);
        for backend in ["reference", "cpu"] {
            let folder = root().join("kernels/src").join(backend);
            let (file, module) =
                (folder.join(format!("{family}.rs")), folder.join(family).join("mod.rs"));
            assert!(
                file.is_file() || module.is_file(),
                "{op}: no kernels/src/{backend}/{family}.rs"
            );
        }
    }
}

#[test]
fn the_readme_lists_every_op() {
    let Ok(readme) = fs::read_to_string(root().join("README.md")) else {
        eprintln!("SKIPPED: there is no README.md");
        return;
    };
    let rows: Vec<&str> = readme.lines().filter(|l| l.starts_with('|')).collect();
    let missing: Vec<String> = ops()
        .into_iter()
        .filter(|op| {
            !rows
                .iter()
                .any(|row| row.contains(&format!("`{op}`")) || row.contains(&format!("{op}.rs")))
        })
        .collect();
    assert!(missing.is_empty(), "the README's table of ops lacks {missing:?}");
}
