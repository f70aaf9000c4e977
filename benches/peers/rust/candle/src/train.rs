//! `train-candle`: a training step of tilegrad's models in candle, on random images.
//!
//! Forward, backward and candle's SGD, which has neither momentum nor weight decay: a little less work than
//! the others do. Layout NCHW, the only one that candle has.

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::{
    BatchNorm, Conv2d, Conv2dConfig, Dropout, Linear, Module, ModuleT, Optimizer, SGD, VarBuilder,
    VarMap,
};
use peers_common::{TrainOptions, set_threads};

fn conv(vb: &VarBuilder, name: &str, size: usize, stride: usize, c: [usize; 2]) -> Result<Conv2d> {
    let config = Conv2dConfig { padding: size / 2, stride, ..Conv2dConfig::default() };
    candle_nn::conv2d_no_bias(c[0], c[1], size, config, vb.pp(name))
}

struct SimpleCnn {
    conv1: Conv2d,
    conv2: Conv2d,
    fc1: Linear,
    fc2: Linear,
    dropout: Dropout,
}

impl SimpleCnn {
    fn new(vb: &VarBuilder) -> Result<Self> {
        let config = Conv2dConfig { padding: 1, ..Conv2dConfig::default() };
        Ok(SimpleCnn {
            conv1: candle_nn::conv2d(3, 32, 3, config, vb.pp("conv1"))?,
            conv2: candle_nn::conv2d(32, 64, 3, config, vb.pp("conv2"))?,
            fc1: candle_nn::linear(4096, 512, vb.pp("fc1"))?,
            fc2: candle_nn::linear(512, 10, vb.pp("fc2"))?,
            dropout: Dropout::new(0.5),
        })
    }
}

impl ModuleT for SimpleCnn {
    fn forward_t(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        let x = self.conv1.forward(x)?.relu()?.max_pool2d(2)?;
        let x = self.conv2.forward(&x)?.relu()?.max_pool2d(2)?;
        let x = self.fc1.forward(&x.flatten_from(1)?)?.relu()?;
        self.fc2.forward(&self.dropout.forward(&x, train)?)
    }
}

struct BasicBlock {
    conv1: Conv2d,
    bn1: BatchNorm,
    conv2: Conv2d,
    bn2: BatchNorm,
    shortcut: Option<(Conv2d, BatchNorm)>,
}

impl BasicBlock {
    fn new(vb: VarBuilder, from: usize, to: usize, stride: usize) -> Result<Self> {
        let shortcut = match stride != 1 || from != to {
            true => Some((
                conv(&vb, "shortcut", 1, stride, [from, to])?,
                candle_nn::batch_norm(to, 1e-5, vb.pp("shortcut_bn"))?,
            )),
            false => None,
        };
        Ok(BasicBlock {
            conv1: conv(&vb, "conv1", 3, stride, [from, to])?,
            bn1: candle_nn::batch_norm(to, 1e-5, vb.pp("bn1"))?,
            conv2: conv(&vb, "conv2", 3, 1, [to, to])?,
            bn2: candle_nn::batch_norm(to, 1e-5, vb.pp("bn2"))?,
            shortcut,
        })
    }
}

impl ModuleT for BasicBlock {
    fn forward_t(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        let y = self.bn1.forward_t(&self.conv1.forward(x)?, train)?.relu()?;
        let y = self.bn2.forward_t(&self.conv2.forward(&y)?, train)?;
        match &self.shortcut {
            Some((conv, bn)) => y + bn.forward_t(&conv.forward(x)?, train)?,
            None => y + x,
        }?
        .relu()
    }
}

struct ResNet {
    stem: Conv2d,
    bn: BatchNorm,
    blocks: Vec<BasicBlock>,
    head: Linear,
}

impl ResNet {
    fn new(vb: &VarBuilder, widths: &[usize], depth: usize) -> Result<Self> {
        let mut blocks = Vec::new();
        let mut from = widths[0];
        for (stage, &to) in widths.iter().enumerate() {
            for block in 0..depth {
                let stride = if stage > 0 && block == 0 { 2 } else { 1 };
                blocks.push(BasicBlock::new(vb.pp(format!("{stage}.{block}")), from, to, stride)?);
                from = to;
            }
        }
        Ok(ResNet {
            stem: conv(vb, "stem", 3, 1, [3, widths[0]])?,
            bn: candle_nn::batch_norm(widths[0], 1e-5, vb.pp("bn"))?,
            blocks,
            head: candle_nn::linear(from, 10, vb.pp("head"))?,
        })
    }
}

impl ModuleT for ResNet {
    fn forward_t(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        let mut x = self.bn.forward_t(&self.stem.forward(x)?, train)?.relu()?;
        for block in &self.blocks {
            x = block.forward_t(&x, train)?;
        }
        self.head.forward(&x.mean((2, 3))?)
    }
}

/// Cross-entropy with labels smoothed by 0.1.
fn loss(logits: &Tensor, labels: &Tensor) -> Result<Tensor> {
    let log_p = candle_nn::ops::log_softmax(logits, 1)?;
    (candle_nn::loss::nll(&log_p, labels)? * 0.9)? - (log_p.mean_all()? * 0.1)?
}

fn run(options: &TrainOptions) -> Result<()> {
    let device = Device::Cpu;
    let vars = VarMap::new();
    let vb = VarBuilder::from_varmap(&vars, DType::F32, &device);
    let model: Box<dyn ModuleT> = match options.model.as_str() {
        "simple-cnn" => Box::new(SimpleCnn::new(&vb)?),
        "resnet20" => Box::new(ResNet::new(&vb, &[16, 32, 64], 3)?),
        "resnet18" => Box::new(ResNet::new(&vb, &[64, 128, 256, 512], 2)?),
        other => candle_core::bail!("no model '{other}': simple-cnn, resnet20, resnet18"),
    };
    let x = Tensor::randn(0f32, 1.0, (options.batch, 3, 32, 32), &device)?;
    let labels: Vec<u32> = (0..options.batch as u32).map(|i| i % 10).collect();
    let labels = Tensor::new(labels, &device)?;
    let mut sgd = SGD::new(vars.all_vars(), 0.01)?;
    options.report("candle 0.11.1", "contiguous", || {
        sgd.backward_step(&loss(&model.forward_t(&x, true)?, &labels)?)
    })
}

fn main() -> std::process::ExitCode {
    let result = TrainOptions::from_args(std::env::args().skip(1)).and_then(|options| {
        set_threads(options.threads);
        run(&options).map_err(|e| e.to_string())
    });
    match result {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("train-candle: {message}");
            std::process::ExitCode::FAILURE
        }
    }
}
