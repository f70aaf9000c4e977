#!/usr/bin/env python3
"""The recipe of `cifar train --preset speedrun` in PyTorch on the CPU, for a comparison of time and accuracy.

    python3 -m venv .venv && .venv/bin/pip install torch numpy
    .venv/bin/python benches/peers/torch_speedrun.py --data data/cifar10 --seed 0

Reads the binary files of CIFAR-10, trains and tests after each epoch, as `cifar train` does, and prints a line an epoch
to stderr, then one JSON line: accuracies of the last epoch with and without test-time augmentation; seconds of the
whole (without reading the files), and those of the training steps alone. The recipe is that of Keller Jordan's
airbench94_muon (arXiv 2404.00498): whitened 2x2 stem, partial identities, Muon on the filters.
"""
import argparse, json, pathlib, sys, time

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


def read(folder, names):
    """Images [N, 3, 32, 32] of 0..1 and labels [N]."""
    raw = np.concatenate([np.fromfile(pathlib.Path(folder) / n, np.uint8) for n in names]).reshape(-1, 3073)
    pixels = raw[:, 1:].reshape(-1, 3, 32, 32).astype(np.float32) / 255
    return torch.from_numpy(pixels), torch.from_numpy(raw[:, 0]).long()


def conv(c_in, c_out):
    layer = nn.Conv2d(c_in, c_out, 3, padding=1, bias=False)
    nn.init.dirac_(layer.weight.data[:c_in])
    return layer


def norm(c):
    layer = nn.BatchNorm2d(c, eps=1e-12, momentum=0.4)
    layer.weight.requires_grad = False
    return layer


def group(c_in, c_out):
    return nn.Sequential(conv(c_in, c_out), nn.MaxPool2d(2), norm(c_out), nn.GELU(),
                         conv(c_out, c_out), norm(c_out), nn.GELU())


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.whiten = nn.Conv2d(3, 24, 2)
        self.whiten.weight.requires_grad = False
        self.layers = nn.Sequential(nn.GELU(), group(24, 64), group(64, 256), group(256, 256), nn.MaxPool2d(3))
        self.head = nn.Linear(256, 10, bias=False)
        self.head.weight.data /= self.head.weight.data.std()

    def forward(self, x):
        return self.head(self.layers(self.whiten(x)).flatten(1)) / 256

    def set_whitening(self, images):
        patches = F.unfold(images, 2).transpose(1, 2).reshape(-1, 12).double()
        values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
        filters = (vectors / (values + 5e-4).sqrt()).T.reshape(12, 3, 2, 2).float()
        self.whiten.weight.data.copy_(torch.cat([filters, -filters]))


def orthogonalise(g, steps=3):
    x = g.bfloat16() / (g.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for _ in range(steps):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return (x.T if tall else x).to(g.dtype)


class Muon:
    def __init__(self, filters, momentum=0.6):
        self.filters, self.momentum = filters, momentum
        self.velocity = [torch.zeros_like(p) for p in filters]

    @torch.no_grad()
    def step(self, lr):
        for p, v in zip(self.filters, self.velocity):
            v.mul_(self.momentum).add_(p.grad)
            update = p.grad.add(v, alpha=self.momentum)
            p.mul_(len(p) ** 0.5 / p.norm())
            p.sub_(lr * orthogonalise(update.reshape(len(p), -1)).view_as(p))


def batches(images, labels, coin, epoch, size):
    """One epoch: each image mirrored in every other epoch, shifted by up to 2 pixels."""
    n = len(images)
    padded = F.pad(images, (2,) * 4, mode="reflect")
    order, dy, dx = torch.randperm(n), torch.randint(0, 5, (n,)), torch.randint(0, 5, (n,))
    x = torch.empty_like(images)
    for oy in range(5):
        for ox in range(5):
            chosen = (dy == oy) & (dx == ox)
            x[chosen] = padded[chosen, :, oy:oy + 32, ox:ox + 32]
    mirrored = coin ^ (epoch % 2 == 1)
    x[mirrored] = x[mirrored].flip(-1)
    for i in range(0, n - size + 1, size):
        yield x[order[i:i + size]].contiguous(memory_format=torch.channels_last), labels[order[i:i + size]]


@torch.no_grad()
def accuracy(model, images, labels, dtype, size, tta=False):
    """With `tta`, by the mean over six views of each image."""
    def logits(x):
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bf16"):
            return model(x).float()

    model.eval()
    right = 0
    for x, y in zip(images.split(size), labels.split(size)):
        views = [(x, 1.0)]
        if tta:
            padded = F.pad(x, (1,) * 4, mode="reflect")
            places = [(x, 1 / 4), (padded[..., :32, :32], 1 / 8), (padded[..., 2:, 2:], 1 / 8)]
            views = [(v, w) for place, w in places for v in (place, place.flip(-1))]
        right += (sum(w * logits(v) for v, w in views).argmax(1) == y).sum().item()
    model.train()
    return right / len(images)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", default="data/cifar10")
    p.add_argument("--epochs", type=int, default=8)
    p.add_argument("--batch", type=int, default=2000)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--dtype", choices=["bf16", "f32"], default="bf16")
    p.add_argument("--max-steps", type=int, default=0, help="stop after so many steps; 0: never")
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(a.seed)
    images, labels = read(a.data, [f"data_batch_{i}.bin" for i in range(1, 6)])
    test_images, test_labels = read(a.data, ["test_batch.bin"])
    begun = time.time()
    std, mean = (f(images, dim=(0, 2, 3)).view(3, 1, 1) for f in (torch.std, torch.mean))
    images, test_images = (images - mean) / std, (test_images - mean) / std
    test_images = test_images.contiguous(memory_format=torch.channels_last)
    model = Net()
    model.set_whitening(images[:5000])
    model = model.to(memory_format=torch.channels_last)
    # The loss is a sum: learning rates are airbench's; decay is divided by the rate that multiplies it.
    named = [(n, q) for n, q in model.named_parameters() if q.requires_grad]
    biases = [q for n, q in named if ".bias" in n and n != "whiten.bias"]
    rates, decay = [0.053, 0.053, 0.67], 2e-6 * a.batch
    groups = zip([[model.whiten.bias], biases, [model.head.weight]], rates)
    sgd = torch.optim.SGD([dict(params=q, lr=lr, weight_decay=decay / lr) for q, lr in groups],
                          lr=0.1, momentum=0.85, nesterov=True)
    muon = Muon([q for _, q in named if q.dim() == 4])
    steps_per_epoch = len(images) // a.batch
    total, whiten_steps = a.epochs * steps_per_epoch, 3 * steps_per_epoch
    coin, step, losses, training, plain = torch.rand(len(images)) < 0.5, 0, [], 0.0, None
    for epoch in range(a.epochs):
        clock = time.time()
        for x, y in batches(images, labels, coin, epoch, a.batch):
            if step == whiten_steps:
                model.whiten.bias.requires_grad = False
                model.whiten.bias.grad = None
            with torch.autocast("cpu", torch.bfloat16, enabled=a.dtype == "bf16"):
                logits = model(x)
            loss = F.cross_entropy(logits.float(), y, label_smoothing=0.2, reduction="sum")
            loss.backward()
            for g, lr, end in zip(sgd.param_groups, rates, [whiten_steps, total, total]):
                g["lr"] = lr * max(0.0, 1 - step / end)
            sgd.step()
            muon.step(0.24 * (1 - step / total))
            model.zero_grad(set_to_none=True)
            losses.append(loss.item() / a.batch)
            step += 1
            if step == a.max_steps:
                break
        training += time.time() - clock
        plain = accuracy(model, test_images, test_labels, a.dtype, a.batch)
        print(f"epoch {epoch + 1}: {time.time() - begun:.0f} s, loss {np.mean(losses[-steps_per_epoch:]):.4f}, "
              f"accuracy {plain:.4f}", file=sys.stderr, flush=True)
        if step == a.max_steps:
            break
    tta = accuracy(model, test_images, test_labels, a.dtype, a.batch, tta=True)
    print(json.dumps(dict(peer=f"torch {torch.__version__}", seed=a.seed, dtype=a.dtype, epochs=a.epochs, steps=step,
                          threads=a.threads, accuracy=plain, tta_accuracy=tta, train_seconds=round(training, 1),
                          seconds=round(time.time() - begun, 1))))


if __name__ == "__main__":
    main()
