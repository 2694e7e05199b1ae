"""Kernels in PyTorch: an operator that ``torch.compile`` keeps in its graph, masks for FlexAttention.

::

    import attnc.torch

    out, lse = attnc.torch.attend(q, k, v, "patterns/window.attn", width=512)

The operator runs on the CPU, forward only: whoever asks for a gradient gets an error.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

import attnc

__all__ = ["attend", "block_mask", "spec"]

_known: dict[str, tuple[Any, attnc.Kernel]] = {}
_lock = threading.Lock()


def spec(
    path: str | os.PathLike[str],
    name: str | None = None,
    *,
    layer: int = 0,
    step: int = 0,
    target: str = "cpu",
    set: Mapping[str, Any] | None = None,
    **params: Any,
) -> str:
    """What to compile, as a text: the arguments of ``attnc.compile``.

    An operator takes it in place of a kernel, since a graph may be kept and run by another process.
    """
    given = {"path": os.path.abspath(_file(path)), "name": name or _name(path), "layer": layer, "step": step}
    return json.dumps({**given, "target": target, "set": {**(set or {}), **params}}, sort_keys=True)


def _name(path: str | os.PathLike[str]) -> str | None:
    text = os.fspath(path)
    head, _, tail = text.rpartition(":")
    return tail if head and tail.isidentifier() and tail.isascii() else None


def _file(path: str | os.PathLike[str]) -> str:
    text = os.fspath(path)
    return text.rpartition(":")[0] if _name(text) else text


def kernel_of(spec: str) -> attnc.Kernel:
    """The kernel of a text made by ``spec``; it is compiled anew when its file has changed."""
    given = json.loads(spec)
    try:
        stat = os.stat(given["path"])
        now = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
    except OSError:
        now = None
    with _lock:
        known = _known.get(spec)
    if known is not None and known[0] == now:
        return known[1]
    path = given.pop("path")
    kernel = attnc.compile(path, given.pop("name"), **given)
    with _lock:
        _known[spec] = (now, kernel)
    return kernel


def _lengths(mask: Tensor, queries: int, keys: int) -> list[tuple[int, int]]:
    """Lengths of padded items, from a mask ``[batch, keys]`` of tokens that are there."""
    there = mask != 0
    count = there.sum(-1)
    if not torch.equal(there, torch.arange(keys, device=mask.device) < count[:, None]):
        raise ValueError("`mask` has tokens behind padding: pad on the right")
    if queries == keys:
        return [(n, n) for n in count.tolist()]
    return [(queries, n) for n in count.tolist()]


@torch.library.custom_op("attnc::attend", mutates_args=())
def _attend(
    q: Tensor, k: Tensor, v: Tensor, spec: str, scale: float | None, q_start: int | None, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    kernel = kernel_of(spec)
    q, k, v = q.detach(), k.detach(), v.detach()
    usual = q.shape[-1] ** -0.5
    if scale is not None and abs(scale - usual) > 1e-6 * usual:
        # The file's scale stands for 1 / sqrt(dim).
        q = q * (scale / usual)
    lengths = None if mask is None else _lengths(mask, q.shape[-2], k.shape[-2])
    return kernel(q, k, v, q_start=q_start, lengths=lengths)


@_attend.register_fake
def _(q, k, v, spec, scale, q_start, mask):
    heads = kernel_of(spec).output_heads_of(int(q.shape[-3]))
    shape = (*q.shape[:-3], heads, q.shape[-2])
    return q.new_empty((*shape, v.shape[-1])), q.new_empty(shape, dtype=torch.float32)


@torch.compiler.assume_constant_result
def _constant(pattern: str | os.PathLike[str], options: dict[str, Any]) -> str:
    """``spec``, worked out when a graph is made and a constant in it."""
    text = os.fspath(pattern)
    return text if text.startswith("{") else spec(text, **options)


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pattern: str | os.PathLike[str],
    *,
    scale: float | None = None,
    q_start: int | None = None,
    mask: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor]:
    """Attention of ``q`` over ``k`` and ``v`` under a pattern: ``(out, lse)``.

    ``q`` is ``[batch, heads, tokens, dim]``, ``k`` and ``v`` ``[batch, kv_heads, keys, dim]``, on the CPU, of any
    strides. ``pattern`` and ``options`` are the arguments of ``attnc.compile``, or a text made by ``spec``. ``scale``
    takes the place of ``1 / sqrt(dim)``; ``mask`` ``[batch, keys]`` says which tokens of a batch padded on the right are
    there.

    Raises ``attnc.Error`` for what does not fit. There is no gradient.
    """
    return torch.ops.attnc.attend(q, k, v, _constant(pattern, options), scale, q_start, mask)


def block_mask(kernel: attnc.Kernel, tokens: int | None = None, keys: int | None = None, **options: Any) -> BlockMask:
    """The pattern as a mask for ``flex_attention``.

    ``options`` are those of ``kernel.export("flex", ..)``. Rows of up to 16 ranges of keys are tested range by range;
    others need a table of all pairs.
    """
    made = kernel.export("flex", tokens, keys, **options)
    arrays = {name: torch.from_numpy(value) for name, value in made.items() if hasattr(value, "shape")}
    starts, ends = arrays["row_starts"], arrays["row_ends"]
    heads, n_q, n_k, block = made["heads"], made["queries"], made["keys"], made["block"]
    alike = heads == 1

    if starts.shape[-1] <= 16:
        # One flat table, and numbers in tensors: whatever a function of a mask reads is compiled with it, and plain
        # numbers would be compiled once more when they change.
        table = torch.stack([starts, ends]).permute(3, 0, 1, 2).reshape(-1).contiguous()
        last, size = torch.tensor(n_q - 1), torch.tensor(heads * n_q)
        of_head = torch.tensor(0 if alike else n_q)

        def mask_mod(b, h, q, kv):
            # Blocks reach beyond the last query.
            at = h * of_head + torch.minimum(q, last)
            found = kv < 0
            for _ in range(starts.shape[-1]):
                found = found | ((kv >= table[at]) & (kv < table[at + size]))
                at = at + 2 * size
            return found

    else:
        step = torch.zeros((heads, n_q, n_k + 1), dtype=torch.int8)
        one = torch.ones((), dtype=torch.int8)
        for i in range(starts.shape[-1]):
            step.scatter_add_(2, starts[..., i : i + 1].long(), one.expand(heads, n_q, 1))
            step.scatter_add_(2, ends[..., i : i + 1].long(), -one.expand(heads, n_q, 1))
        table = step.cumsum(-1)[..., :n_k] > 0

        def mask_mod(b, h, q, kv):
            row = h * 0 if alike else h
            return table[row, q.clamp(max=n_q - 1), kv.clamp(max=n_k - 1)] & (kv < n_k)

    return BlockMask.from_kv_blocks(
        arrays["kv_num_blocks"],
        arrays["kv_indices"],
        arrays["full_kv_num_blocks"],
        arrays["full_kv_indices"],
        BLOCK_SIZE=(block, block),
        mask_mod=mask_mod,
        seq_lengths=(n_q, n_k),
    )
