//! From a device's name to its backend.

use std::str::FromStr;
use std::sync::Arc;

use anyhow::{Result, bail, ensure};
use tilegrad_engine::{Backend, Device, Dtype};
use tilegrad_kernels::cpu::{Cpu, CpuOptions};
use tilegrad_kernels::reference::Reference;

/// A backend to compute on.
#[derive(Clone)]
pub struct Compute {
    /// What tensors are made on.
    pub backend: Arc<dyn Backend>,
    cpu: Option<Arc<Cpu>>,
}

impl Compute {
    /// Opens the device called `name`; `threads` applies to the CPU, by default one a core.
    pub fn open(name: &str, threads: Option<usize>) -> Result<Compute> {
        check_name(name)?;
        if let Some(threads) = threads {
            ensure!((1..=1024).contains(&threads), "--threads must be 1 to 1024, got {threads}");
        }
        Ok(match Device::from_str(name)? {
            Device::Reference => Compute { backend: Arc::new(Reference::new()), cpu: None },
            _ => {
                let cpu = Arc::new(Cpu::new(CpuOptions { threads, ..Default::default() })?);
                Compute { backend: cpu.clone(), cpu: Some(cpu) }
            }
        })
    }

    /// Worker threads: 1 except on the CPU backend.
    pub fn threads(&self) -> usize {
        self.cpu.as_ref().map_or(1, |cpu| cpu.threads())
    }

    /// Runs `f` on a worker thread of the CPU backend, so that each kernel starts without a switch
    /// of threads.
    pub fn enter<R: Send>(&self, f: impl FnOnce() -> R + Send) -> R {
        match &self.cpu {
            Some(cpu) => cpu.enter(f),
            None => f(),
        }
    }
}

/// Refuses names of devices that do not exist or that this build cannot open.
pub fn check_name(name: &str) -> Result<()> {
    let device = Device::from_str(name)?;
    if let Some(reason) = why_not(device) {
        bail!("device {device} is not available: {reason}; available are cpu and reference");
    }
    Ok(())
}

/// Why this build cannot open `device`, if it cannot.
pub fn why_not(device: Device) -> Option<&'static str> {
    match device {
        Device::Cpu | Device::Reference => None,
        Device::Cuda(_) => Some("this build has no CUDA backend"),
        Device::Wgpu(_) => Some("this build has no wgpu backend"),
        Device::SoftCuda => Some("this build has no software CUDA device"),
    }
}

/// The dtype of activations that `--precision` (or `--dtype`, as `flag` says) names.
pub fn precision(flag: &str, name: &str) -> Result<Dtype> {
    match name {
        "f32" => Ok(Dtype::F32),
        "bf16" => Ok(Dtype::BF16),
        _ => anyhow::bail!("--{flag} must be f32 or bf16, got '{name}'"),
    }
}
