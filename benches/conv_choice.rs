//! `cargo bench --bench conv_choice -- --write`: times every convolution algorithm on a grid of sizes and
//! writes the table that the CPU backend chooses by, `kernels/src/cpu/conv2d/choice.txt`.
//!
//! Sizes are those between which the models' layers lie. The two algorithms are timed in turn, and the
//! lower quartile of each counts: another program can only make a run slower. Without `--write` the
//! table is only printed. With the beginning of a row only such rows are timed, and the others kept.
//!
//!     cargo bench --bench conv_choice -- [--write] [--threads T] ["forward f32 16"]

use std::fmt::Write as _;
use std::hint::black_box;
use std::time::Instant;

use tilegrad_kernels::cpu::{ConvAlgorithm, ConvPass, Cpu, CpuOptions};
use tilegrad_kernels::{Activation, Backend, Buffer, Conv2dArgs, Conv2dOptions, Dtype, upload};

const TABLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/kernels/src/cpu/conv2d/choice.txt");
/// Channels in and out, and side of the image.
const LAYERS: [(usize, usize, usize); 15] = [
    (3, 16, 32),
    (3, 64, 32),
    (8, 8, 32),
    (16, 16, 32),
    (16, 32, 16),
    (32, 32, 16),
    (32, 64, 32),
    (64, 64, 32),
    (64, 64, 8),
    (64, 128, 16),
    (128, 128, 16),
    (128, 128, 8),
    (256, 256, 8),
    (256, 256, 4),
    (512, 512, 4),
];
const BATCHES: [usize; 4] = [1, 8, 32, 128];
/// Bytes of a filter above which a network's filters do not stay in L3 from one image to the next.
const LARGE_FILTER: usize = 256 << 10;
/// Bytes of filters that do not fit L3.
const FOOTPRINT: usize = 48 << 20;
/// Seconds for a point and algorithm.
const BUDGET: f64 = 0.12;
/// Turns that each algorithm has.
const BURSTS: usize = 6;

fn random(cpu: &Cpu, dtype: Dtype, len: usize, seed: usize) -> Buffer {
    let values: Vec<f32> =
        (0..len).map(|i| ((i + seed) * 7919 % 1000) as f32 / 500.0 - 1.0).collect();
    let values = upload(cpu, &values).expect("memory for a benchmark");
    if dtype == Dtype::F32 { values } else { cpu.cast(&values, dtype).expect("memory") }
}

/// The inputs of one convolution.
struct Inputs {
    args: Conv2dArgs,
    x: Buffer,
    /// One; for inference as many as do not fit L3, if those of a network would not.
    filters: Vec<Buffer>,
    bias: Buffer,
    y: Buffer,
}

impl Inputs {
    fn new(cpu: &Cpu, dtype: Dtype, args: Conv2dArgs) -> Inputs {
        let random = |len, seed| random(cpu, dtype, len, seed);
        let bytes = args.filter_elements() * dtype.size();
        let copies = if bytes > LARGE_FILTER { FOOTPRINT.div_ceil(bytes) } else { 1 };
        Inputs {
            x: random(args.x_elements(), 1),
            filters: (0..copies).map(|_| random(args.filter_elements(), 2)).collect(),
            bias: random(args.c_out, 3),
            y: random(args.y_elements(), 4),
            args,
        }
    }

    fn run(&self, cpu: &Cpu, pass: ConvPass, filter: usize) {
        let Inputs { args, x, filters, bias, y } = self;
        let filter = &filters[filter];
        let (relu, bias) = (Activation::Relu, Some(bias));
        let result = match pass {
            ConvPass::Forward => cpu.conv2d_forward(args, relu, x, filter, bias),
            ConvPass::Inference => cpu.conv2d_inference(args, relu, x, filter, bias, Some(y)),
            ConvPass::BackwardData => cpu.conv2d_backward_data(args, filter, y),
            ConvPass::BackwardFilter => cpu.conv2d_backward_filter(args, x, y),
        };
        black_box(result.expect("valid arguments"));
    }
}

/// Lower quartile of microseconds on each backend, taken in turn, a burst each: the threads of one
/// keep looking for work for a moment after its last.
fn times(cpus: &[Cpu; 2], inputs: &Inputs, pass: ConvPass) -> [f64; 2] {
    let mut samples = [vec![], vec![]];
    let filters = if pass == ConvPass::Inference { inputs.filters.len() } else { 1 };
    for burst in 0..BURSTS {
        for (cpu, samples) in cpus.iter().zip(&mut samples) {
            cpu.enter(|| {
                // What inference keeps is made in the first burst.
                let warm_up = if burst == 0 { filters } else { 1 };
                (0..warm_up).for_each(|i| inputs.run(cpu, pass, i));
                let begin = Instant::now();
                while begin.elapsed().as_secs_f64() < BUDGET / BURSTS as f64 || samples.is_empty() {
                    let start = Instant::now();
                    inputs.run(cpu, pass, samples.len() % filters);
                    samples.push(start.elapsed().as_secs_f64() * 1e6);
                }
            });
        }
    }
    samples.map(|mut samples| {
        samples.sort_by(f64::total_cmp);
        samples[samples.len() / 4]
    })
}

fn main() {
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    let (mut write, mut threads, mut only) = (false, None, String::new());
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--write" => write = true,
            "--threads" => threads = args.next().and_then(|n| n.parse().ok()),
            row => only = row.to_string(),
        }
    }
    let cpus = [ConvAlgorithm::Direct, ConvAlgorithm::Winograd].map(|conv| {
        Cpu::new(CpuOptions { conv: Some(conv), threads, ..CpuOptions::default() })
            .expect("a CPU backend")
    });
    let old = std::fs::read_to_string(TABLE).unwrap_or_default();
    let mut table = format!(
        "# Which convolution is the fastest. Written by: cargo bench --bench conv_choice -- --write\n\
         # on {}\n\
         # pass dtype c_in c_out tiles us-direct us-winograd\n",
        cpus[0].description()
    );
    print!("{table}");
    for dtype in [Dtype::F32, Dtype::BF16] {
        for (c_in, c_out, side) in LAYERS {
            for batch in BATCHES {
                let options = Conv2dOptions { padding: [1, 1], ..Conv2dOptions::default() };
                let shape = [batch, side, side, c_in];
                let args = Conv2dArgs::new(&shape, &[c_out, 3, 3, c_in], options).expect("valid");
                let mut inputs = None;
                let tiles = batch * side.div_ceil(4).pow(2);
                for pass in ConvPass::ALL {
                    let point = format!("{pass} {} {c_in} {c_out} {tiles} ", dtype.name());
                    let kept = old.lines().find(|row| row.starts_with(&point));
                    let row = match kept {
                        Some(row) if !point.starts_with(&only) => row.to_string(),
                        _ => {
                            let inputs =
                                inputs.get_or_insert_with(|| Inputs::new(&cpus[0], dtype, args));
                            let [direct, winograd] = times(&cpus, inputs, pass);
                            let row = format!("{point}{direct:.0} {winograd:.0}");
                            println!("{row}");
                            row
                        }
                    };
                    writeln!(table, "{row}").expect("text");
                }
            }
        }
    }
    if write {
        std::fs::write(TABLE, table).expect("the source tree is writable");
        println!("written to {TABLE}");
    }
}
