//! CIFAR-10 from files to a trained model: data, augmentation, training, evaluation. The `cifar`
//! binary is a thin shell around [`cli::run`].

pub mod augment;
pub mod cli;
pub mod commands;
pub mod config;
pub mod data;
pub mod device;
pub mod loader;
pub mod model;
pub mod plots;
pub mod presets;
pub mod train;
