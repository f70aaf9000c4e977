//! What each rung of CUDA's ladders does on softcuda, as a table: instructions, sectors of global memory, wavefronts of
//! shared memory. Counts, not times: the same on every machine.
//! `cargo run -p tilegrad-kernels --example cuda_ladder`.

use std::fs;
use std::path::Path;

use tilegrad_softcuda::{Checks, Class, Device, Launch, Module, Options, Profile};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Rows, columns and terms of the product.
const SIZE: usize = 256;

/// A kernel of `matmul.cu` with its block: rows and columns of a tile, threads along x and y.
struct Rung {
    kernel: &'static str,
    bytes: usize,
    tile: [usize; 2],
    threads: [u32; 2],
}

const fn rung(kernel: &'static str, bytes: usize, tile: [usize; 2], threads: [u32; 2]) -> Rung {
    Rung { kernel, bytes, tile, threads }
}

/// a and b as in a linear layer: both with k contiguous.
const MATMUL: [Rung; 9] = [
    rung("f32_naive", 4, [8, 32], [32, 8]),
    rung("f32_shared_tile", 4, [32, 32], [32, 32]),
    rung("f32_register_tile_64x64_kk", 4, [64, 64], [128, 1]),
    rung("f32_register_tile_128x128_kk", 4, [128, 128], [256, 1]),
    rung("tf32_tensor_core_64x64_strided", 4, [64, 64], [128, 1]),
    rung("bf16_naive", 2, [8, 32], [32, 8]),
    rung("bf16_shared_tile", 2, [32, 32], [32, 32]),
    rung("bf16_tensor_core_64x64_kk", 2, [64, 64], [128, 1]),
    rung("bf16_tensor_core_128x128_kk", 2, [128, 128], [256, 1]),
];

/// The other layouts of the fastest rungs.
const LAYOUTS: [Rung; 6] = [
    rung("f32_register_tile_128x128_kn", 4, [128, 128], [256, 1]),
    rung("f32_register_tile_128x128_mk", 4, [128, 128], [256, 1]),
    rung("f32_register_tile_128x128_mn", 4, [128, 128], [256, 1]),
    rung("bf16_tensor_core_128x128_kn", 2, [128, 128], [256, 1]),
    rung("bf16_tensor_core_128x128_mk", 2, [128, 128], [256, 1]),
    rung("bf16_tensor_core_128x128_mn", 2, [128, 128], [256, 1]),
];

/// A buffer of small numbers of 2 (bf16) or 4 (f32) bytes.
fn buffer(device: &Device, elements: usize, bytes: usize) -> Outcome<u64> {
    let mut data = Vec::with_capacity(elements * bytes);
    for i in 0..elements {
        let value = (i * 7919 % 9) as f32 - 4.0;
        // bf16 is the upper half of an f32.
        data.extend_from_slice(&value.to_le_bytes()[4 - bytes..]);
    }
    let pointer = device.alloc(data.len())?;
    device.write(pointer, &data)?;
    Ok(pointer)
}

fn run(device: &Device, module: &Module, rung: &Rung) -> Outcome<Profile> {
    let [a, b, y] = [0, 1, 2].map(|_| buffer(device, SIZE * SIZE, rung.bytes));
    let (a, b, y) = (a?, b?, y?);
    let layout = rung.kernel.rsplit('_').next().unwrap_or_default();
    let stride = |contiguous: bool| if contiguous { (SIZE, 1) } else { (1, SIZE) };
    let product = SIZE * SIZE;
    let operand = |(mn, k): (usize, usize)| {
        [product, mn, k].iter().flat_map(|&n| (n as u64).to_le_bytes()).collect::<Vec<u8>>()
    };
    let of_a = operand(stride(!layout.starts_with('m') || layout.len() != 2));
    let of_b = operand(stride(!layout.ends_with('n') || layout.len() != 2));
    // m, n, k, splits, terms of a split, whether rows can be written in vectors: `Gemm` in gemm.cuh.
    let sizes = [SIZE, SIZE, SIZE, 1, SIZE, 1].map(|n| (n as u32).to_le_bytes()).concat();
    let address = |pointer: u64| pointer.to_le_bytes();
    let (a, b, none, y) = (address(a), address(b), address(0), address(y));
    let params: [&[u8]; 8] = [&sizes, &of_a, &of_b, &a, &b, &none, &y, &none];
    let tiles = SIZE.div_ceil(rung.tile[0]) * SIZE.div_ceil(rung.tile[1]);
    let launch = Launch {
        grid: [tiles as u32, 1, 1],
        block: [rung.threads[0], rung.threads[1], 1],
        shared_bytes: 0,
    };
    let function = module.function(&format!("matmul_forward_{}", rung.kernel))?;
    Ok(device.launch(&function, launch, &params)?)
}

fn row(name: &str, p: &Profile) {
    let thousands = |n: u64| format!("{:.0}", n as f64 / 1e3);
    let of = |class: Class| {
        let found = p.instructions.iter().find(|(c, _)| *c == class);
        found.map_or(0, |(_, executed)| executed.warps)
    };
    println!(
        "| `{name}` | {} | {:.0} | {} | {} | {:.1} | {:.1} | {} | {:.2} | {} |",
        thousands(p.total().warps),
        p.flops as f64 / p.total().warps as f64,
        thousands(of(Class::LoadGlobal) + of(Class::AsyncCopy)),
        thousands(p.global_load.units),
        p.global_load.units_a_request(),
        p.arithmetic_intensity(),
        thousands(p.shared_load.units + p.shared_store.units),
        p.shared_load.units_a_request(),
        p.shared_load.conflicts() + p.shared_store.conflicts(),
    );
}

fn main() -> Outcome<()> {
    let checks = Checks::all();
    let device = Device::new(Options { checks, count: true, ..Options::default() })?;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("ptx/matmul.ptx");
    let module = device.load("matmul.ptx", &fs::read_to_string(path)?)?;
    println!(
        "y = a b, {SIZE} x {SIZE} x {SIZE}; instructions are those of warps, thousands of them.\n"
    );
    println!(
        "| kernel | instructions | FLOPs an instruction | global loads | sectors loaded | sectors a load | \
         FLOPs a byte | shared wavefronts | wavefronts a load | conflicts |"
    );
    println!("|-|-:|-:|-:|-:|-:|-:|-:|-:|-:|");
    for rung in MATMUL.iter().chain(&LAYOUTS) {
        row(rung.kernel, &run(&device, &module, rung)?);
    }
    Ok(())
}
