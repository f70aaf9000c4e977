//! `cargo bench --bench roofline`: every kernel beside its own limit.
//!
//! The machine's peak of fused multiply-adds and its copy bandwidth are measured in the same run. A
//! kernel's limit is the larger of its FLOPs over the peak and its bytes over the bandwidth
//! (Williams et al., "Roofline", 2009); FLOPs and bytes are counted in `Work`, in one place.
//! Convolutions count the FLOPs of the definition, so that Winograd may exceed 100 %.
//!
//!     cargo bench --bench roofline -- [--threads T] [--batch N] [--dtype f32|bf16] [FILTER]

use std::hint::black_box;
use std::time::Instant;

use tilegrad_kernels::cpu::simd::{Isa, Kernel, Vector};
use tilegrad_kernels::cpu::{Cpu, CpuOptions};
use tilegrad_kernels::*;

/// What a kernel must do at least: multiply-adds count 2, every input is read and every output
/// written once.
struct Work {
    flops: f64,
    /// Elements of the benchmark's dtype.
    elements: f64,
}

impl Work {
    fn new(flops: u64, elements: &[usize]) -> Work {
        Work { flops: flops as f64, elements: elements.iter().sum::<usize>() as f64 }
    }
}

/// Independent chains of multiply-adds, which never leave their registers: of f32, or of pairs of
/// bf16.
struct Peak<const PAIRS: bool>(usize);

impl<const PAIRS: bool> Kernel for Peak<PAIRS> {
    type Output = f64;
    const BF16: bool = PAIRS;

    #[inline(always)]
    fn run<V: Vector>(self) -> f64 {
        let mut chains = [V::splat(1.0); 12];
        let (a, b) = (V::splat(black_box(0.999_999)), V::splat(black_box(1e-6)));
        let start = Instant::now();
        for _ in 0..self.0 {
            // By index, which the compiler unrolls: an iterator would keep the chains in memory.
            for i in 0..12 {
                chains[i] = match PAIRS {
                    true => a.dot_bf16(b, chains[i]),
                    false => chains[i].mul_add(a, b),
                };
            }
        }
        let seconds = start.elapsed().as_secs_f64();
        let mut out = [0.0; 16];
        for chain in chains {
            // SAFETY: no vector has more than 16 lanes.
            unsafe { chain.store(out.as_mut_ptr()) };
            black_box(&out);
        }
        let products = if PAIRS { 2 } else { 1 };
        2.0 * (products * 12 * V::LANES * self.0) as f64 / seconds
    }
}

/// Median seconds of `f`.
fn time(mut f: impl FnMut()) -> f64 {
    f();
    let mut samples = Vec::new();
    let begin = Instant::now();
    while samples.len() < 3 || (begin.elapsed().as_secs_f64() < 0.4 && samples.len() < 50) {
        let start = Instant::now();
        f();
        samples.push(start.elapsed().as_secs_f64());
    }
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}

struct Bench<'a> {
    cpu: &'a Cpu,
    dtype: Dtype,
    peak: f64,
    bandwidth: f64,
    filter: Option<String>,
}

impl Bench<'_> {
    fn buffer(&self, len: usize) -> Buffer {
        let values: Vec<f32> = (0..len).map(|i| (i * 7919 % 1000) as f32 / 500.0 - 1.0).collect();
        let wide = upload(self.cpu, &values).expect("memory for a benchmark");
        self.cpu.cast(&wide, self.dtype).expect("memory for a benchmark")
    }

    fn row(&self, name: &str, work: Work, f: impl FnMut()) {
        if self.filter.as_ref().is_some_and(|filter| !name.contains(filter.as_str())) {
            return;
        }
        let seconds = time(f);
        let bytes = work.elements * self.dtype.size() as f64;
        let limit = (work.flops / self.peak).max(bytes / self.bandwidth);
        let bound = if work.flops / self.peak > bytes / self.bandwidth { "FMA" } else { "memory" };
        println!(
            "{name:44} {:9.3} ms {:8.1} GFLOP/s {:7.1} GB/s {bound:>7} {:6.1} %",
            seconds * 1e3,
            work.flops / seconds / 1e9,
            bytes / seconds / 1e9,
            100.0 * limit / seconds
        );
    }

    fn matmul(&self, name: &str, m: usize, n: usize, k: usize, transpose_b: bool) {
        let b = if transpose_b { [n, k] } else { [k, n] };
        let args = MatmulArgs::new(&[m, k], &b, false, transpose_b).expect("sizes fit");
        let (a, b) = (self.buffer(m * k), self.buffer(k * n));
        let work = Work::new(args.flops(), &[m * k, k * n, m * n]);
        self.row(&format!("matmul {name} {m}x{n}x{k}"), work, || {
            black_box(self.cpu.matmul(&args, &a, &b, None).expect("runs"));
        });
    }

    fn conv2d(&self, n: usize, map: usize, c: usize, k: usize, kernel: usize, stride: usize) {
        let options = Conv2dOptions {
            stride: [stride; 2],
            padding: [kernel / 2; 2],
            ..Conv2dOptions::default()
        };
        let args =
            Conv2dArgs::new(&[n, map, map, c], &[k, kernel, kernel, c], options).expect("fits");
        let (x, y, w) = (args.x_elements(), args.y_elements(), args.filter_elements());
        let (bx, by, bw) = (self.buffer(x), self.buffer(y), self.buffer(w));
        let name = format!("conv2d {map}x{map} {c}->{k} {kernel}x{kernel} s{stride}");
        let work = || Work::new(args.flops(), &[x, y, w]);
        let cpu = self.cpu;
        self.row(&format!("{name} forward"), work(), || {
            let act = Activation::Identity;
            black_box(cpu.conv2d_forward(&args, act, &bx, &bw, None).expect("runs"));
        });
        if c > 3 {
            self.row(&format!("{name} backward_data"), work(), || {
                black_box(cpu.conv2d_backward_data(&args, &bw, &by).expect("runs"));
            });
        }
        self.row(&format!("{name} backward_filter"), work(), || {
            black_box(cpu.conv2d_backward_filter(&args, &bx, &by).expect("runs"));
        });
    }

    /// The memory-bound kernels on one activation `[n, map, map, c]`.
    fn between(&self, n: usize, map: usize, c: usize) {
        let (cpu, len) = (self.cpu, n * map * map * c);
        let (x, dy, v) = (self.buffer(len), self.buffer(len), self.buffer(c));
        let name = |op: &str| format!("{op} {map}x{map}x{c}");
        let per = |flops: usize, elements: &[usize]| Work::new((flops * len) as u64, elements);
        let shape = [n, map, map, c];
        self.row(&name("relu forward"), per(1, &[len, len]), || {
            black_box(cpu.unary_forward(Unary::Relu, &x).expect("runs"));
        });
        self.row(&name("relu backward"), per(1, &[len, len, len]), || {
            black_box(cpu.unary_backward(Unary::Relu, &x, &dy).expect("runs"));
        });
        let add = BroadcastArgs::new("add", &shape, &shape).expect("equal");
        self.row(&name("add forward"), per(1, &[len, len, len]), || {
            black_box(cpu.binary_forward(Binary::Add, &add, &x, &dy).expect("runs"));
        });
        let sum = ReduceArgs::new("sum", &shape, &[0, 1, 2]).expect("axes");
        self.row(&name("sum over N, H, W"), per(1, &[len]), || {
            black_box(cpu.reduce_forward(Reduce::Sum, &sum, &x).expect("runs"));
        });
        let bn = BatchNormArgs::new(&shape, 1e-5, Activation::Relu, true).expect("rows");
        let out = cpu.batch_norm_forward(&bn, &x, &v, &v, None).expect("runs");
        // Two passes: statistics, then the result; the second reads x again.
        self.row(&name("batch_norm+relu forward"), per(6, &[len, len, len]), || {
            black_box(cpu.batch_norm_forward(&bn, &x, &v, &v, None).expect("runs"));
        });
        let (y, mean, var) = (Some(&out.y), &out.mean, &out.var);
        // Two passes over x, y and dy, one result.
        self.row(&name("batch_norm+relu backward"), per(8, &[6 * len, len]), || {
            black_box(
                cpu.batch_norm_backward(&bn, &x, y, &v, mean, var, &dy, false).expect("runs"),
            );
        });
        let pool = Pool2dArgs::new("max_pool2d", &shape, [2, 2], [2, 2], [0, 0]).expect("fits");
        let (py, positions) = cpu.max_pool2d_forward(&pool, &x).expect("runs");
        let small = pool.y_elements();
        self.row(&name("max_pool2d forward"), per(1, &[len, small, small]), || {
            black_box(cpu.max_pool2d_forward(&pool, &x).expect("runs"));
        });
        self.row(&name("max_pool2d backward"), per(1, &[len, small, small]), || {
            black_box(cpu.max_pool2d_backward(&pool, &positions, &py).expect("runs"));
        });
    }
}

/// FLOPs a second of one core.
fn peak_of(isa: Isa, dtype: Dtype) -> f64 {
    match dtype {
        Dtype::BF16 => isa.run(Peak::<true>(20_000_000)),
        _ => isa.run(Peak::<false>(20_000_000)),
    }
}

fn main() {
    let (mut threads, mut batch, mut filter, mut dtype) = (None, 128, None, Dtype::F32);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next();
        let number = |value: Option<String>| value.and_then(|v| v.parse().ok());
        match argument.as_str() {
            "--dtype" if value().as_deref() == Some("bf16") => dtype = Dtype::BF16,
            "--dtype" => dtype = Dtype::F32,
            "--threads" => threads = number(value()),
            "--batch" => batch = number(value()).unwrap_or(batch),
            "--bench" | "--test" => {}
            _ => filter = Some(argument),
        }
    }
    let cpu =
        Cpu::new(CpuOptions { threads, ..CpuOptions::default() }).expect("this machine's CPU");
    let count = cpu.threads();
    let peaks: Vec<f64> = std::thread::scope(|scope| {
        let isa = cpu.isa();
        let workers: Vec<_> =
            (0..count).map(|_| scope.spawn(move || peak_of(isa, dtype))).collect();
        workers.into_iter().map(|w| w.join().expect("no panic")).collect()
    });
    let peak = peaks.iter().sum();
    cpu.enter(|| {
        // A copy as the kernels do it: pooled memory, all threads, 64 MiB.
        let len = 16 << 20;
        let x = upload(&cpu, &vec![1.0f32; len]).expect("memory");
        let copy = time(|| {
            black_box(
                cpu.unary_forward(Unary::Affine { scale: 1.0, shift: 0.0 }, &x).expect("runs"),
            );
        });
        let bandwidth = 8.0 * len as f64 / copy;
        println!("{}", cpu.description());
        println!("{dtype} peak {:.1} GFLOP/s, copy {:.1} GB/s", peak / 1e9, bandwidth / 1e9);
        println!(
            "{:44} {:>12} {:>16} {:>12} {:>7} {:>8}",
            "kernel", "time", "rate", "traffic", "bound", "of limit"
        );
        let bench = Bench { cpu: &cpu, dtype, peak, bandwidth, filter };
        for n in [256, 512, 1024, 2048] {
            bench.matmul("square", n, n, n, false);
        }
        bench.matmul("simple-cnn fc1", batch, 512, 4096, true);
        for (map, c, k, stride) in
            [(32, 64, 64, 1), (16, 128, 128, 1), (8, 256, 256, 1), (4, 512, 512, 1)]
        {
            bench.matmul("resnet18 GEMM", batch * map * map / (stride * stride), k, 9 * c, true);
        }
        // ResNet-20, then ResNet-18.
        for (map, c, k, kernel, stride) in [
            (32, 3, 16, 3, 1),
            (32, 16, 16, 3, 1),
            (32, 16, 32, 3, 2),
            (16, 32, 32, 3, 1),
            (16, 32, 64, 3, 2),
            (8, 64, 64, 3, 1),
            (32, 16, 32, 1, 2),
            (32, 3, 64, 3, 1),
            (32, 64, 64, 3, 1),
            (32, 64, 128, 3, 2),
            (16, 128, 128, 3, 1),
            (16, 128, 256, 3, 2),
            (8, 256, 256, 3, 1),
            (8, 256, 512, 3, 2),
            (4, 512, 512, 3, 1),
            (32, 64, 128, 1, 2),
        ] {
            bench.conv2d(batch, map, c, k, kernel, stride);
        }
        for (map, c) in [(32, 16), (16, 32), (8, 64), (32, 64), (4, 512)] {
            bench.between(batch, map, c);
        }
    });
}
