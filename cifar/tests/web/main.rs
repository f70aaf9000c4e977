//! `docs/web/index.html` in headless Chromium: its logits are those of the CPU backend, for every model, and it says
//! what is wrong with everything else that it is given.
//!
//! Skipped, and said so, where there is no Chromium, or where it offers no adapter; `TILEGRAD_REQUIRE=chromium` makes
//! that a failure.

mod browser;
mod server;

use std::io::Cursor;
use std::path::Path;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use browser::Browser;
use image::{DynamicImage, ImageFormat, Rgb, RgbImage, Rgba, RgbaImage};
use serde_json::{Value, json};
use server::Server;
use tilegrad_cifar::augment::Normalisation;
use tilegrad_cifar::data::import::decode_square;
use tilegrad_cifar::model::{self, Meta};
use tilegrad_engine::{Tensor, cpu, no_grad};
use tilegrad_kernels::philox::{Purpose, Stream};
use tilegrad_nn::tensor_file::TensorFile;
use tilegrad_nn::{Context, Model, ModelConfig, ModelKind, Module};

const SIZE: usize = 32;
const MEAN: [f32; 3] = [0.49, 0.48, 0.45];
const STD: [f32; 3] = [0.25, 0.24, 0.26];
/// Largest difference of a logit, relative to the largest logit.
const TOLERANCE: f64 = 1e-3;

/// For starting the browser, and then for each case: software Vulkan on a busy machine is slow.
const PATIENCE: Duration = Duration::from_secs(180);

/// What the driver page is told to do (see `actions` in driver.html), and whether what it then posts is right.
struct Case {
    what: Value,
    check: Box<dyn Fn(&Value)>,
}

fn case(what: Value, check: impl Fn(&Value) + 'static) -> Case {
    Case { what, check: Box::new(check) }
}

/// Values in 0..=255, smooth enough to be worth a JPEG.
fn picture(width: u32, height: u32, seed: u64) -> RgbImage {
    let stream = Stream::new(seed, Purpose::Test, 0, 0);
    // Of a channel: wavelengths and brightness, which differ much from seed to seed.
    let random = |c: u64, i: u64| stream.normal((1 << 20) + 3 * i + c);
    let mut i = 0;
    RgbImage::from_fn(width, height, |x, y| {
        i += 1;
        Rgb([0, 1, 2].map(|c| {
            let wave =
                (x as f64 * random(c, 0) / 3.0).sin() + (y as f64 * random(c, 1) / 3.0).cos();
            (128.0 + 50.0 * random(c, 2) + 40.0 * wave + 10.0 * stream.normal(3 * i + c)) as u8
        }))
    })
}

fn encoded(image: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.into().write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// Writes a checkpoint with random weights, and batch statistics that are not those of a new model. Gives what the
/// CPU makes of each image.
fn write_checkpoint(path: &Path, kind: ModelKind, images: &[&[u8]]) -> Vec<Vec<f64>> {
    let device = cpu().unwrap();
    let model = Model::new(&device, ModelConfig::new(kind, 10), 7).unwrap();
    let normalised = |images: &[&[u8]]| {
        let mut values = vec![0.0; images.len() * SIZE * SIZE * 3];
        for (image, values) in images.iter().zip(values.chunks_mut(SIZE * SIZE * 3)) {
            Normalisation::new(MEAN, STD).apply(&decode_square(image, SIZE).unwrap(), values);
        }
        Tensor::from_slice(&device, &values, &model.input_shape(images.len())).unwrap()
    };
    let others: Vec<Vec<u8>> =
        (10..14).map(|seed| encoded(picture(32, 32, seed), ImageFormat::Png)).collect();
    let others: Vec<&[u8]> = others.iter().map(Vec::as_slice).collect();
    no_grad(|| model.forward(&normalised(&others), &mut Context::train(1, 0))).unwrap();
    let meta = Meta {
        version: "0".to_string(),
        model: kind.to_string(),
        classes: (0..10).map(|i| format!("class {i}")).collect(),
        image_size: SIZE,
        mean: MEAN,
        std: STD,
        dataset: String::new(),
        epoch: 1,
        step: 1,
        test_accuracy: Some(0.125),
        test_loss: None,
    };
    model::checkpoint(&model, &meta).unwrap().save(path).unwrap();
    let logits = no_grad(|| model.forward(&normalised(images), &mut Context::eval())).unwrap();
    logits.to_f64_vec().unwrap().chunks(10).map(<[f64]>::to_vec).collect()
}

/// What the page shows has these logits, their softmax, and the likeliest class first.
fn check_rows(shown: &Value, logits: &[f64]) {
    assert_eq!(shown["state"], "done", "{shown}");
    let rows = shown["rows"].as_array().unwrap();
    assert_eq!(rows.len(), logits.len(), "{shown}");
    let largest = logits.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    let exponentials: Vec<f64> = logits.iter().map(|v| v.exp()).collect();
    let sum: f64 = exponentials.iter().sum();
    let mut last = f64::INFINITY;
    for row in rows {
        let number = |key: &str| row[key].as_f64().unwrap_or(f64::NAN);
        let class = row["class"].as_u64().unwrap() as usize;
        assert_eq!(row["name"], format!("class {class}"));
        let (expected, got) = (logits[class], number("logit"));
        assert!(
            (got - expected).abs() <= TOLERANCE * largest,
            "class {class}: {got}, on the CPU {expected}"
        );
        let (expected, got) = (exponentials[class] / sum, number("probability"));
        assert!(
            (got - expected).abs() <= 2.0 * TOLERANCE,
            "class {class}: {got}, on the CPU {expected}"
        );
        assert!(got <= last, "{rows:?}");
        assert!((number("width") - 100.0 * got).abs() < 0.01, "{row}");
        last = got;
    }
}

/// Every model, by URL; and one of them by the inputs.
fn models(folder: &Path, cases: &mut Vec<Case>) {
    let images = [1, 2].map(|seed| encoded(picture(32, 32, seed), ImageFormat::Png));
    for (i, image) in images.iter().enumerate() {
        std::fs::write(folder.join(format!("{i}.png")), image).unwrap();
    }
    for kind in ModelKind::ALL {
        let name = format!("{kind}.safetensors");
        let logits =
            write_checkpoint(&folder.join(&name), kind, &images.each_ref().map(Vec::as_slice));
        let mut logits = logits.into_iter();
        let (first, second) = (logits.next().unwrap(), logits.next().unwrap());
        // Else a page that ignores the image might pass.
        let largest = first.iter().fold(0.0f64, |m, v| m.max(v.abs()));
        let differ =
            first.iter().zip(&second).any(|(a, b)| (a - b).abs() > 20.0 * TOLERANCE * largest);
        assert!(differ, "{kind}: {first:?} {second:?}");
        if kind == ModelKind::SimpleCnnGap {
            let (first, second) = (first.clone(), second);
            let what = json!({
                "action": "inputs", "model": name, "image": "0.png", "next": "1.png", "wrong": "driver.html"
            });
            cases.push(case(what, move |shown| {
                check_rows(&shown[0], &first);
                check_rows(&shown[1], &second);
                assert_eq!(shown[2]["state"], "error", "{shown}");
                assert_eq!(shown[2]["rows"], json!([]), "old results beside an error");
            }));
        }
        let what = json!({
            "action": "query", "model": format!("/test/{name}"), "image": "/test/0.png"
        });
        cases.push(case(what, move |shown| {
            check_rows(shown, &first);
            let about = format!("{name}: {kind}, 10 classes, images of 32 x 32, ");
            let text = shown["about"].as_str().unwrap();
            assert!(
                text.starts_with(&about) && text.ends_with("12.5 % of its test images right"),
                "{text}"
            );
            let status = shown["status"].as_str().unwrap();
            assert!(status.starts_with("0.png: ") && status.contains(" ms on "), "{status}");
        }));
    }
}

/// Files that are not what they should be: the page says so.
fn refused(folder: &Path, cases: &mut Vec<Case>) {
    let good = folder.join("simple-cnn-gap.safetensors");
    let bytes = std::fs::read(&good).unwrap();
    std::fs::write(folder.join("short.safetensors"), &bytes[..bytes.len() - 4]).unwrap();
    std::fs::write(folder.join("empty.safetensors"), []).unwrap();
    let file = TensorFile::load(&good).unwrap();
    let mut foreign = file.clone();
    foreign.metadata.clear();
    foreign.save(&folder.join("foreign.safetensors")).unwrap();
    let mut unknown = file.clone();
    let model = unknown.metadata.get_mut("model").unwrap();
    *model = model.replace("simple-cnn-gap", "resnet50");
    unknown.save(&folder.join("unknown.safetensors")).unwrap();
    let mut lacking = file.clone();
    lacking.tensors.remove("features.4.weight");
    lacking.save(&folder.join("lacking.safetensors")).unwrap();
    // Tensors that contradict each other: a row or a column is missing.
    let cut = |name: &str, axis: usize, file_name: &str| {
        let mut file = file.clone();
        let tensor = file.tensors.get_mut(name).unwrap();
        tensor.shape[axis] -= 1;
        tensor.bytes.truncate(4 * tensor.shape.iter().product::<usize>());
        file.save(&folder.join(file_name)).unwrap();
    };
    cut("features.4.weight", 3, "narrow.safetensors");
    cut("classifier.weight", 1, "blind.safetensors");
    cut("classifier.bias", 0, "biased.safetensors");
    for (model, image, says) in [
        ("narrow.safetensors", "0.png", "a convolution has size 31, expected 32"),
        ("blind.safetensors", "0.png", "a linear layer has size 63, expected 64"),
        ("biased.safetensors", "0.png", "the bias of a linear layer has size 9, expected 10"),
        ("0.png", "0.png", "0.png: This is no safetensors file"),
        ("empty.safetensors", "0.png", "it has 0 bytes"),
        ("short.safetensors", "0.png", "it may have been cut short"),
        ("foreign.safetensors", "0.png", "is no checkpoint that `cifar train` wrote"),
        (
            "unknown.safetensors",
            "0.png",
            "does not know the model 'resnet50'. It knows simple-cnn,",
        ),
        ("lacking.safetensors", "0.png", "lacks the tensor features.4.weight"),
        ("nowhere.safetensors", "0.png", "/test/nowhere.safetensors cannot be loaded: 404"),
        ("simple-cnn-gap.safetensors", "unknown.safetensors", "This is no image"),
    ] {
        let [model, image] = [model, image].map(|name| format!("/test/{name}"));
        let what = json!({"action": "query", "model": model, "image": image});
        cases.push(case(what, move |shown| {
            let status = shown["status"].as_str().unwrap_or_default();
            assert!(
                shown["state"] == "error" && status.contains(says),
                "'{says}' expected: {shown}"
            );
            assert_eq!(shown["rows"], json!([]), "old results beside an error");
        }));
    }
    for (gpu, says) in [("none", "This browser has no WebGPU"), ("no adapter", "offers no adapter")]
    {
        cases.push(case(json!({"action": "without", "gpu": gpu}), move |message| {
            assert!(message.as_str().is_some_and(|m| m.contains(says)), "{message}");
        }));
    }
}

/// Images become the same bytes as with `cifar predict`, but for the rounding of decoders and of the resizing.
fn pixels(folder: &Path, cases: &mut Vec<Case>) {
    let large = picture(97, 61, 3);
    let small = picture(20, 25, 4);
    let glass = RgbaImage::from_fn(32, 32, |x, y| Rgba([200, 30, (8 * x) as u8, (8 * y) as u8]));
    let jpeg = encoded(picture(32, 32, 5), ImageFormat::Jpeg);
    for (name, bytes, tolerance) in [
        ("same.png", encoded(picture(32, 32, 6), ImageFormat::Png), 0),
        ("large.png", encoded(large, ImageFormat::Png), 1),
        ("small.png", encoded(small, ImageFormat::Png), 1),
        ("glass.png", encoded(glass, ImageFormat::Png), 1),
        ("photograph.jpg", jpeg, 3),
    ] {
        std::fs::write(folder.join(name), &bytes).unwrap();
        let expected = decode_square(&bytes, SIZE).unwrap();
        let what = json!({"action": "pixels", "image": name, "size": SIZE});
        cases.push(case(what, move |got| {
            let got = got.as_array().unwrap_or_else(|| panic!("{name}: {got}"));
            assert_eq!(got.len(), expected.len());
            for (i, (got, expected)) in got.iter().zip(&expected).enumerate() {
                let distance = got.as_i64().unwrap().abs_diff(*expected as i64);
                assert!(distance <= tolerance, "{name}, byte {i}: {got}, not {expected}");
            }
        }));
    }
}

/// The browser's compiler takes every shader, not only those that the page needs.
fn shaders(root: &Path, cases: &mut Vec<Case>) {
    let before = cases.len();
    for file in std::fs::read_dir(root.join("shaders")).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        cases.push(case(json!({"action": "shader", "file": name}), move |said| {
            if said == "no subgroups" {
                eprintln!("SKIPPED {name}: the adapter has no subgroups");
            } else {
                assert_eq!(said, "", "{name}");
            }
        }));
    }
    assert!(cases.len() > before + 10);
}

/// No browser, or no adapter: said, or refused.
fn skip(why: &str) {
    let required = std::env::var("TILEGRAD_REQUIRE").unwrap_or_default();
    assert!(
        !required.split(',').any(|name| name.trim() == "chromium"),
        "TILEGRAD_REQUIRE names chromium: {why}"
    );
    eprintln!("SKIPPED the page in a browser: {why}");
}

#[test]
fn the_page_computes_what_the_cpu_does_and_refuses_the_rest() {
    let Some(program) = Browser::find() else {
        return skip("there is no chromium in PATH");
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let profile = tempfile::tempdir().unwrap();
    let mut cases = Vec::new();
    models(folder.path(), &mut cases);
    refused(folder.path(), &mut cases);
    pixels(folder.path(), &mut cases);
    shaders(root, &mut cases);
    let list: Vec<&Value> = cases.iter().map(|case| &case.what).collect();
    std::fs::write(folder.path().join("cases.json"), serde_json::to_string(&list).unwrap())
        .unwrap();
    std::fs::write(folder.path().join("driver.html"), include_str!("driver.html")).unwrap();

    let server = Server::start(root, folder.path()).unwrap();
    let url = format!("{}/test/driver.html", server.address);
    let mut browser = Browser::open(&program, profile.path(), &url).unwrap();
    let mut next = || -> Option<Value> {
        let start = Instant::now();
        loop {
            match server.reports.recv_timeout(Duration::from_millis(200)) {
                Ok(report) => return Some(serde_json::from_str(&report).unwrap()),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout)
                    if browser.has_ended() || start.elapsed() > PATIENCE =>
                {
                    return None;
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    };
    let adapter = match next() {
        None => return skip(&format!("{} does not start", program.display())),
        Some(report) if report["adapter"].is_null() => {
            return skip(&format!("{} offers no WebGPU adapter: {report}", program.display()));
        }
        Some(report) => report["adapter"].to_string(),
    };
    for Case { what, check } in &cases {
        let report = next().unwrap_or_else(|| panic!("no answer to {what} from {adapter}"));
        let check = std::panic::AssertUnwindSafe(|| check(&report));
        // Which case it was, beside what was wrong.
        std::panic::catch_unwind(check).unwrap_or_else(|_| panic!("wrong: {what}"));
    }
    eprintln!("{} cases passed in Chromium on {adapter}", cases.len());
}
