"""Dense and causal attention in PyTorch (scaled_dot_product_attention) beside `attnc bench`, in one run.

    cargo build --release -p attnc-cli
    python3 -m venv VENV && VENV/bin/pip install torch numpy
    VENV/bin/python tests/peers/sdpa_cpu.py [--tokens 8192] [--heads 4] [--dim 64] [--threads 2] [--rounds 3]

Both run the same work alternately, round by round, so that what else the machine does meets both. Prints one JSON document:
for each pattern the median milliseconds of each, the ratio, and our share of the FMA peak measured by `attnc bench`.
"""

import argparse
import json
import pathlib
import platform
import statistics
import subprocess
import time

import torch
import torch.nn.functional as F

ROOT = pathlib.Path(__file__).resolve().parents[2]


def sdpa_ms(q, k, v, causal, samples):
    """Milliseconds of `samples` calls after one warm-up."""
    F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    times = []
    for _ in range(samples):
        start = time.perf_counter()
        F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        times.append((time.perf_counter() - start) * 1e3)
    return times


def attnc(pattern, args):
    """The result of `attnc bench` for one pattern, and its machine block."""
    command = [str(ROOT / "target/release/attnc"), "bench", str(ROOT / "patterns" / f"{pattern}.attn"),
               "--tokens", str(args.tokens), "--heads", str(args.heads), "--dim", str(args.dim),
               "--threads", str(args.threads), "--format", "json"]
    document = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return document["results"][0], document["machine"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    q, k, v = (torch.randn(1, args.heads, args.tokens, args.dim) for _ in range(3))
    table = []
    with torch.no_grad():
        for pattern, causal in (("dense", False), ("causal", True)):
            ours, theirs, peak = [], [], []
            for _ in range(args.rounds):
                theirs += sdpa_ms(q, k, v, causal, 2)
                result, machine = attnc(pattern, args)
                ours.append(result["run_ns"]["median"] / 1e6)
                peak.append(result["useful_gflops"] / result["machine_peak_gflops"])
            a, b = statistics.median(ours), statistics.median(theirs)
            table.append({"pattern": pattern, "attnc_ms": round(a, 1), "torch_sdpa_ms": round(b, 1),
                          "speedup": round(b / a, 2), "share_of_peak": round(statistics.median(peak), 3)})
    print(json.dumps({"torch": torch.__version__, "python": platform.python_version(), "arguments": vars(args),
                      "machine": machine, "results": table}, indent=2))


if __name__ == "__main__":
    main()
