// Layers as launches of the kernels in shaders/: what each needs in its uniform struct, and which of a family's
// entry points runs. Counterpart of kernels/src/wgpu/{conv2d,matmul,pool2d,elementwise,softmax}.rs.
//
// A tensor is {buffer, shape}: one image [h, w, c], channels innermost, or a row [n].

// Threads of a workgroup: the `override WORKGROUP` of the shaders.
const WORKGROUP_TILES = 64; // of conv2d_forward.wgsl and matmul.wgsl
const WORKGROUP = 256; // of the others

// Rows and columns of the results that a thread computes in a register tile.
const TILE = 8;

// Functions of elementwise.wgsl: its `override OP`.
const RELU = 6;
const GELU = 8;

// Terms of a sum that are worth a thread of their own.
const LEAST_TERMS = 256;

const elements = (shape) => shape.reduce((product, size) => product * size, 1);

// A checkpoint's tensors must fit what they are used with.
export function requireSize(what, got, expected) {
  if (got !== expected) {
    throw new Error(`The checkpoint does not fit its model: ${what} has size ${got}, expected ${expected}.`);
  }
}

export class Layers {
  constructor(program) {
    this.program = program;
  }

  #result(shape) {
    return { buffer: this.program.allocate(elements(shape)), shape };
  }

  // What an entry point names but is told not to look at.
  #nothing() {
    return this.program.allocate(1);
  }

  // x * filter + bias + residual, then relu if asked for.
  // filter: {values, shape: [c_out, kh, kw, c_in]}, bias: {values, shape: [c_out]}.
  conv2d(x, { filter, bias, stride = 1, padding = 0, relu = false, residual }) {
    const [h, w, channels] = x.shape;
    const [columns, kh, kw, depth] = filter.shape;
    requireSize('a convolution', depth, channels);
    requireSize('the bias of a convolution', bias.values.length, columns);
    const [oh, ow] = [[h, kh], [w, kw]].map(([size, k]) => Math.floor((size + 2 * padding - k) / stride) + 1);
    const y = this.#result([oh, ow, columns]);
    // An `Axis` of conv2d_forward.wgsl: output i sees input i * stride - padding + j under tap j.
    const axis = (positions, size, taps) => [positions, 0, 1, stride, -padding, 1, size, taps, 0, 1, 0, 0];
    const [tilesM, tilesN] = [oh * ow, columns].map((size) => Math.ceil(size / TILE));
    const byVectors = channels % 4 === 0 && columns % 4 === 0;
    this.program.launch({
      file: 'conv2d_forward.wgsl',
      entry: byVectors ? 'conv2d_forward_register_tile' : 'conv2d_forward_register_tile_any',
      params: [
        ...axis(oh, h, kh), ...axis(ow, w, kw),
        oh * ow, 1, channels, columns, oh, ow, kh, kw, tilesM, tilesN,
        1, Number(residual !== undefined), Number(relu),
      ],
      buffers: [
        x.buffer, this.program.upload(filter.values), this.program.upload(bias.values),
        residual?.buffer ?? this.#nothing(), y.buffer,
      ],
      threads: tilesM * tilesN,
      workgroup: WORKGROUP_TILES,
    });
    return y;
  }

  // Windows of kernel x kernel that do not overlap; what is left over at the end is dropped.
  maxPool2d(x, kernel) {
    return this.#pool2d(x, 'max_pool2d_forward', [kernel, kernel], true);
  }

  // The mean of each channel: one window as large as the image.
  globalAvgPool2d(x) {
    const y = this.#pool2d(x, 'avg_pool2d_forward', x.shape.slice(0, 2), false);
    return this.flatten(y);
  }

  #pool2d(x, entry, [kh, kw], hasPositions) {
    const [h, w, c] = x.shape;
    const [oh, ow] = [Math.floor(h / kh), Math.floor(w / kw)];
    const y = this.#result([oh, ow, c]);
    const threads = oh * ow * c;
    // Of the maxima: the backward pass would need them.
    const positions = hasPositions ? this.program.allocate(threads) : null;
    this.program.launch({
      file: 'pool2d.wgsl',
      entry,
      params: [1, h, w, c, oh, ow, kh, kw, kh, kw, 0, 0],
      buffers: [x.buffer, y.buffer, positions],
      threads,
      workgroup: WORKGROUP,
    });
    return y;
  }

  // The same numbers as a row: nothing moves.
  flatten(x) {
    return { buffer: x.buffer, shape: [elements(x.shape)] };
  }

  relu(x) {
    return this.#unary(x, RELU);
  }

  gelu(x) {
    return this.#unary(x, GELU);
  }

  #unary(x, OP) {
    const y = this.#result(x.shape);
    const vectors = Math.ceil(elements(x.shape) / 4); // a thread takes 4 elements
    this.program.launch({
      file: 'elementwise.wgsl',
      entry: 'unary_forward',
      constants: { OP },
      params: [vectors, 0, 0],
      buffers: [x.buffer, y.buffer],
      threads: vectors,
      workgroup: WORKGROUP,
    });
    return y;
  }

  // x weight^T + bias: x [k], weight: {values, shape: [n, k]}, bias: {values, shape: [n]} or none. A product of a row
  // with a matrix gives few threads work, so a long sum is cut into parts, which a second kernel adds up.
  linear(x, { weight, bias }) {
    const [n, k] = weight.shape;
    requireSize('a linear layer', k, elements(x.shape));
    requireSize('the bias of a linear layer', bias?.values.length ?? n, n);
    const y = this.#result([n]);
    const tiles = Math.ceil(n / TILE);
    const termsOfPart = Math.ceil(k / Math.ceil(k / LEAST_TERMS) / 4) * 4; // a multiple of 4: sums go by vectors
    const parts = Math.ceil(k / termsOfPart);
    const shared = {
      file: 'matmul.wgsl',
      params: [
        1, n, k, 1, parts, termsOfPart, 1, tiles,
        k, k, 1, // a: from product to product, from row to row, from term to term
        n * k, k, 1, // b, which is the weight: its columns are the weight's rows
        Number(bias !== undefined),
      ],
      workgroup: WORKGROUP_TILES,
    };
    const biasBuffer = bias ? this.program.upload(bias.values) : this.#nothing();
    const partials = this.program.allocate(parts > 1 ? parts * n : 1);
    this.program.launch({
      ...shared,
      entry: n % 4 === 0 && k % 4 === 0 ? 'matmul_register_tile' : 'matmul_register_tile_strided',
      constants: { A_BY_K: 1, B_BY_K: 1 },
      buffers: [x.buffer, this.program.upload(weight.values), biasBuffer, y.buffer, partials],
      threads: tiles * parts,
    });
    if (parts > 1) {
      const buffers = [null, null, biasBuffer, y.buffer, partials];
      this.program.launch({ ...shared, entry: 'matmul_split_sum', buffers, threads: n });
    }
    return y;
  }

  softmax(x) {
    const y = this.#result(x.shape);
    this.program.launch({
      file: 'softmax.wgsl',
      entry: 'softmax_forward_lanes',
      params: [1, elements(x.shape)],
      buffers: [x.buffer, y.buffer],
      threads: 1, // a workgroup of fixed size takes 4 rows, and there is one
      workgroup: 1,
    });
    return y;
  }
}
