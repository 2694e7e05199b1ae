"""What the tests of the Python package share."""

import math
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[3]

# Kernels that tests compile are shared by the tests, and by nobody else.
os.environ.setdefault("ATTNC_CACHE", tempfile.mkdtemp(prefix="attnc-"))

WINDOW = "param window = 8\n\npattern local = q - k in 0 .. window\n"


@pytest.fixture
def patterns():
    return ROOT / "patterns"


def normal(*shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def qkv(batch=2, heads=4, kv=2, n=100, d=16, dv=24):
    """Queries, keys and values of the usual shape."""
    return normal(batch, heads, n, d, seed=1), normal(batch, kv, n, d, seed=2), normal(batch, kv, n, dv, seed=3)


def dense(q, k, v, mask):
    """Attention by its definition, in doubles."""
    q, k, v = (np.asarray(a, dtype=np.float64) for a in (q, k, v))
    group = q.shape[-3] // k.shape[-3]
    k, v = np.repeat(k, group, axis=-3), np.repeat(v, group, axis=-3)
    s = q @ np.swapaxes(k, -1, -2) / math.sqrt(q.shape[-1])
    s = np.where(mask, s, -np.inf)
    top = s.max(axis=-1, keepdims=True)
    e = np.exp(s - top)
    total = e.sum(axis=-1, keepdims=True)
    return e @ v / total, (top + np.log(total))[..., 0]


def window_mask(n, window):
    d = np.arange(n)[:, None] - np.arange(n)[None, :]
    return (0 <= d) & (d < window)
