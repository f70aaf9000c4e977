//! Data sets on disk: importing folders and tars, loading, and everything that must be refused.

use std::io::{Cursor, Write};
use std::path::Path;

use image::{DynamicImage, ImageFormat, Rgb, RgbImage};
use tilegrad_cifar::data::import::{ImportOptions, decode_square, import};
use tilegrad_cifar::data::manifest::{FileEntry, Manifest, sha256_file};
use tilegrad_cifar::data::{
    CIFAR10_CLASSES, Dataset, ImageBuffer, Split, binary, picture, synthetic,
};

type Files = Vec<(String, Vec<u8>)>;

fn png(image: impl Into<DynamicImage>) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.into().write_to(&mut bytes, ImageFormat::Png).unwrap();
    bytes.into_inner()
}

/// A PNG whose pixels say which one it is.
fn marked(size: u32, mark: u8) -> RgbImage {
    RgbImage::from_fn(size, size, |x, y| Rgb([mark, x as u8, y as u8]))
}

/// `count` images for each class below `prefix`, with marks from `first` on.
fn tree(prefix: &str, classes: &[&str], count: u8, first: u8) -> Files {
    let mut files = Vec::new();
    for (c, class) in classes.iter().enumerate() {
        for i in 0..count {
            let mark = first + c as u8 * count + i;
            files.push((format!("{prefix}{class}/{i:04}.png"), png(marked(32, mark))));
        }
    }
    files
}

fn write_tree(root: &Path, files: &Files) {
    for (path, bytes) in files {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}

fn tar_of(files: &Files) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, bytes) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        // Written as it is, so that tests can make paths that a builder refuses.
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_cksum();
        builder.append(&header, bytes.as_slice()).unwrap();
    }
    builder.into_inner().unwrap()
}

/// The message of an error, which must be one line.
#[track_caller]
fn message<T>(result: anyhow::Result<T>) -> String {
    let text = format!("{:#}", result.err().expect("must be refused"));
    assert!(!text.contains('\n'), "more than one line: {text}");
    text
}

#[track_caller]
fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "'{part}' is not in: {text}");
    }
}

fn pixels(set: &Dataset, i: usize) -> Vec<u8> {
    set.image(i, &mut ImageBuffer::default()).unwrap().to_vec()
}

/// Equal for equal sets, in memory or on disk.
fn print_of(set: &Dataset) -> String {
    set.fingerprint().unwrap()
}

/// Fingerprint of a split on disk.
fn loaded(dir: &Path, split: Split) -> String {
    print_of(&Dataset::load(dir, split).unwrap())
}

/// Sorted (label, image) pairs.
fn contents(set: &Dataset) -> Vec<(u16, Vec<u8>)> {
    let mut all: Vec<_> = (0..set.len()).map(|i| (set.labels[i], pixels(set, i))).collect();
    all.sort();
    all
}

#[test]
fn folder_tar_gz_and_xz_give_the_same_data_set() {
    let dir = tempfile::tempdir().unwrap();
    let mut files = tree("train/", &["dog", "ant"], 6, 0);
    files.extend(tree("test/", &["dog", "ant"], 2, 100));
    files.push(("train/dog/notes.txt".into(), b"no image".to_vec()));
    files.push(("train/dog/.hidden.png".into(), b"no image".to_vec()));
    write_tree(&dir.path().join("tree"), &files);
    let from_folder = import(&dir.path().join("tree"), &ImportOptions::default()).unwrap();
    assert_eq!(from_folder.train.classes, ["ant", "dog"]);
    assert_eq!(from_folder.train.class_counts(), [6, 6]);
    assert_eq!(from_folder.test.class_counts(), [2, 2]);
    assert_eq!(from_folder.others, 1);

    // In a tar they may lie deeper, and in any order.
    files.reverse();
    for (path, _) in &mut files {
        *path = format!("./some/where/{path}");
    }
    let tar = tar_of(&files);
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(&tar).unwrap();
    let mut xz =
        lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::with_preset(0)).unwrap();
    xz.write_all(&tar).unwrap();
    let packed = [("t.tar", tar), ("t.gz", gz.finish().unwrap()), ("t.xz", xz.finish().unwrap())];
    for (name, bytes) in packed {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let imported = import(&path, &ImportOptions::default()).unwrap();
        assert_eq!(print_of(&imported.train), print_of(&from_folder.train), "{name}");
        assert_eq!(print_of(&imported.test), print_of(&from_folder.test), "{name}");
        assert_eq!(imported.others, 1, "{name}");
    }
}

#[test]
fn images_and_labels_come_back_as_they_were() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("tree");
    write_tree(&source, &tree("", &["a", "b", "c"], 10, 0));
    let options = ImportOptions { test_fraction: Some(0.3), ..ImportOptions::default() };
    let imported = import(&source, &options).unwrap();
    assert_eq!(imported.train.class_counts(), [7, 7, 7]);
    assert_eq!(imported.test.class_counts(), [3, 3, 3]);
    let mut all = contents(&imported.train);
    all.extend(contents(&imported.test));
    all.sort();
    let expected: Vec<_> =
        (0..30).map(|mark| (mark as u16 / 10, marked(32, mark).into_raw())).collect();
    assert_eq!(all, expected);
    assert_ne!(imported.train.labels[..7], [0; 7], "records must be mixed");

    let out = dir.path().join("made/here");
    binary::save(&out, &imported.train, &imported.test, false).unwrap();
    assert_eq!(loaded(&out, Split::Train), print_of(&imported.train));
    assert_eq!(loaded(&out, Split::Test), print_of(&imported.test));
    let names: Vec<_> = out.parent().unwrap().read_dir().unwrap().collect();
    assert_eq!(names.len(), 1, "nothing temporary stays");
    // The layout is CIFAR's: a label, then three planes.
    let bytes = std::fs::read(out.join("data_batch_1.bin")).unwrap();
    let first = pixels(&imported.train, 0);
    assert_eq!(bytes[0] as u16, imported.train.labels[0]);
    assert_eq!((bytes[1], bytes[1 + 1024 + 1], bytes[1 + 2048 + 32]), (first[0], 1, 1));
}

#[test]
fn cifar_10_keeps_its_class_order_and_other_seeds_other_splits() {
    let dir = tempfile::tempdir().unwrap();
    let mut classes = CIFAR10_CLASSES;
    classes.reverse();
    write_tree(dir.path(), &tree("", &classes, 5, 0));
    let of =
        |seed| import(dir.path(), &ImportOptions { seed, ..ImportOptions::default() }).unwrap();
    let first = of(0);
    assert_eq!(first.train.classes, CIFAR10_CLASSES);
    assert_eq!(first.test.class_counts(), [1; 10]);
    assert_eq!(print_of(&of(0).train), print_of(&first.train));
    assert_ne!(contents(&of(1).test), contents(&first.test));
}

#[test]
fn where_there_is_no_test_folder_some_of_each_class_is_held_out() {
    let dir = tempfile::tempdir().unwrap();
    let of = |name: &str, files: &Files| {
        write_tree(&dir.path().join(name), files);
        import(&dir.path().join(name), &ImportOptions::default())
    };
    // A fifth of two images is less than one, but without a test set nothing can be trained.
    for (name, prefix) in [("flat", ""), ("train-only", "train/")] {
        let imported = of(name, &tree(prefix, &["a", "b"], 2, 0)).unwrap();
        assert_eq!(imported.train.class_counts(), [1, 1], "{name}");
        assert_eq!(imported.test.class_counts(), [1, 1], "{name}");
    }
    let text = message(of("single", &tree("", &["a", "b"], 1, 0)));
    assert_says(&text, &["single: no test images", "two images"]);
}

#[test]
fn other_sizes_and_more_than_256_classes() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("tree");
    let names: Vec<String> = (0..300).map(|i| format!("c{i:03}")).collect();
    let image = png(RgbImage::from_pixel(5, 9, Rgb([10, 200, 30])));
    let files: Files = names
        .iter()
        .flat_map(|n| (0..2).map(move |i| format!("{n}/{i}.png")))
        .map(|p| (p, image.clone()))
        .collect();
    write_tree(&source, &files);
    let options = ImportOptions { size: 8, test_fraction: Some(0.5), ..ImportOptions::default() };
    let imported = import(&source, &options).unwrap();
    let out = dir.path().join("out");
    binary::save(&out, &imported.train, &imported.test, false).unwrap();
    let back = Dataset::load(&out, Split::Train).unwrap();
    assert_eq!(print_of(&back), print_of(&imported.train));
    assert_eq!((back.size, back.classes.len(), back.len()), (8, 300, 300));
    // A flat image stays flat whatever it is resized to.
    assert!(pixels(&back, 299).as_chunks::<3>().0.iter().all(|p| *p == [10, 200, 30]));
    assert_eq!(picture::overview(&imported.train, &imported.test, 3).unwrap().height() % 2, 0);
}

#[test]
fn every_kind_of_image_becomes_square_rgb() {
    // Left half black, right half white: the middle square of a wide image keeps the edge in the
    // middle.
    let wide = RgbImage::from_fn(100, 40, |x, _| Rgb([if x < 50 { 0 } else { 255 }; 3]));
    let square = decode_square(&png(wide), 8).unwrap();
    for row in square.chunks(24) {
        assert_eq!((row[0], row[23]), (0, 255));
    }
    let grey = image::GrayImage::from_pixel(8, 8, image::Luma([77]));
    assert_eq!(decode_square(&png(grey), 8).unwrap(), [77; 192]);
    let clear = image::RgbaImage::from_pixel(8, 8, image::Rgba([10, 20, 30, 0]));
    assert_eq!(decode_square(&png(clear), 8).unwrap(), [255; 192], "transparent is white");
    let opaque = image::RgbaImage::from_pixel(8, 8, image::Rgba([10, 20, 30, 255]));
    assert_eq!(decode_square(&png(opaque), 8).unwrap()[..3], [10, 20, 30]);
    let deep = image::ImageBuffer::<Rgb<u16>, _>::from_pixel(8, 8, Rgb([0x8080u16; 3]));
    assert_eq!(decode_square(&png(deep), 8).unwrap(), [128; 192]);
    let mut jpeg = Cursor::new(Vec::new());
    DynamicImage::from(RgbImage::from_pixel(8, 8, Rgb([128; 3])))
        .write_to(&mut jpeg, ImageFormat::Jpeg)
        .unwrap();
    assert_eq!(decode_square(&jpeg.into_inner(), 8).unwrap(), [128; 192]);
}

#[test]
fn bad_images_are_listed_and_refused_or_skipped() {
    let dir = tempfile::tempdir().unwrap();
    let mut files = tree("", &["a", "b"], 3, 0);
    let cut = files[0].1[..60].to_vec();
    files.push(("a/cut.png".into(), cut));
    files.push(("b/text.jpg".into(), b"hello".to_vec()));
    // A PNG header that claims 60,000 x 60,000 pixels.
    let mut huge = png(marked(32, 0));
    huge[16..24].copy_from_slice(&[0, 0, 0xea, 0x60, 0, 0, 0xea, 0x60]);
    files.push(("b/huge.png".into(), huge));
    write_tree(dir.path(), &files);
    let text = message(import(dir.path(), &ImportOptions::default()));
    assert_says(&text, &["3 of 9 images", "a/cut.png", "b/text.jpg", "b/huge.png", "--skip-bad"]);
    let options = ImportOptions { skip_bad: true, ..ImportOptions::default() };
    let imported = import(dir.path(), &options).unwrap();
    assert_eq!(imported.skipped.len(), 3);
    assert_eq!(imported.train.len() + imported.test.len(), 6);
}

#[test]
fn misplaced_images_and_odd_sources_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let case = |name: &str, files: Files| {
        let source = dir.path().join(name);
        std::fs::create_dir_all(&source).unwrap();
        write_tree(&source, &files);
        message(import(&source, &ImportOptions::default()))
    };
    assert_says(&case("empty", vec![]), &["no JPEG or PNG images", "CLASS/*.jpg"]);
    let flat = vec![("x.png".to_string(), png(marked(32, 0)))];
    assert_says(&case("flat", flat), &["'x.png'", "no class folder"]);
    let mut mixed = tree("", &["a"], 2, 0);
    mixed.extend(tree("deeper/", &["b"], 2, 0));
    assert_says(&case("mixed", mixed), &["do not lie alike", "a/0000.png", "deeper/b/0000.png"]);
    let mut half = tree("train/", &["a"], 2, 0);
    half.extend(tree("test/", &["a", "b"], 2, 0));
    assert_says(&case("half", half), &["class 'b' has no training images"]);

    assert_says(
        &message(import(&dir.path().join("none"), &ImportOptions::default())),
        &["cannot read", "none"],
    );
    let junk = dir.path().join("junk.tar");
    std::fs::write(&junk, [7; 2000]).unwrap();
    let text = message(import(&junk, &ImportOptions::default()));
    assert_says(&text, &["junk.tar", "neither a folder nor a tar"]);

    let tar = tar_of(&tree("", &["a"], 9, 0));
    std::fs::write(&junk, &tar[..tar.len() / 2 + 100]).unwrap();
    assert_says(&message(import(&junk, &ImportOptions::default())), &["damaged archive"]);
    for path in ["../a/x.png", "/a/x.png", "a/../../x.png"] {
        std::fs::write(&junk, tar_of(&vec![(path.into(), png(marked(32, 0)))])).unwrap();
        let text = message(import(&junk, &ImportOptions::default()));
        assert_says(&text, &[path, "outside the archive"]);
    }
    let fraction = |f| ImportOptions { test_fraction: Some(f), ..ImportOptions::default() };
    assert_says(&message(import(dir.path(), &fraction(1.0))), &["between 0 and 1"]);
    let source = dir.path().join("both");
    write_tree(&source, &tree("train/", &["a"], 2, 0));
    write_tree(&source, &tree("test/", &["a"], 2, 0));
    assert_says(&message(import(&source, &fraction(0.5))), &["--test-fraction"]);
}

#[test]
fn outputs_are_replaced_only_when_asked_and_only_if_ours() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let (train, test) = synthetic::generate(20, 10, 0);
    let (other, _) = synthetic::generate(20, 10, 1);
    std::fs::create_dir(&out).unwrap();
    binary::save(&out, &train, &test, false).unwrap();
    assert_says(&message(binary::save(&out, &other, &test, false)), &["not empty", "--replace"]);
    assert_eq!(loaded(&out, Split::Train), print_of(&train));
    binary::save(&out, &other, &test, true).unwrap();
    assert_eq!(loaded(&out, Split::Train), print_of(&other));
    std::fs::write(out.join("thesis.txt"), "mine").unwrap();
    assert_says(&message(binary::save(&out, &train, &test, true)), &["thesis.txt"]);
    assert!(out.join("thesis.txt").exists());
    assert_says(&message(binary::save(dir.path(), &train, &test, true)), &["no data set of ours"]);
}

/// Official CIFAR-10 files, but with few records.
fn write_cifar10(dir: &Path, records: usize) {
    std::fs::create_dir_all(dir).unwrap();
    let record = |i: usize| {
        let mut bytes = vec![(i % 10) as u8];
        bytes.extend((0..3072).map(|k| (k / 1024 * 80 + i) as u8));
        bytes
    };
    for b in 1..=5 {
        let bytes: Vec<u8> = (0..records).flat_map(record).collect();
        std::fs::write(dir.join(format!("data_batch_{b}.bin")), bytes).unwrap();
    }
    let bytes: Vec<u8> = (0..records).flat_map(record).collect();
    std::fs::write(dir.join("test_batch.bin"), bytes).unwrap();
    // The official file ends in an empty line.
    let names = CIFAR10_CLASSES.join("\n") + "\n\n";
    std::fs::write(dir.join("batches.meta.txt"), names).unwrap();
}

#[test]
fn official_layouts_load_from_the_folder_or_the_one_above() {
    let dir = tempfile::tempdir().unwrap();
    let inner = dir.path().join("cifar-10-batches-bin");
    write_cifar10(&inner, 20);
    for at in [dir.path(), &inner] {
        let train = Dataset::load(at, Split::Train).unwrap();
        assert_eq!((train.len(), train.size, &train.labels[..3]), (100, 32, &[0u16, 1, 2][..]));
        assert_eq!(train.classes, CIFAR10_CLASSES);
        assert_eq!(pixels(&train, 3)[..6], [3, 83, 163, 3, 83, 163]);
        assert_eq!(Dataset::load(at, Split::Test).unwrap().len(), 20);
    }
    let hundred = tempfile::tempdir().unwrap();
    let names: Vec<String> = (0..100).map(|i| format!("fine{i}")).collect();
    std::fs::write(hundred.path().join("fine_label_names.txt"), names.join("\n")).unwrap();
    let mut record = vec![3, 97];
    record.resize(3074, 5);
    std::fs::write(hundred.path().join("train.bin"), record.repeat(4)).unwrap();
    std::fs::write(hundred.path().join("test.bin"), record.repeat(2)).unwrap();
    let train = Dataset::load(hundred.path(), Split::Train).unwrap();
    assert_eq!((train.len(), train.labels[0], train.classes.len()), (4, 97, 100));
    assert_eq!(Dataset::load(hundred.path(), Split::Test).unwrap().len(), 2);
    record[1] = 100;
    std::fs::write(hundred.path().join("test.bin"), record).unwrap();
    let text = message(Dataset::load(hundred.path(), Split::Test));
    assert_says(&text, &["test.bin: record 0: label 100 is outside 0..100"]);
}

#[test]
fn broken_official_files_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    assert_says(
        &message(Dataset::load(at, Split::Train)),
        &["no data set here", "data_batch_1.bin", "cifar data import", "cifar data download"],
    );
    let text = message(Dataset::load(&at.join("none"), Split::Train));
    assert_says(&text, &["no such directory", "cifar data import"]);
    write_cifar10(at, 20);
    let text = message(Dataset::load(&at.join("test_batch.bin"), Split::Train));
    assert_says(&text, &["not a directory"]);

    let batch = at.join("data_batch_3.bin");
    let good = std::fs::read(&batch).unwrap();
    std::fs::write(&batch, &good[..good.len() - 100]).unwrap();
    let text = message(Dataset::load(at, Split::Train));
    assert_says(&text, &["data_batch_3.bin", "truncated", "3073", "61360", "2973"]);
    std::fs::write(&batch, &good[..3073 * 19]).unwrap();
    let text = message(Dataset::load(at, Split::Train));
    assert_says(&text, &["data_batch_3.bin", "19 records", "20"]);
    let mut bad = good.clone();
    bad[3073 * 7] = 12;
    std::fs::write(&batch, &bad).unwrap();
    let text = message(Dataset::load(at, Split::Train));
    assert_says(&text, &["data_batch_3.bin: record 7: label 12 is outside 0..10"]);
    std::fs::remove_file(&batch).unwrap();
    assert_says(&message(Dataset::load(at, Split::Train)), &["data_batch_3.bin", "cannot be read"]);
    assert_eq!(Dataset::load(at, Split::Test).unwrap().len(), 20);
}

#[test]
fn imports_are_checked_against_their_manifest() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("set");
    let (train, test) = synthetic::generate(20, 10, 0);
    binary::save(&out, &train, &test, false).unwrap();
    let batch = out.join("data_batch_2.bin");
    let good = std::fs::read(&batch).unwrap();
    let broken = |bytes: &[u8]| {
        std::fs::write(&batch, bytes).unwrap();
        let text = message(Dataset::load(&out, Split::Train));
        std::fs::write(&batch, &good).unwrap();
        text
    };
    assert_says(&broken(&good[..3073]), &["data_batch_2.bin: truncated", "12292", "3073"]);
    assert_says(&broken(&good.repeat(2)), &["data_batch_2.bin: too long", "24584"]);
    let mut flipped = good.clone();
    flipped[4000] ^= 1;
    assert_says(&broken(&flipped), &["data_batch_2.bin", "SHA-256 expected"]);
    assert!(Dataset::load(&out, Split::Train).is_ok());

    let path = out.join("dataset.json");
    let mut manifest = Manifest::read(&path).unwrap();
    flipped[3073] = 200;
    std::fs::write(&batch, &flipped).unwrap();
    let digest = sha256_file(&batch).unwrap();
    let entry: &mut FileEntry = &mut manifest.files[1];
    entry.sha256 = digest;
    std::fs::write(&path, manifest.to_json()).unwrap();
    let text = message(Dataset::load(&out, Split::Train));
    assert_says(&text, &["data_batch_2.bin: record 1: label 200 is outside 0..10"]);

    manifest.files[0].name = "../elsewhere.bin".into();
    std::fs::write(&path, manifest.to_json()).unwrap();
    assert_says(&message(Dataset::load(&out, Split::Train)), &["not a plain name"]);
    std::fs::write(&path, "{").unwrap();
    assert_says(&message(Dataset::load(&out, Split::Train)), &["not a data set manifest"]);
}
