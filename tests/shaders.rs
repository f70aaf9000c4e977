//! Every file of shaders/ is valid WGSL as it stands, and in the form that f16 storage gives it.

use std::fs;
use std::path::{Path, PathBuf};

use naga::valid::{Capabilities, ValidationFlags, Validator};
use tilegrad_kernels::Dtype;
use tilegrad_kernels::wgpu::shader_text;

/// The line that the host rewrites for f16 (see `shader_text`).
const STORAGE: &str = "alias Storage = f32;";

fn shaders() -> Vec<(PathBuf, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders");
    let files = fs::read_dir(&folder).expect("readable").map(|e| e.expect("readable").path());
    let mut list: Vec<PathBuf> =
        files.filter(|p| p.extension().is_some_and(|e| e == "wgsl")).collect();
    list.sort();
    let read = |p: PathBuf| {
        let text = fs::read_to_string(&p).expect("readable");
        (p, text)
    };
    list.into_iter().map(read).collect()
}

/// Parses and validates, with f16 if `half` and with subgroups if the file's name says so.
fn validate(path: &Path, text: &str, half: bool) -> Result<naga::Module, String> {
    let module = naga::front::wgsl::parse_str(text)
        .map_err(|e| e.emit_to_string_with_path(text, &path.display().to_string()))?;
    let mut capabilities = Capabilities::empty();
    capabilities.set(Capabilities::SHADER_FLOAT16, half);
    let name = path.file_stem().expect("named").to_string_lossy();
    capabilities.set(Capabilities::SUBGROUP, name.ends_with("_subgroup"));
    let mut validator = Validator::new(ValidationFlags::all(), capabilities);
    // The host's adapters run compute shaders with every operation that a subgroup has.
    validator
        .subgroup_stages(naga::valid::ShaderStages::COMPUTE)
        .subgroup_operations(naga::valid::SubgroupOperationSet::all());
    validator
        .validate(&module)
        .map_err(|e| e.emit_to_string_with_path(text, &path.display().to_string()))?;
    Ok(module)
}

#[test]
fn every_shader_is_valid_in_f32_and_in_f16() {
    let list = shaders();
    assert!(!list.is_empty());
    let mut wrong = Vec::new();
    for (path, text) in &list {
        // A file of integers or of bytes names no element type.
        match text.matches(STORAGE).count() {
            1 => {}
            0 if !text.contains("Storage") => {}
            n => wrong.push(format!("{}: {n} lines '{STORAGE}', expected 1", path.display())),
        }
        let half = shader_text(text, Dtype::F16);
        for (text, is_half) in [(text, false), (&half, true)] {
            match validate(path, text, is_half) {
                Ok(module) if module.entry_points.is_empty() => {
                    wrong.push(format!("{}: no entry point", path.display()));
                }
                Ok(_) => {}
                Err(e) => wrong.push(e),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A file stands alone and a browser may load it: what only wgpu has is in nobody's way.
#[test]
fn entry_points_have_names_of_their_own() {
    let mut seen: Vec<(String, PathBuf)> = Vec::new();
    for (path, text) in shaders() {
        let module = validate(&path, &text, false).expect("tested above");
        for entry in module.entry_points {
            if let Some((_, other)) = seen.iter().find(|(name, _)| *name == entry.name) {
                panic!("{} is in {} and in {}", entry.name, other.display(), path.display());
            }
            seen.push((entry.name, path.clone()));
        }
    }
}

/// The text of `fn name` or `struct name`, without comments.
fn definition(text: &str, name: &str) -> Option<String> {
    let start = text.match_indices(&format!("\n{name}")).find_map(|(at, found)| {
        let is_whole = text[at + found.len()..].starts_with(['(', ' ']);
        is_whole.then_some(at + 1)
    })?;
    let (body, _) = text[start..].split_once("\n}\n")?;
    let code = body.lines().map(|line| line.split("//").next().unwrap_or_default().trim_end());
    Some(code.collect::<Vec<_>>().join("\n"))
}

/// There is no include, so a few definitions stand in several files. One that was changed was changed everywhere.
#[test]
fn copies_of_a_definition_are_the_same_in_every_file() {
    const COPIES: [&str; 21] = [
        "struct Axes",
        "struct Axis",
        "struct Pixels",
        "fn add_outer",
        "fn are_inside",
        "fn exp_sum",
        "fn exponential",
        "fn group_index",
        "fn is_nan",
        "fn larger",
        "fn logarithm",
        "fn max_of_row",
        "fn multiply_add",
        "fn negative_infinity",
        "fn numbers_of_filters",
        "fn pick",
        "fn pixels",
        "fn places",
        "fn positions",
        "fn sum_of_row",
        "fn thread_index",
    ];
    let list = shaders();
    let mut wrong = Vec::new();
    for name in COPIES {
        // elementwise.wgsl has some for four numbers at once: another first line.
        let mut seen: Vec<(String, &PathBuf)> = Vec::new();
        let mut copies = 0;
        for (path, text) in &list {
            let Some(copy) = definition(text, name) else { continue };
            match seen.iter().find(|(other, _)| other.lines().next() == copy.lines().next()) {
                Some((other, _)) if *other == copy => copies += 1,
                Some((_, at)) => {
                    wrong.push(format!("{name}: {} is not as {}", path.display(), at.display()));
                }
                None => seen.push((copy, path)),
            }
        }
        if copies == 0 {
            wrong.push(format!("{name} has no copy"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
