//! `matmul-burn-wgpu`: burn's matrix product on burn-wgpu, with autotuning, a round for each line of standard input. A
//! round ends when the product is done, not when it is queued; nothing is read back.

use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};
use burn_wgpu::{Wgpu, WgpuDevice};
use peers_common::{Shape, serve, time, values};

fn operands(shape: &Shape, device: &WgpuDevice) -> (Tensor<Wgpu, 2>, Tensor<Wgpu, 2>) {
    let Shape { m, n, k, transpose_b, .. } = *shape;
    let tensor = |rows: usize, columns: usize| {
        Tensor::from_data(TensorData::new(values(rows * columns), [rows, columns]), device)
    };
    let b = if transpose_b { tensor(n, k).transpose() } else { tensor(k, n) };
    (tensor(m, k), b)
}

fn main() -> std::io::Result<()> {
    let device = WgpuDevice::default();
    let mut last = None;
    serve(|shape, seconds| {
        if shape.bf16 {
            return None;
        }
        if last.as_ref().is_none_or(|(known, _)| *known != shape) {
            last = Some((shape, operands(&shape, &device)));
        }
        let (a, b) = &last.as_ref()?.1;
        let mut failed = false;
        let seconds = time(seconds, || {
            let y = a.clone().matmul(b.clone());
            failed |= <Wgpu as Backend>::sync(&device).is_err();
            drop(y);
        });
        (!failed).then_some(seconds)
    })
}
