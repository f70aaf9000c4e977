//! Dropout.

use crate::philox::Stream;
use crate::{Error, Result};

/// Dropout: element i is kept where word i of `stream` is at least `p * 2^32`, and then scaled by 1
/// / (1 - p).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DropoutArgs {
    /// Elements.
    pub len: usize,
    /// Probability of being zeroed, in [0, 1).
    pub p: f64,
    /// Where the random words come from.
    pub stream: Stream,
}

impl DropoutArgs {
    /// Checks `p`.
    pub fn new(len: usize, p: f64, stream: Stream) -> Result<Self> {
        if !(0.0..1.0).contains(&p) {
            return Err(Error::argument("dropout", format!("p must be in [0, 1), got {p}")));
        }
        Ok(DropoutArgs { len, p, stream })
    }

    /// Smallest random word that keeps an element.
    pub fn threshold(&self) -> u32 {
        (self.p * 4294967296.0) as u32
    }

    /// Factor of a kept element.
    pub fn scale(&self) -> f64 {
        1.0 / (1.0 - self.p)
    }
}
