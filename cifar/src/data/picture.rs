//! One picture of a data set: samples of every class with its name, and the class counts as bars.

use anyhow::Result;
use image::{Rgb, RgbImage};

use super::{Dataset, ImageBuffer, font};

const PAPER: Rgb<u8> = Rgb([255, 255, 255]);
const INK: Rgb<u8> = Rgb([32, 32, 36]);
const GREY: Rgb<u8> = Rgb([128, 128, 136]);
const TRAIN: Rgb<u8> = Rgb([46, 110, 178]);
const TEST: Rgb<u8> = Rgb([222, 132, 50]);

/// Blank pixels around everything.
const MARGIN: u32 = 16;
/// Size of the text.
const TEXT: u32 = 2;
/// Height of the heading.
const HEAD: u32 = 36;
/// Pixels of the longest bar.
const BAR: u32 = 260;
/// Longest class name that is written out.
const NAME_LETTERS: usize = 20;
/// Up to so many classes stand one a row; more are set in several columns.
const ROWS: usize = 25;

/// A row a class: name, `samples` training images (the first of the class), a bar for the training
/// and one for the test images with their numbers. With many classes, rows continue in further
/// columns. The errors are those of [`Dataset::image`].
pub fn overview(train: &Dataset, test: &Dataset, samples: usize) -> Result<RgbImage> {
    let classes = train.classes.len();
    let columns = classes.div_ceil(ROWS).max(1);
    let rows = classes.div_ceil(columns).max(1);
    // Fewer samples and shorter bars where several columns must fit.
    let samples = if columns > 1 { samples.min(4) } else { samples } as u32;
    let bar = if columns > 1 { BAR / 3 } else { BAR };
    let zoom = (64 / train.size as u32).max(1);
    let cell = (train.size as u32 * zoom).min(96);
    let names: Vec<String> = train.classes.iter().map(|c| short(c)).collect();
    let text_width =
        |texts: &[String]| texts.iter().map(|t| font::width(t, TEXT)).max().unwrap_or(0);
    let name_width = text_width(&names);
    let counts = [train.class_counts(), test.class_counts()];
    let labels = counts.each_ref().map(|c| c.iter().map(|&n| thousands(n)).collect::<Vec<_>>());
    let number_width = text_width(&labels.concat());
    let samples_at = name_width + 12;
    let bars_at = samples_at + samples * (cell + 2) + 14;
    let column_width = bars_at + bar + 8 + number_width + 2 * MARGIN;
    let row_height = cell + 4;
    let width = MARGIN + columns as u32 * column_width;
    let mut image =
        RgbImage::from_pixel(width, HEAD + rows as u32 * row_height + 2 * MARGIN, PAPER);
    heading(&mut image, train, test);

    let most = counts.iter().flatten().copied().max().unwrap_or(0).max(1) as f64;
    let members = first_of_each(train, samples as usize);
    let mut buffer = ImageBuffer::default();
    for class in 0..classes {
        let left = MARGIN + (class / rows) as u32 * column_width;
        let top = MARGIN + HEAD + (class % rows) as u32 * row_height;
        let middle = top + cell / 2;
        font::draw(&mut image, left, middle - font::HEIGHT, TEXT, INK, &names[class]);
        for (k, &i) in members[class].iter().enumerate() {
            let x = left + samples_at + k as u32 * (cell + 2);
            paste(&mut image, x, top, cell, train.image(i, &mut buffer)?, train.size);
        }
        let thickness = 18.min(cell / 2 - 2);
        for (part, colour) in [TRAIN, TEST].into_iter().enumerate() {
            let y = if part == 0 { middle - thickness - 1 } else { middle + 1 };
            let count = counts[part][class];
            let length = (count as f64 / most * bar as f64).round() as u32;
            let x = left + bars_at;
            fill(&mut image, x, y, length, thickness, colour);
            let text_y = y + (thickness.saturating_sub(7 * TEXT)) / 2;
            font::draw(&mut image, x + length + 6, text_y, TEXT, GREY, &labels[part][class]);
        }
    }
    Ok(image)
}

/// Number of images and the meaning of the colours.
fn heading(image: &mut RgbImage, train: &Dataset, test: &Dataset) {
    let size = train.size;
    let mut x = MARGIN;
    let mut write = |colour: Option<Rgb<u8>>, text: &str| {
        if let Some(colour) = colour {
            fill(image, x, MARGIN, 14, 14, colour);
            x += 22;
        }
        font::draw(image, x, MARGIN, TEXT, INK, text);
        x += font::width(text, TEXT) + 28;
    };
    write(None, &format!("{} classes, {size}x{size} pixels", train.classes.len()));
    write(Some(TRAIN), &format!("{} training images", thousands(train.len())));
    write(Some(TEST), &format!("{} test images", thousands(test.len())));
}

/// A number with commas: 50,000.
fn thousands(n: usize) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A class name that fits its column.
fn short(name: &str) -> String {
    if name.chars().count() <= NAME_LETTERS {
        return name.to_string();
    }
    name.chars().take(NAME_LETTERS - 2).chain("..".chars()).collect()
}

/// The first `n` images of each class.
fn first_of_each(set: &Dataset, n: usize) -> Vec<Vec<usize>> {
    let mut members = vec![Vec::new(); set.classes.len()];
    for (i, &label) in set.labels.iter().enumerate() {
        if members[label as usize].len() < n {
            members[label as usize].push(i);
        }
    }
    members
}

/// Puts an image into a square of `cell` pixels, by the nearest pixel.
fn paste(image: &mut RgbImage, x: u32, y: u32, cell: u32, pixels: &[u8], size: usize) {
    let pixels = pixels.as_chunks::<3>().0;
    for (dy, dx) in (0..cell * cell).map(|k| (k / cell, k % cell)) {
        let from = |d: u32| d as usize * size / cell as usize;
        image.put_pixel(x + dx, y + dy, Rgb(pixels[from(dy) * size + from(dx)]));
    }
}

fn fill(image: &mut RgbImage, x: u32, y: u32, width: u32, height: u32, colour: Rgb<u8>) {
    for py in y..(y + height).min(image.height()) {
        for px in x..(x + width).min(image.width()) {
            image.put_pixel(px, py, colour);
        }
    }
}
