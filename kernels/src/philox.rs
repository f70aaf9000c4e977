//! Philox 4x32-10, the counter-based random generator of Salmon et al., "Parallel Random Numbers:
//! As Easy as 1, 2, 3" (SC 2011).
//!
//! A value depends only on (seed, purpose, epoch, sample, index), never on what was drawn before.
//! So any thread of any backend computes the same bits, and a resumed run needs no generator state.

/// What a stream of random numbers is for: streams of different purposes never share a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Purpose {
    /// Initial weights; `sample` is the parameter's index.
    Init = 1,
    /// The order of the samples in an epoch.
    Shuffle = 2,
    /// Augmentation of one sample in one epoch.
    Augment = 3,
    /// Dropout masks; `epoch` is the step, `sample` the layer.
    Dropout = 4,
    /// Synthetic images; `sample` is the image's index.
    Synthetic = 5,
    /// Inputs of tests and benchmarks.
    Test = 6,
}

/// An endless stream of random blocks, addressed by index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    /// The seed, low word first.
    pub key: [u32; 2],
    /// Counter words 1 to 3: sample, epoch, purpose. Word 0 is the index of the block.
    pub counter: [u32; 3],
}

impl Stream {
    /// The stream of `purpose` for one epoch (or step) and one sample (or layer).
    pub fn new(seed: u64, purpose: Purpose, epoch: u32, sample: u32) -> Self {
        Stream { key: [seed as u32, (seed >> 32) as u32], counter: [sample, epoch, purpose as u32] }
    }

    /// Four random words: block `index` of this stream.
    #[inline(always)]
    pub fn block(&self, index: u32) -> [u32; 4] {
        philox4x32_10([index, self.counter[0], self.counter[1], self.counter[2]], self.key)
    }

    /// Word `i` of the stream, that is word `i % 4` of block `i / 4`.
    #[inline]
    pub fn word(&self, i: u64) -> u32 {
        self.block((i / 4) as u32)[(i % 4) as usize]
    }

    /// Uniform in [0, 1) with 24 bits, so that every value is exact in f32.
    #[inline]
    pub fn uniform(&self, i: u64) -> f32 {
        unit_f32(self.word(i))
    }

    /// Uniform integer in 0..bound, by the high half of a product (bias under bound / 2^32).
    #[inline]
    pub fn below(&self, i: u64, bound: u32) -> u32 {
        ((self.word(i) as u64 * bound as u64) >> 32) as u32
    }

    /// Standard normal number `i`, by the Box-Muller transform in f64.
    pub fn normal(&self, i: u64) -> f64 {
        let b = self.block((i / 2) as u32);
        let half = 2 * (i % 2) as usize;
        let (u, v) = (b[half], b[half + 1]);
        // (u + 1) / 2^32 lies in (0, 1]: the logarithm stays finite.
        let radius = (-2.0 * ((u as f64 + 1.0) / 4294967296.0).ln()).sqrt();
        radius * (std::f64::consts::TAU * (v as f64 / 4294967296.0)).cos()
    }
}

/// The upper 24 bits of `word` as a fraction in [0, 1).
#[inline(always)]
pub fn unit_f32(word: u32) -> f32 {
    (word >> 8) as f32 * (1.0 / 16777216.0)
}

/// Ten rounds of Philox on one 128-bit counter under a 64-bit key.
#[inline(always)]
pub fn philox4x32_10(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    const M0: u64 = 0xD251_1F53;
    const M1: u64 = 0xCD9E_8D57;
    const W0: u32 = 0x9E37_79B9; // golden ratio
    const W1: u32 = 0xBB67_AE85; // sqrt(3) - 1
    let ([mut c0, mut c1, mut c2, mut c3], [mut k0, mut k1]) = (counter, key);
    for _ in 0..10 {
        let (p0, p1) = (M0 * c0 as u64, M1 * c2 as u64);
        (c0, c1, c2, c3) =
            ((p1 >> 32) as u32 ^ c1 ^ k0, p1 as u32, (p0 >> 32) as u32 ^ c3 ^ k1, p0 as u32);
        k0 = k0.wrapping_add(W0);
        k1 = k1.wrapping_add(W1);
    }
    [c0, c1, c2, c3]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers published with the authors' Random123 library (kat_vectors, philox4x32, 10
    /// rounds).
    #[test]
    fn matches_the_published_vectors() {
        assert_eq!(philox4x32_10([0; 4], [0; 2]), [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
        assert_eq!(
            philox4x32_10([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]
        );
        assert_eq!(
            philox4x32_10(
                [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344],
                [0xa4093822, 0x299f31d0]
            ),
            [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1]
        );
    }

    #[test]
    fn normal_has_the_right_moments() {
        let s = Stream::new(7, Purpose::Test, 0, 0);
        let n = 100_000;
        let (mut sum, mut squares) = (0.0, 0.0);
        for i in 0..n {
            let v = s.normal(i);
            sum += v;
            squares += v * v;
        }
        assert!((sum / n as f64).abs() < 0.01 && (squares / n as f64 - 1.0).abs() < 0.02);
    }
}
