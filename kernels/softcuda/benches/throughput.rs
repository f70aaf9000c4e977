//! Lane-instructions a second.
fn main() {}
