//! Times the CUDA kernels of matrix products and convolutions, one line of tab-separated values each:
//! what, shape, format, rung of the ladder, floating-point operations, milliseconds. `scripts/gpu-verify.sh` runs it,
//! and `benches/peers/cuda_torch.py` runs the same lines with PyTorch.
//! `cargo run --release -p tilegrad-kernels --example cuda_bench -- cuda` (or `softcuda`: tiny sizes, once).

use std::time::{Duration, Instant};

use tilegrad_kernels::cuda::{ConvAlgorithm, Cuda, CudaOptions, MatmulAlgorithm};
use tilegrad_kernels::philox::{Purpose, Stream};
use tilegrad_kernels::{
    Activation, Backend, Buffer, Conv2dArgs, Conv2dOptions, Device, Dtype, MatmulArgs, upload,
};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const DTYPES: [Dtype; 3] = [Dtype::F32, Dtype::BF16, Dtype::F16];

/// Rows, columns and terms: large and square; the first linear layer of SimpleCNN, batch 128.
const PRODUCTS: [[usize; 3]; 5] = [
    [1024, 1024, 1024],
    [2048, 2048, 2048],
    [4096, 4096, 4096],
    [8192, 8192, 8192],
    [128, 512, 4096],
];

/// Of the ladder: its lowest rungs would take too long on the largest.
const LADDER: [usize; 3] = [2048, 2048, 2048];

/// x `[N, H, W, C]`, filters, filter size, stride.
type Convolution = ([usize; 4], usize, usize, usize);

/// The layers of ResNet-20 and ResNet-18 on 32 x 32 images.
const CONVOLUTIONS: [Convolution; 9] = [
    ([128, 32, 32, 3], 64, 3, 1),
    ([128, 32, 32, 16], 16, 3, 1),
    ([128, 8, 8, 64], 64, 3, 1),
    ([128, 32, 32, 64], 64, 3, 1),
    ([128, 32, 32, 64], 128, 3, 2),
    ([128, 32, 32, 64], 128, 1, 2),
    ([128, 16, 16, 128], 128, 3, 1),
    ([128, 8, 8, 256], 256, 3, 1),
    ([128, 4, 4, 512], 512, 3, 1),
];

/// What is timed, and how.
struct Bench {
    cuda: Cuda,
    /// Name of the rung that is forced.
    rung: String,
    /// One run, to see that everything works.
    quick: bool,
}

impl Bench {
    fn new(device: Device, rung: &str, options: CudaOptions) -> Outcome<Bench> {
        let cuda = Cuda::new(device, options)?;
        Ok(Bench { cuda, rung: rung.to_string(), quick: device == Device::SoftCuda })
    }

    /// Milliseconds of one run: the median of batches that are handed over without waiting, each long enough that
    /// the wait at its end does not matter.
    fn time(&self, run: impl Fn() -> tilegrad_kernels::Result<Buffer>) -> Outcome<f64> {
        let batch = |runs: u32| -> Outcome<Duration> {
            let clock = Instant::now();
            for _ in 0..runs {
                run()?;
            }
            self.cuda.synchronize()?;
            Ok(clock.elapsed())
        };
        if self.quick {
            return Ok(batch(1)?.as_secs_f64() * 1e3);
        }
        batch(3)?; // loads the module, fills the pool
        let once = batch(5)?.as_secs_f64() / 5.0;
        let runs = (0.02 / once).clamp(1.0, 2000.0) as u32;
        let mut times = Vec::new();
        for _ in 0..7 {
            times.push(batch(runs)?.as_secs_f64() * 1e3 / f64::from(runs));
        }
        times.sort_by(f64::total_cmp);
        Ok(times[3])
    }

    fn matmul(&self, [m, n, k]: [usize; 3], dtype: Dtype, format: &str) -> Outcome<()> {
        // As in a linear layer: both with k contiguous.
        let args = MatmulArgs::new(&[m, k], &[n, k], false, true)?;
        let (a, b) = (self.random(m * k, dtype, 0)?, self.random(n * k, dtype, 1)?);
        let ms = self.time(|| self.cuda.matmul(&args, &a, &b, None))?;
        self.line("matmul", &format!("{m}x{n}x{k}"), format, 2.0 * (m * n * k) as f64, ms);
        Ok(())
    }

    /// The three passes of a convolution.
    fn conv(&self, row: Convolution, dtype: Dtype) -> Outcome<()> {
        let (x, c_out, size, stride) = row;
        let [n, h, w, c_in] = x;
        let (padding, cuda) = ([size / 2; 2], &self.cuda);
        let options = Conv2dOptions { stride: [stride; 2], padding, dilation: [1; 2], groups: 1 };
        let args = Conv2dArgs::new(&x, &[c_out, size, size, c_in], options)?;
        let pixels = n * args.oh * args.ow;
        let x = self.random(n * h * w * c_in, dtype, 0)?;
        let filter = self.random(c_out * size * size * c_in, dtype, 1)?;
        let dy = self.random(pixels * c_out, dtype, 2)?;
        let flops = 2.0 * (pixels * c_out * size * size * c_in) as f64;
        let shape = format!("{n}x{h}x{w}x{c_in} {c_out}x{size}x{size} /{stride}");
        let print = |what, ms| self.line(what, &shape, &dtype.to_string(), flops, ms);
        let identity = Activation::Identity;
        let forward = || cuda.conv2d_forward(&args, identity, &x, &filter, None);
        print("conv forward", self.time(forward)?);
        // Images themselves need no gradient.
        if c_in > 3 {
            let backward = || cuda.conv2d_backward_data(&args, &filter, &dy);
            print("conv backward data", self.time(backward)?);
        }
        let backward = || cuda.conv2d_backward_filter(&args, &x, &dy);
        print("conv backward filter", self.time(backward)?);
        Ok(())
    }

    /// Normal numbers: zeros would draw less power, and so run faster, than real data does.
    fn random(&self, elements: usize, dtype: Dtype, index: u32) -> Outcome<Buffer> {
        let stream = Stream::new(0, Purpose::Test, 0, index);
        // With a period that no tile divides, since drawing 67 million numbers would take seconds.
        let few: Vec<f32> =
            (0..elements.min(1_000_003)).map(|i| stream.normal(i as u64) as f32).collect();
        let all: Vec<f32> = few.iter().copied().cycle().take(elements).collect();
        let wide = upload(&self.cuda, &all)?;
        Ok(if dtype == Dtype::F32 { wide } else { self.cuda.cast(&wide, dtype)? })
    }

    fn line(&self, what: &str, shape: &str, format: &str, flops: f64, ms: f64) {
        println!("{what}\t{shape}\t{format}\t{}\t{flops:.0}\t{ms:.5}", self.rung);
    }
}

fn main() -> Outcome<()> {
    let device: Device = std::env::args().nth(1).unwrap_or("cuda".to_string()).parse()?;
    let best = Bench::new(device, "default", CudaOptions::default())?;
    let forced = |rung: MatmulAlgorithm| CudaOptions { matmul: Some(rung), ..Default::default() };
    let tf32 = Bench::new(device, "default", forced(MatmulAlgorithm::TensorCoreTf32))?;
    let products = if best.quick { &[[64, 64, 64], [32, 64, 128]] } else { &PRODUCTS[..] };
    for &sizes in products {
        for dtype in DTYPES {
            best.matmul(sizes, dtype, &dtype.to_string())?;
        }
        tf32.matmul(sizes, Dtype::F32, "tf32")?;
    }
    let convolutions = if best.quick { &[([2, 8, 8, 16], 16, 3, 1)] } else { &CONVOLUTIONS[..] };
    for &row in convolutions {
        for dtype in DTYPES {
            best.conv(row, dtype)?;
        }
    }
    // The ladders, in f32 and bf16.
    let ladder = if best.quick { [64; 3] } else { LADDER };
    for rung in MatmulAlgorithm::ALL.into_iter().filter(|&r| r != MatmulAlgorithm::TensorCoreTf32) {
        let bench = Bench::new(device, rung.name(), forced(rung))?;
        for dtype in [Dtype::F32, Dtype::BF16].into_iter().filter(|&dtype| rung.is_for(dtype)) {
            bench.matmul(ladder, dtype, &dtype.to_string())?;
        }
    }
    for rung in ConvAlgorithm::ALL {
        let options = CudaOptions { conv: Some(rung), ..Default::default() };
        let bench = Bench::new(device, rung.name(), options)?;
        for dtype in [Dtype::F32, Dtype::BF16].into_iter().filter(|&dtype| rung.is_for(dtype)) {
            bench.conv(convolutions[convolutions.len() / 2], dtype)?;
        }
    }
    Ok(())
}
