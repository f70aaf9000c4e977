// The safetensors format: 8 bytes with the length of a JSON header, the header, and the elements of all tensors one
// after the other. The header gives each tensor's element type, shape and place, and "__metadata__", texts by key.

// Reads a file, an ArrayBuffer, of f32 tensors. Gives {metadata, tensors}: an object of texts, and a Map from names to
// {shape, values: Float32Array}. What is wrong with a file is an Error: it comes from anywhere.
export function parseSafetensors(file) {
  const wrong = (detail) => new Error(`This is no safetensors file: ${detail}.`);
  if (file.byteLength < 8) {
    throw wrong(`it has ${file.byteLength} bytes, and the header's length alone takes 8`);
  }
  const length = new DataView(file).getBigUint64(0, true);
  if (length > BigInt(file.byteLength - 8)) {
    throw wrong(`its header would have ${length} bytes, but the file has only ${file.byteLength}`);
  }
  const start = 8 + Number(length);
  let header;
  try {
    header = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(new Uint8Array(file, 8, Number(length))));
  } catch {
    throw wrong('its header is not JSON');
  }
  if (header === null || typeof header !== 'object' || Array.isArray(header)) {
    throw wrong('its header is not a JSON object');
  }
  const { __metadata__: metadata = {}, ...entries } = header;
  const tensors = new Map();
  for (const [name, { dtype, shape, data_offsets: offsets }] of Object.entries(entries)) {
    if (dtype !== 'F32') {
      throw new Error(`Tensor ${name} has elements of type ${dtype}; this page reads F32.`);
    }
    const isCount = (value) => Number.isSafeInteger(value) && value >= 0;
    if (![shape, offsets].every((list) => Array.isArray(list) && list.every(isCount)) || offsets.length !== 2) {
      throw wrong(`tensor ${name} has no proper shape and offsets`);
    }
    const [begin, end] = offsets;
    const bytes = 4 * shape.reduce((product, size) => product * size, 1);
    if (end - begin !== bytes || start + end > file.byteLength) {
      throw wrong(`tensor ${name} of shape [${shape}] takes ${bytes} bytes, its offsets are [${offsets}], and the file `
        + `has ${file.byteLength - start} bytes of elements: it may have been cut short`);
    }
    // Copied, since a view must begin at a multiple of 4. Little-endian, as every GPU's host is.
    tensors.set(name, { shape, values: new Float32Array(file.slice(start + begin, start + end)) });
  }
  return { metadata, tensors };
}
