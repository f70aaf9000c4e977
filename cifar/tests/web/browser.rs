//! Headless Chromium.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// What Chromium is called where it is installed.
const NAMES: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

/// A running browser; it is stopped when this is dropped.
pub struct Browser(Child);

impl Browser {
    /// Its program, if there is one.
    pub fn find() -> Option<PathBuf> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
        let mut programs = NAMES.iter().flat_map(|name| folders.iter().map(move |f| f.join(name)));
        programs.find(|program| program.is_file())
    }

    /// Opens a URL, with WebGPU on whatever Vulkan there is: SwiftShader, which Chromium brings along, at least.
    pub fn open(program: &Path, profile: &Path, url: &str) -> std::io::Result<Browser> {
        let mut command = Command::new(program);
        command
            // Without a sandbox, since tests may run as root, and in containers with little shared memory.
            .args(["--headless", "--no-sandbox", "--disable-dev-shm-usage", "--no-first-run"])
            .args(["--enable-unsafe-webgpu", "--enable-features=Vulkan", "--use-vulkan=native"])
            .arg(format!("--user-data-dir={}", profile.display()))
            .arg(url)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command.spawn().map(Browser)
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.0.try_wait(), Ok(None))
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}
