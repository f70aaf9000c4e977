//! What a kernel is told besides its buffers: sizes and options, validated once, the same for every backend.
//!
//! A constructor checks shapes and answers with an error that says what would have been right; a backend may rely on
//! every relation that is documented here.

use crate::philox::Stream;
use crate::{Error, Result};

/// Product of the sizes of a shape; 1 for a scalar.
pub fn elements(shape: &[usize]) -> usize {
    shape.iter().product()
}

/// Elementwise functions of one input.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Unary {
    /// `scale * x + shift`: negation, scaling and shifting by constants.
    Affine {
        /// Factor.
        scale: f64,
        /// Summand.
        shift: f64,
    },
    /// e^x
    Exp,
    /// Natural logarithm.
    Log,
    /// Square root.
    Sqrt,
    /// Hyperbolic tangent.
    Tanh,
    /// 1 / (1 + e^-x)
    Sigmoid,
    /// max(x, 0); its derivative at 0 is 0.
    Relu,
    /// x where positive, `slope * x` elsewhere.
    LeakyRelu {
        /// Slope for x <= 0.
        slope: f64,
    },
    /// x Φ(x), with Φ the normal distribution function (Hendrycks and Gimpel 2016, exact form).
    Gelu,
    /// x sigmoid(x) (Elfwing et al. 2018).
    Silu,
}

/// What the derivative of a [`Unary`] is computed from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Saves {
    /// Nothing: the derivative is a constant.
    Nothing,
    /// The input x.
    Input,
    /// The output y, so that x can be freed.
    Output,
}

impl Unary {
    /// The op's name in errors and in the case table.
    pub const fn name(self) -> &'static str {
        match self {
            Unary::Affine { .. } => "affine",
            Unary::Exp => "exp",
            Unary::Log => "log",
            Unary::Sqrt => "sqrt",
            Unary::Tanh => "tanh",
            Unary::Sigmoid => "sigmoid",
            Unary::Relu => "relu",
            Unary::LeakyRelu { .. } => "leaky_relu",
            Unary::Gelu => "gelu",
            Unary::Silu => "silu",
        }
    }

    /// What `unary_backward` must be given as `saved`.
    pub const fn saves(self) -> Saves {
        match self {
            Unary::Affine { .. } => Saves::Nothing,
            Unary::Exp | Unary::Sqrt | Unary::Tanh | Unary::Sigmoid | Unary::Relu => Saves::Output,
            Unary::Log | Unary::LeakyRelu { .. } | Unary::Gelu | Unary::Silu => Saves::Input,
        }
    }
}

/// Elementwise functions of two inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binary {
    /// a + b
    Add,
    /// a - b
    Sub,
    /// a b
    Mul,
    /// a / b
    Div,
    /// The larger; NaN if either is NaN. At a tie each input gets half of the gradient.
    Max,
}

impl Binary {
    /// The op's name in errors and in the case table.
    pub const fn name(self) -> &'static str {
        match self {
            Binary::Add => "add",
            Binary::Sub => "sub",
            Binary::Mul => "mul",
            Binary::Div => "div",
            Binary::Max => "max",
        }
    }
}

/// Two shapes that broadcast to one, by NumPy's rule: aligned at the last axis, a size of 1 repeats.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BroadcastArgs {
    /// Shape of the result.
    pub out: Vec<usize>,
    /// Shape of the first input, padded with leading 1s to the rank of `out`.
    pub a: Vec<usize>,
    /// Shape of the second input, padded likewise.
    pub b: Vec<usize>,
}

impl BroadcastArgs {
    /// Shapes need not have the same rank.
    pub fn new(op: &'static str, a: &[usize], b: &[usize]) -> Result<Self> {
        let rank = a.len().max(b.len());
        let pad = |s: &[usize]| {
            let mut padded = vec![1; rank - s.len()];
            padded.extend_from_slice(s);
            padded
        };
        let (pa, pb) = (pad(a), pad(b));
        let mut out = Vec::with_capacity(rank);
        for (&x, &y) in pa.iter().zip(&pb) {
            out.push(match (x, y) {
                (x, y) if x == y => x,
                (1, y) => y,
                (x, 1) => x,
                _ => {
                    return Err(Error::shape(
                        op,
                        format!(
                            "shapes {a:?} and {b:?} do not broadcast: sizes {x} and {y} differ and neither is 1"
                        ),
                    ));
                }
            });
        }
        Ok(BroadcastArgs { out, a: pa, b: pb })
    }
}

/// `count` rows of `len` elements each, contiguous.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rows {
    /// Number of rows.
    pub count: usize,
    /// Elements in a row.
    pub len: usize,
}

impl Rows {
    /// The rows over the last axis of `shape`.
    pub fn over_last_axis(op: &'static str, shape: &[usize]) -> Result<Self> {
        match shape.split_last() {
            Some((&len, rest)) => Ok(Rows { count: elements(rest), len }),
            None => Err(Error::shape(op, "needs at least 1 axis, got []")),
        }
    }

    /// Elements in all rows.
    pub fn elements(&self) -> usize {
        self.count * self.len
    }
}

/// Reductions over axes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduce {
    /// Σ x; 0 over nothing.
    Sum,
    /// Σ x / n; NaN over nothing.
    Mean,
    /// The largest; NaN if any is NaN; -inf over nothing. Ties share the gradient equally.
    Max,
}

impl Reduce {
    /// The op's name in errors and in the case table.
    pub const fn name(self) -> &'static str {
        match self {
            Reduce::Sum => "sum",
            Reduce::Mean => "mean",
            Reduce::Max => "amax",
        }
    }
}

/// Axes of a shape to reduce over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReduceArgs {
    /// Shape of the input.
    pub shape: Vec<usize>,
    /// For each axis, whether it is reduced.
    pub reduced: Vec<bool>,
}

impl ReduceArgs {
    /// `axes` in any order, each at most once; none means all.
    pub fn new(op: &'static str, shape: &[usize], axes: &[usize]) -> Result<Self> {
        let mut reduced = vec![axes.is_empty(); shape.len()];
        for &axis in axes {
            match reduced.get_mut(axis) {
                Some(flag) if !*flag => *flag = true,
                Some(_) => return Err(Error::argument(op, format!("axis {axis} is named twice"))),
                None => {
                    let rank = shape.len();
                    return Err(Error::shape(
                        op,
                        format!("axis {axis} is outside 0..{rank} (x: {shape:?})"),
                    ));
                }
            }
        }
        Ok(ReduceArgs { shape: shape.to_vec(), reduced })
    }

    /// Input shape with 1 in place of every reduced axis.
    pub fn kept_shape(&self) -> Vec<usize> {
        self.shape.iter().zip(&self.reduced).map(|(&s, &r)| if r { 1 } else { s }).collect()
    }

    /// Shape of the result without the reduced axes.
    pub fn out_shape(&self) -> Vec<usize> {
        self.shape.iter().zip(&self.reduced).filter(|(_, r)| !**r).map(|(&s, _)| s).collect()
    }

    /// Number of elements that make one result.
    pub fn reduced_elements(&self) -> usize {
        self.shape.iter().zip(&self.reduced).filter(|(_, r)| **r).map(|(&s, _)| s).product()
    }

    /// Number of results.
    pub fn out_elements(&self) -> usize {
        elements(&self.kept_shape())
    }
}

/// Batched matrix product: y[i] = op(a[i]) op(b[i]) (+ bias), each matrix row-major, op an optional transposition.
///
/// op(a) is `[m, k]`, op(b) is `[k, n]`, y is `[batch, m, n]`, bias is `[n]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatmulArgs {
    /// Number of products.
    pub batch: usize,
    /// Rows of the result.
    pub m: usize,
    /// Columns of the result.
    pub n: usize,
    /// Length of the sums.
    pub k: usize,
    /// a is stored `[k, m]`.
    pub transpose_a: bool,
    /// b is stored `[n, k]`.
    pub transpose_b: bool,
    /// One a for all products (a has no batch axis).
    pub shared_a: bool,
    /// One b for all products.
    pub shared_b: bool,
}

impl MatmulArgs {
    /// Shapes `[.., rows, columns]`: equal leading axes, or none on one side, which is then shared.
    pub fn new(a: &[usize], b: &[usize], transpose_a: bool, transpose_b: bool) -> Result<Self> {
        const OP: &str = "matmul";
        let wrong = |what: &str| {
            let flags = format!("transpose_a: {transpose_a}, transpose_b: {transpose_b}");
            Err(Error::shape(OP, format!("{what} (a: {a:?}, b: {b:?}, {flags})")))
        };
        let (Some((lead_a, [ra, ca])), Some((lead_b, [rb, cb]))) =
            (a.split_last_chunk::<2>(), b.split_last_chunk::<2>())
        else {
            return wrong("needs at least 2 axes on both sides");
        };
        let (m, k) = if transpose_a { (*ca, *ra) } else { (*ra, *ca) };
        let (kb, n) = if transpose_b { (*cb, *rb) } else { (*rb, *cb) };
        if k != kb {
            return wrong(&format!("inner sizes {k} and {kb} differ"));
        }
        if lead_a != lead_b && !lead_a.is_empty() && !lead_b.is_empty() {
            return wrong("leading axes must be equal, or absent on one side");
        }
        let lead = if lead_a.is_empty() { lead_b } else { lead_a };
        Ok(MatmulArgs {
            batch: elements(lead),
            m,
            n,
            k,
            transpose_a,
            transpose_b,
            shared_a: lead_a.is_empty(),
            shared_b: lead_b.is_empty(),
        })
    }

    /// Elements of a.
    pub fn a_elements(&self) -> usize {
        (if self.shared_a { 1 } else { self.batch }) * self.m * self.k
    }

    /// Elements of b.
    pub fn b_elements(&self) -> usize {
        (if self.shared_b { 1 } else { self.batch }) * self.k * self.n
    }

    /// Elements of y.
    pub fn y_elements(&self) -> usize {
        self.batch * self.m * self.n
    }

    /// Floating-point operations: a multiplication and an addition a term.
    pub fn flops(&self) -> u64 {
        2 * self.batch as u64 * self.m as u64 * self.n as u64 * self.k as u64
    }
}

/// Activation that a fused kernel applies to its result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Activation {
    /// None.
    #[default]
    Identity,
    /// max(x, 0)
    Relu,
}

/// Options of a convolution, for both axes `[vertical, horizontal]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Conv2dOptions {
    /// Distance between output positions; at least 1.
    pub stride: [usize; 2],
    /// Zeros added on both sides.
    pub padding: [usize; 2],
    /// Distance between filter taps; at least 1.
    pub dilation: [usize; 2],
    /// Groups of channels that do not mix; divides both channel counts.
    pub groups: usize,
}

impl Default for Conv2dOptions {
    fn default() -> Self {
        Conv2dOptions { stride: [1, 1], padding: [0, 0], dilation: [1, 1], groups: 1 }
    }
}

/// Sizes of a convolution: x `[n, h, w, c_in]`, filter `[c_out, kh, kw, c_in / groups]`, y `[n, oh, ow, c_out]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Conv2dArgs {
    /// Images.
    pub n: usize,
    /// Input rows.
    pub h: usize,
    /// Input columns.
    pub w: usize,
    /// Input channels.
    pub c_in: usize,
    /// Output channels.
    pub c_out: usize,
    /// Filter rows.
    pub kh: usize,
    /// Filter columns.
    pub kw: usize,
    /// Output rows.
    pub oh: usize,
    /// Output columns.
    pub ow: usize,
    /// Stride, padding, dilation, groups.
    pub options: Conv2dOptions,
}

/// Output positions of a sliding window along one axis, or what is wrong.
fn windows(
    size: usize,
    kernel: usize,
    stride: usize,
    padding: usize,
    dilation: usize,
) -> std::result::Result<usize, String> {
    if kernel == 0 || stride == 0 || dilation == 0 {
        return Err(format!(
            "kernel, stride and dilation must be at least 1, got {kernel}, {stride}, {dilation}"
        ));
    }
    let reach = dilation.checked_mul(kernel - 1).and_then(|r| r.checked_add(1));
    let padded = padding.checked_mul(2).and_then(|p| p.checked_add(size));
    match (reach, padded) {
        (Some(reach), Some(padded)) if padded >= reach => Ok((padded - reach) / stride + 1),
        (Some(reach), Some(padded)) => {
            Err(format!("the window reaches over {reach} positions, but there are {padded} with padding"))
        }
        _ => Err("kernel, dilation or padding is too large".to_string()),
    }
}

impl Conv2dArgs {
    /// From the shapes of x and the filter.
    pub fn new(x: &[usize], filter: &[usize], options: Conv2dOptions) -> Result<Self> {
        const OP: &str = "conv2d";
        let groups = options.groups;
        let shapes = format!("(x: {x:?}, filter: {filter:?}, groups {groups})");
        let (&[n, h, w, c_in], &[c_out, kh, kw, c_group]) = (x, filter) else {
            return Err(Error::shape(
                OP,
                format!("x must be [N, H, W, C] and filter [Cout, KH, KW, Cin / groups] {shapes}"),
            ));
        };
        if groups == 0 || c_in % groups != 0 || c_out % groups != 0 {
            return Err(Error::argument(
                OP,
                format!("groups must divide {c_in} input and {c_out} output channels {shapes}"),
            ));
        }
        if c_group * groups != c_in {
            return Err(Error::shape(
                OP,
                format!("filter expects {} input channels, but x has {c_in} {shapes}", c_group * groups),
            ));
        }
        let axis = |i: usize, size, kernel| {
            windows(size, kernel, options.stride[i], options.padding[i], options.dilation[i])
                .map_err(|what| Error::argument(OP, format!("{what} {shapes}")))
        };
        let (oh, ow) = (axis(0, h, kh)?, axis(1, w, kw)?);
        Ok(Conv2dArgs { n, h, w, c_in, c_out, kh, kw, oh, ow, options })
    }

    /// Shape of y.
    pub fn y_shape(&self) -> [usize; 4] {
        [self.n, self.oh, self.ow, self.c_out]
    }

    /// Shape of x.
    pub fn x_shape(&self) -> [usize; 4] {
        [self.n, self.h, self.w, self.c_in]
    }

    /// Shape of the filter.
    pub fn filter_shape(&self) -> [usize; 4] {
        [self.c_out, self.kh, self.kw, self.c_in / self.options.groups]
    }

    /// Elements of x.
    pub fn x_elements(&self) -> usize {
        elements(&self.x_shape())
    }

    /// Elements of the filter.
    pub fn filter_elements(&self) -> usize {
        elements(&self.filter_shape())
    }

    /// Elements of y.
    pub fn y_elements(&self) -> usize {
        elements(&self.y_shape())
    }

    /// Floating-point operations of any of the three passes done directly.
    pub fn flops(&self) -> u64 {
        let taps = (self.kh * self.kw * self.c_in / self.options.groups) as u64;
        2 * self.y_elements() as u64 * taps
    }
}

/// Sizes of a pooling: x `[n, h, w, c]`, y `[n, oh, ow, c]`. Padding counts as -inf for max, and is left out of averages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool2dArgs {
    /// Images.
    pub n: usize,
    /// Input rows.
    pub h: usize,
    /// Input columns.
    pub w: usize,
    /// Channels.
    pub c: usize,
    /// Window `[rows, columns]`.
    pub kernel: [usize; 2],
    /// Distance between windows.
    pub stride: [usize; 2],
    /// Positions added on both sides; at most half the window, so that no window is empty.
    pub padding: [usize; 2],
    /// Output rows.
    pub oh: usize,
    /// Output columns.
    pub ow: usize,
}

impl Pool2dArgs {
    /// From the shape of x.
    pub fn new(
        op: &'static str,
        x: &[usize],
        kernel: [usize; 2],
        stride: [usize; 2],
        padding: [usize; 2],
    ) -> Result<Self> {
        let &[n, h, w, c] = x else {
            return Err(Error::shape(op, format!("x must be [N, H, W, C], got {x:?}")));
        };
        let axis = |i: usize, size| {
            // Padding could be wide enough for windows that see nothing else.
            if size == 0 {
                return Err(Error::argument(op, format!("needs at least 1 position, got {x:?}")));
            }
            if padding[i] * 2 > kernel[i] {
                return Err(Error::argument(
                    op,
                    format!("padding {padding:?} must be at most half of the window {kernel:?}"),
                ));
            }
            windows(size, kernel[i], stride[i], padding[i], 1)
                .map_err(|what| Error::argument(op, format!("{what} (x: {x:?})")))
        };
        let (oh, ow) = (axis(0, h)?, axis(1, w)?);
        Ok(Pool2dArgs { n, h, w, c, kernel, stride, padding, oh, ow })
    }

    /// Elements of x.
    pub fn x_elements(&self) -> usize {
        self.n * self.h * self.w * self.c
    }

    /// Elements of y.
    pub fn y_elements(&self) -> usize {
        self.n * self.oh * self.ow * self.c
    }

    /// The input rows and columns that output position `(oy, ox)` covers, padding left out.
    #[inline]
    pub fn window(
        &self,
        oy: usize,
        ox: usize,
    ) -> (std::ops::Range<usize>, std::ops::Range<usize>) {
        let axis = |o: usize, i: usize, size: usize| {
            let start = o * self.stride[i];
            let end = (start + self.kernel[i]).saturating_sub(self.padding[i]).min(size);
            start.saturating_sub(self.padding[i]).min(end)..end
        };
        (axis(oy, 0, self.h), axis(ox, 1, self.w))
    }
}

/// Batch normalisation over rows: x `[rows, c]`, statistics a channel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchNormArgs {
    /// N * H * W.
    pub rows: usize,
    /// Channels.
    pub c: usize,
    /// Added to the variance.
    pub epsilon: f64,
    /// Applied to the normalised value (after the residual is added).
    pub activation: Activation,
    /// True: mean and variance are those of x (and depend on it). False: they are given constants.
    pub training: bool,
}

impl BatchNormArgs {
    /// Over the last axis of `x`.
    pub fn new(x: &[usize], epsilon: f64, activation: Activation, training: bool) -> Result<Self> {
        const OP: &str = "batch_norm";
        let Rows { count: rows, len: c } = Rows::over_last_axis(OP, x)?;
        if training && rows == 1 && c > 0 {
            return Err(Error::shape(
                OP,
                format!("needs more than 1 value a channel when training, got x: {x:?}"),
            ));
        }
        Ok(BatchNormArgs { rows, c, epsilon, activation, training })
    }

    /// Elements of x.
    pub fn elements(&self) -> usize {
        self.rows * self.c
    }
}

/// Cross-entropy of rows of logits, with the target distribution (1 - s) t + s / classes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CrossEntropyArgs {
    /// Batch and classes.
    pub rows: Rows,
    /// s, the label smoothing (Szegedy et al. 2016, §7), in [0, 1].
    pub smoothing: f64,
}

impl CrossEntropyArgs {
    /// `logits` is `[batch, classes]`; `targets` is `[batch]` (labels) or `[batch, classes]` (soft).
    pub fn new(logits: &[usize], targets: &[usize], smoothing: f64) -> Result<Self> {
        const OP: &str = "cross_entropy";
        let &[count, len] = logits else {
            return Err(Error::shape(OP, format!("logits must be [batch, classes], got {logits:?}")));
        };
        if targets != [count] && targets != [count, len] {
            return Err(Error::shape(
                OP,
                format!(
                    "targets must be labels [{count}] or probabilities [{count}, {len}], got {targets:?}"
                ),
            ));
        }
        if !(0.0..=1.0).contains(&smoothing) {
            return Err(Error::argument(OP, format!("label smoothing must be in [0, 1], got {smoothing}")));
        }
        Ok(CrossEntropyArgs { rows: Rows { count, len }, smoothing })
    }
}

/// Dropout: element i is kept where word i of `stream` is at least `p * 2^32`, and then scaled by 1 / (1 - p).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DropoutArgs {
    /// Elements.
    pub len: usize,
    /// Probability of being zeroed, in [0, 1).
    pub p: f64,
    /// Where the random words come from.
    pub stream: Stream,
}

impl DropoutArgs {
    /// Checks `p`.
    pub fn new(len: usize, p: f64, stream: Stream) -> Result<Self> {
        if !(0.0..1.0).contains(&p) {
            return Err(Error::argument("dropout", format!("p must be in [0, 1), got {p}")));
        }
        Ok(DropoutArgs { len, p, stream })
    }

    /// Smallest random word that keeps an element.
    pub fn threshold(&self) -> u32 {
        (self.p * 4294967296.0) as u32
    }

    /// Factor of a kept element.
    pub fn scale(&self) -> f64 {
        1.0 / (1.0 - self.p)
    }
}

/// Permutation of axes: axis i of the result is axis `permutation[i]` of x.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PermuteArgs {
    /// Shape of x.
    pub shape: Vec<usize>,
    /// The permutation.
    pub permutation: Vec<usize>,
}

impl PermuteArgs {
    /// Checks that it is a permutation of the axes.
    pub fn new(shape: &[usize], permutation: &[usize]) -> Result<Self> {
        let mut sorted = permutation.to_vec();
        sorted.sort_unstable();
        if !sorted.iter().copied().eq(0..shape.len()) {
            return Err(Error::argument(
                "permute",
                format!("{permutation:?} is not a permutation of the {} axes of {shape:?}", shape.len()),
            ));
        }
        Ok(PermuteArgs { shape: shape.to_vec(), permutation: permutation.to_vec() })
    }

    /// Shape of the result.
    pub fn out_shape(&self) -> Vec<usize> {
        self.permutation.iter().map(|&p| self.shape[p]).collect()
    }

    /// The permutation that undoes this one.
    pub fn inverse(&self) -> PermuteArgs {
        let mut inverse = vec![0; self.permutation.len()];
        for (i, &p) in self.permutation.iter().enumerate() {
            inverse[p] = i;
        }
        PermuteArgs { shape: self.out_shape(), permutation: inverse }
    }
}

/// Concatenation along one axis. Seen as rows: each input i is `[outer, sizes[i] * inner]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConcatArgs {
    /// Product of the axes before.
    pub outer: usize,
    /// Size of the axis in each input.
    pub sizes: Vec<usize>,
    /// Product of the axes after.
    pub inner: usize,
    /// Shape of the result.
    pub out_shape: Vec<usize>,
}

impl ConcatArgs {
    /// All shapes must agree but for `axis`.
    pub fn new(shapes: &[&[usize]], axis: usize) -> Result<Self> {
        const OP: &str = "concat";
        let Some(first) = shapes.first() else {
            return Err(Error::argument(OP, "needs at least 1 input, got none"));
        };
        if axis >= first.len() {
            return Err(Error::shape(OP, format!("axis {axis} is outside the axes of {first:?}")));
        }
        let same = |s: &[usize]| {
            s.len() == first.len() && (0..s.len()).all(|i| i == axis || s[i] == first[i])
        };
        if let Some(odd) = shapes.iter().find(|s| !same(s)) {
            return Err(Error::shape(
                OP,
                format!("shapes must agree outside axis {axis}, got {first:?} and {odd:?}"),
            ));
        }
        let sizes: Vec<usize> = shapes.iter().map(|s| s[axis]).collect();
        let mut out_shape = first.to_vec();
        out_shape[axis] = sizes.iter().sum();
        Ok(ConcatArgs {
            outer: elements(&first[..axis]),
            sizes,
            inner: elements(&first[axis + 1..]),
            out_shape,
        })
    }
}

/// A box cut out of x: `sizes[i]` elements from `starts[i]` on along axis i.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceArgs {
    /// Shape of x.
    pub shape: Vec<usize>,
    /// First element kept.
    pub starts: Vec<usize>,
    /// Elements kept: the shape of the result.
    pub sizes: Vec<usize>,
}

impl SliceArgs {
    /// Checks that the box lies inside.
    pub fn new(shape: &[usize], starts: &[usize], sizes: &[usize]) -> Result<Self> {
        let fits = starts.len() == shape.len()
            && sizes.len() == shape.len()
            && (0..shape.len()).all(|i| starts[i].checked_add(sizes[i]).is_some_and(|e| e <= shape[i]));
        if !fits {
            return Err(Error::shape(
                "slice",
                format!("the box at {starts:?} of size {sizes:?} does not lie inside {shape:?}"),
            ));
        }
        Ok(SliceArgs { shape: shape.to_vec(), starts: starts.to_vec(), sizes: sizes.to_vec() })
    }

    /// The padding whose result has x's shape: the derivative of this slice.
    pub fn transpose(&self) -> PadArgs {
        let after = (0..self.shape.len()).map(|i| self.shape[i] - self.starts[i] - self.sizes[i]);
        PadArgs {
            shape: self.sizes.clone(),
            after: after.collect(),
            before: self.starts.clone(),
            value: 0.0,
        }
    }
}

/// Constant padding: `before[i]` and `after[i]` elements of `value` along axis i.
#[derive(Clone, Debug, PartialEq)]
pub struct PadArgs {
    /// Shape of x.
    pub shape: Vec<usize>,
    /// Elements added in front.
    pub before: Vec<usize>,
    /// Elements added behind.
    pub after: Vec<usize>,
    /// What they are.
    pub value: f64,
}

impl PadArgs {
    /// Checks the ranks.
    pub fn new(shape: &[usize], before: &[usize], after: &[usize], value: f64) -> Result<Self> {
        if before.len() != shape.len() || after.len() != shape.len() {
            return Err(Error::shape(
                "pad",
                format!("needs one pair an axis of {shape:?}, got before {before:?}, after {after:?}"),
            ));
        }
        Ok(PadArgs {
            shape: shape.to_vec(),
            before: before.to_vec(),
            after: after.to_vec(),
            value,
        })
    }

    /// Shape of the result.
    pub fn out_shape(&self) -> Vec<usize> {
        (0..self.shape.len()).map(|i| self.before[i] + self.shape[i] + self.after[i]).collect()
    }

    /// The slice that takes x out of the result: the derivative of this padding.
    pub fn transpose(&self) -> SliceArgs {
        SliceArgs {
            shape: self.out_shape(),
            starts: self.before.clone(),
            sizes: self.shape.clone(),
        }
    }
}

/// Selection along one axis by a list of indices: x is `[outer, axis, inner]`, y is `[outer, count, inner]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatherArgs {
    /// Product of the axes before.
    pub outer: usize,
    /// Size of the axis: every index is below it.
    pub axis: usize,
    /// Product of the axes after.
    pub inner: usize,
    /// Number of indices.
    pub count: usize,
    /// Shape of the result.
    pub out_shape: Vec<usize>,
}

impl GatherArgs {
    /// `count` indices along `axis` of `shape`.
    pub fn new(shape: &[usize], axis: usize, count: usize) -> Result<Self> {
        let Some(&size) = shape.get(axis) else {
            return Err(Error::shape("gather", format!("axis {axis} is outside the axes of {shape:?}")));
        };
        let mut out_shape = shape.to_vec();
        out_shape[axis] = count;
        Ok(GatherArgs {
            outer: elements(&shape[..axis]),
            axis: size,
            inner: elements(&shape[axis + 1..]),
            count,
            out_shape,
        })
    }
}

/// Stochastic gradient descent with momentum, as PyTorch defines it: with g the gradient plus `weight_decay * p`,
/// v = momentum v + (1 - dampening) g, and p -= lr (g + momentum v if nesterov, else v).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SgdArgs {
    /// Learning rate.
    pub lr: f64,
    /// Momentum; at 0 no velocity is read or written.
    pub momentum: f64,
    /// Dampening of the gradient in the velocity.
    pub dampening: f64,
    /// L2 penalty.
    pub weight_decay: f64,
    /// Nesterov's form.
    pub nesterov: bool,
}

/// AdamW (Loshchilov and Hutter 2019, Algorithm 2): decoupled weight decay, bias-corrected moments.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWArgs {
    /// Learning rate.
    pub lr: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled decay: p -= lr * weight_decay * p.
    pub weight_decay: f64,
    /// This step's number, from 1 on.
    pub step: u64,
}
