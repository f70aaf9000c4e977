//! `cifar devices`: what can compute here, and why the rest cannot.

use anyhow::Result;

use crate::device::{Compute, all_devices, probe};
use crate::outln;

/// Flags of `cifar devices`.
#[derive(clap::Args)]
pub struct Args {
    /// One JSON line a device
    #[arg(long)]
    json: bool,
}

/// Prints a line for each device.
pub fn run(args: Args) -> Result<()> {
    for device in all_devices() {
        let state = match probe(device) {
            Err(reason) => Err(reason),
            Ok(Some(description)) => Ok(description),
            Ok(None) => Compute::open(&device.to_string(), None)
                .map(|compute| compute.backend.description())
                .map_err(|e| format!("{e:#}")),
        };
        let available = state.is_ok();
        let (Ok(text) | Err(text)) = state;
        if args.json {
            let line = serde_json::json!({
                "device": device.to_string(), "available": available, "description": text,
            });
            outln!("{line}")?;
        } else {
            let mark = if available { "available" } else { "absent" };
            outln!("{:<10} {mark:<10} {text}", device.to_string())?;
        }
    }
    Ok(())
}
