import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, TypedDict, overload

import numpy as np
import numpy.typing as npt

__version__: str
__all__: list[str]

class _DLPack(Protocol):
    def __dlpack__(self, *args: Any, **kwargs: Any) -> Any: ...
    def __dlpack_device__(self) -> tuple[int, int]: ...

_Array = npt.NDArray[Any] | _DLPack
_Map = npt.ArrayLike | tuple[npt.ArrayLike, npt.ArrayLike]
_Param = int | float | str
_Target = Literal["cpu", "cpu:scalar", "cpu:avx2", "cpu:avx512", "oracle"]
_Format = Literal["flex", "cudnn", "flashmask", "flashinfer", "splash", "magi", "csr", "coo"]

class Label(TypedDict):
    file: str | None
    line: int
    column: int
    start: int
    end: int
    text: str

class Diagnostic(TypedDict):
    code: str
    severity: Literal["error", "warning"]
    message: str
    help: str | None
    labels: list[Label]

class Error(ValueError):
    code: str
    message: str
    help: str | None
    labels: list[Label]
    diagnostics: list[Diagnostic]

class CompileError(Error): ...
class RunError(Error): ...

class Cost(TypedDict):
    entries: int
    useful_flops: int
    executed_flops: int
    overhead: float
    full_tiles: int
    partial_tiles: int
    empty_rows: int
    max_row: int
    bytes_min: int
    bytes_tiles: int

class Threads:
    def __new__(cls, count: int) -> Threads: ...
    @property
    def count(self) -> int: ...

class Picture:
    @property
    def text(self) -> str: ...
    @property
    def svg(self) -> str: ...
    @property
    def png(self) -> bytes: ...
    def _repr_png_(self) -> bytes: ...

class Kernel:
    @overload
    def __call__(
        self,
        q: _Array,
        k: _Array,
        v: _Array,
        *,
        out: _Array | None = None,
        lse: _Array | None = None,
        return_lse: Literal[True] = True,
        q_start: int | None = None,
        k_start: int | None = None,
        lengths: Sequence[tuple[int, int]] | None = None,
        docs: npt.ArrayLike | None = None,
        sizes: Mapping[str, int] | None = None,
        maps: Mapping[str, _Map] | None = None,
        tensors: Mapping[str, npt.ArrayLike] | None = None,
        supplied: Mapping[str, npt.ArrayLike] | None = None,
        returns: None = None,
        threads: Threads | None = None,
    ) -> tuple[Any, Any]: ...
    @overload
    def __call__(
        self,
        q: _Array,
        k: _Array,
        v: _Array,
        *,
        out: _Array | None = None,
        lse: _Array | None = None,
        return_lse: Literal[False],
        q_start: int | None = None,
        k_start: int | None = None,
        lengths: Sequence[tuple[int, int]] | None = None,
        docs: npt.ArrayLike | None = None,
        sizes: Mapping[str, int] | None = None,
        maps: Mapping[str, _Map] | None = None,
        tensors: Mapping[str, npt.ArrayLike] | None = None,
        supplied: Mapping[str, npt.ArrayLike] | None = None,
        returns: None = None,
        threads: Threads | None = None,
    ) -> Any: ...
    @overload
    def __call__(
        self,
        q: _Array,
        k: _Array,
        v: _Array,
        *,
        out: _Array | None = None,
        lse: _Array | None = None,
        return_lse: bool = True,
        q_start: int | None = None,
        k_start: int | None = None,
        lengths: Sequence[tuple[int, int]] | None = None,
        docs: npt.ArrayLike | None = None,
        sizes: Mapping[str, int] | None = None,
        maps: Mapping[str, _Map] | None = None,
        tensors: Mapping[str, npt.ArrayLike] | None = None,
        supplied: Mapping[str, npt.ArrayLike] | None = None,
        returns: Sequence[str],
        threads: Threads | None = None,
    ) -> tuple[Any, ...]: ...
    def mask(
        self,
        tokens: int | None = None,
        keys: int | None = None,
        *,
        head: int = 0,
        heads: int | None = None,
        q_start: int | None = None,
        k_start: int | None = None,
        docs: npt.ArrayLike | None = None,
        sizes: Mapping[str, int] | None = None,
        maps: Mapping[str, _Map] | None = None,
        tensors: Mapping[str, npt.ArrayLike] | None = None,
    ) -> npt.NDArray[np.bool_]: ...
    def show(
        self,
        tokens: int | None = None,
        keys: int | None = None,
        *,
        head: int = 0,
        heads: int | None = None,
        q_start: int | None = None,
        k_start: int | None = None,
        docs: npt.ArrayLike | None = None,
        sizes: Mapping[str, int] | None = None,
        maps: Mapping[str, _Map] | None = None,
        tensors: Mapping[str, npt.ArrayLike] | None = None,
    ) -> Picture: ...
    def cost(
        self,
        tokens: int | None = None,
        keys: int | None = None,
        *,
        heads: int | None = None,
        dim: int = 64,
        dim_v: int | None = None,
        dtype: Literal["float32", "float16", "bfloat16"] = "float32",
        batch: int = 1,
        q_start: int | None = None,
        k_start: int | None = None,
        docs: npt.ArrayLike | None = None,
        sizes: Mapping[str, int] | None = None,
        maps: Mapping[str, _Map] | None = None,
        tensors: Mapping[str, npt.ArrayLike] | None = None,
    ) -> Cost: ...
    def export(
        self,
        format: _Format,
        tokens: int | None = None,
        keys: int | None = None,
        *,
        heads: int | None = None,
        block: int | None = None,
        most: int | None = None,
        mask_only: bool = False,
        q_start: int | None = None,
        k_start: int | None = None,
        docs: npt.ArrayLike | None = None,
        sizes: Mapping[str, int] | None = None,
        maps: Mapping[str, _Map] | None = None,
        tensors: Mapping[str, npt.ArrayLike] | None = None,
    ) -> dict[str, Any]: ...
    def output_heads_of(self, heads: int) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def layer(self) -> int: ...
    @property
    def heads(self) -> tuple[int, int] | None: ...
    @property
    def isa(self) -> str | None: ...
    @property
    def plan(self) -> str: ...
    @property
    def plan_hash(self) -> str: ...
    @property
    def sizes(self) -> list[str]: ...
    @property
    def warnings(self) -> str: ...

def compile(
    path: str | os.PathLike[str],
    name: str | None = None,
    *,
    layer: int = 0,
    step: int = 0,
    target: _Target = "cpu",
    set: Mapping[str, _Param] | None = None,
    **params: _Param,
) -> Kernel: ...
def compile_text(
    text: str,
    name: str | None = None,
    *,
    layer: int = 0,
    step: int = 0,
    target: _Target = "cpu",
    set: Mapping[str, _Param] | None = None,
    **params: _Param,
) -> Kernel: ...
def format(text: str) -> str: ...
def set_threads(count: int) -> None: ...
