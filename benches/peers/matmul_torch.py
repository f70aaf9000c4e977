#!/usr/bin/env python3
"""torch.mm, a round for each line that `rust/matmul` sends: `M N K n|t f32|bf16 SECONDS` (t: b is stored as its
transpose). Answers with the median seconds of one product, or `unsupported`."""
import statistics, sys, time
import torch


def main():
    torch.set_num_threads(int(sys.argv[1]) if len(sys.argv) > 1 else 2)
    known, a, b, y = None, None, None, None
    for line in sys.stdin:
        *key, seconds = line.split()
        if key != known:
            m, n, k = (int(v) for v in key[:3])
            dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[key[4]]
            a, y = torch.randn(m, k, dtype=dtype), torch.empty(m, n, dtype=dtype)
            b = torch.randn(n, k, dtype=dtype).t() if key[3] == "t" else torch.randn(k, n, dtype=dtype)
            known = key
        # Into y, which exists: allocating a large result each time would be timed as page faults.
        torch.mm(a, b, out=y)
        samples, begin = [], time.perf_counter()
        while len(samples) < 3 or time.perf_counter() - begin < float(seconds):
            start = time.perf_counter()
            torch.mm(a, b, out=y)
            samples.append(time.perf_counter() - start)
        print(statistics.median(samples), flush=True)


if __name__ == "__main__":
    main()
