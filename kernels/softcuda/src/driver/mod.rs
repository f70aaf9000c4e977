//! The CUDA Driver API, exported from the cdylib as C functions: what a host program finds in place of `libcuda.so`.
//!
//! - [`state`] holds all objects behind one lock. A handle that a host program gets is a number, never an address: a
//!   wrong one is looked up, not found, and answered with `CUDA_ERROR_INVALID_HANDLE`.
//! - Work is done when it is enqueued, on the calling thread, so any order that streams and events ask for holds
//!   already. Only a stream in capture ([`capture`]) collects its work instead; [`graph`] replays it.
//! - An error's text goes with it: the calling thread's last one can be had through `softcudaLastError`, and what a
//!   person should see at once (a fault, PTX that is refused, a leak) is printed on standard error. After a fault of a
//!   kernel each call returns its code until the last context is gone, as on a GPU.
//! - No panic leaves this module ([`call`]), and what is not supported returns `CUDA_ERROR_NOT_SUPPORTED`.
//!
//! Functions and their rules are those of NVIDIA's "CUDA Driver API" reference manual, version 12.
#![allow(non_snake_case)]

mod call;
mod capture;
mod config;
mod context;
mod device;
mod event;
mod graph;
mod host;
mod launch;
mod memory;
mod module;
mod occupancy;
mod pool;
mod query;
mod report;
mod state;
mod status;
mod stream;
mod unsupported;
mod work;

pub use config::{Config, parse_checks};
