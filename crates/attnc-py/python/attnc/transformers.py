"""Patterns in models of Hugging Face Transformers.

::

    import attnc.transformers
    from transformers import AutoModel

    name = attnc.transformers.register("patterns/window.attn", width=64)
    model = AutoModel.from_pretrained(.., attn_implementation=name)

The name is ``attnc:patterns/window.attn?width=64``. The pattern takes the place of the model's own mask, causal or
sliding; padding on the right is honoured, and whatever else a model asks for that a kernel does not do is refused.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface

import attnc.torch

__all__ = ["register"]

# Arguments of attention that change its result and that no kernel honours.
_REFUSED = ("softcap", "position_bias", "s_aux", "head_mask", "block_mask", "cu_seq_lens_q", "cu_seq_lens_k")


def register(path: str | os.PathLike[str], name: str | None = None, *, key: str | None = None, **options: Any) -> str:
    """Make a pattern known to Transformers; returns the name to give as ``attn_implementation``.

    ``path``, ``name`` and ``options`` are the arguments of ``attnc.compile``; the file is compiled now, and what is
    wrong with it is raised here. ``key`` is another name than ``attnc:path?param=value``.
    """
    spec = attnc.torch.spec(path, name, **options)
    attnc.torch.kernel_of(spec)
    if key is None:
        key = f"attnc:{os.fspath(path)}" + (f":{name}" if name else "")
        params = {**(options.get("set") or {}), **{k: v for k, v in options.items() if k != "set"}}
        if params:
            key += "?" + "&".join(f"{k}={v}" for k, v in params.items())

    def attention(module, query, key, value, attention_mask, scaling=None, dropout=0.0, **kwargs):
        return _attention(spec, module, query, key, value, attention_mask, scaling, dropout, kwargs)

    AttentionInterface.register(key, attention)
    AttentionMaskInterface.register(key, _mask)
    return key


def _mask(batch_size, q_length=None, kv_length=None, attention_mask=None, **kwargs):
    """What layers are given as their mask: which tokens are there, ``[batch, keys]``, or nothing."""
    if attention_mask is not None and attention_mask.ndim != 2:
        raise ValueError("a mask of pairs was given: patterns take one of tokens, [batch, tokens]")
    return attention_mask


def _attention(spec, module, query, key, value, attention_mask, scaling, dropout, kwargs):
    if dropout:
        raise ValueError("kernels of attnc have no dropout: call model.eval()")
    for name in _REFUSED:
        if kwargs.get(name) is not None:
            raise ValueError(f"kernels of attnc do not honour `{name}`, which {type(module).__name__} asks for")
    if kwargs.get("output_attentions"):
        raise ValueError("kernels of attnc have no weights to return: output_attentions")
    queries, keys = query.shape[-2], key.shape[-2]
    if attention_mask is not None:
        attention_mask = attention_mask[:, -keys:] if attention_mask.shape[-1] > keys else attention_mask
    q_start = keys - queries if queries != keys else None
    out, _ = torch.ops.attnc.attend(query, key, value, spec, scaling, q_start, attention_mask)
    return out.transpose(1, 2).contiguous(), None
