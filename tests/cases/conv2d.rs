//! Convolutions: strides, padding, dilation, groups, kernels, odd channels, maps of every size, the
//! models' shapes.

use tilegrad_engine::{Activation, Conv2dOptions, Error, Tensor, ops};
use tilegrad_kernels::Conv2dArgs;

use crate::{Case, ErrorCase, Input, Special, Tolerance, normal, same_bits};

/// Sizes and options of one convolution.
#[derive(Clone, Copy)]
struct Conv {
    x: [usize; 4],
    c_out: usize,
    kernel: [usize; 2],
    options: Conv2dOptions,
}

/// A convolution of x `[n, h, w, c_in]` to `c_out` channels with stride 1 and no padding.
fn conv(x: [usize; 4], c_out: usize, kernel: [usize; 2]) -> Conv {
    Conv { x, c_out, kernel, options: Conv2dOptions::default() }
}

impl Conv {
    fn stride(mut self, s: usize) -> Conv {
        self.options.stride = [s, s];
        self
    }

    fn padding(mut self, p: usize) -> Conv {
        self.options.padding = [p, p];
        self
    }

    fn dilation(mut self, d: usize) -> Conv {
        self.options.dilation = [d, d];
        self
    }

    fn groups(mut self, g: usize) -> Conv {
        self.options.groups = g;
        self
    }

    fn filter(&self) -> [usize; 4] {
        [self.c_out, self.kernel[0], self.kernel[1], self.x[3] / self.options.groups.max(1)]
    }

    fn label(&self) -> String {
        let Conv2dOptions { stride, padding, dilation, groups } = self.options;
        format!("stride {stride:?} padding {padding:?} dilation {dilation:?} groups {groups}")
    }

    /// Terms of the longest sum of the three passes.
    fn terms(&self) -> usize {
        let taps = self.kernel[0] * self.kernel[1];
        let channels = (self.x[3] / self.options.groups).max(self.c_out / self.options.groups);
        (taps * channels).max(self.x[0] * self.x[1] * self.x[2])
    }

    /// With the bias and the activation, if wanted, fused into the kernel.
    fn case(self, bias: bool, activation: Activation) -> Case {
        let mut inputs = vec![normal(&self.x), normal(&self.filter())];
        if bias {
            inputs.push(normal(&[self.c_out]));
        }
        let options = self.options;
        Case::new("conv2d", inputs, move |x| {
            ops::conv2d(&x[0], &x[1], x.get(2), options, activation)
        })
        .note(format!("{} {activation:?}", self.label()))
        .tolerance(Tolerance::sum(self.terms()))
        .exact()
    }
}

impl Conv {
    /// Inference: the filter and the bias are constants, a residual may be added. The second of two
    /// calls uses what the first one kept; it must give the same bits.
    fn inference(self, bias: bool, residual: bool, activation: Activation) -> Case {
        let mut inputs = vec![normal(&self.x), normal(&self.filter()).untracked()];
        if bias {
            inputs.push(normal(&[self.c_out]).untracked());
        }
        let args = Conv2dArgs::new(&self.x, &self.filter(), self.options).expect("a good case");
        if residual {
            inputs.push(normal(&args.y_shape()));
        }
        let options = self.options;
        Case::new("conv2d_inference", inputs, move |x| {
            let (b, r) = (bias.then(|| &x[2]), residual.then(|| &x[x.len() - 1]));
            let run = || ops::conv2d_inference(&x[0], &x[1], b, r, options, activation);
            let (first, second) = (run()?.to_f64_vec()?, run()?);
            match same_bits(&second.to_f64_vec()?, &first) {
                Ok(()) => Ok(second),
                Err(e) => Err(Error::argument("conv2d_inference", format!("second call: {e}"))),
            }
        })
        .note(format!("{} {activation:?}", self.label()))
        .tolerance(Tolerance::sum(self.terms()))
        .exact()
    }
}

/// All that is listed here.
fn convolutions() -> Vec<Conv> {
    let mut list = vec![
        // Nothing, and the smallest of everything.
        conv([0, 4, 4, 3], 5, [3, 3]).padding(1),
        conv([2, 5, 5, 3], 0, [3, 3]).padding(1),
        conv([1, 1, 1, 1], 1, [1, 1]),
        conv([1, 1, 1, 3], 4, [3, 3]).padding(1),
        conv([1, 3, 3, 2], 3, [3, 3]),
        // One output position that sees padding only in part.
        conv([1, 1, 5, 2], 3, [3, 3]).padding(2).stride(3),
    ];
    // Kernels x strides x padding x dilation, with channel counts that go round: below, at and
    // above a vector.
    let channels = [(1, 3), (3, 16), (16, 17), (17, 5), (32, 8)];
    let mut index = 0;
    for kernel in [[1, 1], [3, 3], [5, 5], [2, 3]] {
        for stride in 1..=3 {
            for padding in 0..=2 {
                for dilation in 1..=2 {
                    let (c_in, c_out) = channels[index % channels.len()];
                    let x = [1 + index % 3, 9 + index % 2, 11 - index % 3, c_in];
                    list.push(
                        conv(x, c_out, kernel).stride(stride).padding(padding).dilation(dilation),
                    );
                    index += 1;
                }
            }
        }
    }
    // Groups: 2, 4 and depthwise, also with more output than input channels.
    for (c_in, c_out, groups) in [
        (4, 6, 2),
        (6, 4, 2),
        (16, 32, 4),
        (34, 34, 2),
        (3, 3, 3),
        (16, 16, 16),
        (17, 17, 17),
        (5, 10, 5),
        (64, 64, 64),
    ] {
        list.push(conv([2, 7, 6, c_in], c_out, [3, 3]).padding(1).groups(groups));
        list.push(conv([1, 8, 9, c_in], c_out, [2, 3]).stride(2).padding(1).groups(groups));
        list.push(conv([2, 5, 5, c_in], c_out, [1, 1]).groups(groups));
        list.push(conv([1, 9, 9, c_in], c_out, [3, 3]).dilation(2).padding(2).groups(groups));
    }
    // Every map from 1 to 33: all remainders of every tile.
    for size in 1..=33 {
        list.push(conv([1, size, 34 - size, 16], 17, [3, 3]).padding(1));
    }
    // Options that differ between the axes.
    let mut oblong = conv([2, 9, 7, 5], 6, [3, 2]);
    oblong.options = Conv2dOptions { stride: [2, 1], padding: [0, 1], dilation: [1, 2], groups: 1 };
    list.push(oblong);
    // The models, at a reduced batch: stem, body, transition, shortcut.
    for width in [16, 32, 64] {
        list.push(conv([2, 32, 32, 3], width, [3, 3]).padding(1));
    }
    for (size, width) in
        [(32, 16), (16, 32), (8, 64), (16, 64), (8, 128), (32, 32), (4, 512), (8, 256)]
    {
        list.push(
            conv([if width > 200 { 1 } else { 2 }, size, size, width], width, [3, 3]).padding(1),
        );
    }
    for (size, width) in [(32, 16), (16, 32), (32, 32), (16, 64), (8, 128)] {
        list.push(conv([2, size, size, width], 2 * width, [3, 3]).stride(2).padding(1));
        list.push(conv([2, size, size, width], 2 * width, [1, 1]).stride(2));
    }
    list.push(conv([1, 32, 32, 64], 64, [3, 3]).padding(1));
    list.push(conv([2, 16, 16, 32], 64, [3, 3]).padding(1));
    list
}

/// What must work.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (index, conv) in convolutions().into_iter().enumerate() {
        let activation = if index % 3 == 2 { Activation::Relu } else { Activation::Identity };
        cases.push(conv.case(index % 2 == 0, activation));
        cases.push(conv.inference(index % 2 == 1, index % 5 < 3, activation));
    }
    let small = conv([2, 5, 6, 3], 4, [3, 3]).padding(1);
    for activation in [Activation::Identity, Activation::Relu] {
        for bias in [false, true] {
            cases.push(small.case(bias, activation));
        }
    }
    cases.extend(small.case(true, Activation::Relu).with(&Special::ALL));
    cases.extend(small.inference(true, true, Activation::Relu).with(&Special::ALL));
    cases.extend(small.stride(2).case(true, Activation::Relu).with(&[Special::OneNan]));
    cases.extend(
        conv([2, 5, 6, 3], 16, [1, 1]).case(false, Activation::Identity).with(&Special::ALL),
    );
    cases
}

/// What must be refused.
pub fn errors() -> Vec<ErrorCase> {
    let refuse = |x: &[usize], filter: &[usize], options: Conv2dOptions, message: &str| {
        let shapes = format!("(x: {x:?}, filter: {filter:?}, groups {})", options.groups);
        ErrorCase::new(
            "conv2d",
            [normal(x), normal(filter)],
            move |x: &[Tensor]| ops::conv2d(&x[0], &x[1], None, options, Activation::Identity),
            format!("conv2d: {message} {shapes}"),
        )
    };
    let plain = Conv2dOptions::default();
    let inference = |inputs: [Input; 4], message: &str| {
        let run = move |x: &[Tensor]| {
            let (bias, residual) = (Some(&x[2]), Some(&x[3]));
            ops::conv2d_inference(&x[0], &x[1], bias, residual, plain, Activation::Relu)
        };
        ErrorCase::new("conv2d_inference", inputs, run, format!("conv2d_inference: {message}"))
    };
    let (x, filter, bias) = (normal(&[2, 4, 4, 3]), normal(&[5, 3, 3, 3]), normal(&[5]));
    let (constant_filter, constant_bias) = (filter.clone().untracked(), bias.clone().untracked());
    vec![
        inference(
            [x.clone(), filter.clone(), constant_bias.clone(), normal(&[2, 2, 2, 5])],
            "no gradient reaches the filter, so a tracked tensor must be detached first",
        ),
        inference(
            [x.clone(), constant_filter.clone(), bias.clone(), normal(&[2, 2, 2, 5])],
            "no gradient reaches the bias, so a tracked tensor must be detached first",
        ),
        inference(
            [x.clone(), constant_filter.clone(), constant_bias, normal(&[2, 4, 4, 5])],
            "residual must be [2, 2, 2, 5], got [2, 4, 4, 5]",
        ),
        inference(
            [x, constant_filter, normal(&[4]).untracked(), normal(&[2, 2, 2, 5])],
            "bias must be [5], got [4]",
        ),
        refuse(
            &[8, 16, 16, 32],
            &[64, 3, 3, 16],
            plain,
            "filter expects 16 input channels, but x has 32",
        ),
        refuse(
            &[16, 16, 32],
            &[64, 3, 3, 32],
            plain,
            "x must be [N, H, W, C] and filter [Cout, KH, KW, Cin / groups]",
        ),
        refuse(
            &[1, 4, 4, 6],
            &[8, 3, 3, 1],
            Conv2dOptions { groups: 4, ..plain },
            "groups must divide 6 input and 8 output channels",
        ),
        refuse(
            &[1, 4, 4, 6],
            &[8, 3, 3, 6],
            Conv2dOptions { groups: 0, ..plain },
            "groups must divide 6 input and 8 output channels",
        ),
        refuse(
            &[1, 4, 4, 6],
            &[8, 3, 3, 6],
            Conv2dOptions { stride: [0, 1], ..plain },
            "kernel, stride and dilation must be at least 1, got 3, 0, 1",
        ),
        refuse(
            &[1, 4, 4, 6],
            &[8, 3, 3, 6],
            Conv2dOptions { dilation: [1, 2], ..plain },
            "the window reaches over 5 positions, but there are 4 with padding",
        ),
        refuse(
            &[1, 4, 4, 6],
            &[8, 3, 3, 6],
            Conv2dOptions { padding: [usize::MAX, 0], ..plain },
            "kernel, dilation or padding is too large",
        ),
    ]
}
