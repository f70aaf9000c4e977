// The page: what the visitor gives it, and what it shows. `?model=URL&image=URL` loads both from the server.

import { Gpu } from './gpu.js';
import { decodeSquare, normalise } from './image.js';
import { Model } from './model.js';

const element = (id) => document.getElementById(id);

let gpu;
let model;
let image; // {name, blob}

// Shows a line below the inputs. `state` is busy, ready, done or error: index.html's style has a look for each.
function show(state, text) {
  document.body.dataset.state = state;
  element('status').textContent = text;
}

// One thing after another: what is chosen while something runs waits for its turn. Errors are shown.
let queue = Promise.resolve();
function enqueue(work) {
  queue = queue.then(work).catch((error) => {
    element('result').hidden = true;
    show('error', error.message);
  });
  return queue;
}

const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;

async function useModel(name, blob) {
  show('busy', `Loading ${name} ..`);
  model?.destroy();
  model = undefined;
  element('about').textContent = '';
  try {
    model = await Model.load(gpu, await blob.arrayBuffer());
  } catch (error) {
    throw new Error(`${name}: ${error.message}`);
  }
  const { kind, classes, imageSize, accuracy } = model.about;
  const facts = [kind, `${classes.length} classes`, `images of ${imageSize} x ${imageSize}`, megabytes(blob.size)];
  if (accuracy != null) {
    facts.push(`${(100 * accuracy).toFixed(1)} % of its test images right`);
  }
  element('about').textContent = `${name}: ${facts.join(', ')}`;
  await classify();
}

async function useImage(name, blob) {
  image = { name, blob };
  await classify();
}

// Classifies the image, if there are a model and an image.
async function classify() {
  if (!model || !image) {
    show('ready', `Now choose ${model ? 'an image' : 'a checkpoint'}.`);
    return;
  }
  show('busy', `Classifying ${image.name} ..`);
  const { classes, imageSize, mean, std } = model.about;
  let pixels;
  try {
    pixels = await decodeSquare(image.blob, imageSize);
  } catch (error) {
    throw new Error(`${image.name}: ${error.message}`);
  }
  const { logits, probabilities, milliseconds } = await model.classify(normalise(pixels, mean, std));
  showPixels(pixels, imageSize);
  showBars(classes, logits, probabilities);
  element('result').hidden = false;
  show('done', `${image.name}: ${milliseconds.toFixed(1)} ms on ${gpu.name}, from the upload of its pixels to the `
    + 'download of the probabilities.');
}

// What the model sees.
function showPixels(pixels, size) {
  const canvas = element('seen');
  [canvas.width, canvas.height] = [size, size];
  const shown = new ImageData(size, size);
  shown.data.fill(255); // opaque
  pixels.forEach((byte, i) => { shown.data[4 * Math.floor(i / 3) + i % 3] = byte; });
  canvas.getContext('2d').putImageData(shown, 0, 0);
}

// A row a class, the likeliest first.
function showBars(classes, logits, probabilities) {
  const order = classes.map((_, i) => i).sort((a, b) => probabilities[b] - probabilities[a]);
  element('bars').replaceChildren(...order.map((i) => {
    const row = element('bar').content.firstElementChild.cloneNode(true);
    const [name, bar, percent, logit] = row.children;
    name.textContent = classes[i];
    bar.firstElementChild.style.width = `${100 * probabilities[i]}%`;
    percent.textContent = `${(100 * probabilities[i]).toFixed(2)} %`;
    logit.textContent = logits[i].toFixed(3);
    Object.assign(row.dataset, { class: i, logit: logits[i], probability: probabilities[i] }); // all digits, for tests
    return row;
  }));
}

// A file from the server, as if it had been chosen.
async function download(url) {
  const name = url.split('/').pop();
  show('busy', `Loading ${name} ..`);
  const response = await fetch(url);
  if (!response.ok) {
    throw new Error(`${url} cannot be loaded: ${response.status} ${response.statusText}`);
  }
  return [name, await response.blob()];
}

// Lets an input take a file, chosen or dropped on its label.
function connect(id, use) {
  const input = element(id);
  const take = () => {
    const [file] = input.files;
    if (file) {
      enqueue(() => use(file.name, file));
    }
  };
  input.addEventListener('change', take);
  // So that the same file can be chosen again after it has changed.
  input.addEventListener('click', () => { input.value = ''; });
  const label = input.closest('label');
  label.addEventListener('dragover', (event) => event.preventDefault());
  label.addEventListener('drop', (event) => {
    event.preventDefault();
    input.files = event.dataTransfer.files;
    take();
  });
  input.disabled = false;
}

enqueue(async () => {
  show('busy', 'Looking for a GPU ..');
  gpu = await Gpu.open((message) => show('error', `The GPU was lost: ${message} Reload the page.`));
  connect('model', useModel);
  connect('image', useImage);
  show('ready', 'Choose a checkpoint and an image.');
  const wanted = new URLSearchParams(location.search);
  if (wanted.has('model')) {
    await useModel(...await download(wanted.get('model')));
  }
  if (wanted.has('image')) {
    await useImage(...await download(wanted.get('image')));
  }
});
