"""FlexAttention and SDPA of PyTorch on a GPU, on exactly the sets of `sets.attn` and `grid.attn`.

    python3 tests/peers/pytorch_gpu.py 131072
    attnc bench tests/peers/sets.attn:window --target gpu --tokens 131072 --heads 16 --dim 64 --dtype f16 --format json

Times are of kernels alone, by events of the device: median of ten after three. Building the block mask and compiling
are told apart. One line of JSON a pattern.
"""

import json
import sys
import time

import torch
import torch.nn.functional as F
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

torch._dynamo.config.recompile_limit = 64
TOKENS = int(sys.argv[1]) if len(sys.argv) > 1 else 131072
HEADS, DIM, WIDTH = 16, 64, 256
HEIGHT = TOKENS // WIDTH


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


def neighbourhood(b, h, q, k):
    # 13 x 13, clamped to the grid.
    def near(a, b, extent):
        first = (a - 6).clamp(0, extent - 13)
        return (b >= first) & (b < first + 13)

    return near(q // WIDTH, k // WIDTH, HEIGHT) & near(q % WIDTH, k % WIDTH, WIDTH)


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
    "neighbourhood": neighbourhood,
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


def main():
    shape = (1, HEADS, TOKENS, DIM)
    q, k, v = (torch.randn(shape, device="cuda", dtype=torch.float16) for _ in range(3))
    print(json.dumps({"torch": torch.__version__, "gpu": torch.cuda.get_device_name(), "tokens": TOKENS}))
    for name, is_causal in (("sdpa_dense", False), ("sdpa_causal", True)):
        ms = median_ms(lambda: F.scaled_dot_product_attention(q, k, v, is_causal=is_causal))
        print(json.dumps({"pattern": name, "ms": ms}), flush=True)
    build = torch.compile(create_block_mask)
    for name, mask in SETS.items():
        heads = HEADS if name == "by_head" else None
        builds = []
        for _ in range(2):
            begin = time.time()
            block_mask = build(mask, None, heads, TOKENS, TOKENS, device="cuda")
            torch.cuda.synchronize()
            builds.append(time.time() - begin)
        attend = torch.compile(flex_attention, dynamic=False)
        begin = time.time()
        attend(q, k, v, block_mask=block_mask)
        torch.cuda.synchronize()
        compiled = time.time() - begin
        ms = median_ms(lambda: attend(q, k, v, block_mask=block_mask))
        line = {
            "pattern": name,
            "ms": ms,
            "compile_s": round(compiled, 2),
            "mask_first_s": round(builds[0], 2),
            "mask_again_ms": round(1000 * builds[1], 2),
            "block_sparsity": round(block_mask.sparsity(), 2),
        }
        print(json.dumps(line), flush=True)


main()
