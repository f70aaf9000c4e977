//! The synthetic set must be beyond a linear model.

use tilegrad_cifar::augment::Normalisation;
use tilegrad_cifar::data::{Dataset, Images, Order, permutation, synthetic};

/// Accuracy on `test` of multinomial logistic regression, trained by SGD on `train`, the best of
/// several strengths of weight decay.
fn linear_accuracy(train: &Dataset, test: &Dataset, epochs: u32) -> f64 {
    let (mean, std) = train.mean_std().unwrap();
    let normalise = |set: &Dataset| {
        let Images::Memory(pixels) = &set.images else { panic!("drawn images are in memory") };
        let mut x = vec![0.0; pixels.len()];
        Normalisation::new(mean, std).apply(pixels, &mut x);
        x
    };
    let (x, x_test) = (normalise(train), normalise(test));
    let (d, classes) = (train.image_bytes(), train.classes.len());
    let scores = |weights: &[f32], x: &[f32]| -> Vec<f32> {
        let row = |w: &[f32]| {
            let parts = w.as_chunks::<16>().0.iter().zip(x.as_chunks::<16>().0);
            let mut sums = [0.0f32; 16];
            parts.for_each(|(w, x)| (0..16).for_each(|k| sums[k] += w[k] * x[k]));
            sums.iter().sum::<f32>()
        };
        weights.chunks_exact(d).map(row).collect()
    };
    let mut best = 0.0f64;
    for decay in [0.0, 0.03, 0.3] {
        let mut weights = vec![0.0f32; classes * d];
        for epoch in 0..epochs {
            let rate = 3e-4 * (1.0 - epoch as f32 / epochs as f32);
            for &i in &permutation(train.len(), 0, Order::Epoch, epoch) {
                let i = i as usize;
                let image = &x[i * d..(i + 1) * d];
                let z = scores(&weights, image);
                let top = z.iter().copied().fold(f32::MIN, f32::max);
                let sum: f32 = z.iter().map(|v| (v - top).exp()).sum();
                for (class, row) in weights.chunks_exact_mut(d).enumerate() {
                    let target = (class == train.labels[i] as usize) as u8 as f32;
                    let g = rate * ((z[class] - top).exp() / sum - target);
                    let keep = 1.0 - rate * decay;
                    row.iter_mut().zip(image).for_each(|(w, x)| *w = keep * *w - g * x);
                }
            }
            let hit = |i: &usize| {
                let z = scores(&weights, &x_test[i * d..(i + 1) * d]);
                let guess = (0..classes).max_by(|&a, &b| z[a].total_cmp(&z[b])).unwrap();
                guess == test.labels[*i] as usize
            };
            let hits = (0..test.len()).filter(hit).count();
            best = best.max(hits as f64 / test.len() as f64);
        }
    }
    best
}

#[test]
fn a_linear_model_stays_under_60_percent() {
    let (train, test) = synthetic::generate(3000, 1000, 0);
    let accuracy = linear_accuracy(&train, &test, 6);
    println!("linear model: {:.1} % of the test images", 100.0 * accuracy);
    assert!(accuracy < 0.60, "{accuracy}");
}

#[test]
fn the_linear_model_of_this_test_can_learn() {
    // The same images with a bright corner that gives the class away.
    let mark = |mut set: Dataset| {
        let bytes = set.image_bytes();
        let Images::Memory(pixels) = &mut set.images else { panic!("drawn images are in memory") };
        for (image, &label) in pixels.chunks_exact_mut(bytes).zip(&set.labels) {
            image[..32 * 3 * 2].fill(0);
            image[label as usize * 6..label as usize * 6 + 6].fill(255);
        }
        set
    };
    let (train, test) = synthetic::generate(1000, 300, 0);
    let accuracy = linear_accuracy(&mark(train), &mark(test), 6);
    assert!(accuracy > 0.9, "{accuracy}");
}

#[test]
fn the_images_are_pinned() {
    // Stored results rest on these very images. A change of the drawing must change this number,
    // knowingly.
    let (train, test) = synthetic::generate(200, 100, 0);
    assert_eq!(train.fingerprint().unwrap(), "aca8a12a9d29a8fe");
    assert_eq!(test.fingerprint().unwrap(), "001c5f00b9145ef1");
}
