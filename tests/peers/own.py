"""Figures of `attnc bench` beside each other: no other system is needed.

    cargo build --release -p attnc-cli
    python3 tests/peers/own.py counts | dense | types | growth | even | decode  [--threads 2] [--target cpu:avx2] [--attnc BINARY]

counts  operations of every pattern of patterns/, executed over useful; nothing is run
dense   every pattern of patterns/ beside dense attention of the same shape
types   f16 and bf16 beside f32
growth  eight patterns of constant row size from 65,536 to 1,048,576 tokens: time a token
even    from which length on a pattern is faster than dense
decode  one query, 131,072 keys: bytes of K and V a second
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]

VIDEO = ["--size", "video.t=8", "--size", "video.h=32", "--size", "video.w=32"]
IMAGE = ["--size", "image.h=64", "--size", "image.w=128"]
LINE = ["--tokens", "8192"]
TEXT = ["--size", "n_text=256"]

# Pattern, and the lengths at which it is measured beside dense attention.
PATTERNS = [
    *[(name, LINE) for name in (
        "additive_bias", "alibi", "bigbird", "blocked:blocked", "causal:autoregressive", "dense", "diagonal",
        "dilated:dilated", "dilated:comb", "fixed", "longformer", "masformer", "neighbourhood_1d", "powerattention:powerattention",
        "relative_bias", "sink_logits", "softcap", "streaming", "strided:strided", "strided:column", "stripes:stripes",
        "window:window", "window:sliding", "models/mistral", "models/gemma3", "models/gpt_oss", "models/llama4")],
    ("packed_documents", [*LINE, "--docs", "0,700,1500,3000,4000,6500,8192"]),
    ("prefix_lm", [*LINE, "--size", "prefix=1024"]),
    ("neighbourhood_2d:neighbourhood_2d", IMAGE), ("neighbourhood_2d:dilated", IMAGE),
    ("clear", [*TEXT, *IMAGE]), ("clear", [*TEXT, *IMAGE, "--set", "radius=8"]),
    ("neighbourhood_3d", ["--size", "video.t=18", "--size", "video.h=24", "--size", "video.w=24"]),
    ("freeswim", ["--size", "video.t=2", "--size", "video.h=45", "--size", "video.w=80"]),
    ("multi_diagonal:multi_diagonal", VIDEO), ("multi_diagonal:periodic", VIDEO),
    ("paro:example", VIDEO), ("sparse_vdit", [*TEXT, *VIDEO]), ("sparse_vdit:multi", [*TEXT, *VIDEO]),
]


def bench(args, pattern, *rest):
    """The results of `attnc bench` of one pattern, or why there are none."""
    file, _, name = pattern.partition(":")
    subject = str(ROOT / "patterns" / f"{file}.attn") + (f":{name}" if name else "")
    command = [args.attnc, "bench", subject, "--threads", str(args.threads), "--target", args.target, "--format", "json", *map(str, rest)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        return None, " ".join(done.stderr.split())[:160]
    return json.loads(done.stdout)["results"], None


def heads(pattern):
    """Models fix how many heads there are."""
    fixed = {"models/mistral": (32, 8), "models/gemma3": (32, 16), "models/gpt_oss": (64, 8), "models/llama4": (40, 8), "masformer": (16, 16)}
    h, g = fixed.get(pattern, (4, 4))
    return ["--heads", h, "--kv-heads", g]


def counts(args):
    """Executed over useful operations, from exact counts."""
    for pattern, at in PATTERNS:
        file, _, name = pattern.partition(":")
        subject = str(ROOT / "patterns" / f"{file}.attn") + (f":{name}" if name else "")
        command = [args.attnc, "cost", subject, "--dim", "64", "--format", "json", *map(str, at)]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if done.returncode != 0:
            print(f"{pattern:36} {' '.join(done.stderr.split())[:160]}")
            continue
        cost = json.loads(done.stdout)
        density = cost["entries"] / (cost["heads"] * cost["tokens"] * cost["keys"])
        print(f"{pattern:36} {' '.join(map(str, at)):60} density {density:.4f}  executed {cost['overhead']:6.3f} x useful", flush=True)


def dense(args):
    """Every pattern beside dense attention."""
    for pattern, at in PATTERNS:
        results, why = bench(args, pattern, *at, "--dim", 64, "--against", "dense", "--min-time", 0, *heads(pattern))
        if results is None:
            print(f"{pattern:36} {why}")
            continue
        one, all_ = results
        ratio = all_["run_ns"]["median"] / one["run_ns"]["median"]
        density = one["useful_flops"] / max(1, all_["useful_flops"])
        print(f"{pattern:36} {one['run_ns']['median'] / 1e6:9.2f} ms, {ratio:7.2f} x dense at density {density:.4f}; "
              f"executed {one['executed_flops'] / max(1, one['useful_flops']):5.2f} x useful; "
              f"model {one['predicted_ns'] / one['run_ns']['median']:.2f} of the time", flush=True)


def types(args):
    """16-bit inputs beside f32, alternating."""
    for pattern in ("dense", "causal:autoregressive", "window:window", "dilated:comb", "neighbourhood_1d"):
        for dim in (64, 128):
            times = {dtype: [] for dtype in ("f32", "f16", "bf16")}
            for _ in range(3):
                for dtype, samples in times.items():
                    results, why = bench(args, pattern, *LINE, "--dim", dim, "--heads", 4, "--dtype", dtype, "--min-time", 300)
                    if results is None:
                        sys.exit(why)
                    samples.append(results[0]["run_ns"]["median"])
            base = statistics.median(times["f32"])
            ratios = ", ".join(f"{dtype} {statistics.median(s) / base:.3f}" for dtype, s in times.items() if dtype != "f32")
            print(f"{pattern:24} D {dim:3}: f32 {base / 1e6:8.2f} ms; of that time: {ratios}", flush=True)


def growth(args):
    """Nanoseconds a token as lengths grow."""
    constant = [("window:window", []), ("window:sliding", ["--set", "radius=128"]), ("streaming", []), ("blocked:blocked", []),
                ("neighbourhood_1d", []), ("dilated:dilated", []), ("packed", []), ("neighbourhood_2d:neighbourhood_2d", [])]
    for pattern, settings in constant:
        line = []
        for log in (16, 18, 20):
            n = 1 << log
            at = ["--tokens", n]
            name = pattern
            if pattern.startswith("neighbourhood_2d"):
                at = ["--size", f"image.h={n >> 9}", "--size", "image.w=512"]
            if pattern == "packed":
                name, at = "packed_documents", ["--tokens", n, "--docs", ",".join(str(d) for d in range(0, n + 1, 4096))]
            results, why = bench(args, name, *at, *settings, "--heads", 1, "--dim", 64, "--min-time", 0)
            if results is None:
                sys.exit(f"{pattern}: {why}")
            result = results[0]
            line.append((result["run_ns"]["median"] / n, result["peak_rss_bytes"] / 2**20 - 4 * n * 64 * 4 / 2**20))
        ratios = ", ".join(f"{ns / line[0][0]:.3f}" for ns, _ in line)
        memory = ", ".join(f"{mib:.0f}" for _, mib in line)
        print(f"{pattern:36} {line[0][0]:8.1f} ns a token; relative {ratios}; MiB beyond the tensors {memory}", flush=True)


def even(args):
    """Lengths from which on a pattern is faster than dense."""
    for pattern in ("causal:autoregressive", "window:window", "streaming", "longformer", "bigbird", "powerattention:powerattention",
                    "dilated:comb", "strided:strided", "fixed", "stripes:stripes", "neighbourhood_1d", "diagonal"):
        ratios = []
        for n in (64, 128, 256, 512, 1024, 2048, 4096):
            results, why = bench(args, pattern, "--tokens", n, "--heads", 4, "--dim", 64, "--against", "dense", "--min-time", 50)
            if results is None:
                sys.exit(f"{pattern}: {why}")
            ratios.append(f"{n}: {results[1]['run_ns']['median'] / results[0]['run_ns']['median']:.2f}")
        print(f"{pattern:32} x dense  {'  '.join(ratios)}", flush=True)


def decode(args):
    """One query on a long cache."""
    for dtype, size in (("f32", 4), ("f16", 2), ("bf16", 2), ("f32", 4), ("f16", 2)):
        results, why = bench(args, "dense", "--tokens", 1, "--keys", 131072, "--heads", 32, "--kv-heads", 8, "--dim", 128, "--dtype", dtype)
        if results is None:
            sys.exit(why)
        result = results[0]
        bytes_ = 2 * 8 * 131072 * 128 * size
        rate = bytes_ / result["run_ns"]["median"]
        peak = result.get("machine_read_gbps")
        share = f", {100 * rate / peak:.0f} % of the {peak:.1f} GB/s read" if peak else ""
        print(f"{dtype:5} {result['run_ns']['median'] / 1e6:8.2f} ms, {rate:6.1f} GB/s{share}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    runs = {"counts": counts, "dense": dense, "types": types, "growth": growth, "even": even, "decode": decode}
    parser.add_argument("what", choices=runs)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--target", default="cpu")
    parser.add_argument("--attnc", default=str(ROOT / "target/release/attnc"), help="the binary")
    args = parser.parse_args()
    runs[args.what](args)


if __name__ == "__main__":
    main()
