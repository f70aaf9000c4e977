// From a checkpoint to a program on the GPU: which layers a model has. The structures are those of nn/src/models/,
// whose names for parameters are PyTorch's.

import { Program, checked } from './gpu.js';
import { Layers, requireSize } from './layers.js';
import { parseSafetensors } from './safetensors.js';

// Each takes (layers, weights, x, config) and returns the logits.
const MODELS = {
  'simple-cnn': (layers, weights, x) => {
    x = layers.conv2d(x, { ...weights.conv('features.0'), padding: 1, relu: true });
    x = layers.maxPool2d(x, 2);
    x = layers.conv2d(x, { ...weights.conv('features.3'), padding: 1, relu: true });
    x = layers.maxPool2d(x, 2);
    return classifier(layers, weights, x);
  },
  'simple-cnn-bn': (layers, weights, x) => classifier(layers, weights, featuresBn(layers, weights, x)),
  'simple-cnn-gap': (layers, weights, x) => {
    x = layers.globalAvgPool2d(featuresBn(layers, weights, x));
    return layers.linear(x, weights.linear('classifier'));
  },
  'resnet20': (layers, weights, x) => resnet(layers, weights, x, 3, 3),
  'resnet-guide': (layers, weights, x) => resnet(layers, weights, x, 3, 3),
  'resnet18': (layers, weights, x) => resnet(layers, weights, x, 4, 2),
  'airbench94': airbench94,
};

function featuresBn(layers, weights, x) {
  x = layers.conv2d(x, { ...weights.convNorm('features.0', 'features.1'), padding: 1, relu: true });
  x = layers.maxPool2d(x, 2);
  x = layers.conv2d(x, { ...weights.convNorm('features.4', 'features.5'), padding: 1, relu: true });
  return layers.maxPool2d(x, 2);
}

function classifier(layers, weights, x) {
  x = layers.relu(layers.linear(layers.flatten(x), weights.linear('classifier.0')));
  return layers.linear(x, weights.linear('classifier.3')); // 1 is the relu, 2 is dropout
}

// He et al. 2016: a stem, stages of basic blocks, each but the first at half the resolution of the one before.
function resnet(layers, weights, x, stages, blocks) {
  x = layers.conv2d(x, { ...weights.convNorm('body.0', 'body.1'), padding: 1, relu: true });
  for (let i = 0; i < stages * blocks; i++) {
    const name = `body.${3 + i}`; // 2 is the stem's relu
    const stride = i > 0 && i % blocks === 0 ? 2 : 1;
    let residual = x;
    if (weights.has(`${name}.shortcut.0.weight`)) {
      residual = layers.conv2d(x, { ...weights.convNorm(`${name}.shortcut.0`, `${name}.shortcut.1`), stride });
    }
    x = layers.conv2d(x, { ...weights.convNorm(`${name}.conv1`, `${name}.bn1`), stride, padding: 1, relu: true });
    x = layers.conv2d(x, { ...weights.convNorm(`${name}.conv2`, `${name}.bn2`), padding: 1, relu: true, residual });
  }
  return layers.linear(layers.globalAvgPool2d(x), weights.linear('head'));
}

// Jordan 2024: a whitening convolution and three groups of two convolutions.
function airbench94(layers, weights, x) {
  const EPSILON = 1e-12;
  x = layers.gelu(layers.conv2d(x, weights.conv('whiten')));
  for (let i = 1; i <= 3; i++) {
    const name = `layers.${i}`;
    // Pooling lies between this convolution and its batch norm. Folding is right all the same: these batch norms
    // have no weight, so what they multiply by is positive, and then the maximum stays the maximum.
    x = layers.conv2d(x, { ...weights.convNorm(`${name}.conv1`, `${name}.norm1`, EPSILON), padding: 1 });
    x = layers.gelu(layers.maxPool2d(x, 2));
    x = layers.gelu(layers.conv2d(x, { ...weights.convNorm(`${name}.conv2`, `${name}.norm2`, EPSILON), padding: 1 }));
  }
  x = layers.flatten(layers.maxPool2d(x, 3));
  const { values, shape } = weights.get('head.weight');
  // The last layer multiplies by 1 / inputs; it is taken into the weights here.
  return layers.linear(x, { weight: { values: values.map((v) => v / shape[1]), shape } });
}

// The parameters of a checkpoint, as layers want them.
class Weights {
  constructor(tensors) {
    this.tensors = tensors;
  }

  has(name) {
    return this.tensors.has(name);
  }

  get(name) {
    if (!this.tensors.has(name)) {
      throw new Error(`The checkpoint lacks the tensor ${name}, which its model needs.`);
    }
    return this.tensors.get(name);
  }

  linear(name) {
    return { weight: this.get(`${name}.weight`), bias: this.get(`${name}.bias`) };
  }

  conv(name) {
    return { filter: this.get(`${name}.weight`), bias: this.get(`${name}.bias`) };
  }

  // A convolution with the batch normalisation behind it folded in. That is y = s x + t a channel, with
  // s = weight / sqrt(var + epsilon) and t = bias - mean s; so it is enough to scale the filter and to move the bias
  // (nn/src/fold.rs).
  convNorm(conv, norm, epsilon = 1e-5) {
    const filter = this.get(`${conv}.weight`);
    const [weight, bias, mean, variance] = ['weight', 'bias', 'running_mean', 'running_var']
      .map((name) => this.get(`${norm}.${name}`).values);
    const before = this.has(`${conv}.bias`) ? this.get(`${conv}.bias`).values : new Float32Array(bias.length);
    // Array.from: a Float32Array's map would round what is in between to 32 bits.
    const scale = Array.from(weight, (w, c) => w / Math.sqrt(variance[c] + epsilon));
    const size = filter.values.length / scale.length; // of an output channel
    return {
      filter: { shape: filter.shape, values: filter.values.map((v, i) => v * scale[Math.floor(i / size)]) },
      bias: { shape: [bias.length], values: bias.map((b, c) => b + (before[c] - mean[c]) * scale[c]) },
    };
  }
}

// A metadata entry, which is JSON.
function entry(metadata, key) {
  try {
    return JSON.parse(metadata[key]);
  } catch {
    throw new Error(`The checkpoint's metadata has no proper entry '${key}'.`);
  }
}

// What a checkpoint says about itself: {kind, classes, imageSize, mean, std, accuracy}. Its checksum is left to
// `cifar`, which looks at it.
function describe(metadata) {
  if (!String(metadata.format).startsWith('tilegrad-checkpoint-')) {
    throw new Error('This safetensors file is no checkpoint that `cifar train` wrote: its metadata lacks the format. '
      + 'Take weights/best.safetensors of a run.');
  }
  const { kind, classes: count, image_size: imageSize, channels } = entry(metadata, 'model');
  if (!Object.hasOwn(MODELS, kind)) {
    throw new Error(`This page does not know the model '${kind}'. It knows ${Object.keys(MODELS).join(', ')}.`);
  }
  const { classes, mean, std, test_accuracy: accuracy } = entry(metadata, 'cifar');
  const isTriple = (list) => Array.isArray(list) && list.length === 3 && list.every(Number.isFinite);
  if (!Array.isArray(classes) || classes.length !== count || channels !== 3 || !isTriple(mean) || !isTriple(std)) {
    throw new Error('The checkpoint contradicts itself: it needs a name for each class, 3 channels, and the mean and '
      + 'standard deviation of each channel.');
  }
  return { kind, classes, imageSize, mean, std, accuracy };
}

// A model on the GPU.
export class Model {
  // From a checkpoint's bytes, an ArrayBuffer.
  static async load(gpu, file) {
    const { metadata, tensors } = parseSafetensors(file);
    const about = describe(metadata);
    const program = new Program(gpu);
    try {
      return await checked(gpu, async () => {
        const layers = new Layers(program);
        const size = about.imageSize;
        const x = { buffer: program.allocate(size * size * 3), shape: [size, size, 3] };
        const logits = MODELS[about.kind](layers, new Weights(tensors), x);
        requireSize('its last layer', logits.shape[0], about.classes.length);
        const probabilities = layers.softmax(logits);
        await program.compile();
        return new Model(about, program, x, [logits, probabilities]);
      });
    } catch (error) {
      program.destroy();
      throw error;
    }
  }

  constructor(about, program, x, outputs) {
    Object.assign(this, { about, program, x, outputs });
  }

  // Classifies an image, [size, size, 3] normalised. Gives {logits, probabilities, milliseconds}: from the upload of
  // the image until the results can be read.
  async classify(values) {
    const elements = this.about.classes.length;
    const outputs = this.outputs.map(({ buffer }) => ({ buffer, elements }));
    return checked(this.program.gpu, async () => {
      const start = performance.now();
      const [logits, probabilities] = await this.program.run(this.x.buffer, values, outputs);
      return { logits, probabilities, milliseconds: performance.now() - start };
    });
  }

  destroy() {
    this.program.destroy();
  }
}
