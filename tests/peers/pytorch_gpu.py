"""FlexAttention and SDPA of PyTorch on a GPU, and `attnc` on exactly the same sets: `sets.attn` and `grid.attn`.

    python3 tests/peers/pytorch_gpu.py ATTNC 131072 32768

ATTNC is the program; of each set the two are measured one after the other on one device. Times are of kernels alone,
medians: of ten after three by events of the device, and by timestamp queries. Building the block mask and compiling are
told apart. One line of JSON a set, then a table in Markdown.
"""

import json
import math
import pathlib
import subprocess
import sys
import time

import torch
import torch.nn.functional as F
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

torch._dynamo.config.recompile_limit = 64
HERE = pathlib.Path(__file__).parent
HEADS, DIM, WIDTH = 16, 64, 256


def causal(b, h, q, k):
    return q >= k


def window(b, h, q, k):
    return (q >= k) & (q - k < 1024)


def multi_diagonal(b, h, q, k):
    return (q - k) % 1024 < 64


def stripes(b, h, q, k):
    return (q >= k) & ((k % 1024 < 32) | (q - k < 256))


def dilated(b, h, q, k):
    return (q >= k) & ((q - k) % 64 == 0)


def strided(b, h, q, k):
    return (q >= k) & ((q - k < 256) | ((q - k) % 256 == 0))


def longformer(b, h, q, k):
    return ((q - k).abs() <= 256) | (k < 64) | (q < 64)


def powers(b, h, q, k):
    d = q // 64 - k // 64
    return (q >= k) & (((d & (d - 1)) == 0) | (q - k < 512))


def neighbourhood(height, b, h, q, k):
    # 13 x 13, clamped to the grid.
    def near(a, b, extent):
        first = (a - 6).clamp(0, extent - 13)
        return (b >= first) & (b < first + 13)

    return near(q // WIDTH, k // WIDTH, height) & near(q % WIDTH, k % WIDTH, WIDTH)


def by_head(b, h, q, k):
    return (q >= k) & torch.where(h % 2 == 0, q - k < 512, (q - k) % 128 == 0)


SETS = {
    "autoregressive": causal,
    "window": window,
    "multi_diagonal": multi_diagonal,
    "stripes": stripes,
    "dilated": dilated,
    "strided": strided,
    "longformer": longformer,
    "powers": powers,
    "neighbourhood": None,
    "by_head": by_head,
}


def median_ms(run):
    for _ in range(3):
        run()
    torch.cuda.synchronize()
    times = []
    for _ in range(10):
        begin, end = torch.cuda.Event(True), torch.cuda.Event(True)
        begin.record()
        run()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end))
    return sorted(times)[len(times) // 2]


def ours(attnc, name, tokens):
    """Milliseconds of `attnc` on a set, and those of compiling it to WGSL."""
    file = "grid.attn" if name == "neighbourhood" else "sets.attn"
    sizes = ["--size", f"image.h={tokens // WIDTH}", "--size", f"image.w={WIDTH}"] if name == "neighbourhood" else []
    command = [attnc, "bench", f"{HERE / file}:{name}", "--target", "gpu:matrix", "--tokens", str(tokens), *sizes]
    command += ["--heads", str(HEADS), "--dim", str(DIM), "--dtype", "f16", "--format", "json", "--min-time", "200"]
    ran = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if ran.returncode != 0:
        return None, None
    result = json.loads(ran.stdout)["results"][0]
    return result["run_ns"]["median"] / 1e6, result["compile_ns"]["median"] / 1e6


def theirs(name, q, k, v):
    """What FlexAttention takes for a set."""
    tokens = q.shape[2]
    mask = SETS[name]
    if name == "neighbourhood":
        height = tokens // WIDTH

        def mask(b, h, q, k):
            return neighbourhood(height, b, h, q, k)

    build = torch.compile(create_block_mask)
    heads = HEADS if name == "by_head" else None
    builds = []
    for _ in range(2):
        begin = time.time()
        block_mask = build(mask, None, heads, tokens, tokens, device="cuda")
        torch.cuda.synchronize()
        builds.append(time.time() - begin)
    attend = torch.compile(flex_attention, dynamic=False)
    begin = time.time()
    attend(q, k, v, block_mask=block_mask)
    torch.cuda.synchronize()
    compiled = time.time() - begin
    return {
        "ms": median_ms(lambda: attend(q, k, v, block_mask=block_mask)),
        "compile_s": round(compiled, 2),
        "mask_first_s": round(builds[0], 2),
        "mask_again_ms": round(1000 * builds[1], 2),
        "block_sparsity": round(block_mask.sparsity(), 2),
    }


def main():
    attnc = sys.argv[1]
    table = {}
    lengths = [int(n) for n in sys.argv[2:]]
    version = subprocess.run([attnc, "--version"], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    about = {"torch": torch.__version__, "cuda": torch.version.cuda, "gpu": torch.cuda.get_device_name()}
    print(json.dumps({**about, "attnc": version}), flush=True)
    for tokens in lengths:
        torch._dynamo.reset()
        shape = (1, HEADS, tokens, DIM)
        q, k, v = (torch.randn(shape, device="cuda", dtype=torch.float16) for _ in range(3))
        for name, is_causal in (("sdpa_dense", False), ("sdpa_causal", True)):
            ms = median_ms(lambda: F.scaled_dot_product_attention(q, k, v, is_causal=is_causal))
            print(json.dumps({"set": name, "tokens": tokens, "ms": ms}), flush=True)
        for name in SETS:
            flex = theirs(name, q, k, v)
            ms, compiled = ours(attnc, name, tokens)
            print(json.dumps({"set": name, "tokens": tokens, "attnc_ms": ms, "wgsl_ms": compiled, **flex}), flush=True)
            table.setdefault(name, {})[tokens] = (ms, flex["ms"])
    print("| set |" + "".join(f" {n:,}: attnc | FlexAttention | ratio |" for n in lengths))
    print("| --- |" + " --- | --- | --- |" * len(lengths))
    means = {n: [] for n in lengths}
    for name, row in table.items():
        cells = ""
        for n in lengths:
            mine, flex = row[n]
            ratio = flex / mine if mine else float("nan")
            means[n].append(ratio)
            cells += f" {mine or 0:.3g} | {flex:.3g} | {ratio:.2f} |"
        print(f"| {name} |{cells}")
    cells = "".join(f" | | {math.exp(sum(map(math.log, r)) / len(r)):.2f} |" for r in means.values())
    print(f"| geometric mean |{cells}", flush=True)


main()
