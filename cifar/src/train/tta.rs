//! Test-time augmentation: logits as a weighted mean over six views of each image (Jordan 2024,
//! arXiv 2404.00498, §3.5).
//!
//! A view is mirrored or not, with equal weight. With weight 1/2 it is in place, with 1/4 each
//! moved by one pixel down and right or up and left; what comes in at the edge is the image
//! reflected there.

use anyhow::Result;
use tilegrad_engine::{Tensor, ops};
use tilegrad_nn::{Context, Model, Module};

/// (pixels of the input at row and column 0, mirrored, weight)
const VIEWS: [(isize, bool, f64); 6] = [
    (0, false, 0.25),
    (0, true, 0.25),
    (-1, false, 0.125),
    (-1, true, 0.125),
    (1, false, 0.125),
    (1, true, 0.125),
];

/// Logits `[N, classes]` of images `[N, size, size, 3]`, the mean over their views, in a context for
/// evaluation.
pub fn logits(model: &Model, x: &Tensor, context: &mut Context) -> Result<Tensor> {
    let mut sum: Option<Tensor> = None;
    for (offset, mirrored, weight) in VIEWS {
        let x = view(x, offset, mirrored)?;
        let logits = model.forward(&x, context)?;
        let part = ops::affine(&logits, weight, 0.0)?;
        sum = Some(match sum {
            Some(sum) => ops::add(&sum, &part)?,
            None => part,
        });
    }
    Ok(sum.expect("there are views"))
}

/// Row and column i of the result are row and column i + `offset` of the images, reflected at the
/// edge; mirrored from left to right after that.
fn view(x: &Tensor, offset: isize, mirrored: bool) -> Result<Tensor> {
    let mut x = x.clone();
    for axis in [1, 2] {
        let mirrored = mirrored && axis == 2;
        if offset == 0 && !mirrored {
            continue;
        }
        let last = x.shape()[axis] as isize - 1;
        let source = |i: isize| {
            let i = if mirrored { last - i } else { i } + offset;
            // At an edge pixel, which is not repeated; an image of one pixel has no other.
            let reflected = last - (last - i.abs()).abs();
            reflected.clamp(0, last) as i32
        };
        let indices: Vec<i32> = (0..=last).map(source).collect();
        let indices = Tensor::from_slice(x.backend(), &indices, &[indices.len()])?;
        x = ops::gather(&x, axis, &indices)?;
    }
    Ok(x)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tilegrad_engine::{no_grad, reference};
    use tilegrad_nn::{ModelConfig, ModelKind};

    #[test]
    fn views_are_moved_reflected_and_mirrored() {
        let be = reference();
        // [1, 3, 3, 1], rows abc def ghi
        let x = Tensor::from_slice(&be, b"abcdefghi".map(i32::from).as_slice(), &[1, 3, 3, 1]);
        let x = x.unwrap();
        let text = |offset, mirrored| {
            let y = view(&x, offset, mirrored).unwrap().to_vec::<i32>().unwrap();
            String::from_utf8(y.iter().map(|&v| v as u8).collect()).unwrap()
        };
        assert_eq!(text(0, false), "abcdefghi");
        assert_eq!(text(0, true), "cbafedihg");
        assert_eq!(text(-1, false), "edebabede");
        assert_eq!(text(1, false), "efehihefe");
        assert_eq!(text(1, true), "efehihefe");
        assert_eq!(text(-1, true), "edebabede");
        let dot = Tensor::from_slice(&be, &[7i32], &[1, 1, 1, 1]).unwrap();
        assert_eq!(view(&dot, 1, true).unwrap().to_vec::<i32>().unwrap(), [7]);
    }

    #[test]
    fn logits_are_the_mean_that_the_weights_say() {
        let be = reference();
        let config = ModelConfig { image_size: 8, ..ModelConfig::new(ModelKind::SimpleCnnGap, 4) };
        let model = Model::new(&be, config, 1).unwrap();
        let pixels: Vec<f32> = (0..2 * 8 * 8 * 3).map(|i| (i * 37 % 101) as f32 / 50.0).collect();
        let x = Tensor::from_slice(&be, &pixels, &[2, 8, 8, 3]).unwrap();
        let plain = |x: &Tensor| {
            no_grad(|| model.forward(x, &mut Context::eval())).unwrap().to_vec::<f32>().unwrap()
        };
        // Of a place: the mean of the view and its mirror image.
        let both = |offset| {
            let [a, b] = [false, true].map(|m| plain(&view(&x, offset, m).unwrap()));
            a.iter().zip(&b).map(|(a, b)| (a + b) / 2.0).collect::<Vec<f32>>()
        };
        let (still, up, down) = (both(0), both(-1), both(1));
        let expected = (0..8).map(|i| still[i] / 2.0 + (up[i] + down[i]) / 4.0);
        let got =
            no_grad(|| logits(&model, &x, &mut Context::eval())).unwrap().to_vec::<f32>().unwrap();
        for (got, right) in got.iter().zip(expected) {
            assert!((got - right).abs() < 1e-6, "{got} {right}");
        }
        assert_ne!(got, plain(&x));
    }
}
