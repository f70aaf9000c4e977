//! `matmul`: tilegrad's matrix product beside its peers', in turn, round by round.
//!
//! ```text
//! matmul [--threads T] [--rounds N] [--seconds S] [--dtype f32|bf16] [--torch COMMAND] [--candle COMMAND] [SHAPE..]
//! ```
//!
//! A round asks every peer for the median time of one product; rates are medians over the rounds, ratios
//! are medians of the ratios within a round, which a drifting machine spoils less. Shapes are `MxNxK` for
//! a row-major b, `MxNxKt` where b is stored as its transpose; without any, squares and the GEMMs of ResNet-18
//! at batch 128 (the list of `benches/roofline.rs`). torch and candle run in processes of their own:
//! torch because it is Python's, candle because it uses the crate `gemm` without AVX-512.

mod peers;

use std::time::Duration;

use peers::{Gemm, MatrixMultiply, Peer, Process, Tilegrad};
use peers_common::{Shape, median, set_threads};
use tilegrad_kernels::cpu::simd::{Kernel, Vector};

/// Two-operand shapes of the default run: M, N, K, whether b is stored as its transpose.
const SHAPES: [(usize, usize, usize, bool); 8] = [
    (256, 256, 256, false),
    (512, 512, 512, false),
    (1024, 1024, 1024, false),
    (2048, 2048, 2048, false),
    (131072, 64, 576, true),
    (32768, 128, 1152, true),
    (8192, 256, 2304, true),
    (2048, 512, 4608, true),
];

struct Options {
    threads: usize,
    rounds: usize,
    seconds: f64,
    bf16: bool,
    torch: Option<String>,
    candle: Option<String>,
    shapes: Vec<Shape>,
}

impl Options {
    fn from_args(mut args: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Options {
            threads: 2,
            rounds: 7,
            seconds: 0.2,
            bf16: false,
            torch: None,
            candle: None,
            shapes: Vec::new(),
        };
        let mut shapes = Vec::new();
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or(format!("{arg} needs a value"));
            let bad = |value: String| format!("{arg} does not take '{value}'");
            match arg.as_str() {
                "--threads" => options.threads = parse(value()?).map_err(bad)?,
                "--rounds" => options.rounds = parse(value()?).map_err(bad)?,
                "--seconds" => options.seconds = parse(value()?).map_err(bad)?,
                "--dtype" => match value()?.as_str() {
                    "f32" => options.bf16 = false,
                    "bf16" => options.bf16 = true,
                    other => return Err(bad(other.to_string())),
                },
                "--torch" => options.torch = Some(value()?),
                "--candle" => options.candle = Some(value()?),
                shape => shapes.push(shape.to_string()),
            }
        }
        let shape = |(m, n, k, transpose_b)| Shape { m, n, k, transpose_b, bf16: options.bf16 };
        options.shapes = SHAPES.map(shape).to_vec();
        if !shapes.is_empty() {
            options.shapes = Vec::new();
            for text in shapes {
                let sizes = text.strip_suffix('t').unwrap_or(&text);
                let sizes: Vec<usize> = sizes.split('x').map_while(|s| s.parse().ok()).collect();
                let &[m, n, k] = &sizes[..] else {
                    return Err(format!("'{text}' is neither a flag nor MxNxK or MxNxKt"));
                };
                options.shapes.push(shape((m, n, k, text.ends_with('t'))));
            }
        }
        if options.rounds == 0 || options.threads == 0 {
            return Err("--rounds and --threads must be at least 1".into());
        }
        Ok(options)
    }
}

fn parse<T: std::str::FromStr>(text: String) -> Result<T, String> {
    text.parse().map_err(|_| text)
}

/// Independent chains of multiply-adds that never leave their registers: the limit of any product.
struct FmaPeak;

impl Kernel for FmaPeak {
    type Output = f64;

    #[inline(always)]
    fn run<V: Vector>(self) -> f64 {
        const STEPS: usize = 5_000_000;
        let mut chains = [V::splat(1.0); 12];
        let (a, b) = (V::splat(std::hint::black_box(0.999_999)), V::splat(1e-6));
        let start = std::time::Instant::now();
        for _ in 0..STEPS {
            for i in 0..12 {
                chains[i] = chains[i].mul_add(a, b);
            }
        }
        let seconds = start.elapsed().as_secs_f64();
        let mut out = [0.0; 16];
        for chain in chains {
            // SAFETY: no vector has more than 16 lanes.
            unsafe { chain.store(out.as_mut_ptr()) };
            std::hint::black_box(&out);
        }
        2.0 * (12 * V::LANES * STEPS) as f64 / seconds
    }
}

fn run(options: &Options) -> Result<(), String> {
    let (ours, isa) = Tilegrad::new(options.threads)?;
    let mut peers: Vec<Box<dyn Peer>> = vec![
        Box::new(ours),
        Box::new(Gemm::new(options.threads)),
        Box::new(MatrixMultiply::default()),
    ];
    for (name, command) in [("candle", &options.candle), ("torch", &options.torch)] {
        if let Some(command) = command {
            peers.push(Box::new(Process::new(name, command, options.threads)?));
        }
    }
    print!("| product ({} threads) | of f32 FMA peak |", options.threads);
    peers.iter().for_each(|peer| print!(" {} |", peer.name()));
    peers.iter().skip(1).for_each(|peer| print!(" ours / {} |", peer.name()));
    println!("\n|---|{}", "---|".repeat(2 * peers.len()));
    for shape in &options.shapes {
        // Rates of each peer, a round a column; None where it does not do this product.
        let mut rates = vec![Vec::new(); peers.len()];
        let mut shares = Vec::new();
        for round in 0..options.rounds {
            let peak: f64 = std::thread::scope(|scope| {
                let workers: Vec<_> =
                    (0..options.threads).map(|_| scope.spawn(|| isa.run(FmaPeak))).collect();
                workers.into_iter().map(|w| w.join().expect("no panic")).sum()
            });
            for turn in 0..peers.len() {
                // Each peer is first, second, .. in as many rounds.
                let i = (round + turn) % peers.len();
                if let Some(seconds) = peers[i].round(shape, options.seconds)? {
                    rates[i].push(shape.flops() / seconds);
                }
                // Threads that spin for their next task give up meanwhile.
                std::thread::sleep(Duration::from_millis(10));
            }
            shares.extend(rates[0].get(round).map(|rate| rate / peak));
        }
        let Shape { m, n, k, transpose_b, bf16 } = *shape;
        let dtype = if bf16 { "bf16" } else { "f32" };
        print!("| {m}x{n}x{k}{} {dtype} |", if transpose_b { "t" } else { "" });
        print_median(&mut shares, |share| format!("{:.0} %", 100.0 * share));
        for rate in &rates {
            print_median(&mut rate.clone(), |rate| format!("{:.0}", rate / 1e9));
        }
        for theirs in &rates[1..] {
            let mut ratios: Vec<f64> = rates[0].iter().zip(theirs).map(|(a, b)| a / b).collect();
            print_median(&mut ratios, |ratio| format!("**{ratio:.2}**"));
        }
        println!();
    }
    Ok(())
}

fn print_median(values: &mut [f64], format: impl Fn(f64) -> String) {
    match values {
        [] => print!(" unsupported |"),
        values => print!(" {} |", format(median(values))),
    }
}

fn main() -> std::process::ExitCode {
    let result = Options::from_args(std::env::args().skip(1)).and_then(|options| {
        set_threads(options.threads);
        run(&options)
    });
    match result {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("matmul: {message}");
            std::process::ExitCode::FAILURE
        }
    }
}
