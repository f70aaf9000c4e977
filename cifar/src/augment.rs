//! Random changes to training images, and mixtures of them.
//!
//! What happens to a sample depends only on (seed, epoch, sample): the random numbers come from a
//! Philox stream of that address, so it does not matter which thread prepares it, or when.

use std::f32::consts::PI;

use serde::{Deserialize, Serialize};
use tilegrad_kernels::philox::{Purpose, Stream, unit_f32};

/// What lies beyond the edge of an image that is padded before it is cropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Padding {
    /// Black, as torchvision's RandomCrop pads.
    #[default]
    Zero,
    /// The image mirrored at its edge pixels, which are not repeated.
    Reflect,
}

/// How single training images are changed. [`Augmentation::NONE`] only normalises.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Augmentation {
    /// Mirror left and right, with probability 1/2.
    pub flip: bool,
    /// Toss the coin of `flip` once a sample and turn it over each epoch, so that two epochs show
    /// both sides of every image (Jordan 2024, arXiv 2404.00498, §3.6).
    pub alternating_flip: bool,
    /// Shift by up to this many pixels along each axis: padding on all sides, then a random crop
    /// of the old size.
    pub crop_padding: usize,
    /// What the padding is filled with.
    pub padding: Padding,
    /// Rotate about the centre by an angle uniform in ± this; bilinear, corners black.
    pub rotation_degrees: f32,
    /// Side of a square, centred anywhere in the image, that is set to the mean colour (DeVries &
    /// Taylor 2017); 0: none.
    pub cutout: usize,
}

impl Default for Augmentation {
    fn default() -> Self {
        Augmentation::NONE
    }
}

/// Buffers of [`Augmentation::apply`] that are worth keeping between calls.
#[derive(Clone, Debug, Default)]
pub struct Scratch {
    /// The shifted image with a border of two black pixels, f32, 4 values a pixel.
    padded: Vec<f32>,
}

/// Bytes to normalised values: `(byte / 255 - mean) / std`, a table a channel.
#[derive(Clone, Debug)]
pub struct Normalisation {
    table: [[f32; 256]; 3],
    scale: [f32; 3],
    shift: [f32; 3],
}

impl Normalisation {
    /// For means and standard deviations of values in 0..1.
    pub fn new(mean: [f32; 3], std: [f32; 3]) -> Self {
        let mut table = [[0.0; 256]; 3];
        let (mut scale, mut shift) = ([0.0; 3], [0.0; 3]);
        for c in 0..3 {
            scale[c] = (1.0 / (255.0 * std[c] as f64)) as f32;
            shift[c] = (-mean[c] as f64 / std[c] as f64) as f32;
            for (byte, value) in table[c].iter_mut().enumerate() {
                *value = ((byte as f64 / 255.0 - mean[c] as f64) / std[c] as f64) as f32;
            }
        }
        Normalisation { table, scale, shift }
    }

    /// Normalises pixels, `[.., 3]` bytes to `[.., 3]` values.
    pub fn apply(&self, pixels: &[u8], out: &mut [f32]) {
        debug_assert_eq!(pixels.len(), out.len());
        for (x, y) in pixels.as_chunks::<3>().0.iter().zip(out.as_chunks_mut::<3>().0) {
            *y = self.pixel(x);
        }
    }

    #[inline(always)]
    fn pixel(&self, x: &[u8; 3]) -> [f32; 3] {
        [self.table[0][x[0] as usize], self.table[1][x[1] as usize], self.table[2][x[2] as usize]]
    }
}

/// The random choices for one sample.
struct Choice {
    flip: bool,
    /// Crop offset less padding, (rows, columns): output (y, x) is input (y + dy, x + dx).
    offset: [isize; 2],
    /// Radians, counter-clockwise.
    angle: f32,
    /// Centre of the cutout, (row, column).
    hole: [usize; 2],
}

impl Augmentation {
    /// No change but normalisation.
    pub const NONE: Augmentation = Augmentation {
        flip: false,
        alternating_flip: false,
        crop_padding: 0,
        padding: Padding::Zero,
        rotation_degrees: 0.0,
        cutout: 0,
    };

    /// The usual recipe for 32x32 images: flips and crops with 4 pixels of padding.
    pub const STANDARD: Augmentation =
        Augmentation { flip: true, crop_padding: 4, ..Augmentation::NONE };

    /// Says in one line what makes no sense for images of `size` pixels.
    pub fn check(&self, size: usize) -> Result<(), String> {
        if self.crop_padding > size / 2 {
            return Err(format!(
                "augmentation: crop_padding is {}, but may be at most half the image size, {}",
                self.crop_padding,
                size / 2
            ));
        }
        if !(0.0..=180.0).contains(&self.rotation_degrees) {
            return Err(format!(
                "augmentation: rotation_degrees is {}, but must lie in 0..=180",
                self.rotation_degrees
            ));
        }
        if self.cutout > size {
            return Err(format!(
                "augmentation: cutout is {}, but may be at most the image size, {size}",
                self.cutout
            ));
        }
        Ok(())
    }

    /// Draws for one sample: always the same words, whatever is switched on, so that switching one
    /// change on or off leaves the others as they were.
    fn choose(&self, size: usize, address: SampleAddress) -> Choice {
        let stream = address.stream(address.epoch);
        let [flip, row, column, angle] = stream.block(0);
        let [hole_row, hole_column, ..] = stream.block(1);
        let below = |word: u32, bound: usize| ((word as u64 * bound as u64) >> 32) as usize;
        let pad = self.crop_padding;
        let offset = |word| below(word, 2 * pad + 1) as isize - pad as isize;
        let heads = |word: u32| word >> 31 == 1;
        let flip = match self.alternating_flip {
            true => heads(address.stream(0).block(0)[0]) != (address.epoch % 2 == 1),
            false => heads(flip),
        };
        Choice {
            flip: self.flip && flip,
            offset: [offset(row), offset(column)],
            angle: (2.0 * unit_f32(angle) - 1.0) * self.rotation_degrees * (PI / 180.0),
            hole: [below(hole_row, size), below(hole_column, size)],
        }
    }

    /// One sample: `image`, `[size, size, 3]` bytes, changed by the choices of (seed, epoch,
    /// sample) and normalised into `out`, `[size, size, 3]`.
    ///
    /// The order is torchvision's usual one: flip, crop, rotate, normalise; the cutout follows at
    /// the end.
    ///
    /// # Panics
    /// If a length is wrong.
    pub fn apply(
        &self,
        image: &[u8],
        size: usize,
        address: SampleAddress,
        normalisation: &Normalisation,
        scratch: &mut Scratch,
        out: &mut [f32],
    ) {
        assert_eq!(image.len(), size * size * 3, "augmentation: image is not [{size}, {size}, 3]");
        assert_eq!(out.len(), image.len(), "augmentation: output is not [{size}, {size}, 3]");
        if *self == Augmentation::NONE {
            return normalisation.apply(image, out);
        }
        let choice = self.choose(size, address);
        if self.rotation_degrees > 0.0 {
            self.rotate(image, size, &choice, normalisation, scratch, out);
        } else {
            self.shift(image, size, &choice, normalisation, out);
        }
        if self.cutout > 0 {
            // The mean colour is 0 once normalised.
            let range = |centre: usize| {
                let start = centre as isize - self.cutout as isize / 2;
                let end = start + self.cutout as isize;
                start.max(0) as usize..(end.max(0) as usize).min(size)
            };
            let columns = range(choice.hole[1]);
            for y in range(choice.hole[0]) {
                out[(y * size + columns.start) * 3..(y * size + columns.end) * 3].fill(0.0);
            }
        }
    }

    /// Input row or column that padding puts at `i`, which may lie outside `0..size`; none: black.
    #[inline(always)]
    fn source(&self, i: isize, size: usize) -> Option<usize> {
        let last = size as isize - 1;
        match self.padding {
            Padding::Zero => (0..=last).contains(&i).then_some(i as usize),
            Padding::Reflect => Some(if i < 0 { -i } else { last - (last - i).abs() } as usize),
        }
    }

    /// Calls `put(position, pixel)` for each output pixel that is not black padding, after flip
    /// and crop.
    #[inline(always)]
    fn each_pixel(
        &self,
        image: &[u8],
        size: usize,
        choice: &Choice,
        mut put: impl FnMut(usize, &[u8; 3]),
    ) {
        let pixels = image.as_chunks::<3>().0;
        let [dy, dx] = choice.offset;
        for y in 0..size {
            let Some(from_y) = self.source(y as isize + dy, size) else { continue };
            let row = &pixels[from_y * size..][..size];
            // The columns that lie inside need no test; those beyond the edge are few.
            let start = (-dx).max(0) as usize;
            let end = (size as isize - dx).min(size as isize) as usize;
            let at = (start as isize + dx) as usize;
            let count = end - start;
            if choice.flip {
                let inside = row[size - at - count..size - at].iter().rev();
                inside.enumerate().for_each(|(i, p)| put(y * size + start + i, p));
            } else {
                let inside = row[at..at + count].iter();
                inside.enumerate().for_each(|(i, p)| put(y * size + start + i, p));
            }
            if self.padding == Padding::Reflect {
                for x in (0..start).chain(end..size) {
                    if let Some(from_x) = self.source(x as isize + dx, size) {
                        let from_x = if choice.flip { size - 1 - from_x } else { from_x };
                        put(y * size + x, &row[from_x]);
                    }
                }
            }
        }
    }

    /// Flip and crop only: bytes go through the table, so every value is exact.
    fn shift(
        &self,
        image: &[u8],
        size: usize,
        choice: &Choice,
        normalisation: &Normalisation,
        out: &mut [f32],
    ) {
        let out = out.as_chunks_mut::<3>().0;
        if self.padding == Padding::Zero && choice.offset != [0, 0] {
            out.fill(normalisation.pixel(&[0; 3]));
        }
        self.each_pixel(image, size, choice, |at, pixel| out[at] = normalisation.pixel(pixel));
    }

    /// Flip and crop, then rotate by inverse mapping: output (y, x) is the input at (c + sin a ·
    /// (x - c) + cos a · (y - c), c + cos a · (x - c) - sin a · (y - c)), c = (size - 1) / 2.
    fn rotate(
        &self,
        image: &[u8],
        size: usize,
        choice: &Choice,
        normalisation: &Normalisation,
        scratch: &mut Scratch,
        out: &mut [f32],
    ) {
        // Two black pixels all round: coordinates clamped to -1..=size then need no further test.
        let stride = size + 4;
        scratch.padded.clear();
        scratch.padded.resize(stride * stride * 4, 0.0);
        let padded = scratch.padded.as_chunks_mut::<4>().0;
        self.each_pixel(image, size, choice, |at, pixel| {
            let (y, x) = (at / size, at % size);
            let [r, g, b] = pixel.map(f32::from);
            padded[(y + 2) * stride + x + 2] = [r, g, b, 0.0];
        });
        let (sin, cos) = choice.angle.sin_cos();
        let centre = (size as f32 - 1.0) / 2.0;
        let limit = size as f32;
        let (scale, shift) = (normalisation.scale, normalisation.shift);
        let out = out.as_chunks_mut::<3>().0;
        for (y, row) in out.chunks_exact_mut(size).enumerate() {
            let v = y as f32 - centre;
            for (x, out) in row.iter_mut().enumerate() {
                let u = x as f32 - centre;
                let from_x = (centre + cos * u - sin * v).clamp(-1.0, limit) + 2.0;
                let from_y = (centre + sin * u + cos * v).clamp(-1.0, limit) + 2.0;
                // Positive, so that truncation is floor; at most size + 2, so that one more stays
                // in the border.
                let (ix, iy) = (from_x as usize, from_y as usize);
                let (fx, fy) = (from_x - ix as f32, from_y - iy as f32);
                let at = iy * stride + ix;
                let (p00, p01) = (padded[at], padded[at + 1]);
                let (p10, p11) = (padded[at + stride], padded[at + stride + 1]);
                for c in 0..3 {
                    let top = p00[c] + fx * (p01[c] - p00[c]);
                    let bottom = p10[c] + fx * (p11[c] - p10[c]);
                    out[c] = (top + fy * (bottom - top)) * scale[c] + shift[c];
                }
            }
        }
    }
}

/// How the samples of a batch are mixed with one another; the targets become soft.
///
/// With both kinds on, each batch gets one of them, with probability 1/2.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Mixing {
    /// MixUp (Zhang et al. 2018): x = λ a + (1 - λ) b with λ from Beta(alpha, alpha); 0: off.
    pub mixup_alpha: f32,
    /// CutMix (Yun et al. 2019): a rectangle of b, whose share is 1 - λ, is put into a; 0: off.
    pub cutmix_alpha: f32,
}

impl Mixing {
    /// Whether anything is mixed at all.
    pub fn is_on(&self) -> bool {
        self.mixup_alpha > 0.0 || self.cutmix_alpha > 0.0
    }

    /// Says in one line what makes no sense.
    pub fn check(&self) -> Result<(), String> {
        for (name, alpha) in
            [("mixup_alpha", self.mixup_alpha), ("cutmix_alpha", self.cutmix_alpha)]
        {
            if !(0.0..=100.0).contains(&alpha) {
                return Err(format!("mixing: {name} is {alpha}, but must lie in 0..=100"));
            }
        }
        Ok(())
    }

    /// Mixes a batch in place: `images`, `[n, size, size, 3]`, and `targets`, `[n, classes]`, rows
    /// that sum to 1. Of `address`, the sample is the number of the batch in its epoch.
    ///
    /// One λ a batch, as in both papers' code. Sample i is mixed with sample n - 1 - i: the batch
    /// is in random order already, and pairs can be mixed without a copy. The middle one of an odd
    /// batch stays as it is.
    pub fn apply(
        &self,
        images: &mut [f32],
        targets: &mut [f32],
        n: usize,
        size: usize,
        address: SampleAddress,
    ) {
        if !self.is_on() || n < 2 {
            return;
        }
        let SampleAddress { seed, epoch, sample } = address;
        // Samples count from 0; batches take the upper half of that word.
        let stream = Stream::new(seed, Purpose::Augment, epoch, 0x8000_0000 | sample);
        let mut draws = Draws { stream, next: 0 };
        let coin = draws.uniform() < 0.5;
        let (corner_y, corner_x) = (draws.uniform(), draws.uniform());
        let cutmix = self.cutmix_alpha > 0.0 && (self.mixup_alpha == 0.0 || coin);
        let alpha = if cutmix { self.cutmix_alpha } else { self.mixup_alpha };
        let mut lambda = draws.beta(alpha as f64) as f32;
        let (image_len, classes) = (images.len() / n, targets.len() / n);
        let cut = cutmix.then(|| {
            // A box of side sqrt(1 - λ), centred anywhere, clipped; λ becomes what is left outside
            // it.
            let half = (size as f32 * (1.0 - lambda).sqrt() / 2.0).round() as usize;
            let range = |u: f32| {
                let centre = (u * size as f32) as usize;
                centre.saturating_sub(half)..(centre + half).min(size)
            };
            let (rows, columns) = (range(corner_y), range(corner_x));
            lambda = 1.0 - (rows.len() * columns.len()) as f32 / (size * size) as f32;
            (rows, columns)
        });
        for i in 0..n / 2 {
            let (a, b) = pair(images, i, n - 1 - i, image_len);
            match &cut {
                None => blend(a, b, lambda),
                Some((rows, columns)) => {
                    for y in rows.clone() {
                        let span = (y * size + columns.start) * 3..(y * size + columns.end) * 3;
                        a[span.clone()].swap_with_slice(&mut b[span]);
                    }
                }
            }
            let (a, b) = pair(targets, i, n - 1 - i, classes);
            blend(a, b, lambda);
        }
    }
}

/// Rows `i` < `j` of `x`, each of `len` values.
fn pair(x: &mut [f32], i: usize, j: usize, len: usize) -> (&mut [f32], &mut [f32]) {
    let (head, tail) = x.split_at_mut(j * len);
    (&mut head[i * len..(i + 1) * len], &mut tail[..len])
}

/// (a, b) becomes (λ a + (1 - λ) b, λ b + (1 - λ) a).
fn blend(a: &mut [f32], b: &mut [f32], lambda: f32) {
    for (a, b) in a.iter_mut().zip(b) {
        (*a, *b) = (lambda * *a + (1.0 - lambda) * *b, lambda * *b + (1.0 - lambda) * *a);
    }
}

/// Reads a stream number by number, for samplers that need an unknown count of them.
struct Draws {
    stream: Stream,
    next: u64,
}

impl Draws {
    fn uniform(&mut self) -> f32 {
        self.next += 1;
        self.stream.uniform(self.next - 1)
    }

    /// Uniform in (0, 1), in f64.
    fn open(&mut self) -> f64 {
        self.next += 1;
        (self.stream.word(self.next - 1) as f64 + 0.5) / 4294967296.0
    }

    /// Beta(alpha, alpha) as X / (X + Y) of two gamma variables.
    fn beta(&mut self, alpha: f64) -> f64 {
        let (x, y) = (self.log_gamma_variable(alpha), self.log_gamma_variable(alpha));
        // In logarithms: for small alpha both variables may underflow.
        1.0 / (1.0 + (y - x).exp())
    }

    /// The logarithm of a Gamma(alpha, 1) variable, by Marsaglia and Tsang, "A Simple Method for
    /// Generating Gamma Variables" (2000); below 1 by their boost, Gamma(alpha) = Gamma(alpha + 1)
    /// U^(1 / alpha).
    fn log_gamma_variable(&mut self, alpha: f64) -> f64 {
        if alpha < 1.0 {
            let boost = self.open().ln() / alpha;
            return self.log_gamma_variable(alpha + 1.0) + boost;
        }
        let d = alpha - 1.0 / 3.0;
        let c = 1.0 / (9.0 * d).sqrt();
        loop {
            let radius = (-2.0 * self.open().ln()).sqrt();
            let x = radius * (std::f64::consts::TAU * self.open()).cos();
            let v = (1.0 + c * x).powi(3);
            if v > 0.0 && self.open().ln() < 0.5 * x * x + d - d * v + d * v.ln() {
                return d.ln() + v.ln();
            }
        }
    }
}

/// Where the random numbers of a sample come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SampleAddress {
    /// The run's seed.
    pub seed: u64,
    /// From 0.
    pub epoch: u32,
    /// Index of the sample in the data set.
    pub sample: u32,
}

impl SampleAddress {
    /// The words of this sample in `epoch`.
    fn stream(self, epoch: u32) -> Stream {
        Stream::new(self.seed, Purpose::Augment, epoch, self.sample)
    }
}
