//! An adapter, opened as a device with its queue, and wgpu's errors as ours.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};

use crate::{Device, Error, Result};

/// The value of a future. Outside a browser wgpu's futures are ready as soon as they are made.
fn ready<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let mut context = std::task::Context::from_waker(Waker::noop());
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(value) => return value,
            Poll::Pending => std::thread::yield_now(),
        }
    }
}

/// What wgpu told its callbacks, until somebody asks.
#[derive(Default)]
struct Reports {
    /// The first error since the last [`Context::check`].
    error: Option<String>,
    /// Why the device is gone: for good.
    lost: Option<String>,
}

/// One adapter, opened.
pub struct Context {
    /// What our errors call it.
    pub device: Device,
    /// wgpu's handle.
    pub gpu: wgpu::Device,
    /// Where work is handed in.
    pub queue: wgpu::Queue,
    /// What the device was opened with: all that the adapter has.
    pub limits: wgpu::Limits,
    /// The optional features that it was opened with.
    pub features: wgpu::Features,
    /// Name, driver, kind.
    pub info: wgpu::AdapterInfo,
    reports: Arc<Mutex<Reports>>,
}

/// Features that kernels use where the adapter has them.
const WANTED: wgpu::Features = wgpu::Features::SHADER_F16
    .union(wgpu::Features::SUBGROUP)
    .union(wgpu::Features::TIMESTAMP_QUERY);

/// All adapters, real GPUs first; their places are the `i` of `wgpu:i`.
fn adapters(validation: bool) -> Vec<wgpu::Adapter> {
    let flags = match validation {
        // Not DEBUG: the shaders' debug information names WGSL, which older validation layers refuse.
        true => wgpu::InstanceFlags::VALIDATION,
        false => wgpu::InstanceFlags::empty(),
    };
    let backends = wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12;
    let descriptor = wgpu::InstanceDescriptor {
        backends,
        flags,
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    };
    let mut all = ready(wgpu::Instance::new(descriptor).enumerate_adapters(backends));
    let rank = |kind| match kind {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::VirtualGpu => 2,
        wgpu::DeviceType::Other => 3,
        wgpu::DeviceType::Cpu => 4,
    };
    all.sort_by_key(|adapter| rank(adapter.get_info().device_type));
    all
}

/// How many adapters there are.
pub fn count() -> usize {
    adapters(false).len()
}

/// The adapter that `device` names, or in one line why there is none.
fn adapter(device: Device, validation: bool) -> Result<wgpu::Adapter> {
    let absent = |reason: String| Error::Unavailable { device, reason };
    let Device::Wgpu(index) = device else {
        return Err(absent("it is no wgpu device".to_string()));
    };
    let mut all = adapters(validation);
    match all.len() {
        0 => Err(absent("no Vulkan, Metal or DX12 driver offers an adapter".to_string())),
        count if index >= count => {
            Err(absent(format!("there are {count} adapters, counted from 0")))
        }
        _ => Ok(all.swap_remove(index)),
    }
}

/// One line on an adapter.
fn describe(info: &wgpu::AdapterInfo, features: wgpu::Features) -> String {
    let kind = match info.device_type {
        wgpu::DeviceType::DiscreteGpu => "GPU",
        wgpu::DeviceType::IntegratedGpu => "integrated GPU",
        wgpu::DeviceType::VirtualGpu => "virtual GPU",
        wgpu::DeviceType::Cpu => "software on the CPU",
        wgpu::DeviceType::Other => "device",
    };
    let f16 = if features.contains(wgpu::Features::SHADER_F16) { "f16" } else { "no f16" };
    let driver = match info.driver.as_str() {
        "" => String::new(),
        driver => format!(", driver {driver} {}", info.driver_info),
    };
    format!("{} ({kind}, {}, {f16}{driver})", info.name, info.backend)
}

/// What `device` is, without opening it.
pub fn probe(device: Device) -> Result<String> {
    let adapter = adapter(device, false)?;
    Ok(format!("{device}, {}", describe(&adapter.get_info(), adapter.features())))
}

impl Context {
    /// Opens an adapter with all of its limits, or says in one line why that cannot be. `validation` asks for
    /// the graphics API's own checks, where they are installed.
    pub fn open(device: Device, validation: bool) -> Result<Context> {
        let adapter = adapter(device, validation)?;
        let features = adapter.features() & WANTED;
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("tilegrad"),
            required_features: features,
            required_limits: adapter.limits(),
            ..Default::default()
        };
        let absent = |e: wgpu::RequestDeviceError| Error::Unavailable {
            device,
            reason: e.to_string().replace('\n', " "),
        };
        let (gpu, queue) = ready(adapter.request_device(&descriptor)).map_err(absent)?;
        let reports: Arc<Mutex<Reports>> = Arc::default();
        let on_error = reports.clone();
        gpu.on_uncaptured_error(Arc::new(move |e: wgpu::Error| {
            let mut reports = on_error.lock().unwrap_or_else(|e| e.into_inner());
            reports.error.get_or_insert_with(|| e.to_string());
        }));
        let on_loss = reports.clone();
        gpu.set_device_lost_callback(move |reason, message| {
            if reason != wgpu::DeviceLostReason::Destroyed {
                let mut reports = on_loss.lock().unwrap_or_else(|e| e.into_inner());
                reports.lost.get_or_insert_with(|| format!("the device is lost: {message}"));
            }
        });
        let limits = gpu.limits();
        Ok(Context { device, gpu, queue, limits, features, info: adapter.get_info(), reports })
    }

    /// One line on it.
    pub fn description(&self) -> String {
        format!("{}, {}", self.device, describe(&self.info, self.features))
    }

    /// An error of wgpu since the last call, or the loss of the device, as ours; `op` was running.
    pub fn check(&self, op: &'static str) -> Result<()> {
        let mut reports = self.reports.lock().unwrap_or_else(|e| e.into_inner());
        let detail = reports.lost.clone().or_else(|| reports.error.take());
        detail.map_or(Ok(()), |detail| Err(self.error(op, detail)))
    }

    /// wgpu's words as an error of `op`.
    pub fn error(&self, op: &'static str, detail: impl ToString) -> Error {
        Error::Driver { op, device: self.device, detail: detail.to_string() }
    }

    /// A new buffer of `bytes`, `None` where there is no room for it, or the adapter has none so large.
    pub fn create_buffer(&self, bytes: u64, usage: wgpu::BufferUsages) -> Option<wgpu::Buffer> {
        if bytes > self.limits.max_buffer_size {
            return None;
        }
        let scope = self.gpu.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let descriptor =
            wgpu::BufferDescriptor { label: None, size: bytes, usage, mapped_at_creation: false };
        let buffer = self.gpu.create_buffer(&descriptor);
        ready(scope.pop()).is_none().then_some(buffer)
    }

    /// Waits for the device, and then shows `f` the first `bytes` of a buffer that the host can read.
    pub fn read<R>(
        &self,
        op: &'static str,
        buffer: &wgpu::Buffer,
        bytes: u64,
        f: impl FnOnce(&[u8]) -> R,
    ) -> Result<R> {
        let slice = buffer.slice(..bytes);
        let (send, receive) = std::sync::mpsc::channel();
        slice.map_async(wgpu::MapMode::Read, move |answer| {
            let _ = send.send(answer); // nobody listens any more if the wait below failed
        });
        self.wait(op, None)?;
        let answer = receive.recv().map_err(|e| self.error(op, e))?;
        answer.map_err(|e| self.error(op, e))?;
        let view = slice.get_mapped_range().map_err(|e| self.error(op, e))?;
        let result = f(&view);
        drop(view);
        buffer.unmap();
        Ok(result)
    }

    /// Waits for a submission, or for the last one.
    pub fn wait(&self, op: &'static str, until: Option<wgpu::SubmissionIndex>) -> Result<()> {
        self.check(op)?; // a device that is lost is not asked again
        let wait = wgpu::PollType::Wait { submission_index: until, timeout: None };
        // wgpu panics where the driver loses the device during a wait; its handle stays usable.
        let answer = catch_unwind(AssertUnwindSafe(|| self.gpu.poll(wait)));
        self.check(op)?;
        match answer {
            Ok(answer) => answer.map(|_| ()).map_err(|e| self.error(op, e)),
            Err(_) => Err(self.error(op, "the device failed while it was waited for")),
        }
    }
}
