//! Weights and images from a formula, the same bits here and in `scripts/golden_models.py`, so that
//! golden files hold results only.
//!
//! Element i of the array called `name` is hash(fnv1a(name) + i), read as a fraction in [-1, 1), in
//! steps of 2^-23.

/// 32-bit FNV-1a of a name.
pub fn fnv1a(name: &str) -> u32 {
    name.bytes().fold(0x811c_9dc5, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193))
}

/// An integer hash with full avalanche: multiplications by odd constants between shifts.
pub fn hash(mut x: u32) -> u32 {
    x ^= x >> 16;
    x = x.wrapping_mul(0x7feb_352d);
    x ^= x >> 15;
    x = x.wrapping_mul(0x846c_a68b);
    x ^ (x >> 16)
}

/// Element i of the array called `name`: in [-1, 1), exact in f32.
pub fn element(name: &str, i: usize) -> f64 {
    f64::from(hash(fnv1a(name).wrapping_add(i as u32)) >> 8) / 8388608.0 - 1.0
}

/// `n` elements, times `scale`, rounded to f32.
pub fn array(name: &str, n: usize, scale: f64) -> Vec<f64> {
    (0..n).map(|i| f64::from((element(name, i) * scale) as f32)).collect()
}

/// `n` labels in 0..classes.
pub fn labels(name: &str, n: usize, classes: u32) -> Vec<i32> {
    (0..n).map(|i| (hash(fnv1a(name).wrapping_add(i as u32)) % classes) as i32).collect()
}
