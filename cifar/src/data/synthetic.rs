//! A data set drawn from a seed: ten kinds of figures and textures on 32x32 colour images.
//!
//! Position, size, angle, colours and polarity are random, and lines and specks clutter the
//! picture. So no pixel alone says anything of the class, and a linear model learns next to
//! nothing, while a small convolutional network learns it well.

use std::f32::consts::PI;

use tilegrad_kernels::philox::{Purpose, Stream};

use super::{Dataset, Images};

/// Training images, unless another number is asked for.
pub const TRAIN_IMAGES: usize = 10_000;
/// Test images, unless another number is asked for.
pub const TEST_IMAGES: usize = 2_000;
/// Width and height of the images.
pub const SIZE: usize = 32;
/// Names of the classes, in the order of their labels.
pub const CLASSES: [&str; 10] = [
    "disc",
    "ring",
    "square",
    "frame",
    "triangle",
    "cross",
    "h-stripes",
    "v-stripes",
    "checker",
    "dots",
];

/// Draws `n_train` and `n_test` images. Image i of a split depends only on (seed, split, i), and
/// has label i mod 10.
pub fn generate(n_train: usize, n_test: usize, seed: u64) -> (Dataset, Dataset) {
    let draw = |n: usize, split: u32| {
        let mut images = vec![0; n * SIZE * SIZE * 3];
        for (i, image) in images.chunks_exact_mut(SIZE * SIZE * 3).enumerate() {
            draw_image(
                i % CLASSES.len(),
                Stream::new(seed, Purpose::Synthetic, split, i as u32),
                image,
            );
        }
        Dataset {
            images: Images::Memory(images),
            labels: (0..n).map(|i| (i % CLASSES.len()) as u16).collect(),
            classes: CLASSES.map(String::from).to_vec(),
            size: SIZE,
        }
    };
    (draw(n_train, 0), draw(n_test, 1))
}

/// Random numbers one after another.
struct Draws {
    stream: Stream,
    next: u64,
}

impl Draws {
    /// Uniform in `low..high`.
    fn range(&mut self, low: f32, high: f32) -> f32 {
        self.next += 1;
        low + (high - low) * self.stream.uniform(self.next - 1)
    }

    /// 1 or -1.
    fn sign(&mut self) -> f32 {
        self.range(-1.0, 1.0).signum()
    }

    fn colour(&mut self, low: f32, high: f32) -> [f32; 3] {
        [self.range(low, high), self.range(low, high), self.range(low, high)]
    }
}

/// Sine and cosine of an angle in -π..=π, by their Taylor series. The standard library's may
/// differ in the last bit from machine to machine, and these images must not.
fn sin_cos(angle: f32) -> (f32, f32) {
    let x = angle as f64;
    let (mut sin, mut cos, mut term) = (0.0, 0.0, 1.0);
    for n in 0..24 {
        match n % 4 {
            0 => cos += term,
            1 => sin += term,
            2 => cos -= term,
            _ => sin -= term,
        }
        term *= x / (n + 1) as f64;
    }
    (sin as f32, cos as f32)
}

/// A figure: where it is, and what it looks like there.
struct Figure {
    class: usize,
    centre: [f32; 2],
    /// Half its width, in pixels.
    radius: f32,
    sin: f32,
    cos: f32,
    /// Thickness of lines, as a part of the radius.
    thickness: f32,
    /// Pixels from stripe to stripe, and where the first one is.
    period: f32,
    phase: [f32; 2],
    /// Whether a texture's patch is round.
    round: bool,
}

impl Figure {
    fn new(class: usize, draws: &mut Draws) -> Self {
        let texture = class >= 6;
        let radius = if texture { draws.range(9.0, 12.0) } else { draws.range(8.0, 11.5) };
        let room = SIZE as f32 - 2.0 * radius;
        let centre = [radius + room * draws.range(0.0, 1.0), radius + room * draws.range(0.0, 1.0)];
        // Squares and stripes stay near their axes, so that stripes keep their name; the others
        // turn freely.
        let turn = draws.range(-1.0, 1.0);
        let angle = turn * if matches!(class, 4 | 5) { PI } else { 0.2 };
        let (sin, cos) = sin_cos(angle);
        Figure {
            class,
            centre,
            radius,
            sin,
            cos,
            thickness: draws.range(0.28, 0.42),
            period: draws.range(4.6, 7.0),
            phase: [draws.range(0.0, 1.0), draws.range(0.0, 1.0)],
            round: draws.range(0.0, 1.0) < 0.5,
        }
    }

    /// How much of the pixel at (x, y) the figure covers, 0 to 1. Shapes are signed distances
    /// (negative inside), which a ramp of one pixel turns into coverage.
    fn coverage(&self, x: f32, y: f32) -> f32 {
        let (dx, dy) = (x - self.centre[0], y - self.centre[1]);
        let (u, v) = (self.cos * dx + self.sin * dy, self.cos * dy - self.sin * dx);
        let (r, t) = (self.radius, self.thickness * self.radius);
        let disc = |r: f32| (u * u + v * v).sqrt() - r;
        let square = |r: f32| u.abs().max(v.abs()) - r;
        // A square of the same area as a disc, so that size tells them apart as little as
        // possible.
        let side = 0.886 * r;
        let distance = match self.class {
            0 => disc(r),
            1 => disc(r).max(-disc(r - t)),
            2 => square(side),
            3 => square(side).max(-square(side - t)),
            4 => {
                // Distances to the three sides of an equilateral triangle.
                let (a, b) = (0.866_025_4 * u, 0.5 * v);
                v.max(-b + a).max(-b - a) - 0.55 * r
            }
            5 => {
                let bar = |a: f32, b: f32| (a.abs() - r).max(b.abs() - 0.7 * t);
                bar(u, v).min(bar(v, u))
            }
            _ => {
                let patch = if self.round { disc(r) } else { square(side) };
                patch.max(self.texture(u, v))
            }
        };
        (0.5 - distance).clamp(0.0, 1.0)
    }

    /// Signed distance to a periodic pattern.
    fn texture(&self, u: f32, v: f32) -> f32 {
        // Distance from the middle of a stripe, less its half width.
        let stripe = |a: f32, phase: f32, period: f32| {
            let part = (a / period + phase).rem_euclid(1.0);
            ((part - 0.5).abs() - 0.25) * period
        };
        match self.class {
            6 => stripe(v, self.phase[1], self.period),
            7 => stripe(u, self.phase[0], self.period),
            8 => {
                let period = 1.5 * self.period;
                let (a, b) = (stripe(u, self.phase[0], period), stripe(v, self.phase[1], period));
                // Inside where exactly one of the two is.
                a.max(-b).min(b.max(-a))
            }
            _ => {
                let period = self.period;
                let cell =
                    |a: f32, phase: f32| ((a / period + phase).rem_euclid(1.0) - 0.5) * period;
                let (a, b) = (cell(u, self.phase[0]), cell(v, self.phase[1]));
                (a * a + b * b).sqrt() - 0.32 * period
            }
        }
    }
}

/// A line or speck that means nothing.
struct Clutter {
    from: [f32; 2],
    to: [f32; 2],
    half_width: f32,
    colour: [f32; 3],
}

impl Clutter {
    fn new(draws: &mut Draws) -> Self {
        let size = SIZE as f32;
        let from = [draws.range(0.0, size), draws.range(0.0, size)];
        let length = draws.range(0.0, 10.0);
        let (sin, cos) = sin_cos(draws.range(-PI, PI));
        let to = [from[0] + length * cos, from[1] + length * sin];
        Clutter { from, to, half_width: draws.range(0.4, 1.1), colour: draws.colour(0.0, 255.0) }
    }

    fn coverage(&self, x: f32, y: f32) -> f32 {
        let along = [self.to[0] - self.from[0], self.to[1] - self.from[1]];
        let (dx, dy) = (x - self.from[0], y - self.from[1]);
        let square = along[0] * along[0] + along[1] * along[1];
        let part = ((dx * along[0] + dy * along[1]) / square.max(1e-6)).clamp(0.0, 1.0);
        let (a, b) = (dx - part * along[0], dy - part * along[1]);
        (0.5 + self.half_width - (a * a + b * b).sqrt()).clamp(0.0, 1.0)
    }
}

/// Draws an image of `class` into `image`, `[SIZE, SIZE, 3]`.
fn draw_image(class: usize, stream: Stream, image: &mut [u8]) {
    let mut draws = Draws { stream, next: 0 };
    let figure = Figure::new(class, &mut draws);
    let background = draws.colour(60.0, 195.0);
    let slope = [draws.colour(-1.2, 1.2), draws.colour(-1.2, 1.2)];
    // The figure is lighter or darker than the ground, by another amount in each channel.
    let polarity = draws.sign();
    let contrast = [0; 3].map(|_| polarity * draws.range(40.0, 90.0));
    let behind = [Clutter::new(&mut draws), Clutter::new(&mut draws)];
    let front = Clutter::new(&mut draws);
    let noise = draws.range(4.0, 12.0);
    for (i, pixel) in image.as_chunks_mut::<3>().0.iter_mut().enumerate() {
        let (x, y) = ((i % SIZE) as f32 + 0.5, (i / SIZE) as f32 + 0.5);
        let middle = SIZE as f32 / 2.0;
        let mut colour: [f32; 3] = std::array::from_fn(|c| {
            background[c] + slope[0][c] * (x - middle) + slope[1][c] * (y - middle)
        });
        let figure_colour: [f32; 3] = std::array::from_fn(|c| colour[c] + contrast[c]);
        for clutter in &behind {
            blend(&mut colour, &clutter.colour, clutter.coverage(x, y));
        }
        blend(&mut colour, &figure_colour, figure.coverage(x, y));
        blend(&mut colour, &front.colour, front.coverage(x, y));
        // Noise: a block a pixel, well beyond the few words that were drawn one by one.
        let words = stream.block(1024 + i as u32);
        for (c, value) in pixel.iter_mut().enumerate() {
            // The difference of the word's halves: a triangular distribution in -1..1.
            let half = (words[c] >> 16) as f32 - (words[c] & 0xffff) as f32;
            *value = (colour[c] + noise * half / 65536.0).round().clamp(0.0, 255.0) as u8;
        }
    }
}

fn blend(colour: &mut [f32; 3], over: &[f32; 3], coverage: f32) {
    for (c, &o) in colour.iter_mut().zip(over) {
        *c += coverage * (o - *c);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sine_and_cosine_are_right() {
        for i in -100..=100 {
            let angle = PI * i as f32 / 100.0;
            let ((s, c), (sin, cos)) = (sin_cos(angle), angle.sin_cos());
            assert!((s - sin).abs() < 1e-6 && (c - cos).abs() < 1e-6, "{angle}");
        }
    }

    fn pixels(set: Dataset) -> Vec<u8> {
        match set.images {
            Images::Memory(pixels) => pixels,
            Images::Files(_) => panic!("drawn images are in memory"),
        }
    }

    #[test]
    fn same_seed_same_images_whatever_the_count() {
        let (train, test) = generate(30, 20, 5);
        assert_eq!(train.class_counts(), vec![3; 10]);
        let (train, test) = (pixels(train), pixels(test));
        assert_eq!(pixels(generate(50, 0, 5).0)[..train.len()], train);
        assert_ne!(train[..SIZE * SIZE * 3], test[..SIZE * SIZE * 3], "splits must share nothing");
        assert_ne!(pixels(generate(30, 20, 6).0), train);
    }
}
