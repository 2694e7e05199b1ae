"""What a call from Python costs beside the launch that `attnc bench` measures.

    cargo build --release -p attnc-cli && pip install .
    python3 tests/peers/calls.py [--threads 2] [--attnc BINARY] [--rounds 5]

Both run a causal window of 1024 keys on 4 heads of 64 elements, in turn: 64 tokens, where the call itself is seen, and
8192, where it should not be. Outputs are those of the caller in one column and made by the call in the other.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import time

import attnc
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
PATTERN = ROOT / "patterns" / "window.attn"


def bench(args, tokens):
    """Nanoseconds of a launch."""
    command = [args.attnc, "bench", f"{PATTERN}:window", "--tokens", tokens, "--heads", 4, "--dim", 64,
               "--threads", args.threads, "--format", "json"]
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)["results"][0]["run_ns"]["median"]


def calls(kernel, threads, tokens, given):
    """Nanoseconds of a call from Python."""
    rng = np.random.default_rng(0)
    q, k, v = rng.standard_normal((3, 1, 4, tokens, 64)).astype(np.float32)
    out = {"out": np.empty_like(q), "lse": np.empty(q.shape[:3], dtype=np.float32)} if given else {}
    times, end = [], time.perf_counter() + 1.0
    while time.perf_counter() < end or len(times) < 5:
        begin = time.perf_counter_ns()
        kernel(q, k, v, threads=threads, **out)
        times.append(time.perf_counter_ns() - begin)
    return statistics.median(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--attnc", default=str(ROOT / "target" / "release" / "attnc"))
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    kernel, threads = attnc.compile(PATTERN, "window"), attnc.Threads(args.threads)
    print(f"{'tokens':>7} {'bench':>12} {'call, given out':>20} {'call, new out':>20}")
    for tokens in (64, 8192):
        rows = []
        for _ in range(args.rounds):
            rows.append((bench(args, tokens), *(calls(kernel, threads, tokens, given) for given in (True, False))))
        own, given, new = (statistics.median(column) / 1000 for column in zip(*rows))
        beside = [f"{t:.1f} us ({t - own:+.1f} us, {100 * (t / own - 1):+.1f} %)" for t in (given, new)]
        print(f"{tokens:>7} {own:>9.1f} us  {beside[0]}  {beside[1]}")


if __name__ == "__main__":
    main()
