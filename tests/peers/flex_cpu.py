"""Sparse patterns in PyTorch's FlexAttention, compiled for the CPU, beside `attnc bench`, in one run.

    cargo build --release -p attnc-cli
    python3 -m venv VENV && VENV/bin/pip install torch numpy        (torch.compile needs g++)
    VENV/bin/python tests/peers/flex_cpu.py [--tokens 8192] [--heads 4] [--dim 64] [--threads 2] [--rounds 3] [--only NAME]

FlexAttention is given exactly the set that our file says. Both run alternately, round by round, so that what else the
machine does meets both; dense is scaled_dot_product_attention. Prints a table, then one JSON document: for each
pattern the median milliseconds of each, the ratio, what each needed before its first result, and our share of the
FMA peak that `attnc bench` measures.
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
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

ROOT = pathlib.Path(__file__).resolve().parents[2]


def grid(rows, cols):
    """NATTEN's clamped 13 x 13 window on a grid: the window moves inwards at the borders."""
    def near(b, h, q, k):
        top = torch.clamp(q // cols - 6, 0, rows - 13)
        left = torch.clamp(q % cols - 6, 0, cols - 13)
        y, x = k // cols - top, k % cols - left
        return (y >= 0) & (y < 13) & (x >= 0) & (x < 13)
    return near


def patterns(tokens):
    """Name, arguments of `attnc bench`, and the same set as a mask function (None: dense)."""
    cols = 128
    rows = tokens // cols
    at = ["--tokens", str(tokens)]
    return [
        ("dense", ["dense.attn", *at], None),
        ("causal", ["causal.attn:autoregressive", *at], lambda b, h, q, k: q >= k),
        ("window 1024", ["window.attn:window", *at, "--set", "width=1024"],
         lambda b, h, q, k: (q >= k) & (q - k < 1024)),
        ("longformer 256 + 64", ["longformer.attn", *at, "--set", "radius=256", "--set", "globals=64"],
         lambda b, h, q, k: ((q - k <= 256) & (k - q <= 256)) | (k < 64) | (q < 64)),
        ("dilated 64", ["dilated.attn:comb", *at, "--set", "gap=64"],
         lambda b, h, q, k: (q >= k) & ((q - k) % 64 == 0)),
        ("strided 256", ["strided.attn:strided", *at, "--set", "stride=256"],
         lambda b, h, q, k: (q >= k) & ((q - k <= 256) | ((q - k) % 256 == 0))),
        (f"13 x 13 on {rows} x {cols}", ["neighbourhood_2d.attn:neighbourhood_2d", "--size", f"image.h={rows}", "--size", f"image.w={cols}"],
         grid(rows, cols)),
    ]


def timed(run):
    start = time.perf_counter()
    run()
    return (time.perf_counter() - start) * 1e3


def ours(arguments, args):
    """The result of `attnc bench`, and its machine block."""
    file, *rest = arguments
    command = [str(ROOT / "target/release/attnc") if args.attnc is None else args.attnc, "bench", str(ROOT / "patterns" / file), *rest,
               "--heads", str(args.heads), "--dim", str(args.dim), "--threads", str(args.threads), "--format", "json"]
    document = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return document["results"][0], document["machine"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", action="append", help="a pattern to run, by the start of its name")
    parser.add_argument("--attnc", help="the binary, if not target/release/attnc")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    q, k, v = (torch.randn(1, args.heads, args.tokens, args.dim) for _ in range(3))
    table = []
    with torch.no_grad():
        for name, arguments, mask in patterns(args.tokens):
            if args.only and not any(name.startswith(only) for only in args.only):
                continue
            if mask is None:
                run, first_ms, mask_ms = lambda: F.scaled_dot_product_attention(q, k, v), 0.0, 0.0
            else:
                torch._dynamo.reset()
                start = time.perf_counter()
                block = create_block_mask(mask, None, None, args.tokens, args.tokens, device="cpu")
                mask_ms = (time.perf_counter() - start) * 1e3
                compiled = torch.compile(flex_attention)
                run = lambda: compiled(q, k, v, block_mask=block)
                first_ms = timed(run)
            run()
            theirs, mine, result = [], [], None
            for _ in range(args.rounds):
                theirs += [timed(run) for _ in range(2)]
                result, machine = ours(arguments, args)
                mine.append(result)
            ms = statistics.median(r["run_ns"]["median"] / 1e6 for r in mine)
            peer = statistics.median(theirs)
            row = {"pattern": name, "attnc_ms": round(ms, 2), "torch_ms": round(peer, 1), "speedup": round(peer / ms, 2),
                   "share_of_peak": round(statistics.median(r["useful_gflops"] / r["machine_peak_gflops"] for r in mine), 3),
                   "executed_over_useful": round(result["executed_flops"] / result["useful_flops"], 3),
                   "attnc_compile_ms": round(result["compile_ns"]["first"] / 1e6, 2),
                   "torch_mask_ms": round(mask_ms, 1), "torch_first_call_ms": round(first_ms, 1)}
            table.append(row)
            print(f"{name:24} {ms:9.2f} ms, torch {peer:9.1f} ms: {peer / ms:6.2f} x; {100 * row['share_of_peak']:.0f} % of peak", flush=True)
    print(json.dumps({"torch": torch.__version__, "python": platform.python_version(), "arguments": vars(args),
                      "machine": machine, "results": table}, indent=2))


if __name__ == "__main__":
    main()
