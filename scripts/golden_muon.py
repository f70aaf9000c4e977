#!/usr/bin/env python3
"""Writes nn/tests/golden/muon.json: Newton-Schulz iterations and steps of Muon, in float64.

The iterations are computed here without iterating on matrices: they map singular values by a polynomial, so a singular
value decomposition of PyTorch's gives the result. Needs torch (`pip install torch`).
"""

import json
import pathlib

import torch

OUT = pathlib.Path(__file__).resolve().parents[1] / "nn" / "tests" / "golden" / "muon.json"
A, B, C = 3.4445, -4.7750, 2.0315
EPSILON = 1e-7


def orthogonalise(g, iterations):
    u, s, vt = torch.linalg.svd(g, full_matrices=False)
    s = s / (g.norm() + EPSILON)
    for _ in range(iterations):
        s = A * s + B * s**3 + C * s**5
    return u @ torch.diag(s) @ vt


def rounded(x):
    """10 digits: tests compare to 1e-8."""
    if isinstance(x, dict):
        return {key: rounded(value) for key, value in x.items()}
    if isinstance(x, list):
        return [rounded(value) for value in x]
    return float(f"{x:.10g}") if isinstance(x, float) else x


def random(*shape, scale=1.0):
    """Rounded before use, so that the file holds what was computed with."""
    values = scale * torch.randn(*shape, dtype=torch.float64)
    return torch.tensor(rounded(values.tolist()), dtype=torch.float64)


def iterations():
    cases = []
    for rows, columns in [(6, 14), (11, 5), (8, 8), (1, 7), (7, 1)]:
        scale = torch.ones(columns, dtype=torch.float64)
        scale[0] = 32.0  # one large singular value, as gradients have
        g = random(rows, columns, scale=scale)
        for count in (3, 5):
            y = orthogonalise(g, count)
            cases.append(
                {
                    "rows": rows,
                    "columns": columns,
                    "iterations": count,
                    "g": g.flatten().tolist(),
                    "y": y.flatten().tolist(),
                }
            )
    return cases


def steps(momentum, nesterov, count, scale):
    """A filter [c_out, kh, kw, c_in] after each of some steps; gradients are multiplied by `scale`."""
    shape = (5, 2, 2, 3)
    p, v = random(*shape), torch.zeros(shape, dtype=torch.float64)
    start, lrs, gradients, trace = p.clone(), [0.24, 0.1, 0.02, 0.3], [], []
    for lr in lrs:
        gradient = random(*shape, scale=1e-2)
        g = scale * gradient
        v = momentum * v + g
        u = g + momentum * v if nesterov else v
        p = p * len(p) ** 0.5 / p.norm()
        p = p - lr * orthogonalise(u.reshape(len(u), -1), count).reshape(shape)
        gradients.append(gradient.flatten().tolist())
        trace.append(p.flatten().tolist())
    return {
        "momentum": momentum,
        "nesterov": nesterov,
        "iterations": count,
        "scale": scale,
        "lrs": lrs,
        "start": start.flatten().tolist(),
        "gradients": gradients,
        "trace": trace,
    }


def main():
    torch.manual_seed(2)
    found = {
        "torch": torch.__version__,
        "iterations": iterations(),
        "steps": [steps(0.6, True, 3, 1.0), steps(0.95, False, 5, 0.25)],
    }
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(rounded(found)) + "\n")
    print(OUT, OUT.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
