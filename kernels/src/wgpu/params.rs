//! What a kernel is told besides its buffers: the bytes of its uniform struct, and its grid.

use crate::axes::{Axes, MAX_AXES};

/// The fields of a kernel's `Params` struct, in their order, laid out by WGSL's rules for uniforms: scalars
/// take 4 bytes, `Axes` starts at a multiple of 16.
#[derive(Default)]
pub struct Params {
    words: Vec<u32>,
    too_large: bool,
}

impl Params {
    /// None yet.
    pub fn new() -> Params {
        Params::default()
    }

    /// A `u32` field.
    pub fn word(mut self, value: u32) -> Params {
        self.words.push(value);
        self
    }

    /// A `u32` field that holds a size.
    pub fn size(mut self, value: usize) -> Params {
        self.too_large |= u32::try_from(value).is_err();
        self.word(value as u32)
    }

    /// Whether some size does not fit, so that no kernel may be told these.
    pub fn is_too_large(&self) -> bool {
        self.too_large
    }

    /// Several sizes.
    pub fn sizes(self, values: &[usize]) -> Params {
        values.iter().fold(self, |params, &value| params.size(value))
    }

    /// An `f32` field, rounded to it.
    pub fn float(self, value: f64) -> Params {
        self.word((value as f32).to_bits())
    }

    /// An `Axes` field: rank, then sizes and strides as two `vec4<u32>` each.
    pub fn axes(mut self, axes: &Axes) -> Params {
        self.align(4);
        self.words.extend([axes.sizes().len() as u32, 0, 0, 0]);
        for list in [axes.sizes(), axes.strides()] {
            let mut padded = [0; MAX_AXES];
            padded.iter_mut().zip(list).for_each(|(word, &value)| *word = value as u32);
            self.words.extend(padded);
        }
        self
    }

    fn align(&mut self, words: usize) {
        self.words.resize(self.words.len().next_multiple_of(words), 0);
    }

    /// As bytes, a multiple of 16 and at least 64: a short struct may leave out its last fields where a kernel
    /// does not look at them, and they are 0.
    pub fn bytes(mut self) -> Vec<u8> {
        self.align(4);
        self.words.resize(self.words.len().max(16), 0);
        bytemuck::cast_slice(&self.words).to_vec()
    }
}

/// Workgroups of a dispatch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grid {
    /// So many in a line, folded into y where x alone cannot hold them: the kernel takes
    /// `workgroup_id.y * num_workgroups.x + workgroup_id.x` for the number of its workgroup, and expects
    /// some too many.
    Line(usize),
}

impl Grid {
    /// A thread for each of `n`, in workgroups of `size`.
    pub fn threads(n: usize, size: usize) -> Grid {
        Grid::Line(n.div_ceil(size))
    }

    /// Along x, y, z; `None` where y would be longer than `limit`.
    pub fn workgroups(self, limit: u32) -> Option<[u32; 3]> {
        let limit = limit as usize;
        let counts = match self {
            Grid::Line(n) => {
                let y = n.div_ceil(limit).max(1);
                [n.div_ceil(y), y, 1]
            }
        };
        counts.iter().all(|&count| count <= limit).then(|| counts.map(|count| count as u32))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_lie_as_wgsl_wants_uniforms() {
        let bytes = Params::new().word(7).axes(&Axes::line(5, 3)).float(1.0).bytes();
        let words: Vec<u32> = bytemuck::pod_collect_to_vec(&bytes);
        assert_eq!((words[0], words[4], words[8], words[16]), (7, 1, 5, 3));
        assert_eq!((words[24], words.len()), (1.0f32.to_bits(), 28));
        assert_eq!(Params::new().bytes().len(), 64);
    }

    #[test]
    fn a_long_line_is_folded() {
        assert_eq!(Grid::threads(0, 256).workgroups(65535), Some([0, 1, 1]));
        assert_eq!(Grid::threads(257, 256).workgroups(65535), Some([2, 1, 1]));
        let [x, y, z] = Grid::Line(200_000).workgroups(65535).unwrap();
        assert!(x <= 65535 && x as usize * y as usize >= 200_000 && z == 1, "{x} {y}");
        assert_eq!(Grid::Line(70_000 * 70_000).workgroups(65535), None);
    }
}
