#!/usr/bin/env python3
"""Writes nn/tests/golden/schedules.json: learning rates and momenta of PyTorch's schedulers.

Each case names a schedule by its arguments, which nn/tests/schedules.rs builds again, and holds
[step, lr, momentum] triples over a whole run (momentum is null where PyTorch leaves it alone).
Long runs are sampled: both ends, every change of phase, and a stride between. Needs torch
(`pip install torch`).
"""

import json
import pathlib

import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    CosineAnnealingLR,
    LinearLR,
    OneCycleLR,
    SequentialLR,
    StepLR,
)

OUT = pathlib.Path(__file__).resolve().parents[1] / "nn" / "tests" / "golden" / "schedules.json"


def run(lr, steps, make):
    """[(lr, momentum)] for every step; momentum None where it never changes."""
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr, momentum=0.9)
    scheduler = make(optimizer)
    values = []
    for step in range(steps):
        group = optimizer.param_groups[0]
        values.append((group["lr"], group["momentum"]))
        optimizer.step()
        if step + 1 < steps:
            scheduler.step()
    moves = any(m != 0.9 for _, m in values)
    return [(v, m if moves else None) for v, m in values]


def sample(values, around):
    """Both ends, two steps on each side of every step in `around`, and about 60 steps between."""
    n = len(values)
    keep = set(range(min(3, n))) | set(range(max(0, n - 3), n)) | set(range(0, n, max(1, n // 60)))
    for centre in around:
        keep |= {s for s in range(centre - 2, centre + 3) if 0 <= s < n}
    return [[s, *values[s]] for s in sorted(keep)]


def step_lr(lr, size, gamma, steps):
    values = run(lr, steps, lambda o: StepLR(o, size, gamma))
    return {
        "kind": "step",
        "lr": lr,
        "step_size": size,
        "gamma": gamma,
        "values": sample(values, range(size, steps, size)),
    }


def cosine(lr, t_max, eta_min, steps):
    values = run(lr, steps, lambda o: CosineAnnealingLR(o, t_max, eta_min))
    return {
        "kind": "cosine",
        "lr": lr,
        "t_max": t_max,
        "eta_min": eta_min,
        "values": sample(values, [t_max]),
    }


def one_cycle(max_lr, total, pct, div, final_div, cycle_momentum):
    values = run(
        max_lr,
        total,
        lambda o: OneCycleLR(
            o,
            max_lr,
            total_steps=total,
            pct_start=pct,
            div_factor=div,
            final_div_factor=final_div,
            cycle_momentum=cycle_momentum,
        ),
    )
    return {
        "kind": "one_cycle",
        "lr": max_lr,
        "total_steps": total,
        "pct_start": pct,
        "div_factor": div,
        "final_div_factor": final_div,
        "cycle_momentum": cycle_momentum,
        "values": sample(values, [int(pct * total)]),
    }


def warmup(lr, start, iters, steps):
    values = run(lr, steps, lambda o: LinearLR(o, start, 1.0, iters))
    return {
        "kind": "warmup",
        "lr": lr,
        "start_factor": start,
        "steps": iters,
        "values": sample(values, [iters]),
    }


def decay(lr, end, iters, steps):
    values = run(lr, steps, lambda o: LinearLR(o, 1.0, end / lr, iters))
    return {"kind": "decay", "lr": lr, "eta_min": end, "steps": iters, "values": sample(values, [iters])}


def warmup_cosine(lr, start, iters, total, eta_min):
    values = run(
        lr,
        total,
        lambda o: SequentialLR(
            o,
            [LinearLR(o, start, 1.0, iters), CosineAnnealingLR(o, total - iters, eta_min)],
            [iters],
        ),
    )
    return {
        "kind": "warmup_cosine",
        "lr": lr,
        "start_factor": start,
        "warmup": iters,
        "total": total,
        "eta_min": eta_min,
        "values": sample(values, [iters]),
    }


def warmup_steps_cosine(lr, total):
    """Three parts: warm-up to 50, step decay to 400, cosine to the end."""
    values = run(
        lr,
        total,
        lambda o: SequentialLR(
            o,
            [
                LinearLR(o, 0.1, 1.0, 50),
                StepLR(o, 100, 0.5),
                CosineAnnealingLR(o, total - 400, 1e-4),
            ],
            [50, 400],
        ),
    )
    return {
        "kind": "three_parts",
        "lr": lr,
        "total": total,
        "values": sample(values, [50, 150, 250, 350, 400]),
    }


def chained(lr, steps):
    values = run(
        lr, steps, lambda o: ChainedScheduler([LinearLR(o, 0.2, 1.0, 40), StepLR(o, 30, 0.7)])
    )
    return {"kind": "chained", "lr": lr, "values": sample(values, range(30, steps, 30))}


def main():
    cases = [
        step_lr(0.1, 30, 0.1, 120),
        step_lr(0.05, 391, 0.97, 4000),
        cosine(0.1, 200, 1e-6, 200),
        cosine(0.1, 7820, 0.0, 7821),
        cosine(0.3, 50, 0.01, 230),
        one_cycle(0.5, 11730, 0.3, 25.0, 1e4, True),
        one_cycle(0.1, 100, 0.25, 10.0, 100.0, True),
        one_cycle(0.01, 37, 0.4, 25.0, 1e4, False),
        warmup(0.1, 0.1, 5, 20),
        warmup(0.4, 1 / 3, 391 * 5, 3000),
        decay(0.24, 0.0, 200, 200),
        decay(106.0, 0.0, 75, 200),
        decay(0.1, 0.02, 50, 60),
        warmup_cosine(0.1, 0.01, 391, 3910, 1e-6),
        warmup_cosine(0.2, 0.1, 5, 60, 0.0),
        warmup_steps_cosine(0.1, 1000),
        chained(0.1, 300),
    ]
    rows = ",\n".join(json.dumps(case) for case in cases)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(f'{{"torch": "{torch.__version__}", "cases": [\n{rows}\n]}}\n')
    print(OUT, OUT.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
