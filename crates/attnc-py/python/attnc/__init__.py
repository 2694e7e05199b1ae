"""A compiler for sparse attention patterns.

A ``.attn`` file says which keys each query attends to::

    import attnc

    k = attnc.compile("patterns/window.attn", window=512)
    out, lse = k(q, k, v)

``q`` is ``[batch, heads, tokens, dim]``; arrays are those of numpy or anything with ``__dlpack__``, of any strides, and
nothing is copied. ``attnc.torch`` holds what is for PyTorch, ``attnc.transformers`` what is for
Transformers.
"""

from ._attnc import (
    CompileError,
    Error,
    Kernel,
    Picture,
    RunError,
    Threads,
    __version__,
    compile,
    compile_text,
    format,
    set_threads,
)

__all__ = [
    "CompileError",
    "Error",
    "Kernel",
    "Picture",
    "RunError",
    "Threads",
    "__version__",
    "compile",
    "compile_text",
    "format",
    "set_threads",
]
