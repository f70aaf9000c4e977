//! Times of the rungs of matmul's ladder through wgpu: the median of one product, from the call to the end of the work.
//! `cargo run --release -p tilegrad-kernels --example wgpu_ladder [SIZE] [SECONDS]`
//!
//! With `--serve`, answers lines `M N K n f32 SECONDS` with the seconds of one product by the default rung: for
//! benches/peers/matmul_wgpu.py.

use std::io::{BufRead, Write};
use std::time::{Duration, Instant};

use tilegrad_kernels::wgpu::{MatmulAlgorithm, Wgpu, WgpuOptions};
use tilegrad_kernels::{Backend, Buffer, Device, MatmulArgs, Result, upload};

/// An adapter and the operands of a product.
struct Product {
    wgpu: Wgpu,
    args: MatmulArgs,
    a: Buffer,
    b: Buffer,
}

impl Product {
    fn new(rung: Option<MatmulAlgorithm>, [m, n, k]: [usize; 3]) -> Result<Product> {
        let options = WgpuOptions { matmul: rung, ..WgpuOptions::default() };
        let wgpu = Wgpu::new(Device::Wgpu(0), options)?;
        let values =
            |len: usize| (0..len).map(|i| (i * 7919 % 1000) as f32 / 500.0 - 1.0).collect();
        let (a, b): (Vec<f32>, Vec<f32>) = (values(m * k), values(k * n));
        let (a, b) = (upload(&wgpu, &a)?, upload(&wgpu, &b)?);
        Ok(Product { wgpu, args: MatmulArgs::new(&[m, k], &[k, n], false, false)?, a, b })
    }

    /// Median seconds of one product: one call to warm up, then calls until `seconds` are over, at least three.
    fn time(&self, seconds: f64) -> Result<f64> {
        let run = || -> Result<()> {
            self.wgpu.matmul(&self.args, &self.a, &self.b, None)?;
            self.wgpu.synchronize()
        };
        run()?;
        let (begin, budget) = (Instant::now(), Duration::from_secs_f64(seconds));
        let mut samples = Vec::new();
        while samples.len() < 3 || begin.elapsed() < budget {
            let start = Instant::now();
            run()?;
            samples.push(start.elapsed().as_secs_f64());
        }
        samples.sort_by(f64::total_cmp);
        Ok(samples[samples.len() / 2])
    }
}

fn ladder(size: usize, seconds: f64) -> Result<()> {
    println!("| rung | {size}³ ms | GFLOP/s |\n|---|---|---|");
    for rung in MatmulAlgorithm::ALL {
        let product = Product::new(Some(rung), [size; 3])?;
        let time = product.time(seconds)?;
        let rate = product.args.flops() as f64 / time / 1e9;
        println!("| {rung} | {:.2} | {rate:.1} |", time * 1e3);
    }
    Ok(())
}

fn serve() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let mut last: Option<([usize; 3], Product)> = None;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let [m, n, k, "n", "f32", seconds] = words[..] else {
            println!("unsupported");
            continue;
        };
        let sizes = [m.parse()?, n.parse()?, k.parse()?];
        if last.as_ref().is_none_or(|(known, _)| *known != sizes) {
            last = Some((sizes, Product::new(None, sizes)?));
        }
        if let Some((_, product)) = &last {
            println!("{:e}", product.time(seconds.parse()?)?);
        }
        std::io::stdout().flush()?;
    }
    Ok(())
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|arg| arg == "--serve") {
        return serve();
    }
    let size = args.first().map_or(Ok(256), |size| size.parse())?;
    let seconds = args.get(1).map_or(Ok(1.0), |seconds| seconds.parse())?;
    Ok(ladder(size, seconds)?)
}
