//! Copies an image into a frame of zeros, so that the kernels need no test for borders.

use crate::cpu::scalar::Scalar;

/// An image inside a zero frame: rows `top..top + h` of `height`, columns `left..left + w` of
/// `width`.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    /// Image rows.
    pub h: usize,
    /// Image columns.
    pub w: usize,
    /// Channels of the image in memory.
    pub channels: usize,
    /// First channel that is copied.
    pub first: usize,
    /// Channels that are copied.
    pub c: usize,
    /// Channels of the frame: those, and zeros that fill the last word of terms.
    pub pixel: usize,
    /// Zero rows above.
    pub top: usize,
    /// Zero columns on the left.
    pub left: usize,
    /// Rows of the frame.
    pub height: usize,
    /// Columns of the frame.
    pub width: usize,
}

impl Frame {
    /// Elements of the frame.
    pub fn elements(&self) -> usize {
        self.height * self.width * self.pixel
    }

    /// True when the frame is the image itself: nothing needs to be copied.
    pub fn is_identity(&self) -> bool {
        self.height == self.h
            && self.width == self.w
            && self.c == self.channels
            && self.c == self.pixel
            && self.top == 0
            && self.left == 0
    }

    /// Fills the frame. Rows and columns of the image beyond the frame are cut off.
    pub fn fill<T: Scalar>(&self, image: &[T], frame: &mut [T]) {
        let &Frame { h, w, channels, first, c, pixel, top, left, height, width } = self;
        let zero = T::narrow(0.0);
        let line = width * pixel;
        let rows = h.min(height.saturating_sub(top));
        let columns = w.min(width.saturating_sub(left));
        frame[..(top.min(height)) * line].fill(zero);
        frame[(top + rows).min(height) * line..height * line].fill(zero);
        if line == 0 {
            return;
        }
        for (y, out) in frame.chunks_exact_mut(line).skip(top).take(rows).enumerate() {
            out[..(left * pixel).min(line)].fill(zero);
            out[((left + columns) * pixel).min(line)..].fill(zero);
            if columns == 0 {
                continue;
            }
            let row = &image[y * w * channels..(y + 1) * w * channels];
            let out = &mut out[left * pixel..(left + columns) * pixel];
            if pixel == channels {
                out.copy_from_slice(&row[..columns * c]);
            } else {
                for (out, row) in out.chunks_exact_mut(pixel).zip(row.chunks_exact(channels)) {
                    out[..c].copy_from_slice(&row[first..first + c]);
                    out[c..].fill(zero);
                }
            }
        }
    }
}
