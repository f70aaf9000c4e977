//! Folders and tars of image files become a data set.
//!
//! Where an image lies says what it is: `train/CLASS/x.jpg` and `test/CLASS/x.jpg`, or just
//! `CLASS/x.jpg`. Where there is no test folder, a part of each class is held out for the test. All
//! of it may lie inside further folders, the same for all images.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::Path;
use std::sync::mpsc::sync_channel;

use anyhow::{Context, Result, anyhow, bail, ensure};
use fast_image_resize as fir;
use image::{DynamicImage, ImageDecoder, ImageReader, Limits};
use indicatif::{ProgressBar, ProgressStyle};
use rayon::prelude::*;

use super::archive::{ImageFile, visit_images};
use super::{CIFAR10_CLASSES, Dataset, Images, Order, Split, manifest, permutation, stratified};

/// Part of each class that becomes the test set, when the source has none and none is asked for.
const TEST_FRACTION: f64 = 0.2;

/// Largest width and height of an image that is decoded.
const MAX_PIXELS: u32 = 16_384;

/// Memory that decoding one image may take.
const MAX_DECODED_BYTES: u64 = 512 << 20;

/// Images decoded at a time.
const CHUNK: usize = 1024;

/// How to import.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ImportOptions {
    /// Width and height of the images made, in pixels.
    pub size: usize,
    /// Part of each class that becomes the test set, for sources without a `test` folder.
    pub test_fraction: Option<f64>,
    /// Leave out images that cannot be read, instead of refusing them all.
    pub skip_bad: bool,
    /// Decides the order of the records, and which images are held out.
    pub seed: u64,
}

impl Default for ImportOptions {
    fn default() -> Self {
        ImportOptions { size: 32, test_fraction: None, skip_bad: false, seed: 0 }
    }
}

/// What an import made.
#[derive(Debug)]
pub struct Imported {
    /// Training images, in random order.
    pub train: Dataset,
    /// Test images, in random order.
    pub test: Dataset,
    /// Images left out because they cannot be read: path and reason.
    pub skipped: Vec<String>,
    /// Files that are no images by their name.
    pub others: usize,
}

/// An image that was read.
struct Item {
    path: String,
    pixels: Vec<u8>,
}

/// Reads all images of a folder or tar into memory, `[size, size, 3]` each.
///
/// Errors, one line each: no images, images outside class folders or at differing depths, images
/// that cannot be read (unless they shall be skipped), a class without training images, no image to
/// hold out for the test, a source that is neither folder nor tar.
pub fn import(source: &Path, options: &ImportOptions) -> Result<Imported> {
    let ImportOptions { size, test_fraction, skip_bad, seed } = *options;
    ensure!(
        (1..=manifest::MAX_SIZE).contains(&size),
        "import: size is {size}, but must lie in 1..={}",
        manifest::MAX_SIZE
    );
    if let Some(fraction) = test_fraction {
        ensure!(
            fraction > 0.0 && fraction < 1.0,
            "import: test fraction is {fraction}, but must lie between 0 and 1"
        );
    }
    let (mut items, bad, others) = read_images(source, size)?;
    let found = items.len() + bad.len();
    ensure!(
        found > 0,
        "{}: no JPEG or PNG images inside; expected train/CLASS/*.jpg and test/CLASS/*.jpg, or \
         CLASS/*.jpg",
        source.display()
    );
    if !bad.is_empty() && !skip_bad {
        let shown = bad[..bad.len().min(5)].join("; ");
        let more = if bad.len() > 5 { "; ..." } else { "" };
        bail!(
            "{}: {} of {found} images cannot be read: {shown}{more} -- repair or remove them, or \
             pass --skip-bad",
            source.display(),
            bad.len()
        );
    }
    ensure!(!items.is_empty(), "{}: none of the {found} images can be read", source.display());
    // A path that a tar has twice counts once, as its last entry.
    items.reverse();
    items.sort_by(|a, b| a.path.cmp(&b.path));
    items.dedup_by(|later, first| later.path == first.path);

    let places = items.iter().map(|item| place(&item.path)).collect::<Result<Vec<Place>>>();
    let places = places.with_context(|| format!("{}", source.display()))?;
    check_depths(&items, &places).with_context(|| format!("{}", source.display()))?;
    let names: Vec<&str> = places.iter().map(|p| p.class).collect();
    let (classes, labels) = label(&names);
    ensure!(classes.len() <= 65536, "{}: more than 65536 classes", source.display());
    let has_test = places.iter().any(|p| p.split == Some(Split::Test));
    ensure!(
        !(has_test && test_fraction.is_some()),
        "{}: has a 'test' folder, so that --test-fraction has no use",
        source.display()
    );
    let held_out = if has_test {
        places.iter().map(|p| p.split == Some(Split::Test)).collect()
    } else {
        stratified(&labels, classes.len(), test_fraction.unwrap_or(TEST_FRACTION), seed)
    };
    let part = |test: bool| {
        let members: Vec<usize> = (0..items.len()).filter(|&i| held_out[i] == test).collect();
        let order = permutation(members.len(), seed, Order::Records, test as u32);
        let chosen = order.iter().map(|&i| members[i as usize]);
        let mut images = Vec::with_capacity(members.len() * size * size * 3);
        let mut chosen_labels = Vec::with_capacity(members.len());
        for i in chosen {
            images.extend_from_slice(&items[i].pixels);
            chosen_labels.push(labels[i]);
        }
        let images = Images::Memory(images);
        Dataset { images, labels: chosen_labels, classes: classes.clone(), size }
    };
    let (train, test) = (part(false), part(true));
    if let Some(empty) = train.class_counts().iter().position(|&n| n == 0) {
        bail!("{}: class '{}' has no training images", source.display(), classes[empty]);
    }
    ensure!(
        !test.is_empty(),
        "{}: no test images: none of its classes has two images, of which one could be held out",
        source.display()
    );
    Ok(Imported { train, test, skipped: bad, others })
}

/// Reads and decodes: archive and files on one thread, images on all.
fn read_images(source: &Path, size: usize) -> Result<(Vec<Item>, Vec<String>, usize)> {
    let progress = ProgressBar::new_spinner();
    let style = ProgressStyle::with_template("{spinner} {human_pos} images read, {per_sec}");
    progress.set_style(style.expect("the template is valid"));
    let (mut items, mut bad) = (Vec::new(), Vec::new());
    let others = std::thread::scope(|scope| {
        let (sender, receiver) = sync_channel::<Vec<ImageFile>>(2);
        let reader = scope.spawn(move || -> Result<usize> {
            let mut chunk = Vec::with_capacity(CHUNK);
            let mut bytes = 0;
            let hung_up = || anyhow!("stopped");
            let others = visit_images(source, &mut |file| {
                bytes += file.bytes.as_ref().map_or(0, Vec::len);
                chunk.push(file);
                if chunk.len() == CHUNK || bytes > 256 << 20 {
                    bytes = 0;
                    sender.send(std::mem::take(&mut chunk)).map_err(|_| hung_up())?;
                }
                Ok(())
            })?;
            sender.send(chunk).map_err(|_| hung_up())?;
            Ok(others)
        });
        for chunk in receiver {
            let count = chunk.len() as u64;
            let decoded: Vec<(String, Result<Vec<u8>, String>)> = chunk
                .into_par_iter()
                .map(|file| {
                    let pixels = file.bytes.and_then(|bytes| {
                        decode_square(&bytes, size).map_err(|error| format!("{error:#}"))
                    });
                    (file.path, pixels)
                })
                .collect();
            for (path, pixels) in decoded {
                match pixels {
                    Ok(pixels) => items.push(Item { path, pixels }),
                    Err(reason) => bad.push(format!("{path} ({reason})")),
                }
            }
            progress.inc(count);
        }
        reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    progress.finish_and_clear();
    bad.sort();
    Ok((items, bad, others?))
}

/// An image file's bytes as `[size, size, 3]` RGB.
///
/// The image is turned as its EXIF data says, laid on white where it is transparent, cut to its
/// central square, and resized (Catmull-Rom, which averages when it shrinks) unless it has the
/// size already.
pub fn decode_square(bytes: &[u8], size: usize) -> Result<Vec<u8>> {
    let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format()?;
    ensure!(reader.format().is_some(), "neither JPEG nor PNG");
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_PIXELS);
    limits.max_image_height = Some(MAX_PIXELS);
    limits.max_alloc = Some(MAX_DECODED_BYTES);
    reader.limits(limits);
    let mut decoder = reader.into_decoder()?;
    // The limits above bound what the decoder needs beside the image, not the image.
    let decoded = decoder.total_bytes();
    ensure!(
        decoded <= MAX_DECODED_BYTES,
        "{decoded} bytes decoded, of {MAX_DECODED_BYTES} at most"
    );
    let orientation = decoder.orientation()?;
    let mut image = DynamicImage::from_decoder(decoder)?;
    image.apply_orientation(orientation);
    let rgb = if image.color().has_alpha() { on_white(&image) } else { image.into_rgb8() };
    let (width, height) = rgb.dimensions();
    ensure!(width > 0 && height > 0, "no pixels");
    let side = size as u32;
    if (width, height) == (side, side) {
        return Ok(rgb.into_raw());
    }
    let square = width.min(height) as f64;
    let (left, top) = ((width as f64 - square) / 2.0, (height as f64 - square) / 2.0);
    let source =
        fir::images::Image::from_vec_u8(width, height, rgb.into_raw(), fir::PixelType::U8x3)?;
    let mut target = fir::images::Image::new(side, side, fir::PixelType::U8x3);
    let options = fir::ResizeOptions::new()
        .crop(left.floor(), top.floor(), square, square)
        .resize_alg(fir::ResizeAlg::Convolution(fir::FilterType::CatmullRom));
    fir::Resizer::new().resize(&source, &mut target, &options)?;
    Ok(target.into_vec())
}

fn on_white(image: &DynamicImage) -> image::RgbImage {
    let rgba = image.to_rgba8();
    image::RgbImage::from_fn(rgba.width(), rgba.height(), |x, y| {
        let [r, g, b, a] = rgba.get_pixel(x, y).0.map(u32::from);
        image::Rgb([r, g, b].map(|v| ((v * a + 255 * (255 - a) + 127) / 255) as u8))
    })
}

/// What an image's path says.
#[derive(Debug, PartialEq, Eq)]
struct Place<'a> {
    /// The folders before split and class.
    prefix: &'a str,
    split: Option<Split>,
    class: &'a str,
}

fn place(path: &str) -> Result<Place<'_>> {
    let (folder, _) = path.rsplit_once('/').ok_or_else(|| {
        anyhow!("image '{path}' lies in no class folder; expected CLASS/*.jpg or train/CLASS/*.jpg")
    })?;
    let (above, class) = folder.rsplit_once('/').unwrap_or(("", folder));
    ensure!(
        class.trim() == class && !class.contains(['\n', '\r']),
        "class folder {class:?} has a line break, or a space at its end"
    );
    let (prefix, last) = above.rsplit_once('/').unwrap_or(("", above));
    let split = match last {
        "train" => Some(Split::Train),
        "test" => Some(Split::Test),
        _ => None,
    };
    let prefix = if split.is_some() { prefix } else { above };
    Ok(Place { prefix, split, class })
}

/// All images must have the same folders above split and class, and all or none a split.
fn check_depths(items: &[Item], places: &[Place]) -> Result<()> {
    for (item, place) in items.iter().zip(places) {
        let first = &places[0];
        ensure!(
            place.prefix == first.prefix && place.split.is_some() == first.split.is_some(),
            "images do not lie alike: '{}' and '{}'; expected train/CLASS/* and test/CLASS/*, or \
             CLASS/* for all",
            items[0].path,
            item.path
        );
    }
    Ok(())
}

/// Class names in the order of their labels (CIFAR-10's own if they are its names, otherwise
/// sorted), and each item's label.
fn label(names: &[&str]) -> (Vec<String>, Vec<u16>) {
    let mut index: BTreeMap<&str, u16> = names.iter().map(|&name| (name, 0)).collect();
    let mut classes: Vec<String> = index.keys().map(|name| name.to_string()).collect();
    let mut official = CIFAR10_CLASSES.map(String::from).to_vec();
    // CIFAR-10's are sorted already, but that need not stay a coincidence.
    official.sort();
    if classes == official {
        classes = CIFAR10_CLASSES.map(String::from).to_vec();
    }
    for (i, class) in classes.iter().enumerate() {
        if let Some(label) = index.get_mut(class.as_str()) {
            *label = i as u16;
        }
    }
    let labels = names.iter().map(|name| index[name]).collect();
    (classes, labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_say_split_and_class() {
        let of = |path| place(path).unwrap();
        let train = Some(Split::Train);
        assert_eq!(of("train/cat/1.jpg"), Place { prefix: "", split: train, class: "cat" });
        assert_eq!(of("a/b/train/cat/1.jpg"), Place { prefix: "a/b", split: train, class: "cat" });
        assert_eq!(of("cat/1.jpg"), Place { prefix: "", split: None, class: "cat" });
        assert_eq!(of("a/cat/1.jpg"), Place { prefix: "a", split: None, class: "cat" });
        assert!(place("1.jpg").is_err());
    }

    #[test]
    fn classes_are_sorted() {
        let (classes, labels) = label(&["dog", "ant", "dog"]);
        assert_eq!(classes, ["ant", "dog"]);
        assert_eq!(labels, [1, 0, 1]);
    }

    #[test]
    fn cifar_10_keeps_its_order() {
        let mut names = CIFAR10_CLASSES;
        names.reverse();
        let (classes, labels) = label(&names);
        assert_eq!(classes, CIFAR10_CLASSES);
        assert_eq!(labels, [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]);
    }
}
