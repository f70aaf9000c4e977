//! `cargo bench --bench kernels`: each kernel beside the rung it is compared with.
//!
//! Matmul against `matrixmultiply`; Winograd against direct convolution; instruction sets against
//! each other.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput};
use tilegrad_kernels::cpu::simd::Isa;
use tilegrad_kernels::cpu::{ConvAlgorithm, Cpu, CpuOptions};
use tilegrad_kernels::{
    Activation, Backend, Buffer, Conv2dArgs, Conv2dOptions, MatmulArgs, upload,
};

fn cpu(isa: Option<Isa>, conv: Option<ConvAlgorithm>) -> Cpu {
    Cpu::new(CpuOptions { isa, conv, ..CpuOptions::default() }).expect("this machine's own CPU")
}

fn values(len: usize) -> Vec<f32> {
    (0..len).map(|i| (i * 7919 % 1000) as f32 / 500.0 - 1.0).collect()
}

fn buffer(cpu: &Cpu, len: usize) -> Buffer {
    upload(cpu, &values(len)).expect("memory for a benchmark")
}

fn matmul(c: &mut Criterion) {
    let mut group = c.benchmark_group("matmul_f32");
    for n in [256, 512, 1024] {
        let args = MatmulArgs::new(&[n, n], &[n, n], false, false).expect("square");
        group.throughput(Throughput::Elements(args.flops()));
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            let cpu = cpu(Some(isa), None);
            let (a, b) = (buffer(&cpu, n * n), buffer(&cpu, n * n));
            group.bench_function(BenchmarkId::new(isa.name(), n), |bench| {
                bench.iter(|| black_box(cpu.matmul(&args, &a, &b, None)))
            });
        }
        let (a, b, mut y) = (values(n * n), values(n * n), vec![0.0; n * n]);
        group.bench_function(BenchmarkId::new("matrixmultiply", n), |bench| {
            bench.iter(|| {
                let (s, t) = (n as isize, 1);
                // SAFETY: all three matrices have n x n elements.
                unsafe {
                    matrixmultiply::sgemm(
                        n,
                        n,
                        n,
                        1.0,
                        a.as_ptr(),
                        s,
                        t,
                        b.as_ptr(),
                        s,
                        t,
                        0.0,
                        y.as_mut_ptr(),
                        s,
                        t,
                    )
                };
                black_box(&mut y);
            })
        });
    }
}

fn conv2d(c: &mut Criterion) {
    let mut group = c.benchmark_group("conv2d_f32_batch32");
    let options = Conv2dOptions { padding: [1, 1], ..Conv2dOptions::default() };
    for (map, channels) in [(32, 16), (16, 32), (8, 64), (32, 64), (8, 256)] {
        let filter = [channels, 3, 3, channels];
        let args = Conv2dArgs::new(&[32, map, map, channels], &filter, options).expect("same size");
        group.throughput(Throughput::Elements(args.flops()));
        for algorithm in [ConvAlgorithm::Direct, ConvAlgorithm::Winograd] {
            let cpu = cpu(None, Some(algorithm));
            let (x, dy) = (buffer(&cpu, args.x_elements()), buffer(&cpu, args.y_elements()));
            let filter = buffer(&cpu, args.filter_elements());
            let name = format!("{algorithm}_{map}x{map}x{channels}");
            group.bench_function(BenchmarkId::new("forward", &name), |bench| {
                let act = Activation::Identity;
                bench.iter(|| black_box(cpu.conv2d_forward(&args, act, &x, &filter, None)))
            });
            group.bench_function(BenchmarkId::new("backward_data", &name), |bench| {
                bench.iter(|| black_box(cpu.conv2d_backward_data(&args, &filter, &dy)))
            });
            group.bench_function(BenchmarkId::new("backward_filter", &name), |bench| {
                bench.iter(|| black_box(cpu.conv2d_backward_filter(&args, &x, &dy)))
            });
        }
    }
}

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    matmul(&mut criterion);
    conv2d(&mut criterion);
    criterion.final_summary();
}
