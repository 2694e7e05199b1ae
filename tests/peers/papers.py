"""The papers of patterns/papers/ beside our dense attention and PyTorch's scaled_dot_product_attention, in one run.

    cargo build --release -p attnc-cli
    VENV/bin/python tests/peers/papers.py [--threads 2] [--target cpu:avx2] [--attnc BINARY] [--only NAME]...
    VENV/bin/python tests/peers/papers.py --pictures patterns/papers/pictures

Random queries, keys and values, f32, D 64, defaults of each paper; sizes of about 8,192 tokens. Prints a table: density
(entries over pairs; what is possible at most where the data decide how many are chosen), time, and how many times as
fast it is as our dense attention and, where torch is installed, as SDPA of all pairs of as many heads. With
`--pictures` it draws the first picture of each file into a folder instead.
"""

import argparse
import pathlib
import shlex
import statistics
import subprocess
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
    ("papers/dhsa", LINE, 4, 4), ("papers/combiner:fixed", LINE, 4, 4), ("papers/combiner:log_sparse", LINE, 4, 4),
    ("papers/combiner_axial", IMAGE, 4, 4), ("papers/think", LINE, 4, 4), ("papers/ultragen:ultragen", VIDEO, 4, 4),
    ("papers/longca_dynamic:uniform", LINE, 4, 4), ("papers/longca_dynamic:spread", LINE, 4, 4),
    ("papers/sqa:sqa", LINE, None, None), ("papers/lean", LINE, 4, 4),
    ("papers/clinical_longformer:clinical_longformer", LINE, None, None),
    ("papers/clinical_bigbird:clinical_bigbird", LINE, None, None),
    ("papers/gna:gna", [*TEXT, "--size", "video.t=18", "--size", "video.h=24", "--size", "video.w=24"], 4, 4),
    ("papers/token_merging", LINE, 4, 4),
    ("sparse_vdit", [*TEXT, *VIDEO], None, None), ("paro:example", VIDEO, 4, 4),
    ("clear", [*TEXT, *IMAGE], 4, 4), ("freeswim", VIDEO, 4, 4),
    ("powerattention:powerattention", LINE, 4, 4), ("masformer", LINE, None, None), ("bigbird", LINE, 4, 4),
    ("longformer", LINE, 4, 4), ("neighbourhood_2d:neighbourhood_2d", IMAGE, 4, 4),
]


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
    for file in sorted((ROOT / "patterns/papers").glob("*.attn")):
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
    parser.add_argument("--pictures", type=pathlib.Path, help="a folder to draw into")
    args = parser.parse_args()
    if args.pictures:
        return draw(args.attnc, args.pictures)
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
