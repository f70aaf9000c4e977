#!/usr/bin/env python3
"""PyTorch (cuBLAS, cuDNN) on the shapes that `cuda_bench` and `cifar bench --device cuda` timed: for gpu-verify.sh.

    cuda_torch.py kernels KERNELS.tsv                    the lines of cuda_bench, each with PyTorch's milliseconds
    cuda_torch.py train BATCH MODEL:f32|tf32|bf16 ...    a line each: model, format, milliseconds of a training step

Convolutions are NHWC (channels_last), with cuDNN's search for its fastest algorithm. Times are those of CUDA events
around batches of about 20 ms, the median of seven, as on our side. f32 is f32: TF32 is allowed only where a line says
tf32.
`--device cpu` is there to try the script where no GPU is.
"""
import argparse, statistics, sys, time

import torch
import torch.nn.functional as F
from torch import nn

DTYPES = {"f32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


def allow_tf32(allowed):
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def batch_ms(device, run, runs):
    """Milliseconds of one of `runs` runs that are handed over without waiting."""
    if device == "cpu":
        start = time.perf_counter()
        for _ in range(runs):
            run()
        return (time.perf_counter() - start) * 1e3 / runs
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    for _ in range(runs):
        run()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / runs


def time_ms(device, run):
    if device == "cpu":
        return batch_ms(device, run, 1)
    batch_ms(device, run, 5)  # loads, searches, allocates
    runs = min(max(int(20 / batch_ms(device, run, 5)), 1), 2000)
    return statistics.median(batch_ms(device, run, runs) for _ in range(7))


def matmul(device, shape, dtype):
    m, n, k = (int(v) for v in shape.split("x"))
    a, b = (torch.randn(rows, k, device=device, dtype=dtype) for rows in (m, n))
    y = torch.empty(m, n, device=device, dtype=dtype)
    return lambda: torch.mm(a, b.t(), out=y)


def conv(device, what, shape, dtype):
    x, filters, stride = shape.split(" ")
    n, h, w, c_in = (int(v) for v in x.split("x"))
    c_out, size, _ = (int(v) for v in filters.split("x"))
    stride, pad = [int(stride[1:])] * 2, [size // 2] * 2
    out = [(v + 2 * p - size) // s + 1 for v, p, s in zip((h, w), pad, stride)]

    def tensor(*sizes):
        return torch.randn(*sizes, device=device, dtype=dtype).to(memory_format=torch.channels_last)

    x, weight, dy = tensor(n, c_in, h, w), tensor(c_out, c_in, size, size), tensor(n, c_out, *out)
    if what == "conv forward":
        return lambda: F.conv2d(x, weight, stride=stride, padding=pad)
    mask = [what == "conv backward data", what == "conv backward filter", False]
    return lambda: torch.ops.aten.convolution_backward(
        dy, x, weight, [0], stride, pad, [1, 1], False, [0, 0], 1, mask)


def kernels(device, path):
    """Each line of the file with one more column; the same work is timed once."""
    known = {}
    for line in open(path, encoding="utf-8"):
        what, shape, fmt = line.split("\t")[:3]
        key = what, shape, fmt
        if key not in known:
            allow_tf32(fmt == "tf32")
            with torch.no_grad():
                run = (matmul(device, shape, DTYPES[fmt]) if what == "matmul"
                       else conv(device, what, shape, DTYPES[fmt]))
                known[key] = time_ms(device, run)
        print(f"{line.rstrip()}\t{known[key]:.5f}", flush=True)


class Block(nn.Module):
    """Two convolutions and a shortcut (He et al., arXiv 1512.03385), with a projection where the shape changes."""

    def __init__(self, c_in, c_out, stride):
        super().__init__()
        self.first, self.second = conv_bn(c_in, c_out, 3, stride), conv_bn(c_out, c_out, 3, 1)
        same = stride == 1 and c_in == c_out
        self.shortcut = nn.Identity() if same else conv_bn(c_in, c_out, 1, stride)

    def forward(self, x):
        return F.relu(self.second(F.relu(self.first(x))) + self.shortcut(x))


def conv_bn(c_in, c_out, size, stride):
    return nn.Sequential(nn.Conv2d(c_in, c_out, size, stride, size // 2, bias=False), nn.BatchNorm2d(c_out))


def resnet(widths, blocks):
    layers, c_in = [conv_bn(3, widths[0], 3, 1), nn.ReLU()], widths[0]
    for stage, width in enumerate(widths):
        for block in range(blocks):
            layers.append(Block(c_in, width, 2 if stage > 0 and block == 0 else 1))
            c_in = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c_in, 10))


def simple_cnn():
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(64 * 8 * 8, 512), nn.ReLU(), nn.Dropout(0.5), nn.Linear(512, 10))


MODELS = {
    "simple-cnn": simple_cnn,
    "resnet20": lambda: resnet([16, 32, 64], 3),
    "resnet18": lambda: resnet([64, 128, 256, 512], 2),
}


def train(device, name, batch, fmt):
    """The step of `cifar bench`: forward, label-smoothed cross-entropy, backward, SGD with momentum and decay."""
    allow_tf32(fmt == "tf32")
    model = MODELS[name]().to(device=device, memory_format=torch.channels_last)
    x = torch.randn(batch, 3, 32, 32, device=device).to(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (batch,), device=device)
    sgd = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)

    def step():
        sgd.zero_grad(set_to_none=True)
        with torch.autocast(device, dtype=torch.bfloat16, enabled=fmt == "bf16"):
            loss = F.cross_entropy(model(x), labels, label_smoothing=0.1)
        loss.backward()
        sgd.step()

    ms = time_ms(device, step)
    print(f"{name}\t{fmt}\t{ms:.3f}", flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    commands = p.add_subparsers(dest="command", required=True)
    commands.add_parser("version", help="what would be compared with")
    commands.add_parser("kernels").add_argument("tsv")
    step = commands.add_parser("train")
    step.add_argument("batch", type=int)
    step.add_argument("work", nargs="+", metavar="MODEL:FORMAT")
    a = p.parse_args()
    if a.device == "cuda" and not torch.cuda.is_available():
        sys.exit("this PyTorch sees no GPU")
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    if a.command == "version":
        cuda = f", CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}" if a.device == "cuda" else ""
        print(f"PyTorch {torch.__version__}{cuda}")
    elif a.command == "kernels":
        kernels(a.device, a.tsv)
    else:
        for model, fmt in (work.split(":") for work in a.work):
            train(a.device, model, a.batch, fmt)


if __name__ == "__main__":
    main()
