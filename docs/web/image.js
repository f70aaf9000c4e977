// From an image file to what a model takes, step by step as `cifar predict` does it (cifar/src/data/import.rs).

// Decodes a PNG or JPEG (or whatever else the browser reads) into [size, size, 3] bytes: turned as its EXIF data says,
// laid on white where it is transparent, cut to its central square, resized unless it has the size already.
export async function decodeSquare(blob, size) {
  let bitmap;
  try {
    // Colours are not converted: training images were not either.
    bitmap = await createImageBitmap(blob, { colorSpaceConversion: 'none', imageOrientation: 'from-image' });
  } catch {
    throw new Error('This is no image that the browser can read: it should be a PNG or a JPEG.');
  }
  const { width, height } = bitmap;
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext('2d', { alpha: false, willReadFrequently: true });
  context.fillStyle = 'white';
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const { data } = context.getImageData(0, 0, width, height);
  const square = Math.min(width, height);
  const rows = weights(height, Math.floor((height - square) / 2), square, size);
  const columns = weights(width, Math.floor((width - square) / 2), square, size);
  return resample(data, width, rows, columns);
}

// Catmull and Rom's cubic: 1 at 0, 0 at all other whole numbers and beyond 2.
function catmullRom(x) {
  const d = Math.abs(x);
  if (d < 1) {
    return (1.5 * d - 2.5) * d * d + 1;
  }
  return d < 2 ? ((-0.5 * d + 2.5) * d - 4) * d + 2 : 0;
}

// For each of `size` results along an axis: the first of the source's pixels that make it, and their weights. They
// are the square's, `square` pixels from `start` on, and what the filter reaches beside it; the axis has `length`.
// A filter that shrinks an image is widened by the factor, so that it averages over all pixels.
function weights(length, start, square, size) {
  const scale = square / size;
  const widening = Math.max(scale, 1);
  return Array.from({ length: size }, (_, i) => {
    const centre = start + (i + 0.5) * scale;
    const first = Math.max(0, Math.floor(centre - 2 * widening));
    const end = Math.min(length, Math.ceil(centre + 2 * widening));
    const values = Array.from({ length: end - first }, (_, j) => catmullRom((first + j + 0.5 - centre) / widening));
    const sum = values.reduce((a, b) => a + b);
    return { first, values: values.map((v) => v / sum) };
  });
}

// Resizes an RGBA image to RGB: along the columns, then along the rows. Values in between are bytes too, as in the
// crate that `cifar` resizes with; a Uint8ClampedArray rounds and clamps what is written to it. With one pixel for one
// the weights are 1 and 0, and nothing changes.
function resample(rgba, width, rows, columns) {
  const size = rows.length;
  const between = new Uint8ClampedArray(size * width * 4); // still RGBA
  rows.forEach(({ first, values }, y) => {
    const sums = new Float64Array(width * 4);
    values.forEach((weight, j) => {
      const start = (first + j) * width * 4;
      for (let i = 0; i < sums.length; i++) {
        sums[i] += weight * rgba[start + i];
      }
    });
    between.set(sums, y * width * 4);
  });
  const rgb = new Uint8ClampedArray(size * size * 3);
  for (let y = 0; y < size; y++) {
    columns.forEach(({ first, values }, x) => {
      for (let c = 0; c < 3; c++) {
        const start = (y * width + first) * 4 + c;
        rgb[(y * size + x) * 3 + c] = values.reduce((sum, weight, j) => sum + weight * between[start + 4 * j], 0);
      }
    });
  }
  return rgb;
}

// Bytes to what the model was trained on: (byte / 255 - mean) / std a channel.
export function normalise(rgb, mean, std) {
  return Float32Array.from(rgb, (byte, i) => (byte / 255 - mean[i % 3]) / std[i % 3]);
}
