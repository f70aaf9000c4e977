//! Dropout. Random words come four a Philox block; blocks are computed side by side in vector
//! lanes.

use super::Cpu;
use super::scalar::Scalar;
use super::simd::{Kernel, Vector};
use super::threads::TASK_ELEMENTS;
use crate::philox::Stream;
use crate::*;

/// Blocks computed at once, and the elements they decide on: so many that the loop over them stays
/// a loop, which the compiler turns into SIMD.
const BLOCKS: usize = 64;
const ELEMENTS: usize = 4 * BLOCKS;

/// Elements from number `start` on, a multiple of 4.
struct DropoutKernel<'a, T> {
    stream: Stream,
    threshold: u32,
    scale: f32,
    start: usize,
    x: &'a [T],
    y: &'a mut [T],
}

impl<T: Scalar> Kernel for DropoutKernel<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector>(self) {
        let DropoutKernel { stream, threshold, scale, start, x, y } = self;
        for (i, (y, x)) in y.chunks_mut(ELEMENTS).zip(x.chunks(ELEMENTS)).enumerate() {
            let first = (start / 4 + i * BLOCKS) as u32;
            let words = words(&stream, first);
            for ((y, &x), &word) in y.iter_mut().zip(x).zip(&words) {
                *y = T::narrow(if word >= threshold { x.widen() * scale } else { 0.0 });
            }
        }
    }
}

/// The words of [`BLOCKS`] blocks of the stream, from block `first` on.
#[inline(always)]
fn words(stream: &Stream, first: u32) -> [u32; ELEMENTS] {
    let [mut lanes0, mut lanes1, mut lanes2, mut lanes3] = [[0u32; BLOCKS]; 4];
    let front = lanes0.iter_mut().zip(&mut lanes1);
    let back = lanes2.iter_mut().zip(&mut lanes3);
    for (i, ((w0, w1), (w2, w3))) in front.zip(back).enumerate() {
        [*w0, *w1, *w2, *w3] = stream.block(first.wrapping_add(i as u32));
    }
    let mut words = [0; ELEMENTS];
    let front = lanes0.iter().zip(&lanes1);
    let back = lanes2.iter().zip(&lanes3);
    for (words, ((&w0, &w1), (&w2, &w3))) in words.chunks_exact_mut(4).zip(front.zip(back)) {
        words.copy_from_slice(&[w0, w1, w2, w3]);
    }
    words
}

/// y[i] = x[i] / (1 - p) where word i of the stream reaches the threshold, else 0.
pub fn dropout<T: Scalar>(cpu: &Cpu, args: &DropoutArgs, x: &Buffer) -> Result<Buffer> {
    let &DropoutArgs { len, stream, .. } = args;
    let x = cpu.read::<T>("dropout", x, len)?;
    let mut memory = cpu.alloc::<T>(len)?;
    // Ten rounds cost more than memory does.
    let piece = TASK_ELEMENTS / 4;
    cpu.threads.chunks(memory.slice_mut(len), piece, |i, y| {
        let (start, x) = (i * piece, &x[i * piece..][..y.len()]);
        let (threshold, scale) = (args.threshold(), args.scale() as f32);
        cpu.isa.run(DropoutKernel { stream, threshold, scale, start, x, y })
    });
    Ok(memory.into_buffer::<T>(len))
}
