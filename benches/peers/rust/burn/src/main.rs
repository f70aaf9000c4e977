//! `train-burn`: a training step of tilegrad's models in burn on burn-flex, its CPU backend.

use std::process::ExitCode;

use burn::backend::Autodiff;
use burn_flex::{Flex, FlexDevice};
use peers_common::{TrainOptions, set_threads};

fn main() -> ExitCode {
    let result = TrainOptions::from_args(std::env::args().skip(1)).and_then(|options| {
        set_threads(options.threads);
        peers_burn_model::run::<Autodiff<Flex>>(&options, "burn-flex 0.21.0", &FlexDevice)
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("train-burn: {message}");
            ExitCode::FAILURE
        }
    }
}
