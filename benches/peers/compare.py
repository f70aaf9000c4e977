#!/usr/bin/env python3
"""Runs `cifar bench` and a peer in turn on the same work and prints the median of their paired ratios.

    python3 -m venv .venv && .venv/bin/pip install torch numpy
    .venv/bin/python benches/peers/compare.py --torch-script ../shared/peers/torch_train.py --rounds 5

    (cd benches/peers/rust && for p in candle burn; do cargo build --release --locked -p peers-$p; done)
    python3 benches/peers/compare.py --peer candle --models simple-cnn,resnet20,resnet18 --rounds 3

    (cd benches/peers/rust && cargo build --release --locked -p peers-burn-wgpu)
    python3 benches/peers/compare.py --peer burn-wgpu --device wgpu --models resnet20 --batch 8 --rounds 5

The machine may be shared and noisy, so absolute rates drift; within a pair they drift together.
PyTorch runs in both of its memory layouts and the faster one of each round counts. candle and burn train in f32
only, burn on burn-flex; they take seconds a step, so `--peer-steps` of them are timed after one to warm up.
"""
import argparse, json, os, pathlib, statistics, subprocess, sys

RUST = pathlib.Path(__file__).parent / "rust/target/release"


def run(command, env=None):
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}: exit status {done.returncode}\n{done.stderr}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def main():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--cifar", default="target/release/cifar")
    p.add_argument("--peer", choices=["torch", "candle", "burn", "burn-wgpu"], default="torch")
    p.add_argument("--device", default="cpu", help="of tilegrad: wgpu, to be compared with burn-wgpu")
    p.add_argument("--torch-script", help="needed for --peer torch")
    p.add_argument("--models", default="simple-cnn,resnet20,resnet-guide,resnet18")
    p.add_argument("--batch", type=int, default=128)
    p.add_argument("--dtype", default="f32")
    p.add_argument("--steps", type=int, default=8)
    p.add_argument("--peer-steps", type=int, default=3, help="timed steps of candle and burn")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--mode", choices=["train", "infer"], default="train")
    p.add_argument("--layouts", default="channels_last,contiguous", help="of PyTorch")
    a = p.parse_args()
    # numpy's and torch's builds may be told to use an older kernel here; peers run at their best.
    env = {k: v for k, v in os.environ.items() if not k.startswith("OPENBLAS_")}

    def peer_commands(model):
        """One command for each setting of the peer, of which the fastest counts."""
        work = ["--model", model, "--batch", str(a.batch), "--dtype", a.dtype, "--threads", str(a.threads)]
        if a.peer == "torch":
            work += ["--steps", str(a.steps), *(["--infer"] if a.mode == "infer" else [])]
            return [[sys.executable, a.torch_script, *work, "--layout", layout]
                    for layout in a.layouts.split(",")]
        return [[RUST / f"train-{a.peer}", *work, "--steps", str(a.peer_steps), "--warmup", "1"]]

    if a.peer == "torch" and not a.torch_script:
        p.error("--peer torch needs --torch-script")
    if a.peer != "torch" and a.mode == "infer":
        p.error(f"--peer {a.peer} only trains")
    print(f"| model ({a.mode}, batch {a.batch}, {a.dtype}) "
          f"| tilegrad images/s | {a.peer} images/s | ratio | ratios |")
    print("|---|---|---|---|---|")
    for model in a.models.split(","):
        mine = [a.cifar, "bench", "--model", model, "--batch", str(a.batch), "--dtype", a.dtype, "--steps",
                str(a.steps), "--threads", str(a.threads), "--mode", a.mode, "--device", a.device, "--json"]
        ours, theirs, ratios = [], [], []
        for _ in range(a.rounds):
            ours.append(run(mine)["images_per_second"])
            theirs.append(max(run(c, env)["images_per_second"] for c in peer_commands(model)))
            ratios.append(ours[-1] / theirs[-1])
        print(f"| {model} | {statistics.median(ours):.0f} | {statistics.median(theirs):.1f} | "
              f"**{statistics.median(ratios):.2f}** | "
              f"{', '.join(f'{r:.2f}' for r in ratios)} |", flush=True)


if __name__ == "__main__":
    main()
