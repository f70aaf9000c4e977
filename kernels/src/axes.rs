//! Shapes as kernels walk them: axes with the strides of one buffer. Neighbouring axes are joined where a walk
//! over them is a walk over one axis, so that few are left, and most kernels divide by nothing.

use crate::{Error, Result};

/// Axes that a kernel walks: `MAX_AXES` in kernels/cuda/args.cuh and in shaders/*.wgsl.
pub const MAX_AXES: usize = 8;

/// Sizes and strides, axis 0 outermost; at least one axis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Axes {
    sizes: Vec<usize>,
    strides: Vec<usize>,
}

impl Axes {
    /// One axis.
    pub fn line(size: usize, stride: usize) -> Axes {
        Axes { sizes: vec![size], strides: vec![stride] }
    }

    /// The axes of one buffer, joined.
    pub fn new(op: &'static str, sizes: &[usize], strides: &[usize]) -> Result<Axes> {
        let [axes] = Axes::joint(op, sizes, [strides])?;
        Ok(axes)
    }

    /// The axes of several buffers that are walked together: joined where that is right for all of them.
    pub fn joint<const N: usize>(
        op: &'static str,
        sizes: &[usize],
        strides: [&[usize]; N],
    ) -> Result<[Axes; N]> {
        let (mut joined, mut of): (Vec<usize>, [Vec<usize>; N]) =
            (Vec::new(), [const { Vec::new() }; N]);
        for axis in (0..sizes.len()).filter(|&axis| sizes[axis] != 1) {
            let size = sizes[axis];
            let continues = |k: usize| of[k].last() == Some(&strides[k][axis].saturating_mul(size));
            if !joined.is_empty() && (0..N).all(continues) {
                *joined.last_mut().expect("not empty") *= size;
                (0..N).for_each(|k| *of[k].last_mut().expect("not empty") = strides[k][axis]);
            } else {
                joined.push(size);
                (0..N).for_each(|k| of[k].push(strides[k][axis]));
            }
        }
        if joined.is_empty() {
            return Ok([(); N].map(|()| Axes::line(1, 0)));
        }
        if joined.len() > MAX_AXES {
            let detail = format!(
                "kernels walk at most {MAX_AXES} axes that cannot be joined, got {joined:?}"
            );
            return Err(Error::argument(op, detail));
        }
        Ok(of.map(|strides| Axes { sizes: joined.clone(), strides }))
    }

    /// Sizes, outermost first.
    pub fn sizes(&self) -> &[usize] {
        &self.sizes
    }

    /// Strides, in elements.
    pub fn strides(&self) -> &[usize] {
        &self.strides
    }

    /// The CUDA kernels' struct: rank, sizes, strides.
    pub fn words(&self) -> [u64; 1 + 2 * MAX_AXES] {
        let mut words = [0; 1 + 2 * MAX_AXES];
        words[0] = self.sizes.len() as u64;
        for (axis, (&size, &stride)) in self.sizes.iter().zip(&self.strides).enumerate() {
            (words[1 + axis], words[1 + MAX_AXES + axis]) = (size as u64, stride as u64);
        }
        words
    }
}

/// Strides of a contiguous buffer.
pub fn row_major(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1usize; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis].saturating_mul(shape[axis]);
    }
    strides
}

/// Strides of a contiguous buffer that repeats along its axes of size 1.
pub fn repeating(shape: &[usize]) -> Vec<usize> {
    let strides = row_major(shape);
    strides.iter().zip(shape).map(|(&stride, &size)| if size == 1 { 0 } else { stride }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_that_lie_behind_each_other_are_joined() {
        let shape = [2, 5, 1, 5, 3];
        let axes = Axes::new("test", &shape, &row_major(&shape)).unwrap();
        assert_eq!(axes, Axes::line(150, 1));
        let (a, b) = (row_major(&[2, 5, 5, 3]), repeating(&[1, 1, 1, 3]));
        let [a, b] = Axes::joint("test", &[2, 5, 5, 3], [&a, &b]).unwrap();
        assert_eq!((a.sizes, a.strides), (vec![50, 3], vec![3, 1]));
        assert_eq!((b.sizes, b.strides), (vec![50, 3], vec![0, 1]));
        assert_eq!(Axes::new("test", &[], &[]).unwrap(), Axes::line(1, 0));
        let many = [2; 9];
        let alternating: Vec<usize> = (0..9).map(|axis| axis % 2).collect();
        assert!(Axes::new("test", &many, &alternating).is_err());
    }
}
