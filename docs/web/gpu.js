// The GPU as the page needs it: a device, pipelines made from the files in shaders/, and a program: a list of
// kernel launches that is made once, when a model is loaded, and run for every image.
//
// This is the browser's counterpart of kernels/src/wgpu/. Both load the very same .wgsl files.

const SHADERS = new URL('../../shaders/', import.meta.url);

// Bindings for which a kernel has no use still need a buffer: this many bytes, the size of a vec4<f32>.
const LEAST_BYTES = 16;

export class Gpu {
  // Opens the browser's WebGPU. `onLost(message)` is called if the device stops working later on.
  static async open(onLost) {
    if (!navigator.gpu) {
      throw new Error(window.isSecureContext
        ? 'This browser has no WebGPU. Chrome and Edge have it from version 113 on, Safari from 26, and Firefox from '
          + '141 on Windows; on Linux it may have to be switched on (chrome://flags/#enable-unsafe-webgpu).'
        : 'WebGPU is only offered to secure pages: open this one through https:// or as http://localhost.');
    }
    const adapter = await navigator.gpu.requestAdapter();
    if (!adapter) {
      throw new Error('This browser has WebGPU, but offers no adapter: it found no GPU that it would use here.');
    }
    // The defaults hold on every adapter; a large linear layer may need more.
    const { maxStorageBufferBindingSize, maxBufferSize } = adapter.limits;
    const device = await adapter.requestDevice({ requiredLimits: { maxStorageBufferBindingSize, maxBufferSize } });
    device.lost.then(({ message }) => onLost(message));
    const { vendor, architecture, description } = adapter.info;
    return new Gpu(device, description || [vendor, architecture].filter(Boolean).join(' ') || 'unnamed adapter');
  }

  constructor(device, name) {
    this.device = device;
    this.name = name;
    this.modules = new Map(); // of promises, by file
    this.pipelines = new Map(); // of promises, by file, entry point and constants
  }

  module(file) {
    if (!this.modules.has(file)) {
      this.modules.set(file, fetch(new URL(file, SHADERS)).then(async (response) => {
        if (!response.ok) {
          throw new Error(`shaders/${file} cannot be loaded (${response.status}): serve the repository's top folder, `
            + 'not docs/web');
        }
        return this.device.createShaderModule({ label: file, code: await response.text() });
      }));
    }
    return this.modules.get(file);
  }

  // The pipeline of an entry point, compiled once. `constants` are the values of the shader's `override`s.
  pipeline(file, entry, constants) {
    const key = JSON.stringify([file, entry, constants]);
    if (!this.pipelines.has(key)) {
      this.pipelines.set(key, this.module(file).then((module) => this.device.createComputePipelineAsync({
        label: entry,
        layout: 'auto', // the bindings that the entry point uses
        compute: { module, entryPoint: entry, constants },
      })));
    }
    return this.pipelines.get(key);
  }
}

// Kernel launches in order, and the buffers that they read and write.
export class Program {
  constructor(gpu) {
    this.gpu = gpu;
    this.buffers = [];
    this.launches = [];
  }

  // Buffers are rounded up to whole vectors of 4: kernels load and store by those.
  #create(bytes, usage, mapped) {
    const size = Math.max(LEAST_BYTES, Math.ceil(bytes / 16) * 16);
    const { maxStorageBufferBindingSize: limit } = this.gpu.device.limits;
    if (size > limit) {
      throw new Error(`The model needs a buffer of ${size} bytes; this GPU takes ${limit} at most.`);
    }
    const buffer = this.gpu.device.createBuffer({ size, usage, mappedAtCreation: mapped !== undefined });
    if (mapped) {
      new mapped.constructor(buffer.getMappedRange(), 0, mapped.length).set(mapped);
      buffer.unmap();
    }
    this.buffers.push(buffer);
    return buffer;
  }

  // A buffer of f32 (or i32: both have 4 bytes) that kernels write.
  allocate(elements) {
    return this.#create(4 * elements, GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST | GPUBufferUsage.COPY_SRC);
  }

  // A buffer with these values, a Float32Array.
  upload(values) {
    return this.#create(values.byteLength, GPUBufferUsage.STORAGE, values);
  }

  // Adds a launch. `params` are the fields of the kernel's uniform struct, all of 32 bits: integers (negative ones
  // wrap round, as i32 does). `buffers` are those of @binding(1), (2), ..; null where the entry point has none.
  // Enough workgroups run for `threads` threads.
  launch({ file, entry, constants = {}, params, buffers, threads, workgroup }) {
    const uniform = this.#create(4 * params.length, GPUBufferUsage.UNIFORM, Uint32Array.from(params));
    const entries = [uniform, ...buffers]
      .map((buffer, binding) => ({ binding, resource: { buffer } }))
      .filter(({ resource }) => resource.buffer);
    // A grid has at most 65535 workgroups along an axis: kernels count on along y.
    const workgroups = Math.ceil(threads / workgroup);
    const x = Math.min(workgroups, this.gpu.device.limits.maxComputeWorkgroupsPerDimension);
    const pipeline = this.gpu.pipeline(file, entry, constants);
    pipeline.catch(() => {}); // `compile` reports it; until then it must not count as unhandled
    this.launches.push({ pipeline, entries, grid: [x, Math.ceil(workgroups / x)] });
  }

  // Waits for the pipelines, all compiled side by side. After it the program can be run.
  async compile() {
    const { device } = this.gpu;
    const pipelines = await Promise.all(this.launches.map(({ pipeline }) => pipeline));
    pipelines.forEach((pipeline, i) => {
      const { entries } = this.launches[i];
      const group = device.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries });
      Object.assign(this.launches[i], { pipeline, group });
    });
  }

  // Writes `values` into `input`, runs all launches, and returns what is then in `outputs` ({buffer, elements}
  // each), as Float32Arrays. The dispatches of a pass run in order: each sees what those before it wrote.
  async run(input, values, outputs) {
    const { device } = this.gpu;
    device.queue.writeBuffer(input, 0, values);
    const encoder = device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    for (const { pipeline, group, grid } of this.launches) {
      pass.setPipeline(pipeline);
      pass.setBindGroup(0, group);
      pass.dispatchWorkgroups(...grid);
    }
    pass.end();
    // Buffers that kernels use cannot be read directly, but copied to some that can.
    const copies = outputs.map(({ buffer, elements }) => {
      const copy = device.createBuffer({
        size: 4 * elements,
        usage: GPUBufferUsage.COPY_DST | GPUBufferUsage.MAP_READ,
      });
      encoder.copyBufferToBuffer(buffer, 0, copy, 0, 4 * elements);
      return copy;
    });
    device.queue.submit([encoder.finish()]);
    return Promise.all(copies.map(async (copy) => {
      await copy.mapAsync(GPUMapMode.READ);
      const result = new Float32Array(copy.getMappedRange().slice(0));
      copy.destroy();
      return result;
    }));
  }

  // Frees the buffers.
  destroy() {
    this.buffers.forEach((buffer) => buffer.destroy());
  }
}

// Runs `work` and turns what WebGPU finds wrong meanwhile into an exception; otherwise it is only logged.
export async function checked(gpu, work) {
  const kinds = ['validation', 'out-of-memory', 'internal'];
  kinds.forEach((kind) => gpu.device.pushErrorScope(kind));
  let result, failure;
  try {
    result = await work();
  } catch (error) {
    failure = error;
  }
  const errors = await Promise.all(kinds.map(() => gpu.device.popErrorScope()));
  const error = errors.find(Boolean);
  if (failure || error) {
    throw failure ?? new Error(error instanceof GPUOutOfMemoryError ? 'The GPU has not enough memory.' : error.message);
  }
  return result;
}
