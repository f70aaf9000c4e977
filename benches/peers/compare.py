#!/usr/bin/env python3
"""Runs `cifar bench` and PyTorch in turn on the same work and prints the median of their paired ratios.

    python3 -m venv .venv && .venv/bin/pip install torch numpy
    .venv/bin/python benches/peers/compare.py --torch-script ../shared/peers/torch_train.py --rounds 5

The machine may be shared and noisy, so absolute rates drift; within a pair they drift together.
PyTorch runs in both of its memory layouts and the faster one of each round counts.
"""
import argparse, json, os, statistics, subprocess, sys


def run(command, env=None):
    out = subprocess.run(command, check=True, capture_output=True, text=True, env=env).stdout
    return json.loads(out.strip().splitlines()[-1])


def main():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--cifar", default="target/release/cifar")
    p.add_argument("--torch-script", required=True)
    p.add_argument("--models", default="simple-cnn,resnet20,resnet-guide,resnet18")
    p.add_argument("--batch", type=int, default=128)
    p.add_argument("--dtype", default="f32")
    p.add_argument("--steps", type=int, default=8)
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--mode", choices=["train", "infer"], default="train")
    p.add_argument("--layouts", default="channels_last,contiguous")
    a = p.parse_args()
    # numpy's and torch's builds may be told to use an older kernel here; peers run at their best.
    env = {k: v for k, v in os.environ.items() if not k.startswith("OPENBLAS_")}
    print(f"| model ({a.mode}, batch {a.batch}, {a.dtype}) "
          "| tilegrad images/s | PyTorch images/s | ratio | ratios |")
    print("|---|---|---|---|---|")
    for model in a.models.split(","):
        common = ["--model", model, "--batch", str(a.batch), "--dtype", a.dtype,
                  "--steps", str(a.steps), "--threads", str(a.threads)]
        ours, theirs, ratios = [], [], []
        for _ in range(a.rounds):
            mine = run([a.cifar, "bench", *common, "--mode", a.mode, "--json"])
            infer = ["--infer"] if a.mode == "infer" else []
            best = max(run([sys.executable, a.torch_script, *common, "--layout", layout, *infer],
                           env)["images_per_second"] for layout in a.layouts.split(","))
            ours.append(mine["images_per_second"])
            theirs.append(best)
            ratios.append(mine["images_per_second"] / best)
        print(f"| {model} | {statistics.median(ours):.0f} | {statistics.median(theirs):.0f} | "
              f"**{statistics.median(ratios):.2f}** | "
              f"{', '.join(f'{r:.2f}' for r in ratios)} |", flush=True)


if __name__ == "__main__":
    main()
