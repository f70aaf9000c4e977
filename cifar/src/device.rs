//! From a device's name to its backend.

use std::str::FromStr;
use std::sync::{Arc, OnceLock};

use anyhow::{Result, bail, ensure};
use tilegrad_engine::{Backend, Device, Dtype, Error};
use tilegrad_kernels::Unary;
use tilegrad_kernels::cpu::{Cpu, CpuOptions};
use tilegrad_kernels::cuda::{self, Cuda, CudaOptions};
use tilegrad_kernels::reference::Reference;
use tilegrad_kernels::wgpu::{self, Wgpu, WgpuOptions};

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
            device @ (Device::Cuda(_) | Device::SoftCuda) => {
                Compute { backend: Arc::new(Cuda::new(device, CudaOptions::default())?), cpu: None }
            }
            device @ Device::Wgpu(_) => {
                Compute { backend: Arc::new(Wgpu::new(device, WgpuOptions::default())?), cpu: None }
            }
            Device::Cpu => {
                let cpu = Arc::new(Cpu::new(CpuOptions { threads, ..Default::default() })?);
                Compute { backend: cpu.clone(), cpu: Some(cpu) }
            }
        })
    }

    /// Opens the device called `name`, or the best one that is there, and says on stderr which that is.
    pub fn open_or_best(name: &Option<String>, threads: Option<usize>) -> Result<Compute> {
        let compute = Compute::open(name.as_deref().unwrap_or(best()), threads)?;
        if name.is_none() {
            eprintln!("device: {}", compute.backend.description());
        }
        Ok(compute)
    }

    /// Refuses a number format that the device does not compute in.
    pub fn check_precision(&self, precision: Dtype) -> Result<()> {
        let works = |dtype| {
            let x = self.backend.fill(dtype, 1, 1.0)?;
            self.backend.unary_forward(Unary::Relu, &x)
        };
        match works(precision) {
            Err(Error::Unsupported { device, .. }) => {
                let all = [Dtype::F32, Dtype::BF16, Dtype::F16];
                let others = all.into_iter().filter(|&dtype| works(dtype).is_ok());
                let others: Vec<String> = others.map(|dtype| dtype.to_string()).collect();
                let others = others.join(" or ");
                bail!("device {device} does not compute in {precision}, but in {others}")
            }
            answer => Ok(answer.map(|_| ())?),
        }
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

/// Name of the best device that is really there: a GPU, else the CPU. softcuda is for those who ask for
/// it.
pub fn best() -> &'static str {
    static BEST: OnceLock<&'static str> = OnceLock::new();
    BEST.get_or_init(|| if cuda::probe(Device::Cuda(0)).is_ok() { "cuda" } else { "cpu" })
}

/// Refuses names of devices that do not exist or that cannot be opened here.
pub fn check_name(name: &str) -> Result<()> {
    let device = Device::from_str(name)?;
    if let Err(reason) = probe(device) {
        let there =
            all_devices().into_iter().filter(|&other| other != device && probe(other).is_ok());
        let there: Vec<String> = there.map(|device| device.to_string()).collect();
        bail!("device {device} is not available: {reason}; available are {}", there.join(", "));
    }
    Ok(())
}

/// Every device that could be here; each adapter of wgpu.
pub fn all_devices() -> Vec<Device> {
    let wgpus = (0..wgpu::count().max(1)).map(Device::Wgpu);
    let first = [Device::Cpu, Device::Cuda(0)].into_iter();
    first.chain(wgpus).chain([Device::SoftCuda, Device::Reference]).collect()
}

/// What `device` is, where that is known without opening it; or why it cannot be opened.
pub fn probe(device: Device) -> std::result::Result<Option<String>, String> {
    match device {
        Device::Cpu | Device::Reference => Ok(None),
        Device::Cuda(_) | Device::SoftCuda => cuda::probe(device).map(Some),
        Device::Wgpu(_) => wgpu::probe(device).map(Some),
    }
}

/// The dtype of activations that `--precision` (or `--dtype`, as `flag` says) names.
pub fn precision(flag: &str, name: &str) -> Result<Dtype> {
    match name {
        "f32" => Ok(Dtype::F32),
        "bf16" => Ok(Dtype::BF16),
        "f16" => Ok(Dtype::F16),
        _ => anyhow::bail!("--{flag} must be f32, bf16 or f16, got '{name}'"),
    }
}
