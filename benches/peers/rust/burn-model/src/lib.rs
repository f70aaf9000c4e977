//! tilegrad's models and their training step in burn, for any of its backends: forward, cross-entropy
//! with labels smoothed by 0.1, backward, SGD with momentum 0.9 and weight decay 5e-4. Layout NCHW, burn's.

// What `#[derive(Module)]` generates has no documentation.
#![allow(missing_docs)]

use burn::module::{AutodiffModule, Module};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::loss::{CrossEntropyLoss, CrossEntropyLossConfig};
use burn::nn::pool::{MaxPool2d, MaxPool2dConfig};
use burn::nn::{
    BatchNorm, BatchNormConfig, Dropout, DropoutConfig, Linear, LinearConfig, PaddingConfig2d,
};
use burn::optim::decay::WeightDecayConfig;
use burn::optim::momentum::MomentumConfig;
use burn::optim::{GradientsParams, Optimizer, SgdConfig};
use burn::tensor::activation::relu;
use burn::tensor::backend::{AutodiffBackend, Backend};
use burn::tensor::{Distribution, Int, Tensor, TensorData};
use peers_common::TrainOptions;

fn conv<B: Backend>(
    c: [usize; 2],
    size: usize,
    stride: usize,
    bias: bool,
    device: &B::Device,
) -> Conv2d<B> {
    let pad = size / 2;
    Conv2dConfig::new(c, [size, size])
        .with_stride([stride, stride])
        .with_padding(PaddingConfig2d::Explicit(pad, pad, pad, pad))
        .with_bias(bias)
        .init(device)
}

/// Images `[N, 3, 32, 32]` to logits `[N, 10]`.
pub trait Forward<B: Backend> {
    fn forward(&self, x: Tensor<B, 4>) -> Tensor<B, 2>;
}

#[derive(Module, Debug)]
pub struct SimpleCnn<B: Backend> {
    conv1: Conv2d<B>,
    conv2: Conv2d<B>,
    pool: MaxPool2d,
    fc1: Linear<B>,
    fc2: Linear<B>,
    dropout: Dropout,
}

impl<B: Backend> SimpleCnn<B> {
    pub fn new(device: &B::Device) -> Self {
        SimpleCnn {
            conv1: conv([3, 32], 3, 1, true, device),
            conv2: conv([32, 64], 3, 1, true, device),
            pool: MaxPool2dConfig::new([2, 2]).init(),
            fc1: LinearConfig::new(4096, 512).init(device),
            fc2: LinearConfig::new(512, 10).init(device),
            dropout: DropoutConfig::new(0.5).init(),
        }
    }
}

impl<B: Backend> Forward<B> for SimpleCnn<B> {
    fn forward(&self, x: Tensor<B, 4>) -> Tensor<B, 2> {
        let x = self.pool.forward(relu(self.conv1.forward(x)));
        let x = self.pool.forward(relu(self.conv2.forward(x)));
        let x = relu(self.fc1.forward(x.flatten(1, 3)));
        self.fc2.forward(self.dropout.forward(x))
    }
}

#[derive(Module, Debug)]
pub struct Shortcut<B: Backend> {
    conv: Conv2d<B>,
    bn: BatchNorm<B>,
}

#[derive(Module, Debug)]
pub struct BasicBlock<B: Backend> {
    conv1: Conv2d<B>,
    bn1: BatchNorm<B>,
    conv2: Conv2d<B>,
    bn2: BatchNorm<B>,
    shortcut: Option<Shortcut<B>>,
}

impl<B: Backend> BasicBlock<B> {
    fn new(from: usize, to: usize, stride: usize, device: &B::Device) -> Self {
        let bn = || BatchNormConfig::new(to).init(device);
        BasicBlock {
            conv1: conv([from, to], 3, stride, false, device),
            bn1: bn(),
            conv2: conv([to, to], 3, 1, false, device),
            bn2: bn(),
            shortcut: (stride != 1 || from != to)
                .then(|| Shortcut { conv: conv([from, to], 1, stride, false, device), bn: bn() }),
        }
    }

    fn forward(&self, x: Tensor<B, 4>) -> Tensor<B, 4> {
        let y = relu(self.bn1.forward(self.conv1.forward(x.clone())));
        let y = self.bn2.forward(self.conv2.forward(y));
        relu(match &self.shortcut {
            Some(s) => y + s.bn.forward(s.conv.forward(x)),
            None => y + x,
        })
    }
}

#[derive(Module, Debug)]
pub struct ResNet<B: Backend> {
    stem: Conv2d<B>,
    bn: BatchNorm<B>,
    blocks: Vec<BasicBlock<B>>,
    head: Linear<B>,
}

impl<B: Backend> ResNet<B> {
    /// `depth` blocks at each width; the first of each stage but the first halves the map.
    pub fn new(widths: &[usize], depth: usize, device: &B::Device) -> Self {
        let mut blocks = Vec::new();
        let mut from = widths[0];
        for (stage, &to) in widths.iter().enumerate() {
            for block in 0..depth {
                let stride = if stage > 0 && block == 0 { 2 } else { 1 };
                blocks.push(BasicBlock::new(from, to, stride, device));
                from = to;
            }
        }
        ResNet {
            stem: conv([3, widths[0]], 3, 1, false, device),
            bn: BatchNormConfig::new(widths[0]).init(device),
            blocks,
            head: LinearConfig::new(from, 10).init(device),
        }
    }
}

impl<B: Backend> Forward<B> for ResNet<B> {
    fn forward(&self, x: Tensor<B, 4>) -> Tensor<B, 2> {
        let mut x = relu(self.bn.forward(self.stem.forward(x)));
        for block in &self.blocks {
            x = block.forward(x);
        }
        let [n, c, h, w] = x.dims();
        self.head.forward(x.reshape([n, c, h * w]).mean_dim(2).reshape([n, c]))
    }
}

/// Times training steps of `model` on random images and prints the line of JSON.
fn train<B: AutodiffBackend, M: AutodiffModule<B> + Forward<B>>(
    model: M,
    options: &TrainOptions,
    peer: &str,
    device: &B::Device,
) -> Result<(), String> {
    let batch = options.batch;
    let x = Tensor::<B, 4>::random([batch, 3, 32, 32], Distribution::Normal(0.0, 1.0), device);
    let labels: Vec<i32> = (0..batch as i32).map(|i| i % 10).collect();
    let labels = Tensor::<B, 1, Int>::from_data(TensorData::new(labels, [batch]), device);
    let loss: CrossEntropyLoss<B> =
        CrossEntropyLossConfig::new().with_smoothing(Some(0.1)).init(device);
    let mut sgd = SgdConfig::new()
        .with_momentum(Some(MomentumConfig::new().with_momentum(0.9).with_dampening(0.0)))
        .with_weight_decay(Some(WeightDecayConfig::new(5e-4)))
        .init();
    let mut model = Some(model);
    options.report(peer, "contiguous", || {
        let old = model.take().ok_or("an earlier step failed")?;
        let gradients = loss.forward(old.forward(x.clone()), labels.clone()).backward();
        let gradients = GradientsParams::from_grads(gradients, &old);
        model = Some(sgd.step(0.01, old, gradients));
        // A queue of commands is timed when it is done, not when it is filled.
        B::sync(device).map_err(|e| format!("{e:?}"))
    })
}

/// `train-burn` on backend `B`: reads the command line, trains, prints one line of JSON.
pub fn run<B: AutodiffBackend>(
    options: &TrainOptions,
    peer: &str,
    device: &B::Device,
) -> Result<(), String> {
    match options.model.as_str() {
        "simple-cnn" => train(SimpleCnn::<B>::new(device), options, peer, device),
        "resnet20" => train(ResNet::<B>::new(&[16, 32, 64], 3, device), options, peer, device),
        "resnet18" => {
            train(ResNet::<B>::new(&[64, 128, 256, 512], 2, device), options, peer, device)
        }
        other => Err(format!("no model '{other}': simple-cnn, resnet20, resnet18")),
    }
}
