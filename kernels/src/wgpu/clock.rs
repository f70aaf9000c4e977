//! The device's own time of each kernel, by timestamp queries: one at the begin and one at the end of a compute
//! pass, so that while a clock runs each dispatch has a pass of its own.

use std::collections::HashMap;

use super::context::Context;
use crate::{Error, KernelTime, Result};

/// Bytes of a timestamp.
const TICK: u64 = wgpu::QUERY_SIZE as u64;

/// Times the kernels of one submission after another.
pub struct Clock {
    queries: wgpu::QuerySet,
    /// Where the device puts the timestamps, and from where the host reads them.
    resolved: wgpu::Buffer,
    staging: wgpu::Buffer,
    /// The kernels of the open submission, in order.
    kernels: Vec<&'static str>,
    totals: HashMap<&'static str, (u64, f64)>,
    /// Seconds of a tick.
    period: f64,
}

impl Clock {
    /// For submissions of at most `dispatches`. `None` where the adapter has no timestamps.
    pub fn new(context: &Context, op: &'static str, dispatches: u32) -> Result<Option<Clock>> {
        if !context.features.contains(wgpu::Features::TIMESTAMP_QUERY) {
            return Ok(None);
        }
        let queries = context.gpu.create_query_set(&wgpu::QuerySetDescriptor {
            label: None,
            ty: wgpu::QueryType::Timestamp,
            count: 2 * dispatches,
        });
        let bytes = u64::from(2 * dispatches) * TICK;
        let buffer = |usage| {
            let (device, requested) = (context.device, bytes as usize);
            context.create_buffer(bytes, usage).ok_or(Error::OutOfMemory {
                device,
                requested,
                in_use: 0,
            })
        };
        let clock = Clock {
            queries,
            resolved: buffer(wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC)?,
            staging: buffer(wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST)?,
            kernels: Vec::with_capacity(dispatches as usize),
            totals: HashMap::new(),
            period: f64::from(context.queue.get_timestamp_period()) * 1e-9,
        };
        context.check(op)?;
        Ok(Some(clock))
    }

    /// What the pass of the next dispatch, which runs `kernel`, has to write.
    pub fn next(&mut self, kernel: &'static str) -> wgpu::ComputePassTimestampWrites<'_> {
        let at = 2 * self.kernels.len() as u32;
        self.kernels.push(kernel);
        wgpu::ComputePassTimestampWrites {
            query_set: &self.queries,
            beginning_of_pass_write_index: Some(at),
            end_of_pass_write_index: Some(at + 1),
        }
    }

    /// Records that the timestamps so far are to be copied to the host.
    pub fn resolve(&self, encoder: &mut wgpu::CommandEncoder) {
        let count = 2 * self.kernels.len() as u32;
        if count > 0 {
            let bytes = u64::from(count) * TICK;
            encoder.resolve_query_set(&self.queries, 0..count, &self.resolved, 0);
            encoder.copy_buffer_to_buffer(&self.resolved, 0, &self.staging, 0, bytes);
        }
    }

    /// Waits for the submission that was just handed in, and adds its times up.
    pub fn collect(&mut self, op: &'static str, context: &Context) -> Result<()> {
        if self.kernels.is_empty() {
            return Ok(());
        }
        let bytes = 2 * self.kernels.len() as u64 * TICK;
        let ticks = context.read(op, &self.staging, bytes, |bytes| {
            bytemuck::pod_collect_to_vec::<u8, u64>(bytes)
        })?;
        for (kernel, pair) in self.kernels.drain(..).zip(ticks.chunks_exact(2)) {
            let (calls, seconds) = self.totals.entry(kernel).or_default();
            *calls += 1;
            *seconds += pair[1].saturating_sub(pair[0]) as f64 * self.period;
        }
        Ok(())
    }

    /// The kernels so far, the longest first.
    pub fn times(self) -> Vec<KernelTime> {
        let time = |(kernel, (calls, seconds))| KernelTime { kernel, calls, seconds };
        let mut times: Vec<KernelTime> = self.totals.into_iter().map(time).collect();
        times.sort_by(|a, b| b.seconds.total_cmp(&a.seconds).then(a.kernel.cmp(b.kernel)));
        times
    }
}
