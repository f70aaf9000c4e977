#!/usr/bin/env python3
"""Times inference of `cifar bench --mode infer`, PyTorch and onnxruntime in turn and prints the median of paired ratios.

    python3 -m venv .venv && .venv/bin/pip install torch onnx onnxruntime
    .venv/bin/python benches/peers/inference.py --torch-models ../shared/peers --rounds 7

PyTorch runs in both of its memory layouts under no_grad; onnxruntime runs the same model, exported by torch.onnx, with
all of its graph optimisations (it folds batch normalisation too). The fastest of the three counts in each round. The
machine may be shared and noisy: rates drift, but within a round they drift together.
"""
import argparse, json, os, statistics, subprocess, sys, tempfile, time

SECONDS = 0.4  # Of one measurement.


def measure(step):
    """Median seconds of a step."""
    for _ in range(5):
        step()
    times, end = [], time.perf_counter() + SECONDS
    while len(times) < 5 or time.perf_counter() < end:
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def worker(kind, models, threads):
    """Answers each line `MODEL BATCH` on stdin with images per second."""
    sys.path.insert(0, models)
    import torch, torch_train
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    steps = {}

    def make(name, batch):
        model, x = torch_train.MODELS[name]().eval(), torch.randn(batch, 3, 32, 32)
        if kind != "onnxruntime":
            layout = getattr(torch, kind)
            model, x = model.to(memory_format=layout), x.to(memory_format=layout)
            return lambda: model(x)
        import onnxruntime
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "model.onnx")
            torch.onnx.export(model, (x,), path, dynamo=False, opset_version=17,
                              input_names=["x"], output_names=["y"])
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = threads
            session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        feed = {"x": x.numpy()}
        return lambda: session.run(None, feed)

    with torch.no_grad():
        print("ready", flush=True)
        for line in sys.stdin:
            name, batch = line.split()
            if line not in steps:
                steps[line] = make(name, int(batch))
            print(int(batch) / measure(steps[line]), flush=True)


class Peer:
    """A process that runs `worker`."""

    def __init__(self, kind, a):
        # numpy's and torch's builds may be told to use an older kernel here; peers run at their best.
        env = {k: v for k, v in os.environ.items() if not k.startswith("OPENBLAS_")}
        command = [sys.executable, "-W", "ignore", __file__, "--worker", kind,
                   "--torch-models", a.torch_models, "--threads", str(a.threads)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        assert self.process.stdout.readline() == "ready\n", f"{kind} does not start"

    def rate(self, model, batch):
        self.process.stdin.write(f"{model} {batch}\n")
        self.process.stdin.flush()
        rate = float(self.process.stdout.readline())
        time.sleep(0.05)  # Its threads go to sleep before another program is timed.
        return rate


def ours(a, model, batch, steps):
    command = [a.cifar, "bench", "--mode", "infer", "--json", "--model", model, "--batch", str(batch),
               "--steps", str(steps), "--threads", str(a.threads)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(out.strip().splitlines()[-1])["images_per_second"]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--cifar", default="target/release/cifar")
    p.add_argument("--torch-models", required=True, help="directory of torch_train.py, which has the models")
    p.add_argument("--models", default="resnet20,resnet18")
    p.add_argument("--batches", default="1,32")
    p.add_argument("--rounds", type=int, default=7)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--worker", help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.worker:
        return worker(a.worker, a.torch_models, a.threads)
    kinds = ["onnxruntime", "channels_last", "contiguous_format"]
    peers = {kind: Peer(kind, a) for kind in kinds}
    print("| model, batch | tilegrad images/s | onnxruntime | PyTorch channels last | PyTorch contiguous "
          "| ratio to the best | ratios |")
    print("|---|---|---|---|---|---|---|")
    for model in a.models.split(","):
        for batch in map(int, a.batches.split(",")):
            rates, ratios, steps = {kind: [] for kind in ["ours", *kinds]}, [], 10
            steps = max(10, int(SECONDS * ours(a, model, batch, steps) / batch))
            for kind in kinds:
                peers[kind].rate(model, batch)  # Loads the model.
            for _ in range(a.rounds):
                rates["ours"].append(ours(a, model, batch, steps))
                for kind in kinds:
                    rates[kind].append(peers[kind].rate(model, batch))
                ratios.append(rates["ours"][-1] / max(rates[kind][-1] for kind in kinds))
            medians = " | ".join(f"{statistics.median(rates[kind]):.0f}" for kind in ["ours", *kinds])
            print(f"| {model}, {batch} | {medians} | **{statistics.median(ratios):.2f}** | "
                  f"{', '.join(f'{r:.2f}' for r in ratios)} |", flush=True)


if __name__ == "__main__":
    main()
