"""Figures of `attnc bench` beside each other: no other system is needed.

    cargo build --release -p attnc-cli
    python3 tests/peers/own.py counts | dense | types | growth | even | decode | model  [--threads 2] [--target cpu:avx2] [--attnc BINARY]

counts  operations of every static pattern of patterns/ and of some more on grids, executed over useful, and what they are
        in the given order where that is another; nothing is run
dense   every pattern of patterns/ beside dense attention of the same shape
types   f16 and bf16 beside f32
growth  eight patterns of constant row size from 65,536 to 1,048,576 tokens: time a token
even    from which length on a pattern is faster than dense
decode  one query, 131,072 keys: bytes of K and V a second
model   predicted beside measured times: patterns, lengths, dimensions, types and decoding steps, none of which calibrates
        (--json FILE keeps all results)
"""

import argparse
import json
import math
import pathlib
import statistics
import subprocess
import sys
import tempfile

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


PEERS = ROOT / "tests/peers"
WIDE = ["--size", "video.t=16", "--size", "video.h=32", "--size", "video.w=32"]

# What is counted besides: parts of patterns, other layers of models, sets on grids.
COUNTED = [
    *[(name, LINE) for name in (
        "blocked:blocked_causal", "bigbird:local", "bigbird:globals", "strided:local", "stripes:columns", "masformer:local",
        "longca:full", "longca:full_causal", "longca:sliding_window", "longca:sliding_window_causal",
        "longca:causal_blockwise --docs 0,700,1500,3000,4000,6500,8192", "longca:share_question --docs 0,700,1500,3000,4000,6500,8192",
        "longca:full_document --docs 0,700,1500,3000,4000,6500,8192", "longca:causal_document --docs 0,700,1500,3000,4000,6500,8192",
        "longca:global_sliding_window", "longca:block_causal_document --docs 0,700,1500,3000,4000,6500,8192",
        "longca:prefix_lm_causal --size prefix=1024",
        "longca:prefix_lm_document --size prefix=1024 --docs 0,700,1500,3000,4000,6500,8192",
        "packed_documents:packed_window --docs 0,700,1500,3000,4000,6500,8192",
        "models/mistral:local", "models/gemma3:local", "models/gemma3:global", "models/gpt_oss:local", "models/gpt_oss:full",
        "models/llama4:chunked", "models/llama4:full", "papers/clinical_longformer:longformer", "papers/lean:lean")],
    *[(f"papers/combiner:{name}", ["--tokens", "4096"]) for name in ("fixed", "log_sparse", "log_sparse_near")],
    *[(f"sparse_vdit:{name}", [*TEXT, *VIDEO]) for name in ("diagonal", "stripes")],
    *[(f"{PEERS}/image:round", [*IMAGE, "--set", f"radius={radius}"]) for radius in (4, 8, 16)],
    (f"{PEERS}/image:column", IMAGE), (f"{PEERS}/image:cross", IMAGE),
    (f"{PEERS}/video:near_by", WIDE), (f"{PEERS}/video:round", WIDE),
]


def subject(pattern):
    """The argument for a pattern of `patterns/`, or of a file with its path."""
    file, _, name = pattern.partition(":")
    return str(ROOT / "patterns" / f"{file}.attn") + (f":{name}" if name else "")


def bench(args, patterns, *rest, threads=None):
    """The results of `attnc bench` of patterns, or why there are none."""
    subjects = [subject(pattern) for pattern in ([patterns] if isinstance(patterns, str) else patterns)]
    command = [args.attnc, "bench", *subjects, "--threads", str(threads or args.threads), "--target", args.target, "--format", "json", *map(str, rest)]
    if args.calibration:
        command += ["--calibration", args.calibration]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        return None, " ".join(done.stderr.split())[:160]
    return json.loads(done.stdout)["results"], None


def heads(pattern):
    """Models fix how many heads there are."""
    fixed = {"models/mistral": (32, 8), "models/gemma3": (32, 16), "models/gpt_oss": (64, 8), "models/llama4": (40, 8), "masformer": (16, 16), "sparse_vdit": (48, 48)}
    h, g = fixed.get(pattern, (4, 4))
    return ["--heads", h, "--kv-heads", g]


def cost(args, pattern, at, *rest):
    """What `attnc cost` says of a pattern, or why it says nothing."""
    pattern, *more = pattern.split()
    command = [args.attnc, "cost", subject(pattern), "--dim", "64", "--format", "json", *map(str, at), *more, *rest]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return (json.loads(done.stdout), None) if done.returncode == 0 else (None, " ".join(done.stderr.split())[:160])


def counts(args):
    """Executed over useful operations, from exact counts."""
    for pattern, at in PATTERNS + COUNTED:
        found, why = cost(args, pattern, at)
        given, _ = cost(args, pattern, at, "--no-pass", "reorder")
        name = pattern.split()[0].removeprefix(f"{PEERS}/")
        if found is None:
            print(f"{name:36} {why}")
            continue
        density = found["entries"] / (found["heads"] * found["tokens"] * found["keys"])
        other = f"; in the given order {given['overhead']:6.3f}" if given and abs(given["overhead"] - found["overhead"]) > 0.0005 else ""
        print(f"{name:36} {' '.join(map(str, at)):60} density {density:.4f}  executed {found['overhead']:6.3f} x useful{other}", flush=True)


def dense(args):
    """Every pattern beside dense attention, with the same scores where a pattern modifies them."""
    for pattern, at in PATTERNS:
        results, why = bench(args, pattern, *at, "--dim", 64, "--against", "dense", "--min-time", args.min_time or 0, *heads(pattern))
        if results is None:
            print(f"{pattern:36} {why}")
            continue
        one, all_ = results
        density = one["useful_flops"] / max(1, all_["useful_flops"])
        print(f"{pattern:36} {one['run_ns']['median'] / 1e6:9.2f} ms, {one['speedup_over_dense']:7.2f} x dense"
              f"{' with the same scores' if all_['pattern'] != 'dense' else ''} at density {density:.4f}; "
              f"executed {one['executed_flops'] / max(1, one['useful_flops']):5.2f} x useful; "
              f"{'is dense itself; ' if density > 0.999 else ''}"
              f"model {one['predicted_ns'] / one['run_ns']['median']:.2f} of the time", flush=True)


def types(args):
    """16-bit inputs beside f32, in turns."""
    for pattern in ("dense", "causal:autoregressive", "window:window", "dilated:comb", "neighbourhood_1d"):
        for dim in (64, 128):
            results, why = bench(args, pattern, *LINE, "--dim", dim, "--heads", 4, "--dtype", "f32,f16,bf16", "--min-time", args.min_time or 1000)
            if results is None:
                sys.exit(why)
            base = results[0]["run_ns"]["median"]
            ratios = ", ".join(f"{result['dtype']} {result['run_ns']['median'] / base:.3f}" for result in results[1:])
            print(f"{pattern:24} D {dim:3}: f32 {base / 1e6:8.2f} ms; of that time: {ratios}", flush=True)


def growth(args):
    """Nanoseconds a token as lengths grow."""
    constant = [("window:window", []), ("window:sliding", ["--set", "radius=128"]), ("streaming", []), ("blocked:blocked", []),
                ("neighbourhood_1d", []), ("dilated:dilated", ["--set", "keys=64"]), ("packed", []), ("neighbourhood_2d:neighbourhood_2d", [])]
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
                    "dilated:comb", "strided:strided", "fixed", "stripes:stripes", "neighbourhood_1d", "diagonal",
                    "neighbourhood_2d:neighbourhood_2d"):
        ratios = []
        for n in (64, 128, 256, 512, 1024, 2048, 4096):
            # A neighbourhood of 13 x 13 wants as large a grid.
            if "2d" in pattern and n < 256:
                continue
            side = 1 << (n.bit_length() - 1) // 2
            at = ["--size", f"image.h={side}", "--size", f"image.w={n // side}"] if "2d" in pattern else ["--tokens", n]
            results, why = bench(args, pattern, *at, "--heads", 4, "--dim", 64, "--against", "dense", "--min-time", 50)
            if results is None:
                sys.exit(f"{pattern}: {why}")
            ratios.append(f"{n}: {results[1]['run_ns']['median'] / results[0]['run_ns']['median']:.2f}")
        print(f"{pattern:32} x dense  {'  '.join(ratios)}", flush=True)


def decode(args):
    """One query on a long cache, types in turns."""
    results, why = bench(args, "dense", "--tokens", 1, "--keys", 131072, "--heads", 32, "--kv-heads", 8, "--dim", 128,
                         "--dtype", "f32,f16,bf16", "--min-time", args.min_time or 3000)
    if results is None:
        sys.exit(why)
    base = results[0]["run_ns"]["median"]
    for result in results:
        time, read = result["run_ns"]["median"], result["machine_read_gbps"]
        print(f"{result['dtype']:5} {time / 1e6:8.2f} ms, {result['gbps']:6.1f} GB/s, {100 * result['gbps'] / read:.0f} % of the {read:.1f} GB/s read; "
              f"{base / time:.2f} x as fast as f32", flush=True)


# What the model is asked for besides every pattern at three lengths: a few patterns in other shapes.
OTHERS = [
    *[(f"D {dim}", (4, 4), None, ["--dim", dim]) for dim in (32, 96, 128)],
    *[(f"D {dim}, {dtype}", (4, 4), None, ["--dim", dim, "--dtype", dtype]) for dim, dtype in ((64, "f16"), (96, "bf16"), (128, "f16"))],
    ("1 thread", (4, 4), 1, ["--dim", 64]), ("8 heads on 2", (8, 2), None, ["--dim", 64]),
]
DECODE = [(keys, heads, kv, dtype) for keys in (4096, 32768, 131072) for heads, kv in ((32, 8), (8, 8)) for dtype in ("f32", "f16")]


# What is, or nearly is, among the launches that calibrate.
PROBED = {(8192, "dilated:comb"), (8192, "dilated:dilated"), (8192, "neighbourhood_1d"), (4096, "neighbourhood_2d:neighbourhood_2d")}


def scaled(at, lengths):
    """Arguments for shorter sequences and smaller grids."""
    out = list(at)
    for i, word in enumerate(at):
        if word == "--tokens":
            out[i + 1] = lengths[0]
        elif str(word).startswith("image."):
            out[i] = f"image.{'h' if 'h' in word else 'w'}={lengths[1][0 if '.h' in word else 1]}"
        elif str(word).startswith("video.") and at is VIDEO:
            out[i] = f"{word[:8]}{lengths[2]['thw'.index(word[6])]}"
        elif word == "--docs":
            out[i + 1] = ",".join(str(int(d) * lengths[0] // 8192) for d in str(at[i + 1]).split(","))
    return out


def model(args):
    """Errors of the model, with a calibration made for it on as many threads."""
    groups = {}
    with tempfile.TemporaryDirectory() as directory:
        args.calibration = str(pathlib.Path(directory) / "calibration.json")
        subprocess.run([args.attnc, "calibrate", "--target", args.target, "--threads", str(args.threads), "--output", args.calibration],
                       check=True, stdout=subprocess.DEVNULL)
        measure(args, groups)
    for name, results in groups.items():
        line(name, results)
    everything = [r for results in groups.values() for r in results]
    line("all", everything)
    line("clock of then", everything, lambda r: r["predicted_ns"] / r["slowness"])


def line(name, results, predicted=lambda r: r["predicted_ns"]):
    """How far predictions are off."""
    ratios = [(predicted(r) / r["run_ns"]["median"], r) for r in results]
    errors = sorted(abs(ratio - 1) for ratio, _ in ratios)
    worst, of = max(ratios, key=lambda x: abs(x[0] - 1))
    print(f"{name:14} {len(errors):4} results: median error {100 * statistics.median(errors):5.1f} %, 90th percentile "
          f"{100 * errors[math.ceil(0.9 * len(errors)) - 1]:5.1f} %; furthest {of['pattern']}, {worst:.2f} of the time", flush=True)


def measure(args, groups):
    """Fills lists of results by name of a group."""
    def take(group, patterns, *rest, threads=None):
        results, why = bench(args, patterns, *rest, "--min-time", 50, threads=threads)
        if results is None:
            sys.exit(f"{group}: {patterns}: {why}")
        groups.setdefault(group, []).extend(results)
        if args.json:
            calibration = json.loads(pathlib.Path(args.calibration).read_text())
            pathlib.Path(args.json).write_text(json.dumps({"calibration": calibration, "results": groups}))

    for lengths in ((1500, (24, 48), (5, 20, 24)), (4096, (64, 64), (8, 24, 24)), (8192, (64, 128), (8, 32, 32))):
        # Patterns of the same shape share what is measured once.
        alike = {}
        for pattern, at in PATTERNS:
            # Dilated neighbours want a grid of some size; models of many heads are long at full length.
            if (lengths[0], pattern) not in PROBED and not (pattern == "neighbourhood_2d:dilated" and lengths[0] < 4096) and not (heads(pattern)[1] > 16 and lengths[0] > 1500):
                alike.setdefault(tuple([*scaled(at, lengths), *heads(pattern)]), []).append(pattern)
        for at, patterns in alike.items():
            take(f"{lengths[0]} tokens", patterns, *at, "--dim", 64)
    some = ["causal:autoregressive", "window:window", "longformer", "bigbird", "dilated:comb", "strided:strided", "stripes:stripes", "alibi"]
    for name, (h, kv), threads, shape in OTHERS:
        of_heads = ["--heads", h, "--kv-heads", kv, *shape]
        take(name, some, "--tokens", 3000, *of_heads, threads=threads)
        take(name, "neighbourhood_2d:neighbourhood_2d", "--size", "image.h=48", "--size", "image.w=64", *of_heads, threads=threads)
    for keys, h, kv, dtype in DECODE:
        take("decode", "dense", "--tokens", 1, "--keys", keys, "--heads", h, "--kv-heads", kv, "--dim", 128, "--dtype", dtype)
    for keys in (8192, 65536):
        take("decode", ["window:window", "causal:autoregressive"], "--tokens", 1, "--keys", keys, "--q-start", keys - 1, "--heads", 16, "--kv-heads", 4, "--dim", 64)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    runs = {"counts": counts, "dense": dense, "types": types, "growth": growth, "even": even, "decode": decode, "model": model}
    parser.add_argument("what", choices=runs)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--target", default="cpu")
    parser.add_argument("--attnc", default=str(ROOT / "target/release/attnc"), help="the binary")
    parser.add_argument("--calibration", help="a file of `attnc calibrate`; `model` makes its own")
    parser.add_argument("--min-time", type=int, help="milliseconds for each result of `dense`, `types` and `decode`")
    parser.add_argument("--json", help="a file for all results of `model`")
    args = parser.parse_args()
    runs[args.what](args)


if __name__ == "__main__":
    main()
