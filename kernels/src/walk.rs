//! One axis of a convolution as the gathered passes walk it: forward from outputs to the inputs under their taps,
//! backward from inputs to the outputs that see them.

use crate::{Conv2dArgs, Conv2dOptions};

/// One axis of a convolution.
#[derive(Clone, Copy, Debug)]
pub struct Axis {
    pub input: usize,
    pub output: usize,
    pub kernel: usize,
    pub stride: usize,
    pub padding: usize,
    pub dilation: usize,
}

/// `ConvAxis` of kernels/cuda/conv2d.cuh and `Axis` of shaders/conv2d_*.wgsl, where its fields are explained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Walk {
    pub positions: usize,
    pub first: usize,
    pub spread: usize,
    pub scale: usize,
    pub offset: isize,
    pub step: isize,
    pub size: usize,
    pub taps: usize,
    pub tap_first: usize,
    pub tap_step: usize,
}

impl Axis {
    /// The two of a convolution.
    pub fn of(args: &Conv2dArgs) -> [Axis; 2] {
        let Conv2dOptions { stride, padding, dilation, .. } = args.options;
        let sizes = [(args.h, args.oh, args.kh), (args.w, args.ow, args.kw)];
        std::array::from_fn(|i| {
            let (input, output, kernel) = sizes[i];
            let (stride, padding, dilation) = (stride[i], padding[i], dilation[i]);
            Axis { input, output, kernel, stride, padding, dilation }
        })
    }

    /// From outputs to the inputs under their taps.
    pub fn forward(&self) -> Walk {
        Walk {
            positions: self.output,
            first: 0,
            spread: 1,
            scale: self.stride,
            offset: -(self.padding as isize),
            step: self.dilation as isize,
            size: self.input,
            taps: self.kernel,
            tap_first: 0,
            tap_step: 1,
        }
    }

    /// The backward walks: one for each of the inputs that are equal modulo the stride.
    pub fn phases(self) -> impl Iterator<Item = Walk> {
        (0..self.stride).map(move |phase| self.backward(phase))
    }

    /// From the inputs `phase`, `phase + stride`, .. to the outputs that see them.
    ///
    /// Output o sees input i under tap k when o stride = i + padding - k dilation. Solutions k are `tap_step` =
    /// stride / gcd(stride, dilation) apart, and from one to the next o falls by tap_step dilation / stride.
    fn backward(&self, phase: usize) -> Walk {
        let Axis { input, output, kernel, stride, padding, dilation } = *self;
        let distance = |k: usize| (phase + padding) as isize - (k * dilation) as isize;
        let divides = |&k: &usize| distance(k) % stride as isize == 0;
        let tap_step = stride / gcd(stride, dilation);
        let tap_first = (0..kernel.min(tap_step)).find(divides);
        let first = tap_first.unwrap_or(0);
        Walk {
            positions: (input.max(phase) - phase).div_ceil(stride),
            first: phase,
            spread: stride,
            scale: 1,
            offset: distance(first).div_euclid(stride as isize),
            step: -((tap_step * dilation / stride) as isize),
            size: output,
            taps: if tap_first.is_some() { (kernel - first).div_ceil(tap_step) } else { 0 },
            tap_first: first,
            tap_step,
        }
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// (input, output, tap) of every product along an axis.
    fn triples(walks: impl Iterator<Item = Walk>, forward: bool) -> Vec<[isize; 3]> {
        let mut list = Vec::new();
        for walk in walks {
            for i in 0..walk.positions as isize {
                for j in 0..walk.taps as isize {
                    let source = i * walk.scale as isize + walk.offset + j * walk.step;
                    if (0..walk.size as isize).contains(&source) {
                        let result = walk.first as isize + i * walk.spread as isize;
                        let tap = walk.tap_first as isize + j * walk.tap_step as isize;
                        list.push(if forward {
                            [source, result, tap]
                        } else {
                            [result, source, tap]
                        });
                    }
                }
            }
        }
        list.sort_unstable();
        list
    }

    #[test]
    fn both_directions_walk_the_same_products() {
        for (input, kernel, stride, padding, dilation) in [
            (9, 3, 1, 1, 1),
            (9, 3, 2, 1, 1),
            (10, 5, 3, 2, 1),
            (11, 3, 2, 2, 2),
            (12, 4, 4, 3, 2),
            (12, 4, 6, 5, 4),
            (7, 1, 2, 0, 1),
            (2, 3, 4, 1, 1),
        ] {
            let output = (input + 2 * padding - dilation * (kernel - 1) - 1) / stride + 1;
            let axis = Axis { input, output, kernel, stride, padding, dilation };
            let forward = triples([axis.forward()].into_iter(), true);
            assert_eq!(triples(axis.phases(), false), forward, "{axis:?}");
            assert!(!forward.is_empty());
        }
    }
}
