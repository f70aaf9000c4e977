//! One file a subcommand: its flags (`Args`) and what it does (`run`).

pub mod bench;
pub mod data;
pub mod devices;
pub mod eval;
pub mod export;
pub mod predict;
pub mod summary;
pub mod train;
