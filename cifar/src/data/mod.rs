//! Images with labels: where they come from, and how they lie on disk.
//!
//! - [`images`]: pixels, in memory or in files
//! - [`binary`]: the CIFAR binary layout, checked and written
//! - [`manifest`]: `dataset.json`, which says what the binary layout leaves open
//! - [`synthetic`]: a set drawn from a seed, so that nothing need be downloaded
//! - [`import`], [`archive`]: folders and tars of image files
//! - [`download`]: the official archives
//! - [`picture`], [`font`]: a grid of samples and a chart of class counts

pub mod archive;
pub mod binary;
pub mod download;
pub mod font;
pub mod images;
pub mod import;
pub mod manifest;
pub mod picture;
pub mod synthetic;

use std::path::Path;

use anyhow::Result;
use sha2::{Digest, Sha256};
use tilegrad_kernels::philox::{Purpose, Stream};

pub use images::{ImageBuffer, Images};

/// CIFAR-10's classes in the order of their labels.
pub const CIFAR10_CLASSES: [&str; 10] =
    ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];

/// Which part of a data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// What is trained on.
    Train,
    /// What accuracies are measured on.
    Test,
}

/// Square RGB images with one label each.
#[derive(Debug)]
pub struct Dataset {
    /// Their pixels: see [`Dataset::image`].
    pub images: Images,
    /// `[n]`, each in `0..classes.len()`.
    pub labels: Vec<u16>,
    /// The name of each label.
    pub classes: Vec<String>,
    /// Width and height of every image, in pixels.
    pub size: usize,
}

impl Dataset {
    /// Opens one split of the data set in `dir`: the CIFAR-10 or CIFAR-100 binary layout, or an
    /// import of ours. All of it is read once and checked; then labels are kept, and images read
    /// whenever they are asked for.
    ///
    /// Errors are one line each: no data in `dir`, a truncated file, a wrong count, a label out of
    /// range, a checksum that differs from `dataset.json`'s.
    pub fn load(dir: &Path, split: Split) -> Result<Dataset> {
        binary::load(dir, split)
    }

    /// How many images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is no image.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Bytes of one image.
    pub fn image_bytes(&self) -> usize {
        self.size * self.size * 3
    }

    /// Image `i`, `[size, size, 3]`; one that is read from a file lies in `buffer` then.
    ///
    /// Errors name the file: it cannot be read, or was cut short or changed since it was opened.
    ///
    /// # Panics
    /// If `i` is out of range.
    pub fn image<'a>(&'a self, i: usize, buffer: &'a mut ImageBuffer) -> Result<&'a [u8]> {
        match &self.images {
            Images::Memory(pixels) => {
                let bytes = self.image_bytes();
                Ok(&pixels[i * bytes..(i + 1) * bytes])
            }
            Images::Files(files) => files.image(i, self.labels[i], buffer),
        }
    }

    /// Calls `visit` with each image, in order.
    fn scan(&self, mut visit: impl FnMut(&[u8])) -> Result<()> {
        let mut buffer = ImageBuffer::default();
        for i in 0..self.len() {
            visit(self.image(i, &mut buffer)?);
        }
        Ok(())
    }

    /// The first 16 hex digits of a SHA-256 over size, class names, labels and pixels: equal for
    /// equal contents, however they are stored.
    pub fn fingerprint(&self) -> Result<String> {
        let mut hash = Sha256::new();
        hash.update((self.size as u64).to_le_bytes());
        hash.update((self.classes.len() as u64).to_le_bytes());
        for class in &self.classes {
            hash.update((class.len() as u64).to_le_bytes());
            hash.update(class.as_bytes());
        }
        hash.update((self.len() as u64).to_le_bytes());
        let labels: Vec<u8> = self.labels.iter().flat_map(|l| l.to_le_bytes()).collect();
        hash.update(labels);
        self.scan(|image| hash.update(image))?;
        Ok(hex(&hash.finalize())[..16].to_string())
    }

    /// Mean and (population) standard deviation of each channel, of values scaled to 0..1.
    ///
    /// Sums are kept in integers, so the result does not depend on an order of summation. A
    /// channel that never varies gets the deviation 1, so that one may always divide by it. No
    /// images: mean 0, deviation 1.
    pub fn mean_std(&self) -> Result<([f32; 3], [f32; 3])> {
        let (mut sum, mut squares) = ([0u64; 3], [0u64; 3]);
        // 4,096 pixels at a time: the sums of a block fit 32 bits, which vectorises.
        self.scan(|image| {
            for block in image.chunks(3 * 4096) {
                let (mut s, mut q) = ([0u32; 3], [0u32; 3]);
                for pixel in block.as_chunks::<3>().0 {
                    for c in 0..3 {
                        s[c] += pixel[c] as u32;
                        q[c] += pixel[c] as u32 * pixel[c] as u32;
                    }
                }
                for c in 0..3 {
                    sum[c] += s[c] as u64;
                    squares[c] += q[c] as u64;
                }
            }
        })?;
        let pixels = (self.len() * self.size * self.size) as f64;
        let (mut mean, mut std) = ([0.0; 3], [1.0; 3]);
        if pixels > 0.0 {
            for c in 0..3 {
                let m = sum[c] as f64 / pixels;
                let variance = (squares[c] as f64 / pixels - m * m).max(0.0);
                mean[c] = (m / 255.0) as f32;
                if variance > 1e-9 {
                    std[c] = (variance.sqrt() / 255.0) as f32;
                }
            }
        }
        Ok((mean, std))
    }

    /// How many images each class has.
    pub fn class_counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.classes.len()];
        for &label in &self.labels {
            counts[label as usize] += 1;
        }
        counts
    }
}

/// What a permutation is for: those of different use never share random numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Order {
    /// The samples of an epoch.
    Epoch = 0,
    /// Which samples of a class are held out.
    HoldOut = 1,
    /// The records of an imported set.
    Records = 2,
}

/// A permutation of `0..n` that depends on (n, seed, use, epoch) only: Fisher-Yates over a Philox
/// stream.
pub fn permutation(n: usize, seed: u64, order: Order, epoch: u32) -> Vec<u32> {
    assert!(n <= u32::MAX as usize, "permutation: {n} items are more than 2^32 - 1");
    let stream = Stream::new(seed, Purpose::Shuffle, epoch, order as u32);
    let mut items: Vec<u32> = (0..n as u32).collect();
    for i in (1..n).rev() {
        items.swap(i, stream.below(i as u64, i as u32 + 1) as usize);
    }
    items
}

/// Marks `fraction` of each class by seed: rounded, but at least one image, and never all of them.
/// A class of one image keeps it.
fn stratified(labels: &[u16], classes: usize, fraction: f64, seed: u64) -> Vec<bool> {
    let mut members = vec![Vec::new(); classes];
    for (i, &label) in labels.iter().enumerate() {
        members[label as usize].push(i);
    }
    let mut marked = vec![false; labels.len()];
    for (class, members) in members.iter().enumerate() {
        let most = members.len().saturating_sub(1);
        let count = (members.len() as f64 * fraction).round() as usize;
        let count = count.clamp(most.min(1), most);
        for &i in &permutation(members.len(), seed, Order::HoldOut, class as u32)[..count] {
            marked[members[i as usize]] = true;
        }
    }
    marked
}

/// Bytes as lowercase hex digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pixels() -> Vec<u8> {
        (0..10 * 12).map(|i| (i * 7 % 256) as u8).collect()
    }

    fn tiny() -> Dataset {
        let classes = vec!["a".to_string(), "b".to_string()];
        let images = Images::Memory(pixels());
        Dataset { images, labels: vec![0, 1, 0, 1, 0, 1, 0, 1, 0, 0], classes, size: 2 }
    }

    #[test]
    fn permutations_are_permutations_and_differ() {
        let p = permutation(1000, 1, Order::Epoch, 0);
        let mut sorted = p.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..1000).collect::<Vec<u32>>());
        assert_eq!(p, permutation(1000, 1, Order::Epoch, 0));
        assert_ne!(p, permutation(1000, 1, Order::Epoch, 1));
        assert_ne!(p, permutation(1000, 2, Order::Epoch, 0));
        assert_ne!(p, permutation(1000, 1, Order::Records, 0));
        assert!(permutation(0, 1, Order::Epoch, 0).is_empty());
    }

    #[test]
    fn mean_and_deviation_equal_the_definition() {
        let set = tiny();
        let (mean, std) = set.mean_std().unwrap();
        for c in 0..3 {
            let v: Vec<f64> =
                pixels().iter().skip(c).step_by(3).map(|&b| b as f64 / 255.0).collect();
            let m = v.iter().sum::<f64>() / v.len() as f64;
            let s = (v.iter().map(|x| (x - m) * (x - m)).sum::<f64>() / v.len() as f64).sqrt();
            assert!((mean[c] as f64 - m).abs() < 1e-6 && (std[c] as f64 - s).abs() < 1e-6);
        }
        let flat = Dataset { images: Images::Memory(vec![9; 12]), labels: vec![0], ..set };
        assert_eq!(flat.mean_std().unwrap().1, [1.0; 3]);
    }

    #[test]
    fn what_is_held_out_is_stratified_and_depends_on_the_seed() {
        let labels: Vec<u16> = (0..60).map(|i| (i % 3 == 0) as u16).collect();
        let marked = stratified(&labels, 2, 0.3, 3);
        let count = |class| (0..60).filter(|&i| marked[i] && labels[i] == class).count();
        assert_eq!((count(0), count(1)), (12, 6));
        assert_eq!(marked, stratified(&labels, 2, 0.3, 3));
        assert_ne!(marked, stratified(&labels, 2, 0.3, 4));
        // Classes of 1, 2 and 3 images, and one of none.
        for (fraction, expected) in [(0.01, [0, 1, 1, 0]), (0.99, [0, 1, 2, 0])] {
            let labels = [0, 1, 1, 2, 2, 2];
            let marked = stratified(&labels, 4, fraction, 3);
            let count = |class| (0..6).filter(|&i| marked[i] && labels[i] == class).count();
            assert_eq!([0, 1, 2, 3].map(count), expected);
        }
    }

    #[test]
    fn fingerprint_sees_every_part() {
        let set = tiny();
        let print = set.fingerprint().unwrap();
        assert_eq!(print.len(), 16);
        assert_eq!(print, tiny().fingerprint().unwrap());
        for change in 0..3 {
            let mut other = tiny();
            match change {
                0 => {
                    let mut changed = pixels();
                    changed[5] ^= 1;
                    other.images = Images::Memory(changed);
                }
                1 => other.labels[2] = 1,
                _ => other.classes[0].push('x'),
            }
            assert_ne!(print, other.fingerprint().unwrap());
        }
    }
}
