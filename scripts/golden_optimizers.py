#!/usr/bin/env python3
"""Writes nn/tests/golden/optimizers.json: steps of PyTorch's SGD and AdamW.

The file holds the parameters of a small linear model after each step, in float64, on gradients
that are given. Needs torch (`pip install torch`).
"""

import json
import pathlib

import torch

OUT = pathlib.Path(__file__).resolve().parents[1] / "nn" / "tests" / "golden" / "optimizers.json"
STEPS = 5


def main():
    torch.manual_seed(1)
    weight = torch.randn(2, 3, dtype=torch.float64)
    bias = torch.randn(2, dtype=torch.float64)
    gradients = [
        (torch.randn(2, 3, dtype=torch.float64), torch.randn(2, dtype=torch.float64))
        for _ in range(STEPS)
    ]
    lrs = [0.1, 0.2, 0.05, 0.3, 0.01]

    sgd = [
        dict(momentum=m, dampening=d, nesterov=n, weight_decay=w)
        for m, d, n, w in [
            (0.0, 0.0, False, 0.0),
            (0.9, 0.0, False, 5e-4),
            (0.8, 0.0, True, 0.01),
            (0.9, 0.3, False, 0.0),
        ]
    ]
    adamw = [
        dict(beta1=0.9, beta2=0.999, epsilon=1e-8, weight_decay=0.01),
        dict(beta1=0.7, beta2=0.9, epsilon=1e-3, weight_decay=0.0),
    ]
    cases = []
    for kind, options in [("sgd", o) for o in sgd] + [("adamw", o) for o in adamw]:
        # The bias is in a group of its own, without decay and with half of the learning rate.
        w, b = torch.nn.Parameter(weight.clone()), torch.nn.Parameter(bias.clone())
        groups = [{"params": [w]}, {"params": [b], "weight_decay": 0.0}]
        if kind == "sgd":
            optimizer = torch.optim.SGD(groups, lr=0.1, **options)
        else:
            optimizer = torch.optim.AdamW(
                groups,
                lr=0.1,
                betas=(options["beta1"], options["beta2"]),
                eps=options["epsilon"],
                weight_decay=options["weight_decay"],
            )
        trace = []
        for lr, (gw, gb) in zip(lrs, gradients):
            optimizer.param_groups[0]["lr"], optimizer.param_groups[1]["lr"] = lr, lr / 2
            w.grad, b.grad = gw.clone(), gb.clone()
            optimizer.step()
            trace.append({"weight": w.detach().flatten().tolist(), "bias": b.detach().tolist()})
        cases.append({"kind": kind, **options, "trace": trace})

    rows = ",\n".join(json.dumps(case) for case in cases)
    head = json.dumps(
        {
            "torch": torch.__version__,
            "lrs": lrs,
            "weight": weight.flatten().tolist(),
            "bias": bias.tolist(),
            "gradients": [
                {"weight": gw.flatten().tolist(), "bias": gb.tolist()} for gw, gb in gradients
            ],
        }
    )
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(head[:-1] + f', "cases": [\n{rows}\n]}}\n')
    print(OUT, OUT.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
