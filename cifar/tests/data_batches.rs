//! Batches: what augmentation does to images, and that contents depend on (seed, epoch, sample)
//! only.

use std::sync::Arc;

use tilegrad_cifar::augment::{
    Augmentation, Mixing, Normalisation, Padding, SampleAddress, Scratch,
};
use tilegrad_cifar::data::{Dataset, ImageBuffer, Split, binary, synthetic};
use tilegrad_cifar::loader::{Loader, LoaderOptions};

const MEAN: [f32; 3] = [0.49, 0.48, 0.45];
const STD: [f32; 3] = [0.25, 0.24, 0.26];

const EVERYTHING: Augmentation = Augmentation {
    flip: true,
    alternating_flip: false,
    crop_padding: 4,
    padding: Padding::Zero,
    rotation_degrees: 15.0,
    cutout: 8,
};

fn options(workers: usize) -> LoaderOptions {
    LoaderOptions {
        batch: 7,
        seed: 42,
        shuffle: true,
        augmentation: Some(EVERYTHING),
        mean: MEAN,
        std: STD,
        workers,
        mixing: Some(Mixing { mixup_alpha: 0.4, cutmix_alpha: 1.0 }),
    }
}

fn data(n: usize) -> Arc<Dataset> {
    Arc::new(synthetic::generate(n, 0, 3).0)
}

/// Everything in a batch, comparable bit for bit.
type Contents = (Vec<u32>, Vec<i32>, Vec<u32>, Option<Vec<u32>>, usize);

fn epoch(loader: &Loader, epoch: u32, start: usize) -> Vec<Contents> {
    let bits = |v: &Vec<f32>| v.iter().map(|x| x.to_bits()).collect::<Vec<u32>>();
    loader
        .epoch(epoch, start)
        .map(|b| {
            let b = b.unwrap();
            let soft = b.soft_targets.as_ref().map(bits);
            (bits(&b.images), b.labels.clone(), b.indices.clone(), soft, b.size)
        })
        .collect()
}

#[test]
fn workers_and_starting_points_change_nothing() {
    let data = data(100);
    let expected = epoch(&Loader::new(data.clone(), options(0)).unwrap(), 5, 0);
    assert_eq!(expected.len(), 15);
    assert_eq!(expected[14].4, 2);
    for workers in [1, 2, 5, 40] {
        let loader = Loader::new(data.clone(), options(workers)).unwrap();
        assert!(epoch(&loader, 5, 0) == expected, "{workers} workers");
        // A second pass runs on buffers of the first.
        assert!(epoch(&loader, 5, 0) == expected, "{workers} workers, again");
        for start in [1, 9, 14, 15, 99] {
            let rest = epoch(&loader, 5, start);
            assert!(rest[..] == expected[start.min(15)..], "{workers} workers from {start}");
        }
        assert!(epoch(&loader, 6, 0) != expected);
    }
    let other = LoaderOptions { seed: 43, ..options(0) };
    assert!(epoch(&Loader::new(data, other).unwrap(), 5, 0) != expected);
}

/// Images in files, read for each batch, give the batches that images in memory give.
#[test]
fn where_the_images_lie_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (drawn, test) = synthetic::generate(100, 10, 3);
    binary::write(dir.path(), &drawn, &test).unwrap();
    let expected = epoch(&Loader::new(Arc::new(drawn), options(0)).unwrap(), 5, 0);
    let files = Arc::new(Dataset::load(dir.path(), Split::Train).unwrap());
    for workers in [0, 1, 3] {
        let loader = Loader::new(files.clone(), options(workers)).unwrap();
        assert!(epoch(&loader, 5, 0) == expected, "{workers} workers");
    }
}

#[test]
fn a_file_that_changes_while_in_use_is_an_error_with_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let (drawn, test) = synthetic::generate(100, 10, 3);
    binary::write(dir.path(), &drawn, &test).unwrap();
    let path = dir.path().join("data_batch_4.bin");
    let good = std::fs::read(&path).unwrap();
    let mut other = good.clone();
    other[3073 * 11] ^= 1;
    for (contents, says) in [
        (&good[..3073 * 7 + 5], "was cut short while in use: record 7 ends at byte 24584, but"),
        (&other[..], "was changed while in use: record 11 had label 1, and now 0"),
    ] {
        let set = Arc::new(Dataset::load(dir.path(), Split::Train).unwrap());
        // In place: the set keeps its files open.
        std::fs::write(&path, contents).unwrap();
        for workers in [0, 2] {
            let options = LoaderOptions { workers, ..LoaderOptions::evaluation(8, MEAN, STD, 0) };
            let loader = Loader::new(set.clone(), options).unwrap();
            let first_bad = loader.epoch(0, 0).find_map(Result::err).unwrap();
            let text = format!("{first_bad:#}");
            assert!(text.contains("data_batch_4.bin") && text.contains(says), "{text}");
        }
        std::fs::write(&path, &good).unwrap();
    }
    // A set that is replaced by renaming is read to its end as it was.
    let set = Dataset::load(dir.path(), Split::Train).unwrap();
    let before = set.fingerprint().unwrap();
    std::fs::rename(&path, dir.path().join("elsewhere")).unwrap();
    std::fs::write(&path, &other).unwrap();
    assert_eq!(set.fingerprint().unwrap(), before);
}

#[test]
fn an_epoch_has_every_sample_once() {
    let data = data(50);
    let loader = Loader::new(data.clone(), options(2)).unwrap();
    let mut seen: Vec<u32> = loader.epoch(0, 0).flat_map(|b| b.unwrap().indices.clone()).collect();
    assert_ne!(seen[..10], (0..10).collect::<Vec<u32>>()[..]);
    seen.sort_unstable();
    assert_eq!(seen, (0..50).collect::<Vec<u32>>());

    assert_eq!((loader.batches(), loader.samples(), loader.epoch(0, 0).len()), (8, 50, 8));

    let plain = Loader::new(data.clone(), LoaderOptions::evaluation(8, MEAN, STD, 1)).unwrap();
    let first = plain.epoch(0, 0).next().unwrap().unwrap();
    assert_eq!(first.indices, (0..8).collect::<Vec<u32>>());
    assert_eq!(first.labels, (0..8).collect::<Vec<i32>>());
    assert!(first.soft_targets.is_none());
    let bytes = (0..8).flat_map(|i| data.image(i, &mut ImageBuffer::default()).unwrap().to_vec());
    for (i, (x, byte)) in first.images.iter().zip(bytes).enumerate() {
        let expected = (byte as f32 / 255.0 - MEAN[i % 3]) / STD[i % 3];
        assert!((x - expected).abs() < 1e-5);
    }
}

#[test]
fn batches_may_be_kept_and_epochs_left_early() {
    let loader = Loader::new(data(100), options(3)).unwrap();
    let kept: Vec<_> = loader.epoch(0, 0).collect();
    assert_eq!(kept.len(), 15);
    for taken in [0, 1, 4] {
        // Dropping the rest must neither hang nor leave threads that keep the loader alive.
        assert_eq!(loader.epoch(1, 0).take(taken).count(), taken);
    }
    assert_eq!(Arc::strong_count(loader.dataset()), 1, "a worker is left");
}

#[test]
fn impossible_options_are_refused() {
    let refused = |data: Arc<Dataset>, options: LoaderOptions, part: &str| {
        let text = format!("{:#}", Loader::new(data, options).unwrap_err());
        assert!(text.contains(part) && !text.contains('\n'), "{text}");
    };
    let with = |augmentation| LoaderOptions { augmentation: Some(augmentation), ..options(0) };
    refused(data(0), options(0), "no images");
    refused(data(5), LoaderOptions { batch: 0, ..options(0) }, "batch size is 0");
    refused(data(5), LoaderOptions { std: [0.0; 3], ..options(0) }, "std");
    refused(data(5), with(Augmentation { crop_padding: 17, ..EVERYTHING }), "crop_padding is 17");
    refused(data(5), with(Augmentation { rotation_degrees: -1.0, ..EVERYTHING }), "degrees is -1");
    refused(data(5), with(Augmentation { cutout: 33, ..EVERYTHING }), "cutout is 33");
    let mixing = Some(Mixing { mixup_alpha: f32::NAN, cutmix_alpha: 0.0 });
    refused(data(5), LoaderOptions { mixing, ..options(0) }, "mixup_alpha is NaN");
}

fn apply(augmentation: &Augmentation, image: &[u8], size: usize, sample: u32) -> Vec<f32> {
    let mut out = vec![f32::NAN; image.len()];
    let address = SampleAddress { seed: 1, epoch: 2, sample };
    let normalisation = Normalisation::new([0.0; 3], [1.0 / 255.0; 3]);
    let mut scratch = Scratch::default();
    augmentation.apply(image, size, address, &normalisation, &mut scratch, &mut out);
    out
}

/// Flip, pad and crop by their definition: output (y, x) is padded (y + oy, x + ox).
fn flip_pad_crop(
    image: &[u8],
    size: usize,
    (flip, oy, ox): (bool, usize, usize),
    pad: usize,
    padding: Padding,
) -> Vec<f32> {
    let n = size as isize;
    let mirror = |i: isize| {
        if i < 0 {
            -i
        } else if i >= n {
            2 * (n - 1) - i
        } else {
            i
        }
    };
    let mut out = Vec::new();
    for y in 0..size {
        for x in 0..size {
            let (mut py, mut px) =
                ((y + oy) as isize - pad as isize, (x + ox) as isize - pad as isize);
            let inside = (0..n).contains(&py) && (0..n).contains(&px);
            if padding == Padding::Reflect {
                (py, px) = (mirror(py), mirror(px));
            }
            for c in 0..3 {
                let black = !inside && padding == Padding::Zero;
                let column = if flip { n - 1 - px } else { px };
                out.push(if black {
                    0.0
                } else {
                    image[((py * n + column) * 3) as usize + c] as f32
                });
            }
        }
    }
    out
}

#[test]
fn flip_and_crop_are_exact_and_use_every_choice() {
    let (size, pad) = (9, 2);
    // Every pixel and channel has a value of its own.
    let image: Vec<u8> = (0..size * size * 3).map(|i| 1 + i as u8).collect();
    let every: Vec<_> = [false, true]
        .into_iter()
        .flat_map(|f| (0..=2 * pad).flat_map(move |y| (0..=2 * pad).map(move |x| (f, y, x))))
        .collect();
    for padding in [Padding::Zero, Padding::Reflect] {
        let augmentation =
            Augmentation { flip: true, crop_padding: pad, padding, ..Augmentation::NONE };
        let mut counts = vec![0; every.len()];
        for sample in 0..1000 {
            let got = apply(&augmentation, &image, size, sample);
            let matching = |k: &usize| {
                let expected = flip_pad_crop(&image, size, every[*k], pad, padding);
                got.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-3)
            };
            let found: Vec<usize> = (0..every.len()).filter(matching).collect();
            assert_eq!(found.len(), 1, "{padding:?}, sample {sample}");
            counts[found[0]] += 1;
        }
        // 1,000 draws over 50 choices: 20 each, with a deviation of 4.4.
        assert!(counts.iter().all(|n| (3..=40).contains(n)), "{padding:?}: {counts:?}");
    }
}

#[test]
fn an_alternating_flip_shows_the_other_side_each_epoch() {
    let (size, samples) = (9, 200);
    let image: Vec<u8> = (0..size * size * 3).map(|i| 1 + i as u8).collect();
    let random = Augmentation { flip: true, ..Augmentation::NONE };
    let alternating = Augmentation { alternating_flip: true, ..random };
    let normalisation = Normalisation::new([0.0; 3], [1.0; 3]);
    let mut out = vec![0.0; image.len()];
    let mut mirrored = |augmentation: &Augmentation, epoch, sample| {
        let address = SampleAddress { seed: 11, epoch, sample };
        let scratch = &mut Scratch::default();
        augmentation.apply(&image, size, address, &normalisation, scratch, &mut out);
        // The first pixel is the darkest of its row.
        out[0] > out[3]
    };
    let mut count = 0;
    for sample in 0..samples {
        let first = mirrored(&alternating, 0, sample);
        assert_eq!(first, mirrored(&random, 0, sample));
        count += u32::from(first);
        for epoch in 1..5 {
            assert_eq!(mirrored(&alternating, epoch, sample), first != (epoch % 2 == 1));
        }
    }
    assert!((70..=130).contains(&count), "{count} of {samples}");
}

#[test]
fn switching_one_change_on_leaves_the_others() {
    let image: Vec<u8> = (0..32 * 32 * 3).map(|i| (i % 251) as u8).collect();
    let flip = Augmentation { flip: true, ..Augmentation::NONE };
    let with_hole = Augmentation { cutout: 6, ..flip };
    for sample in 0..20 {
        let (a, b) = (apply(&flip, &image, 32, sample), apply(&with_hole, &image, 32, sample));
        let holes = a.iter().zip(&b).filter(|(a, b)| a != b && **b == 0.0).count();
        let equal = a.iter().zip(&b).filter(|(a, b)| a == b).count();
        assert_eq!(holes + equal, a.len());
        // The square may be cut off by the edges, at most by half a side each way.
        assert!((3 * 3 * 3 - 9..=6 * 6 * 3).contains(&holes), "{holes}");
    }
}

#[test]
fn rotation_moves_what_it_should() {
    // A disc in the middle of nothing looks the same at any angle.
    let size = 31;
    let disc: Vec<u8> = (0..size * size)
        .flat_map(|i| {
            let (y, x) = ((i / size) as f32 - 15.0, (i % size) as f32 - 15.0);
            [(255.0 * (1.0 - (x * x + y * y).sqrt() / 14.0).clamp(0.0, 1.0)) as u8; 3]
        })
        .collect();
    let rotation = Augmentation { rotation_degrees: 180.0, ..Augmentation::NONE };
    let mut tip_seen = [false; 4];
    for sample in 0..60 {
        let got = apply(&rotation, &disc, size, sample);
        for (a, b) in got.iter().zip(&disc) {
            assert!((a - *b as f32).abs() < 8.0, "{a} {b}");
        }
        // A mark right of the middle keeps its distance.
        let mut mark = vec![0; size * size * 3];
        for c in 0..3 {
            mark[(15 * size + 25) * 3 + c] = 255;
        }
        let got = apply(&rotation, &mark, size, sample);
        let (mut mass, mut y, mut x) = (0.0, 0.0, 0.0);
        for (i, pixel) in got.as_chunks::<3>().0.iter().enumerate() {
            mass += pixel[0];
            y += pixel[0] * (i / size) as f32;
            x += pixel[0] * (i % size) as f32;
        }
        let (y, x) = (y / mass - 15.0, x / mass - 15.0);
        assert!(((x * x + y * y).sqrt() - 10.0).abs() < 0.4, "{x} {y}");
        tip_seen[(x > 0.0) as usize + 2 * (y > 0.0) as usize] = true;
    }
    assert_eq!(tip_seen, [true; 4]);
    // Within 15 degrees, corners turn black where they come from outside.
    let white = vec![255; size * size * 3];
    let small = Augmentation { rotation_degrees: 15.0, ..Augmentation::NONE };
    let got = apply(&small, &white, size, 0);
    assert!(got.iter().all(|v| (-1e-3..=255.001).contains(v)));
    assert!(got[0] < 250.0 && (got[(15 * size + 15) * 3] - 255.0).abs() < 1e-3);
}

#[test]
fn mixing_keeps_what_it_mixes() {
    let (n, size, classes) = (6, 8, 4);
    let plain: Vec<f32> = (0..n * size * size * 3).map(|i| i as f32).collect();
    let image = |images: &[f32], i: usize| images[i * 192..(i + 1) * 192].to_vec();
    let mut shares = Vec::new();
    for batch in 0..400 {
        let cutmix = batch % 2 == 1;
        let mixing = if cutmix {
            Mixing { mixup_alpha: 0.0, cutmix_alpha: 1.0 }
        } else {
            Mixing { mixup_alpha: 0.5, cutmix_alpha: 0.0 }
        };
        let mut images = plain.clone();
        let mut targets = vec![0.0; n * classes];
        // Classes 0, 1, 2 against 3, so that a target shows the share of each image.
        for i in 0..n {
            targets[i * classes + if i < 3 { i } else { 3 }] = 1.0;
        }
        let address = SampleAddress { seed: 9, epoch: 1, sample: batch };
        mixing.apply(&mut images, &mut targets, n, size, address);
        for i in 0..3 {
            let row = &targets[i * classes..(i + 1) * classes];
            assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-6);
            let share = row[i];
            let (a, b) = (image(&plain, i), image(&plain, n - 1 - i));
            let mixed = image(&images, i);
            if cutmix {
                let from_a = mixed.iter().zip(&a).filter(|(m, a)| m == a).count();
                let from_b = mixed.iter().zip(&b).filter(|(m, b)| m == b).count();
                assert_eq!(from_a + from_b, 192);
                assert!((share - from_a as f32 / 192.0).abs() < 1e-5);
            } else {
                for ((m, a), b) in mixed.iter().zip(&a).zip(&b) {
                    assert!((m - (share * a + (1.0 - share) * b)).abs() < 1e-2);
                }
                if i == 0 {
                    shares.push(share as f64);
                }
            }
        }
    }
    // Beta(1/2, 1/2) has mean 1/2 and variance 1 / (4 (2 alpha + 1)) = 1/8.
    let mean = shares.iter().sum::<f64>() / shares.len() as f64;
    let variance = shares.iter().map(|s| (s - mean).powi(2)).sum::<f64>() / shares.len() as f64;
    assert!((mean - 0.5).abs() < 0.08 && (variance - 0.125).abs() < 0.025, "{mean} {variance}");
}
