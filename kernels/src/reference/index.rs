//! From the number of an element in one shape to its place in another.

/// Distance between neighbours along each axis of a row-major `shape`.
pub fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis];
    }
    strides
}

/// The same, with 0 along axes of size 1: they repeat when the shape is broadcast.
pub fn broadcast_strides(shape: &[usize]) -> Vec<usize> {
    strides(shape).iter().zip(shape).map(|(&s, &size)| if size == 1 { 0 } else { s }).collect()
}

/// Element `i` of `shape`, row-major, has coordinates c: answers Σ c[axis] strides[axis].
pub fn offset(mut i: usize, shape: &[usize], strides: &[usize]) -> usize {
    let mut offset = 0;
    for axis in (0..shape.len()).rev() {
        offset += i % shape[axis] * strides[axis];
        i /= shape[axis];
    }
    offset
}
