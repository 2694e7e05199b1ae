"""The papers of patterns/papers/ beside our dense attention and PyTorch's scaled_dot_product_attention, in one run.

    cargo build --release -p attnc-cli
    VENV/bin/python tests/peers/papers.py [--threads 2] [--target cpu:avx2] [--attnc BINARY] [--only NAME]...
    VENV/bin/python tests/peers/papers.py --choosing [--tokens 32768]
    VENV/bin/python tests/peers/papers.py --growth
    VENV/bin/python tests/peers/papers.py --pictures patterns/papers/pictures

Random queries, keys and values, f32, D 64, defaults of each paper; sizes of about 8,192 tokens. Prints a table: density
(entries over pairs; what is possible at most where the data decide how many are chosen), time, and how many times as
fast it is as our dense attention and, where torch is installed, as SDPA of all pairs of as many heads. With
`--choosing` it prints instead what share of the time of block methods is choosing, with one head and with heads that
share keys: the time of the same selections with an attention to those of their keys that are key 0. With `--growth` it
prints how scores that are looked at and time grow over five doublings, of one head, beside n log2 n, or beside the
formula of a block method. With `--pictures` it draws the first picture of each file into a folder.
"""

import argparse
import math
import pathlib
import shlex
import statistics
import subprocess
import tempfile
import time

from own import IMAGE, LINE, ROOT, TEXT, VIDEO, bench

SQUARE = ["--size", "image.h=64", "--size", "image.w=64"]
GROUP = ["--size", "clusters=32"]

# File and name, sizes, heads and KV heads; models fix their heads.
PAPERS = [
    ("papers/llsa:llsa", SQUARE, 4, 4), ("papers/llsa:llsa_one", SQUARE, 4, 4),
    ("papers/vmoba:frames", VIDEO, 4, 4), ("papers/vmoba:frames_of_query", VIDEO, 4, 4),
    ("papers/hip:hip", LINE, 4, 4), ("papers/psa:psa", LINE, 4, 4),
    ("papers/dma:dma", LINE, 4, 4), ("papers/dma:dma_head", LINE, 4, 4),
    ("papers/dma:dma_smooth", LINE, 4, 4),
    ("papers/clear_pooled", [*TEXT, *IMAGE], 4, 4),
    ("papers/proxyattn:proxyattn", LINE, 4, 4), ("papers/hax", LINE, 4, 4),
    ("papers/routing:routing", [*LINE, *GROUP], 4, 4),
    ("papers/hyperattention:hyper", LINE, 4, 4), ("papers/hyperattention:hyper_causal", LINE, 4, 4),
    ("papers/dhsa", LINE, 4, 4), ("papers/combiner:fixed", LINE, 4, 4), ("papers/combiner:log_sparse", ["--tokens", "4096"], 4, 4),
    ("papers/combiner_axial:axial", IMAGE, 4, 4), ("papers/think", LINE, 4, 4), ("papers/ultragen:ultragen", VIDEO, 4, 4),
    ("papers/longca_dynamic:uniform", LINE, 4, 4), ("papers/longca_dynamic:spread", LINE, 4, 4),
    ("papers/sqa:sqa", LINE, None, None), ("papers/lean", LINE, 4, 4),
    ("papers/clinical_longformer:clinical_longformer", LINE, None, None),
    ("papers/clinical_bigbird:clinical_bigbird", LINE, None, None),
    ("papers/gna:gna", [*TEXT, "--size", "video.t=18", "--size", "video.h=24", "--size", "video.w=24"], 4, 4),
    ("papers/token_merging", LINE, 4, 4),
    ("sparse_vdit", [*TEXT, *VIDEO], None, None), ("paro:example", VIDEO, 4, 4),
    ("clear", [*TEXT, *IMAGE], 4, 4), ("freeswim", ["--size", "video.t=4", "--size", "video.h=40", "--size", "video.w=56"], 4, 4),
    ("powerattention:powerattention", LINE, 4, 4), ("masformer", LINE, None, None), ("bigbird", LINE, 4, 4),
    ("longformer", LINE, 4, 4), ("neighbourhood_2d:neighbourhood_2d", IMAGE, 4, 4),
]


# Papers without anything that depends on the data stand with the other patterns.
STATIC = ["sparse_vdit", "paro", "clear", "freeswim", "powerattention", "masformer"]

# Block methods: a file, what attends, and a selection that it reads.
CHOOSERS = [
    ("dhsa", "dhsa", "kept"), ("proxyattn", "proxyattn", "kept"), ("proxyattn", "proxyattn_all", "kept_all"),
    ("psa", "psa", "ranked.full"), ("vmoba", "frames", "times"), ("vmoba", "frames_of_query", "times_of_query"),
]


def choosing(args):
    """What share of the time is choosing."""
    print("| pattern | tokens | heads | KV heads | ms | x dense | choosing |\n| --- | --- | --- | --- | --- | --- | --- |", flush=True)
    video = ["--size", f"video.t={args.tokens // 1024}", "--size", "video.h=32", "--size", "video.w=32"]
    for file, name, selection in CHOOSERS:
        if args.only and not any(only in name for only in args.only):
            continue
        text = (ROOT / "patterns/papers" / f"{file}.attn").read_text()
        alone = f"\nattention only_choosing {{\n  empty = zero\n  attend k < 1 & {selection}\n}}\n"
        with tempfile.TemporaryDirectory() as folder:
            made = pathlib.Path(folder) / file
            made.with_suffix(".attn").write_text(text + alone)
            for heads, kv_heads in [(1, 1), (8, 2)]:
                sizes = video if file == "vmoba" else ["--tokens", args.tokens]
                shape = [*sizes, "--heads", heads, "--kv-heads", kv_heads, "--dim", 64, "--min-time", 300]
                whole, why = bench(args, f"{made}:{name}", *shape, "--against", "dense")
                part, part_why = bench(args, f"{made}:only_choosing", *shape)
                if whole is None or part is None:
                    print(f"| {name} | {why or part_why} |", flush=True)
                    continue
                ms, dense, only = (r["run_ns"]["median"] / 1e6 for r in [*whole, *part])
                print(f"| {name} | {args.tokens} | {heads} | {kv_heads} | {ms:.1f} | {dense / ms:.2f} | {only / ms:.0%} |", flush=True)


# What grows as n log n: name, its sizes by number of tokens, the first number.
GROWING = [
    ("hip:hip", lambda n: ["--set", "kept=64", "--tokens", n], 65536),
    ("hip:hip", lambda n: ["--set", "kept=32", "--tokens", n], 32768),
    ("hip:hip", lambda n: ["--tokens", n], 4096),
    ("llsa:llsa", lambda n: ["--size", f"image.h={n // 64}", "--size", "image.w=64"], 4096),
    ("llsa:llsa_three", lambda n: ["--size", f"image.h={n // 64}", "--size", "image.w=64"], 16384),
]


# Block methods: name, sizes, the first number of tokens, and a formula of n for the scores.
BY_FORMULA = [
    ("psa:psa", lambda n: ["--tokens", n], 4096, "n^2 / 16"),
    ("vmoba:frames", lambda n: ["--size", f"video.t={n // 1024}", "--size", "video.h=32", "--size", "video.w=32"], 4096,
     "n^2 / 2048"),
    ("dhsa", lambda n: ["--tokens", n], 4096, "n^2 / 4096"),
    ("proxyattn:proxyattn", lambda n: ["--tokens", n], 4096, "n^2 / 32 + 128 n"),
]

FORMULAS = {
    "n log2(n)": lambda n: n * math.log2(n),
    "n^2 / 16": lambda n: n**2 / 16,
    "n^2 / 2048": lambda n: n**2 / 2048,
    "n^2 / 4096": lambda n: n**2 / 4096,
    "n^2 / 32 + 128 n": lambda n: n**2 / 32 + 128 * n,
}


def growth(args):
    """How scores and time grow over five doublings."""
    cases = [(*case, "n log2(n)") for case in GROWING] + BY_FORMULA
    print("| pattern | tokens | ms | scores | over | constant | grows | time grows | entries | executed over useful |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for name, sizes, least, formula in cases:
        if args.only and not any(only in name for only in args.only):
            continue
        first = None
        for n in [least << i for i in range(6)]:
            shape = [*sizes(n), "--heads", 1, "--kv-heads", 1, "--dim", 64]
            result, why = bench(args, f"papers/{name}", *shape, "--min-time", 200)
            if result is None:
                print(f"| {name} | {n} | {why} |", flush=True)
                break
            r = result[0]
            ms, scores, entries = r["run_ns"]["median"] / 1e6, r["score_evaluations"], r["entries"]
            # Of block methods time goes with scores and entries: one multiply-add of an element, and two.
            constant, unit = scores / FORMULAS[formula](n), FORMULAS[formula](n) if formula == "n log2(n)" else scores + 2 * entries
            first = first or (constant, ms / unit)
            print(f"| {name} | {n} | {ms:.1f} | {scores} | {formula} | {constant:.3f} | x {constant / first[0]:.2f} "
                  f"| x {ms / unit / first[1]:.2f} | {entries} | {r['executed_flops'] / r['useful_flops']:.2f} |", flush=True)


def sdpa(heads, tokens, threads):
    """Milliseconds of PyTorch's dense attention; None without torch."""
    try:
        import torch
    except ImportError:
        return None
    torch.set_num_threads(threads)
    q, k, v = (torch.randn(1, heads, tokens, 64) for _ in range(3))
    times = []
    for _ in range(3):
        start = time.perf_counter()
        torch.nn.functional.scaled_dot_product_attention(q, k, v)
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times[1:])


def draw(attnc, folder):
    """The first picture in the comment of each file, as a bitmap."""
    folder.mkdir(exist_ok=True)
    static = [ROOT / f"patterns/{name}.attn" for name in STATIC]
    for file in sorted((ROOT / "patterns/papers").glob("*.attn")) + static:
        show = next(line for line in file.read_text().splitlines() if line.startswith("// $ attnc show"))
        arguments = shlex.split(show.removeprefix("// $ attnc"))
        output = (folder / file.name).with_suffix(".png").resolve()
        subprocess.run([attnc, *arguments, "--width", "64", "--output", output], check=True, cwd=ROOT)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--target", default="cpu")
    parser.add_argument("--attnc", default=str(ROOT / "target/release/attnc"))
    parser.add_argument("--calibration", help="a file of `attnc calibrate`")
    parser.add_argument("--only", action="append", help="a pattern to run, by a part of its name")
    parser.add_argument("--choosing", action="store_true", help="the share of choosing instead")
    parser.add_argument("--growth", action="store_true", help="how scores and time grow instead")
    parser.add_argument("--tokens", type=int, default=32768, help="for --choosing")
    parser.add_argument("--pictures", type=pathlib.Path, help="a folder to draw into")
    args = parser.parse_args()
    if args.pictures:
        return draw(args.attnc, args.pictures)
    if args.choosing:
        return choosing(args)
    if args.growth:
        return growth(args)
    known = {}
    print("| pattern | tokens | heads | density | ms | dense | SDPA |\n| --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for pattern, sizes, heads, kv_heads in PAPERS:
        if args.only and not any(only in pattern for only in args.only):
            continue
        shape = ["--heads", heads, "--kv-heads", kv_heads] if heads else []
        results, why = bench(args, pattern, *sizes, *shape, "--dim", 64, "--against", "dense", "--min-time", 300)
        if results is None:
            print(f"| {pattern} | {why[:120]} |", flush=True)
            continue
        ours, dense = results
        shape = (ours["heads"], ours["tokens"])
        if shape not in known:
            known[shape] = sdpa(*shape, args.threads)
        ms = ours["run_ns"]["median"] / 1e6
        density = ours["entries"] / (ours["heads"] * ours["tokens"] * ours["keys"])
        torch = f"{known[shape] / ms:.2f}" if known[shape] else "-"
        print(f"| {pattern.removeprefix('papers/')} | {ours['tokens']} | {ours['heads']} | {density:.4f} | {ms:.2f} | {dense['run_ns']['median'] / 1e6 / ms:.2f} | {torch} |", flush=True)


if __name__ == "__main__":
    main()
