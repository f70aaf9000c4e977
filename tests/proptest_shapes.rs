//! Laws on random shapes: broadcasting index by index, movements and inverses, adjoint pairs.
//!
//! A linear map A and its derivative Aᵀ satisfy <A x, y> = <x, Aᵀ y>. For convolution this ties its
//! three passes to each other without a second implementation.

use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use tilegrad::{Tolerance, compare, default_backends, exact_backends, normal, oracle};
use tilegrad_engine::{Backend, Conv2dOptions, Dtype, Tensor, ops};
use tilegrad_kernels::philox::{Purpose, Stream};
use tilegrad_kernels::{Activation, Conv2dArgs};

/// Seeds of failures are kept in a file, and tried first ever after.
fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(
            "tests/proptest-regressions/shapes.txt",
        ))),
        ..ProptestConfig::with_cases(cases)
    }
}

fn tensor(backend: &Arc<dyn Backend>, dtype: Dtype, shape: &[usize], seed: u32) -> Tensor {
    let stream = Stream::new(1, Purpose::Test, 0, seed);
    normal(shape).untracked().tensor(backend, dtype, stream).unwrap()
}

fn values(x: &Tensor) -> Vec<f64> {
    x.to_f64_vec().unwrap()
}

fn dot(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.shape(), b.shape());
    values(a).iter().zip(values(b)).map(|(a, b)| a * b).sum()
}

/// Σ |a b|: what the rounding error of a dot product is relative to.
fn magnitude(a: &Tensor, b: &Tensor) -> f64 {
    values(a).iter().zip(values(b)).map(|(a, b)| (a * b).abs()).sum()
}

/// A shape of up to 4 axes of 0 to 6 elements.
fn shape() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(0usize..7, 0..5)
}

/// A result shape, and two shapes that broadcast to it.
fn broadcast() -> impl Strategy<Value = (Vec<usize>, Vec<usize>, Vec<usize>)> {
    shape().prop_flat_map(|out| {
        let rank = out.len();
        let pick = prop::collection::vec(0u8..3, rank);
        (Just(out), pick, 0..=rank, prop::bool::ANY).prop_map(|(out, pick, cut, swap)| {
            let repeat = |wanted: u8| -> Vec<usize> {
                out.iter().zip(&pick).map(|(&s, &p)| if p == wanted { 1 } else { s }).collect()
            };
            // At each axis one side at most has a 1; the second may also lack leading axes, which
            // the first then has.
            let (a, b) = (repeat(1), repeat(2));
            let b = b[cut..].to_vec();
            let full: Vec<usize> = out[..cut].iter().chain(&a[cut..]).copied().collect();
            if swap { (out, b, full) } else { (out, full, b) }
        })
    })
}

/// Position in a tensor of `shape` that position `index` of the broadcast result reads.
fn source(index: &[usize], shape: &[usize]) -> usize {
    let skip = index.len() - shape.len();
    index[skip..].iter().zip(shape).fold(0, |at, (&i, &s)| at * s + if s == 1 { 0 } else { i })
}

/// All multi-indices of a shape, row-major.
fn indices(shape: &[usize]) -> Vec<Vec<usize>> {
    shape.iter().fold(vec![vec![]], |all, &s| {
        all.iter().flat_map(|i| (0..s).map(move |v| [i.as_slice(), &[v]].concat())).collect()
    })
}

/// A shape and a permutation of its axes.
fn permuted() -> impl Strategy<Value = (Vec<usize>, Vec<usize>)> {
    shape().prop_flat_map(|s| {
        let axes: Vec<usize> = (0..s.len()).collect();
        (Just(s), Just(axes).prop_shuffle())
    })
}

/// A shape, and what to add before and after each axis.
fn padded() -> impl Strategy<Value = (Vec<usize>, Vec<usize>, Vec<usize>)> {
    shape().prop_flat_map(|s| {
        let n = s.len();
        (Just(s), prop::collection::vec(0usize..4, n), prop::collection::vec(0usize..4, n))
    })
}

/// Sizes and options of a convolution that fit each other: (x, filter, options).
fn convolution() -> impl Strategy<Value = ([usize; 4], [usize; 4], Conv2dOptions)> {
    let pair =
        |range: std::ops::RangeInclusive<usize>| (range.clone(), range).prop_map(|(a, b)| [a, b]);
    let sizes = (0usize..4, pair(1..=5), pair(1..=3), pair(0..=2), pair(1..=2));
    let channels = (1usize..=4, 1usize..=9, 1usize..=9, pair(0..=12));
    (sizes, channels).prop_map(
        |((n, kernel, stride, padding, dilation), (groups, c_in, c_out, extra))| {
            // The smallest map that the window fits in, and `extra` more.
            let map = |i: usize| {
                let reach = dilation[i] * (kernel[i] - 1) + 1;
                reach.saturating_sub(2 * padding[i]).max(1) + extra[i]
            };
            let x = [n, map(0), map(1), c_in * groups];
            let filter = [c_out * groups, kernel[0], kernel[1], c_in];
            (x, filter, Conv2dOptions { stride, padding, dilation, groups })
        },
    )
}

proptest! {
    #![proptest_config(config(64))]

    #[test]
    fn broadcasting_reads_what_the_indices_say((out, a, b) in broadcast()) {
        for on in default_backends() {
            let (x, y) = (tensor(&on.backend, on.dtype, &a, 0), tensor(&on.backend, on.dtype, &b, 1));
            let got = ops::sub(&x, &y).unwrap();
            prop_assert_eq!(got.shape(), out.as_slice(), "{}", on.name);
            let (xs, ys) = (values(&x), values(&y));
            for (index, got) in indices(&out).iter().zip(values(&got)) {
                let expected = xs[source(index, &a)] as f32 - ys[source(index, &b)] as f32;
                prop_assert_eq!(got, f64::from(expected), "{} at {:?}", on.name, index);
            }
        }
    }

    #[test]
    fn shapes_that_do_not_broadcast_are_refused((out, a, b) in broadcast(), at in 0usize..4) {
        prop_assume!(at < a.len() && at < b.len() && out[out.len() - 1 - at] > 0);
        let (mut a, mut b) = (a, b);
        let (last_a, last_b) = (a.len() - 1 - at, b.len() - 1 - at);
        (a[last_a], b[last_b]) = (2, 3);
        for on in default_backends() {
            let (x, y) = (tensor(&on.backend, on.dtype, &a, 0), tensor(&on.backend, on.dtype, &b, 1));
            let error = ops::add(&x, &y).unwrap_err().to_string();
            prop_assert!(error.contains("do not broadcast"), "{}", error);
        }
    }

    #[test]
    fn a_permutation_is_undone_by_its_inverse((s, p) in permuted()) {
        let mut inverse = vec![0; p.len()];
        for (i, &axis) in p.iter().enumerate() {
            inverse[axis] = i;
        }
        for on in default_backends() {
            let x = tensor(&on.backend, on.dtype, &s, 0);
            let y = ops::permute(&x, &p).unwrap();
            let back = ops::permute(&y, &inverse).unwrap();
            prop_assert_eq!(back.shape(), s.as_slice());
            prop_assert_eq!(values(&back), values(&x));
            // And it moves each element to where the indices say.
            let (xs, ys) = (values(&x), values(&y));
            for (index, y) in indices(y.shape()).iter().zip(&ys) {
                let mut from = vec![0; p.len()];
                p.iter().zip(index).for_each(|(&axis, &i)| from[axis] = i);
                prop_assert_eq!(*y, xs[source(&from, &s)], "{} at {:?}", on.name, index);
            }
        }
    }

    #[test]
    fn a_slice_is_the_adjoint_of_a_padding((s, before, after) in padded()) {
        for on in default_backends() {
            let x = tensor(&on.backend, on.dtype, &s, 0);
            let wide: Vec<usize> = (0..s.len()).map(|i| before[i] + s[i] + after[i]).collect();
            let y = tensor(&on.backend, on.dtype, &wide, 1);
            let padded = ops::pad(&x, &before, &after, 0.0).unwrap();
            prop_assert_eq!(padded.shape(), wide.as_slice());
            // <pad x, y> = <x, slice y>: the same products, in the same order, and zeros.
            let cut = ops::slice(&y, &before, &s).unwrap();
            prop_assert_eq!(dot(&padded, &y), dot(&x, &cut));
            prop_assert_eq!(values(&ops::slice(&padded, &before, &s).unwrap()), values(&x));
        }
    }

    #[test]
    fn slices_of_a_concatenation_are_its_parts(
        s in shape(),
        sizes in prop::collection::vec(0usize..5, 1..5),
        axis in 0usize..4,
    ) {
        prop_assume!(axis < s.len());
        for on in default_backends() {
            let part = |size: usize, seed: usize| {
                let mut shape = s.clone();
                shape[axis] = size;
                tensor(&on.backend, on.dtype, &shape, seed as u32)
            };
            let parts: Vec<Tensor> = sizes.iter().enumerate().map(|(i, &n)| part(n, i)).collect();
            let joined = ops::concat(&parts.iter().collect::<Vec<_>>(), axis).unwrap();
            prop_assert_eq!(joined.shape()[axis], sizes.iter().sum::<usize>());
            let mut starts = vec![0; s.len()];
            for part in &parts {
                let cut = ops::slice(&joined, &starts, part.shape()).unwrap();
                prop_assert_eq!(values(&cut), values(part));
                starts[axis] += part.shape()[axis];
            }
        }
    }

    /// (A B)ᵀ = Bᵀ Aᵀ, and each flag equals a permutation.
    #[test]
    fn transposed_products_agree(m in 0usize..40, k in 0usize..40, n in 0usize..40) {
        for on in default_backends() {
            let (a, b) = (tensor(&on.backend, on.dtype, &[m, k], 0), tensor(&on.backend, on.dtype, &[k, n], 1));
            let (at, bt) = (ops::permute(&a, &[1, 0]).unwrap(), ops::permute(&b, &[1, 0]).unwrap());
            let expected = values(&ops::matmul(&a, &b, false, false).unwrap());
            let tolerance = Tolerance::sum(k);
            for (a, b, ta, tb) in [(&at, &b, true, false), (&a, &bt, false, true), (&at, &bt, true, true)] {
                let got = values(&ops::matmul(a, b, ta, tb).unwrap());
                compare(&got, &expected, tolerance, on.dtype).map_err(TestCaseError::fail)?;
            }
            let transposed = ops::matmul(&b, &a, true, true).unwrap(); // Bᵀ Aᵀ
            let back = values(&ops::permute(&transposed, &[1, 0]).unwrap());
            compare(&back, &expected, tolerance, on.dtype).map_err(TestCaseError::fail)?;
        }
    }

    /// <conv x, y> = <x, backward_data y> = <w, backward_filter(x, y)>, and every backend agrees
    /// with the reference.
    #[test]
    fn the_passes_of_a_convolution_are_adjoint((xs, fs, options) in convolution()) {
        let args = Conv2dArgs::new(&xs, &fs, options).unwrap();
        let passes = |on: &tilegrad::TestBackend| {
            let [x, w, y] = [(&xs, 0), (&fs, 1), (&args.y_shape(), 2)]
                .map(|(shape, seed)| tensor(&on.backend, on.dtype, shape, seed));
            let be = &on.backend;
            let conv = be.conv2d_forward(&args, Activation::Identity, x.buffer(), w.buffer(), None).unwrap();
            let data = be.conv2d_backward_data(&args, w.buffer(), y.buffer()).unwrap();
            let filter = be.conv2d_backward_filter(&args, x.buffer(), y.buffer()).unwrap();
            let results = [y.like(conv), x.like(data), w.like(filter)];
            ([y, x, w], results)
        };
        let (inputs, exact) = passes(oracle());
        let scale = magnitude(&inputs[0], &exact[0]) + 1.0;
        let expected = dot(&inputs[0], &exact[0]);
        for (input, result) in inputs.iter().zip(&exact) {
            let error = (dot(input, result) - expected).abs();
            prop_assert!(error <= 1e-12 * scale, "reference: {:e} apart", error);
        }
        for on in default_backends().iter().chain(exact_backends()) {
            let (inputs, got) = passes(on);
            let terms = args.kh * args.kw * fs[3].max(args.c_out / options.groups);
            let terms = terms.max(args.n * args.oh * args.ow);
            for ((input, got), exact) in inputs.iter().zip(&got).zip(&exact) {
                let error = (dot(input, got) - expected).abs();
                prop_assert!(error <= 1e-5 * scale, "{}: {:e} apart", on.name, error);
                let slack = if on.approximate_convolution { 16.0 } else { 1.0 };
                let tolerance = Tolerance::sum(terms).times(slack);
                compare(&values(got), &values(exact), tolerance, on.dtype)
                    .map_err(|e| TestCaseError::fail(format!("{}: {e}", on.name)))?;
            }
        }
    }
}
