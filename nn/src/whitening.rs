//! Whitening filters: a first convolution whose outputs are uncorrelated and of equal variance.
//!
//! For all patches p of some images, flattened to d = k k c values, let M = mean p pᵀ, with
//! eigenvalues λ_i and orthonormal eigenvectors v_i. The filters
//!   f_i = v_i / √(λ_i + ε)
//! have ⟨f_i, p⟩ with mean products (λ_i / (λ_i + ε)) δ_ij: nearly the identity. ε keeps directions
//! that images hardly use from being blown up. The filters and their negatives make 2 d outputs, of
//! which the activation behind them keeps both halves (Page 2019, "How to Train Your ResNet 8: Bag
//! of Tricks"; Jordan 2024, arXiv 2404.00498, §3.2).

use nalgebra::{DMatrix, SymmetricEigen};
use tilegrad_engine::{Error, Result, Tensor};

/// Filters `[2 k k c, k, k, c]`, row-major, for the `kernel` x `kernel` patches of `images`
/// `[N, H, W, c]`: by rising eigenvalue, then the negatives in the same order. The component of a
/// filter that is largest in size is positive in the first half, which makes signs definite.
///
/// Sums are made on the host in f64, in the order of memory: every device gives the same bits.
pub fn filters(images: &Tensor, kernel: usize, epsilon: f64) -> Result<Vec<f64>> {
    const OP: &str = "whitening";
    let &[n, h, w, c] = images.shape() else {
        let detail = format!("images must be [N, H, W, C], got {:?}", images.shape());
        return Err(Error::shape(OP, detail));
    };
    if kernel == 0 || n == 0 || c == 0 || h < kernel || w < kernel {
        let detail = format!("no {kernel}x{kernel} patch in images {:?}", images.shape());
        return Err(Error::shape(OP, detail));
    }
    let moment = second_moment(&images.to_f64_vec()?, [h, w, c], kernel);
    if let Some(bad) = moment.iter().find(|m| !m.is_finite()) {
        return Err(Error::argument(OP, format!("images must be finite, a mean product is {bad}")));
    }
    let d = moment.nrows();
    let SymmetricEigen { eigenvalues, eigenvectors } = SymmetricEigen::new(moment);
    let mut order: Vec<usize> = (0..d).collect();
    order.sort_by(|&a, &b| eigenvalues[a].total_cmp(&eigenvalues[b]));
    let mut filters = Vec::with_capacity(2 * d * d);
    for i in order {
        let vector = eigenvectors.column(i);
        let largest = vector.iter().fold(0.0f64, |m, v| if v.abs() > m.abs() { *v } else { m });
        // Rounding can leave an eigenvalue of 0 slightly negative.
        let scale = largest.signum() / (eigenvalues[i].max(0.0) + epsilon).sqrt();
        filters.extend(vector.iter().map(|v| v * scale));
    }
    filters.extend_from_within(..);
    filters[d * d..].iter_mut().for_each(|v| *v = -*v);
    Ok(filters)
}

/// The mean of p pᵀ over all patches p, each flattened in the order (row, column, channel).
fn second_moment(images: &[f64], [h, w, c]: [usize; 3], kernel: usize) -> DMatrix<f64> {
    let (row, d) = (kernel * c, kernel * kernel * c);
    let mut sums = vec![0.0; d * d];
    let mut patch = vec![0.0; d];
    let mut patches = 0u64;
    for image in images.chunks_exact(h * w * c) {
        for y in 0..=h - kernel {
            for x in 0..=w - kernel {
                for (i, part) in patch.chunks_exact_mut(row).enumerate() {
                    part.copy_from_slice(&image[((y + i) * w + x) * c..][..row]);
                }
                for (p, sums) in patch.iter().zip(sums.chunks_exact_mut(d)) {
                    sums.iter_mut().zip(&patch).for_each(|(sum, q)| *sum += p * q);
                }
                patches += 1;
            }
        }
    }
    DMatrix::from_iterator(d, d, sums.into_iter().map(|sum| sum / patches as f64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tilegrad_engine::reference;
    use tilegrad_kernels::philox::{Purpose, Stream};

    const SHAPE: [usize; 4] = [40, 9, 7, 3];

    /// Neighbouring pixels and channels of these images are alike, as in photographs, and nothing
    /// has mean 0.
    fn images() -> Vec<f64> {
        let [n, h, w, c] = SHAPE;
        let stream = Stream::new(5, Purpose::Test, 0, 0);
        let mut x: Vec<f64> = (0..(n * h * w * c) as u64).map(|i| stream.normal(i) + 0.3).collect();
        for i in w * c..x.len() {
            x[i] += 0.5 * x[i - 1] + 0.6 * x[i - c] + 0.2 * x[i - w * c];
            x[i] *= 0.5;
        }
        x
    }

    /// Mean products of all pairs of filter outputs over all patches.
    fn products(images: &[f64], filters: &[f64], kernel: usize) -> Vec<Vec<f64>> {
        let [_, h, w, c] = SHAPE;
        let d = kernel * kernel * c;
        let outputs = filters.len() / d;
        let mut sums = vec![vec![0.0; outputs]; outputs];
        let mut count = 0.0;
        for image in images.chunks_exact(h * w * c) {
            for y in 0..=h - kernel {
                for x in 0..=w - kernel {
                    let at = |i: usize| {
                        let (row, column, channel) = (i / (kernel * c), i / c % kernel, i % c);
                        image[((y + row) * w + x + column) * c + channel]
                    };
                    let out: Vec<f64> = filters
                        .chunks_exact(d)
                        .map(|f| f.iter().enumerate().map(|(i, f)| f * at(i)).sum())
                        .collect();
                    for (a, row) in out.iter().zip(&mut sums) {
                        row.iter_mut().zip(&out).for_each(|(sum, b)| *sum += a * b);
                    }
                    count += 1.0;
                }
            }
        }
        sums.iter().map(|row| row.iter().map(|s| s / count).collect()).collect()
    }

    #[test]
    fn whitened_patches_are_uncorrelated_and_of_unit_variance() {
        let (be, x) = (reference(), images());
        let images = Tensor::from_slice(&be, &x, &SHAPE).unwrap();
        for kernel in [1, 2, 3] {
            let d = kernel * kernel * 3;
            let filters = filters(&images, kernel, 1e-9).unwrap();
            assert_eq!(filters.len(), 2 * d * d);
            for (i, row) in products(&x, &filters, kernel).iter().enumerate() {
                for (j, product) in row.iter().enumerate() {
                    let right = match (i % d == j % d, i == j) {
                        (true, true) => 1.0,
                        (true, false) => -1.0, // a filter and its negative
                        (false, _) => 0.0,
                    };
                    assert!((product - right).abs() < 1e-6, "{kernel}: {i} {j}: {product}");
                }
            }
        }
    }

    #[test]
    fn epsilon_damps_directions_that_images_do_not_use() {
        let be = reference();
        // All three channels are equal: of 3 directions only (1, 1, 1) / √3 is used.
        let x: Vec<f64> = (0..60).map(|i| [1.0, -2.0, 0.5, 1.5][i / 3 % 4]).collect();
        let images = Tensor::from_slice(&be, &x, &[1, 4, 5, 3]).unwrap();
        let filters = filters(&images, 1, 0.01).unwrap();
        let norms: Vec<f64> =
            filters.chunks(3).map(|f| f.iter().map(|v| v * v).sum::<f64>().sqrt()).collect();
        let power = x.iter().map(|v| v * v).sum::<f64>() / 20.0;
        assert!((norms[0] - 10.0).abs() < 1e-6 && (norms[1] - 10.0).abs() < 1e-6, "{norms:?}");
        assert!((norms[2] - 1.0 / (power + 0.01).sqrt()).abs() < 1e-9, "{norms:?}");
        assert!(filters[6..9].iter().all(|&v| (v - filters[6]).abs() < 1e-9 && v > 0.0));
        assert!(filters[15..].iter().zip(&filters[6..9]).all(|(a, b)| *a == -b));
    }

    #[test]
    fn images_without_a_patch_are_refused() {
        let be = reference();
        let small = Tensor::from_slice(&be, &[0.5f32; 6], &[1, 1, 2, 3]).unwrap();
        let error = filters(&small, 2, 1e-3).unwrap_err().to_string();
        assert!(error.contains("no 2x2 patch in images [1, 1, 2, 3]"), "{error}");
        let nan = Tensor::from_slice(&be, &[f32::NAN; 12], &[1, 2, 2, 3]).unwrap();
        assert!(filters(&nan, 2, 1e-3).unwrap_err().to_string().contains("must be finite"));
    }
}
