#!/usr/bin/env python3
"""tilegrad's matmul on wgpu beside burn-wgpu's on the same adapter, in turn; prints the median of the paired ratios.

    cargo build --release -p tilegrad-kernels --example wgpu_ladder
    (cd benches/peers/rust && cargo build --release --locked -p peers-burn-wgpu)
    python3 benches/peers/matmul_wgpu.py --rounds 7 256
"""
import argparse, pathlib, statistics, subprocess, sys

HERE = pathlib.Path(__file__).parent


def start(*command):
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def ask(process, size, seconds):
    process.stdin.write(f"{size} {size} {size} n f32 {seconds}\n")
    process.stdin.flush()
    answer = process.stdout.readline().strip()
    try:
        return float(answer)
    except ValueError:
        sys.exit(f"{process.args[0]}: answered '{answer}' instead of seconds")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--ours", default="target/release/examples/wgpu_ladder")
    p.add_argument("--theirs", default=str(HERE / "rust/target/release/matmul-burn-wgpu"))
    p.add_argument("--rounds", type=int, default=7)
    p.add_argument("--seconds", type=float, default=0.5)
    p.add_argument("sizes", nargs="*", type=int, default=[256])
    a = p.parse_args()
    ours, theirs = start(a.ours, "--serve"), start(a.theirs)
    print("| product | tilegrad ms | burn-wgpu ms | ratio | ratios |\n|---|---|---|---|---|")
    for size in a.sizes:
        ask(theirs, size, a.seconds)  # it tunes itself
        ask(ours, size, a.seconds)
        pairs = [(ask(ours, size, a.seconds), ask(theirs, size, a.seconds)) for _ in range(a.rounds)]
        ratios = [t / o for o, t in pairs]
        mine, other = (1e3 * statistics.median(times) for times in zip(*pairs))
        print(f"| {size}³ | {mine:.2f} | {other:.2f} | **{statistics.median(ratios):.2f}** | "
              f"{', '.join(f'{r:.2f}' for r in ratios)} |", flush=True)


if __name__ == "__main__":
    main()
