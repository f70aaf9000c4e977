//! `train-burn-wgpu`: a training step of tilegrad's models in burn on burn-wgpu, with fusion and autotuning.
//! `--threads` has no effect; the adapter is wgpu's default (`WGPU_BACKEND`, `WGPU_ADAPTER_NAME`).

use std::process::ExitCode;

use burn::backend::Autodiff;
use burn_wgpu::{Wgpu, WgpuDevice};
use peers_common::TrainOptions;

fn main() -> ExitCode {
    let result = TrainOptions::from_args(std::env::args().skip(1)).and_then(|options| {
        let device = WgpuDevice::default();
        peers_burn_model::run::<Autodiff<Wgpu>>(&options, "burn-wgpu 0.21.0", &device)
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("train-burn-wgpu: {message}");
            ExitCode::FAILURE
        }
    }
}
