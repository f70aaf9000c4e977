//! The command encoder into which kernels are recorded, and its submission to the queue.
//!
//! A dispatch is recorded, not run: WebGPU orders dispatches that use the same buffer by itself, so that one
//! compute pass holds as many as there are until somebody waits or [`BATCH`] is reached. Their uniform structs
//! are gathered on the host and copied once, just before the submission: the queue does that after all earlier
//! submissions, so that one buffer serves them all.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use super::clock::Clock;
use super::context::Context;
use super::pipelines::Pipeline;
use super::pool::Block;
use crate::{Error, KernelTime, Result};

/// Dispatches of one submission: enough that its cost is shared by many, few enough that the device starts
/// while the host records the next ones.
const BATCH: usize = 64;

/// Submissions that the host may be ahead of the device: what they hold is freed only when they are done.
const AHEAD: usize = 8;

/// Bytes for the uniform structs of a batch.
const UNIFORMS: usize = BATCH * 1024;

/// Bytes of host data on their way to the device that no submission has taken along yet.
const UPLOADS: usize = 64 << 20;

/// The staging buffer for downloads is kept up to this size.
const STAGING: u64 = 16 << 20;

struct Pending {
    /// The pass is first: it must be closed before its encoder.
    pass: Option<wgpu::ComputePass<'static>>,
    encoder: Option<wgpu::CommandEncoder>,
    uniforms: Vec<u8>,
    dispatches: usize,
    /// Host bytes handed to the queue since the last submission.
    uploaded: usize,
    /// Number of the batch that is being recorded.
    batch: u64,
    submitted: VecDeque<wgpu::SubmissionIndex>,
    staging: Option<wgpu::Buffer>,
    /// Times the kernels, while somebody asks for that.
    clock: Option<Clock>,
}

/// Records the work of one backend.
pub struct Recorder {
    pending: Mutex<Pending>,
    uniforms: wgpu::Buffer,
    /// Distance of uniform structs.
    alignment: usize,
    context: Arc<Context>,
}

impl Recorder {
    /// Nothing is recorded yet.
    pub fn new(context: Arc<Context>) -> Result<Recorder> {
        let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
        let uniforms = context.create_buffer(UNIFORMS as u64, usage);
        let uniforms = uniforms.ok_or(Error::OutOfMemory {
            device: context.device,
            requested: UNIFORMS,
            in_use: 0,
        })?;
        let alignment = context.limits.min_uniform_buffer_offset_alignment as usize;
        let pending = Pending {
            pass: None,
            encoder: None,
            uniforms: Vec::with_capacity(UNIFORMS),
            dispatches: 0,
            uploaded: 0,
            batch: 1,
            submitted: VecDeque::new(),
            staging: None,
            clock: None,
        };
        Ok(Recorder { pending: Mutex::new(pending), uniforms, alignment, context })
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        // A panic while the lock is held can lose recorded work, but leaves a state that can be used.
        self.pending.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Records a kernel with its uniform struct and its buffers, bound from binding 1 on.
    pub fn dispatch(
        &self,
        op: &'static str,
        kernel: &Pipeline,
        uniform: &[u8],
        buffers: &[&Block],
        workgroups: [u32; 3],
    ) -> Result<()> {
        let mut pending = self.pending();
        let needed = uniform.len().next_multiple_of(self.alignment);
        assert!(needed <= UNIFORMS, "a uniform struct is a few hundred bytes long");
        if pending.dispatches == BATCH || pending.uniforms.len() + needed > UNIFORMS {
            self.submit(op, &mut pending)?;
        }
        let offset = pending.uniforms.len() as u32;
        pending.uniforms.extend_from_slice(uniform);
        pending.uniforms.resize(offset as usize + needed, 0);
        let size = wgpu::BufferSize::new(uniform.len() as u64);
        let uniform = wgpu::BufferBinding { buffer: &self.uniforms, offset: 0, size };
        let mut entries = vec![wgpu::BindGroupEntry {
            binding: 0,
            resource: wgpu::BindingResource::Buffer(uniform),
        }];
        entries.extend(buffers.iter().enumerate().map(|(i, block)| wgpu::BindGroupEntry {
            binding: 1 + i as u32,
            resource: block.buffer.as_entire_binding(),
        }));
        let group = self.context.gpu.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &kernel.group,
            entries: &entries,
        });
        buffers.iter().for_each(|block| block.used_in(pending.batch));
        let pass = self.pass(&mut pending, kernel.entry);
        pass.set_pipeline(&kernel.pipeline);
        pass.set_bind_group(0, &group, &[offset]);
        let [x, y, z] = workgroups;
        pass.dispatch_workgroups(x, y, z);
        if pending.clock.is_some() {
            pending.pass = None; // the next kernel has its own
        }
        pending.dispatches += 1;
        Ok(())
    }

    fn encoder<'a>(&self, pending: &'a mut Pending) -> &'a mut wgpu::CommandEncoder {
        let descriptor = wgpu::CommandEncoderDescriptor { label: None };
        pending.encoder.get_or_insert_with(|| self.context.gpu.create_command_encoder(&descriptor))
    }

    /// The open compute pass, or a new one that `kernel` starts.
    fn pass<'a>(
        &self,
        pending: &'a mut Pending,
        kernel: &'static str,
    ) -> &'a mut wgpu::ComputePass<'static> {
        if pending.pass.is_none() {
            self.encoder(pending);
            let Pending { encoder: Some(encoder), clock, .. } = pending else {
                unreachable!("made above")
            };
            let timestamp_writes = clock.as_mut().map(|clock| clock.next(kernel));
            let descriptor = wgpu::ComputePassDescriptor { label: None, timestamp_writes };
            pending.pass = Some(encoder.begin_compute_pass(&descriptor).forget_lifetime());
        }
        pending.pass.as_mut().expect("made above")
    }

    /// Records a copy of the first `bytes` (a multiple of 4) of a block.
    pub fn copy(&self, from: &Block, to: &Block, bytes: u64) {
        let mut pending = self.pending();
        pending.pass = None; // a copy is no part of a compute pass
        [from, to].into_iter().for_each(|block| block.used_in(pending.batch));
        self.encoder(&mut pending).copy_buffer_to_buffer(&from.buffer, 0, &to.buffer, 0, bytes);
    }

    /// Copies host bytes to the begin of a block, before anything that is recorded from now on.
    pub fn upload(&self, op: &'static str, block: &Block, bytes: &[u8]) -> Result<()> {
        let mut pending = self.pending();
        // The queue copies before it runs the next submission, and so before all that is recorded now.
        if block.is_used_in(pending.batch) {
            self.submit(op, &mut pending)?;
        }
        let whole = bytes.len() / 4 * 4;
        if whole > 0 {
            self.context.queue.write_buffer(&block.buffer, 0, &bytes[..whole]);
        }
        if whole < bytes.len() {
            let mut last = [0; 4];
            last[..bytes.len() - whole].copy_from_slice(&bytes[whole..]);
            self.context.queue.write_buffer(&block.buffer, whole as u64, &last);
        }
        pending.uploaded += bytes.len();
        if pending.uploaded > UPLOADS {
            self.submit(op, &mut pending)?;
        }
        self.context.check(op)
    }

    fn submit(&self, op: &'static str, pending: &mut Pending) -> Result<()> {
        pending.pass = None;
        if let Pending { clock: Some(clock), encoder: Some(encoder), .. } = pending {
            clock.resolve(encoder);
        }
        let commands = pending.encoder.take().map(wgpu::CommandEncoder::finish);
        if !pending.uniforms.is_empty() {
            self.context.queue.write_buffer(&self.uniforms, 0, &pending.uniforms);
        }
        let index = self.context.queue.submit(commands);
        pending.uniforms.clear();
        (pending.dispatches, pending.uploaded) = (0, 0);
        pending.batch += 1;
        pending.submitted.push_back(index);
        if let Some(clock) = &mut pending.clock {
            clock.collect(op, &self.context)?;
        }
        if pending.submitted.len() > AHEAD {
            let oldest = pending.submitted.pop_front();
            self.context.wait(op, oldest)?;
        }
        self.context.check(op)
    }

    /// Times each kernel from now on; false where the adapter has no clock.
    pub fn start_clock(&self, op: &'static str) -> Result<bool> {
        let mut pending = self.pending();
        self.submit(op, &mut pending)?;
        pending.clock = Clock::new(&self.context, op, BATCH as u32)?;
        Ok(pending.clock.is_some())
    }

    /// The times since then, and no more of them.
    pub fn stop_clock(&self, op: &'static str) -> Result<Vec<KernelTime>> {
        let mut pending = self.pending();
        self.submit(op, &mut pending)?;
        Ok(pending.clock.take().map_or_else(Vec::new, Clock::times))
    }

    /// Waits until all that was recorded is done.
    pub fn synchronize(&self, op: &'static str) -> Result<()> {
        let mut pending = self.pending();
        self.submit(op, &mut pending)?;
        pending.submitted.clear();
        self.context.wait(op, None)
    }

    /// The first bytes of some blocks, after all that was recorded so far: one wait for all.
    pub fn download(&self, op: &'static str, blocks: &[(&Block, usize)]) -> Result<Vec<Vec<u8>>> {
        let mut pending = self.pending();
        // Copies are a multiple of 4 bytes long, and start at one of 8 for the host to map.
        let rooms = blocks.iter().map(|(_, bytes)| bytes.next_multiple_of(8) as u64);
        let total: u64 = rooms.clone().sum();
        if total == 0 {
            return Ok(blocks.iter().map(|_| Vec::new()).collect());
        }
        let kept = pending.staging.take().filter(|staging| staging.size() >= total);
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let largest = self.context.limits.max_buffer_size;
        let room = total.next_power_of_two().min(largest).max(total).max(4096);
        let staging = kept.or_else(|| self.context.create_buffer(room, usage));
        let Some(staging) = staging else {
            let (device, requested) = (self.context.device, total as usize);
            return Err(Error::OutOfMemory { device, requested, in_use: 0 });
        };
        pending.pass = None;
        let mut at = 0;
        for ((block, _), room) in blocks.iter().zip(rooms.clone()).filter(|(_, room)| *room > 0) {
            let encoder = self.encoder(&mut pending);
            encoder.copy_buffer_to_buffer(&block.buffer, 0, &staging, at, room);
            at += room;
        }
        self.submit(op, &mut pending)?;
        pending.submitted.clear();
        let all = self.context.read(op, &staging, total, |view| {
            let mut at = 0;
            let mut all = Vec::with_capacity(blocks.len());
            for ((_, bytes), room) in blocks.iter().zip(rooms) {
                all.push(view[at..at + bytes].to_vec());
                at += room as usize;
            }
            all
        })?;
        if staging.size() <= STAGING {
            pending.staging = Some(staging);
        }
        Ok(all)
    }
}
