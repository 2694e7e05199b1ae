"""Our patterns beside PyTorch on the CPU, in one run: scaled_dot_product_attention, and FlexAttention compiled.

    cargo build --release -p attnc-cli
    python3 -m venv VENV && VENV/bin/pip install torch numpy        (torch.compile needs g++)
    VENV/bin/python tests/peers/pytorch_cpu.py [--tokens 8192] [--heads 4] [--dim 64] [--threads 2] [--rounds 3]
                                               [--only NAME]... [--target cpu:avx2]...

FlexAttention is given exactly the set that our file says. Both run alternately, round by round, so that what else the
machine does meets both. Prints a table, then one JSON document: for each pattern the median milliseconds of each, the
ratio, what each needed before its first result, and our share of the FMA peak that `attnc bench` measures, before its runs
and between them.
"""

import argparse
import functools
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


def rows(tokens, dim):
    """Name, dim, arguments of `attnc bench`, and the same set: a mask function for FlexAttention, or whether
    scaled_dot_product_attention is causal."""
    cols = 128
    lines = tokens // cols
    at = ["--tokens", str(tokens)]
    causal = ["causal.attn:autoregressive", *at]
    return [
        ("dense", dim, ["dense.attn", *at], False),
        ("dense D 128", 128, ["dense.attn", *at], False),
        ("causal beside SDPA", dim, causal, True),
        ("causal", dim, causal, lambda b, h, q, k: q >= k),
        ("window 1024", dim, ["window.attn:window", *at, "--set", "width=1024"],
         lambda b, h, q, k: (q >= k) & (q - k < 1024)),
        ("longformer 256 + 64", dim, ["longformer.attn", *at, "--set", "radius=256", "--set", "globals=64"],
         lambda b, h, q, k: ((q - k <= 256) & (k - q <= 256)) | (k < 64) | (q < 64)),
        ("dilated 64", dim, ["dilated.attn:comb", *at, "--set", "gap=64"],
         lambda b, h, q, k: (q >= k) & ((q - k) % 64 == 0)),
        ("strided 256", dim, ["strided.attn:strided", *at, "--set", "stride=256"],
         lambda b, h, q, k: (q >= k) & ((q - k <= 256) | ((q - k) % 256 == 0))),
        (f"13 x 13 on {lines} x {cols}", dim,
         ["neighbourhood_2d.attn:neighbourhood_2d", "--size", f"image.h={lines}", "--size", f"image.w={cols}"],
         grid(lines, cols)),
    ]


def timed(run):
    start = time.perf_counter()
    run()
    return (time.perf_counter() - start) * 1e3


def ours(arguments, args, dim, target):
    """The result of `attnc bench`, and its machine block."""
    file, *rest = arguments
    command = [str(ROOT / "target/release/attnc") if args.attnc is None else args.attnc, "bench", str(ROOT / "patterns" / file), *rest,
               "--heads", str(args.heads), "--dim", str(dim), "--threads", str(args.threads), "--target", target, "--format", "json"]
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
    parser.add_argument("--target", action="append", help="of attnc, `cpu:avx2` for example; several are measured in turn (default: cpu)")
    args = parser.parse_args()
    targets = args.target or ["cpu"]
    torch.set_num_threads(args.threads)
    table = []
    with torch.no_grad():
        for name, dim, arguments, peer in rows(args.tokens, args.dim):
            if args.only and not any(name.startswith(only) for only in args.only):
                continue
            q, k, v = (torch.randn(1, args.heads, args.tokens, dim) for _ in range(3))
            mask_ms, first_ms = 0.0, 0.0
            if isinstance(peer, bool):
                run = functools.partial(F.scaled_dot_product_attention, q, k, v, is_causal=peer)
            else:
                torch._dynamo.reset()
                start = time.perf_counter()
                block = create_block_mask(peer, None, None, args.tokens, args.tokens, device="cpu")
                mask_ms = (time.perf_counter() - start) * 1e3
                run = functools.partial(torch.compile(flex_attention), q, k, v, block_mask=block)
                first_ms = timed(run)
            run()
            theirs, mine = [], {target: [] for target in targets}
            for _ in range(args.rounds):
                theirs += [timed(run) for _ in range(2)]
                for target in targets:
                    result, machine = ours(arguments, args, dim, target)
                    mine[target].append(result)
            torch_ms = statistics.median(theirs)
            for target, results in mine.items():
                result = results[-1]
                ms = statistics.median(r["run_ns"]["median"] / 1e6 for r in results)
                row = {"pattern": name, "target": result["target"], "attnc_ms": round(ms, 2), "torch_ms": round(torch_ms, 1), "speedup": round(torch_ms / ms, 2),
                       "share_of_peak": round(statistics.median(r["useful_gflops"] / r["machine_peak_gflops"] for r in results), 3),
                       "share_meanwhile": round(statistics.median(r["useful_gflops"] / r["meanwhile_gflops"] for r in results), 3),
                       "executed_over_useful": round(result["executed_flops"] / result["useful_flops"], 3),
                       "attnc_compile_ms": round(result["compile_ns"]["first"] / 1e6, 2),
                       "torch_mask_ms": round(mask_ms, 1), "torch_first_call_ms": round(first_ms, 1)}
                table.append(row)
                print(f"{name:24} {result['target']:10} {ms:9.2f} ms, torch {torch_ms:9.1f} ms: {torch_ms / ms:6.2f} x; {100 * row['share_of_peak']:.0f} % of the peak, {100 * row['share_meanwhile']:.0f} % of what it is between our runs, executed {row['executed_over_useful']:.2f} x useful", flush=True)
    print(json.dumps({"torch": torch.__version__, "python": platform.python_version(), "arguments": vars(args),
                      "machine": machine, "results": table}, indent=2))


if __name__ == "__main__":
    main()
