#!/usr/bin/env python3
"""Writes nn/tests/golden/names.json: what PyTorch says of each model.

That is its state dict (names and shapes, channels first), its number of parameters, and its
multiply-adds on one 32x32 image. Needs torch (`pip install torch`).
"""

import json
import pathlib

import torch
import torch.nn as nn
import torch.nn.functional as F

OUT = pathlib.Path(__file__).resolve().parents[1] / "nn" / "tests" / "golden" / "names.json"


def features(norm):
    layers = []
    for c_in, c_out in [(3, 32), (32, 64)]:
        layers.append(nn.Conv2d(c_in, c_out, 3, padding=1))
        layers += [nn.BatchNorm2d(c_out)] if norm else []
        layers += [nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers)


class SimpleCnn(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.features = features(norm)
        self.classifier = nn.Sequential(
            nn.Linear(64 * 8 * 8, 512), nn.ReLU(), nn.Dropout(0.5), nn.Linear(512, 10)
        )

    def forward(self, x):
        return self.classifier(self.features(x).flatten(1))


class SimpleCnnGap(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = features(True)
        self.classifier = nn.Linear(64, 10)

    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3)))


class BasicBlock(nn.Module):
    def __init__(self, c_in, c_out, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.shortcut = nn.Sequential()
        if stride != 1 or c_in != c_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out)
            )

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


class ResNet(nn.Module):
    def __init__(self, widths, blocks):
        super().__init__()
        layers = [
            nn.Conv2d(3, widths[0], 3, 1, 1, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(),
        ]
        c_in = widths[0]
        for stage, width in enumerate(widths):
            for block in range(blocks):
                layers.append(BasicBlock(c_in, width, 2 if stage > 0 and block == 0 else 1))
                c_in = width
        self.body, self.head = nn.Sequential(*layers), nn.Linear(c_in, 10)

    def forward(self, x):
        return self.head(self.body(x).mean((2, 3)))


class Airbench94(nn.Module):
    def __init__(self):
        super().__init__()
        self.whiten = nn.Conv2d(3, 24, 2)
        self.whiten.weight.requires_grad = False
        self.layers = nn.Sequential(
            nn.GELU(), self.group(24, 64), self.group(64, 256), self.group(256, 256), nn.MaxPool2d(3)
        )
        self.head = nn.Linear(256, 10, bias=False)

    @staticmethod
    def group(c_in, c_out):
        group = nn.Sequential()
        for i, c in [(1, c_in), (2, c_out)]:
            group.add_module(f"conv{i}", nn.Conv2d(c, c_out, 3, padding=1, bias=False))
            if i == 1:
                group.add_module("pool", nn.MaxPool2d(2))
            norm = nn.BatchNorm2d(c_out)
            norm.weight.requires_grad = False
            group.add_module(f"norm{i}", norm)
            group.add_module(f"activ{i}", nn.GELU())
        return group

    def forward(self, x):
        return self.head(self.layers(self.whiten(x)).flatten(1)) / 256


MODELS = {
    "simple-cnn": lambda: SimpleCnn(False),
    "simple-cnn-bn": lambda: SimpleCnn(True),
    "simple-cnn-gap": SimpleCnnGap,
    "resnet20": lambda: ResNet([16, 32, 64], 3),
    "resnet-guide": lambda: ResNet([32, 64, 128], 3),
    "resnet18": lambda: ResNet([64, 128, 256, 512], 2),
    "airbench94": Airbench94,
}


def multiply_adds(model):
    """Sum over convolutions and linear layers, from the shapes that a forward pass really has."""
    total = 0

    def count(module, _, y):
        nonlocal total
        if isinstance(module, nn.Conv2d):
            total += y.numel() * module.weight[0].numel()
        elif isinstance(module, nn.Linear):
            total += y.numel() * module.in_features

    for module in model.modules():
        module.register_forward_hook(count)
    model.eval()(torch.zeros(1, 3, 32, 32))
    return total


def main():
    rows = []
    for name, make in MODELS.items():
        model = make()
        rows.append(
            json.dumps(
                {
                    "model": name,
                    "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
                    "multiply_adds": multiply_adds(model),
                    "state_dict": {n: list(t.shape) for n, t in model.state_dict().items()},
                }
            )
        )
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text("[\n" + ",\n".join(rows) + "\n]\n")
    print(OUT, OUT.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
