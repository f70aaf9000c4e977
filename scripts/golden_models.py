#!/usr/bin/env python3
"""Golden cases: what PyTorch computes for each model, for `tests/golden_models.rs`.

    pip install torch safetensors
    python scripts/golden_models.py            # writes tests/golden/*.safetensors; MODEL.. writes only theirs

Weights, images and labels come from an integer formula that the Rust side repeats (`tests/cases/formula.rs`), so that
the files hold results only, all computed in float64:

  MODEL.safetensors  logits.eval   with the given running statistics
                     logits, loss  training mode (batch statistics, no dropout), label smoothing 0.1
                     grad.NAME     fingerprint of the gradient of each parameter; of simple-cnn-gap all of it
                     state.NAME    fingerprint of the running statistics afterwards, and of frozen weights
  steps.safetensors  losses of 20 SGD steps of ResNet-20, in float64 and in float32
  torch_simple_cnn_gap.safetensors  a float32 state dict as PyTorch saves it, an input and its logits

A fingerprint of v (row-major in PyTorch's layout) is [|v|, sum v, <v, h>, v_0 .. v_7], where h is the formula's array
called "fingerprint" and missing elements are 0.
"""
import pathlib
import sys
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import save_file

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden"


# With a learning rate 30 times this, training on noise is chaotic: PyTorch's own float32 losses are then 5 % off its
# float64 ones after 20 steps. With this one they are 1.2e-5 off.
LEARNING_RATE = 3e-4


# --- The formula -----------------------------------------------------------------------------------------------------

def fnv1a(name):
    h = 0x811C9DC5
    for byte in name.encode():
        h = ((h ^ byte) * 0x01000193) & 0xFFFFFFFF
    return h


def hashes(name, n):
    x = np.arange(n, dtype=np.uint32) + np.uint32(fnv1a(name))
    x ^= x >> np.uint32(16)
    x *= np.uint32(0x7FEB352D)
    x ^= x >> np.uint32(15)
    x *= np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))


def array(name, shape, scale=1.0, shift=0.0):
    """Uniform in shift + scale * [-1, 1), rounded to float32 and held as float64."""
    n = int(np.prod(shape))
    unit = (hashes(name, n) >> np.uint32(8)).astype(np.float64) / 8388608.0 - 1.0
    return torch.from_numpy((unit * scale + shift).astype(np.float32).astype(np.float64).reshape(shape))


def labels(name, n, classes=10):
    return torch.from_numpy((hashes(name, n) % np.uint32(classes)).astype(np.int64))


def fill(model):
    """Weights of variance 2 / fan-in, which keep activations near 1; everything else near its usual start."""
    with torch.no_grad():
        for name, value in model.state_dict().items():
            kind = name.rsplit(".", 1)[1]
            shape = tuple(value.shape)
            if kind == "num_batches_tracked":
                continue
            if kind == "running_mean":
                value.copy_(array(name, shape, 0.1))
            elif kind == "running_var":
                value.copy_(array(name, shape, 0.5, 1.0))
            elif kind == "weight" and len(shape) == 1:  # of a batch norm
                value.copy_(array(name, shape, 0.25, 1.0))
            elif kind == "weight":
                value.copy_(array(name, shape, (6.0 / np.prod(shape[1:])) ** 0.5))
            else:
                value.copy_(array(name, shape, 0.1))


# --- The models, without dropout -------------------------------------------------------------------------------------

class SimpleCNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.classifier = nn.Sequential(nn.Linear(4096, 512), nn.ReLU(), nn.Dropout(0.0), nn.Linear(512, 10))

    def forward(self, x):
        return self.classifier(self.features(x).flatten(1))


def features_bn():
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2))


class SimpleCNNBN(SimpleCNN):
    def __init__(self):
        super().__init__()
        self.features = features_bn()


class SimpleCNNGAP(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = features_bn()
        self.classifier = nn.Linear(64, 10)

    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3)))


class BasicBlock(nn.Module):
    def __init__(self, c_in, c_out, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False), nn.BatchNorm2d(c_out)
        self.conv2, self.bn2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False), nn.BatchNorm2d(c_out)
        self.shortcut = nn.Sequential()
        if stride != 1 or c_in != c_out:
            self.shortcut = nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out))

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet(nn.Module):
    def __init__(self, widths, blocks):
        super().__init__()
        c = widths[0]
        layers = [nn.Conv2d(3, c, 3, 1, 1, bias=False), nn.BatchNorm2d(c), nn.ReLU()]
        for stage, width in enumerate(widths):
            for block in range(blocks):
                layers.append(BasicBlock(c, width, 2 if stage > 0 and block == 0 else 1))
                c = width
        self.body, self.head = nn.Sequential(*layers), nn.Linear(c, 10)

    def forward(self, x):
        return self.head(self.body(x).mean((2, 3)))


class Airbench94(nn.Module):
    def __init__(self):
        super().__init__()
        self.whiten = nn.Conv2d(3, 24, 2)
        self.whiten.weight.requires_grad = False
        self.layers = nn.Sequential(
            nn.GELU(), self.group(24, 64), self.group(64, 256), self.group(256, 256), nn.MaxPool2d(3))
        self.head = nn.Linear(256, 10, bias=False)

    @staticmethod
    def group(c_in, c_out):
        group = nn.Sequential()
        for i, c in [(1, c_in), (2, c_out)]:
            group.add_module(f"conv{i}", nn.Conv2d(c, c_out, 3, padding=1, bias=False))
            if i == 1:
                group.add_module("pool", nn.MaxPool2d(2))
            norm = nn.BatchNorm2d(c_out, eps=1e-12, momentum=0.4)
            norm.weight.requires_grad = False
            group.add_module(f"norm{i}", norm)
            group.add_module(f"activ{i}", nn.GELU())
        return group

    def forward(self, x):
        return self.head(self.layers(self.whiten(x)).flatten(1)) / 256


MODELS = {  # name: constructor, batch
    "simple-cnn": (SimpleCNN, 8),
    "simple-cnn-bn": (SimpleCNNBN, 8),
    "simple-cnn-gap": (SimpleCNNGAP, 8),
    "resnet20": (lambda: ResNet([16, 32, 64], 3), 4),
    "resnet-guide": (lambda: ResNet([32, 64, 128], 3), 4),
    "resnet18": (lambda: ResNet([64, 128, 256, 512], 2), 2),
    "airbench94": (Airbench94, 4),
}


# --- What they compute -----------------------------------------------------------------------------------------------

def fingerprint(v):
    v = v.detach().double().reshape(-1)
    first = torch.zeros(8, dtype=torch.float64)
    first[: min(8, v.numel())] = v[:8]
    h = array("fingerprint", (v.numel(),))
    return torch.cat([torch.stack([v.norm(), v.sum(), v @ h]), first])


def golden(name):
    make, batch = MODELS[name]
    model = make().double()
    fill(model)
    x, y = array(f"images.{name}", (batch, 3, 32, 32)), labels(f"labels.{name}", batch)
    results = {"logits.eval": model.eval()(x).detach()}
    logits = model.train()(x)
    loss = F.cross_entropy(logits, y, label_smoothing=0.1)
    loss.backward()
    results["logits"], results["loss"] = logits.detach(), loss.detach().reshape(1)
    for parameter, value in model.named_parameters():
        if not value.requires_grad:
            results[f"state.{parameter}"] = fingerprint(value)
            continue
        results[f"grad.{parameter}"] = fingerprint(value.grad)
        if name == "simple-cnn-gap":
            results[f"full.{parameter}"] = value.grad.float().contiguous()
    for buffer, value in model.named_buffers():
        if not buffer.endswith("num_batches_tracked"):
            results[f"state.{buffer}"] = fingerprint(value)
    save_file(results, OUT / f"{name}.safetensors", {"torch": torch.__version__})


def losses(dtype, steps=20, batch=16):
    model = MODELS["resnet20"][0]()
    fill(model)
    model = model.to(dtype).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=0.9, weight_decay=5e-4)
    found = []
    for step in range(steps):
        x, y = array(f"images.step{step}", (batch, 3, 32, 32)).to(dtype), labels(f"labels.step{step}", batch)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y, label_smoothing=0.1)
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return torch.tensor(found, dtype=torch.float64)


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(2)
    for name in sys.argv[1:] or MODELS:
        golden(name)
    if sys.argv[1:]:
        return
    exact, single = losses(torch.float64), losses(torch.float32)
    print("20 steps, largest relative difference of float32:", ((single - exact) / exact).abs().max().item())
    save_file({"losses.f64": exact, "losses.f32": single}, OUT / "steps.safetensors", {"torch": torch.__version__})

    torch.manual_seed(0)
    model = SimpleCNNGAP()
    for _ in range(3):  # running statistics and num_batches_tracked that are not their defaults
        model.train()(torch.randn(8, 3, 32, 32))
    state = {k: v.clone().contiguous() for k, v in model.state_dict().items()}
    save_file(state, OUT / "torch_simple_cnn_gap.safetensors")
    x = array("images.torch", (4, 3, 32, 32)).float()
    save_file({"logits": model.eval()(x).detach().double()}, OUT / "torch_simple_cnn_gap_logits.safetensors")


if __name__ == "__main__":
    main()
