//! All PTX that the project ships loads: there is no instruction that the table does not know.

mod common;

use std::path::{Path, PathBuf};

fn shipped() -> Vec<PathBuf> {
    let folder = std::env::var_os("TILEGRAD_PTX")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../ptx"), PathBuf::from);
    let Ok(files) = std::fs::read_dir(&folder) else {
        eprintln!("SKIPPED: there is no folder {}", folder.display());
        return Vec::new();
    };
    let mut files: Vec<PathBuf> = files.map(|f| f.expect("readable").path()).collect();
    files.retain(|f| f.extension().is_some_and(|e| e == "ptx"));
    files.sort();
    files
}

#[test]
fn everything_that_is_shipped_loads() {
    let device = common::checked();
    let mut errors = Vec::new();
    for file in shipped() {
        let text = std::fs::read_to_string(&file).expect("readable");
        match device.load(&file.display().to_string(), &text) {
            Ok(module) => assert!(!module.functions().is_empty(), "{} is empty", file.display()),
            Err(error) => errors.push(error.to_string()),
        }
    }
    assert!(errors.is_empty(), "{}", errors.join("\n"));
    assert!(device.leaks().is_empty(), "modules that are gone leave nothing behind");
}
