//! `matmul-candle`: candle's matrix product, a round for each line that `matmul` sends.

use candle_core::{DType, Device, Result, Tensor};
use peers_common::{Shape, serve, set_threads, time, values};

fn operands(shape: &Shape) -> Result<(Tensor, Tensor)> {
    let Shape { m, n, k, transpose_b, bf16 } = *shape;
    let dtype = if bf16 { DType::BF16 } else { DType::F32 };
    let tensor = |rows: usize, columns: usize| {
        Tensor::from_vec(values(rows * columns), (rows, columns), &Device::Cpu)?.to_dtype(dtype)
    };
    let b = if transpose_b { tensor(n, k)?.t()? } else { tensor(k, n)? };
    Ok((tensor(m, k)?, b))
}

fn main() -> std::io::Result<()> {
    set_threads(std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(2));
    let mut last = None;
    serve(|shape, seconds| {
        if last.as_ref().is_none_or(|(known, _)| *known != shape) {
            last = Some((shape, operands(&shape)));
        }
        let (a, b) = last.as_ref()?.1.as_ref().ok()?;
        a.matmul(b).ok()?;
        Some(time(seconds, || {
            std::hint::black_box(a.matmul(b).ok());
        }))
    })
}
