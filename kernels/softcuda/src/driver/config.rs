//! What the environment says: `SOFTCUDA_CHECKS`, `SOFTCUDA_MEMORY`, `SOFTCUDA_PROFILE`, `SOFTCUDA_THREADS`.

use std::env;
use std::path::PathBuf;

use crate::{Checks, Options};

/// How the device behind the driver behaves.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Of the device.
    pub options: Options,
    /// Where the counters of each kernel go when the last context ends or the program does.
    pub profile: Option<PathBuf>,
}

impl Config {
    /// Reads the environment. A value that makes no sense is an error that says what would.
    pub fn from_environment() -> Result<Config, String> {
        Config::from_variables(|name| env::var(name).ok())
    }

    /// As [`Config::from_environment`], from any source of variables.
    pub fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Result<Config, String> {
        let mut options = Options::default();
        let given = |name: &str| variable(name).filter(|text| !text.trim().is_empty());
        if let Some(text) = given("SOFTCUDA_CHECKS") {
            options.checks = parse_checks(&text).map_err(|e| format!("SOFTCUDA_CHECKS: {e}"))?;
        }
        if let Some(text) = given("SOFTCUDA_MEMORY") {
            let bytes = text.trim().parse().ok().filter(|&bytes| bytes > 0);
            options.memory_bytes =
                bytes.ok_or(format!("SOFTCUDA_MEMORY={text}: a number of bytes is wanted"))?;
        }
        if let Some(text) = given("SOFTCUDA_THREADS") {
            let threads = text.trim().parse().ok().filter(|&threads| threads > 0);
            let threads =
                threads.ok_or(format!("SOFTCUDA_THREADS={text}: 1 or more are wanted"))?;
            options.threads = Some(threads);
        }
        let profile = given("SOFTCUDA_PROFILE").map(PathBuf::from);
        options.count = profile.is_some();
        Ok(Config { options, profile })
    }
}

/// `all`, `none`, or names separated by commas: bounds, uninitialised, races, barriers, leaks.
pub fn parse_checks(text: &str) -> Result<Checks, String> {
    match text.trim() {
        "all" => return Ok(Checks::all()),
        "none" => return Ok(Checks::none()),
        _ => {}
    }
    let mut checks = Checks::none();
    for name in text.split(',').map(str::trim) {
        match name {
            "bounds" => checks.bounds = true,
            "uninitialised" => checks.uninitialised = true,
            "races" => checks.races = true,
            "barriers" => checks.barriers = true,
            "leaks" => checks.leaks = true,
            _ => {
                return Err(format!(
                    "\"{name}\" is no check: all, none, or some of bounds, uninitialised, races, barriers, leaks"
                ));
            }
        }
    }
    Ok(checks)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Config, String> {
        Config::from_variables(|name| {
            pairs.iter().find(|(n, _)| *n == name).map(|(_, value)| value.to_string())
        })
    }

    #[test]
    fn variables_are_understood_or_refused() {
        assert_eq!(read(&[]).unwrap().options, Options::default());
        let some =
            read(&[("SOFTCUDA_CHECKS", "bounds, races"), ("SOFTCUDA_MEMORY", "4096")]).unwrap();
        assert_eq!(some.options.checks, Checks { bounds: true, races: true, ..Checks::none() });
        assert_eq!(some.options.memory_bytes, 4096);
        assert!(!some.options.count);
        assert!(read(&[("SOFTCUDA_PROFILE", "counters.csv")]).unwrap().options.count);
        assert!(read(&[("SOFTCUDA_CHECKS", "bound")]).unwrap_err().contains("uninitialised"));
        assert!(read(&[("SOFTCUDA_MEMORY", "4 GiB")]).unwrap_err().contains("bytes"));
        assert!(read(&[("SOFTCUDA_THREADS", "0")]).is_err());
    }
}
