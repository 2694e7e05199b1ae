"""Masks for other engines: the arrays of Python, held against a mask of pairs."""

import attnc
import numpy as np
import pytest
from conftest import window_mask


@pytest.fixture(scope="module")
def local():
    return attnc.compile_text("pattern local = q - k in 0 .. 50\n")


def test_arrays_have_the_types_of_their_engine(local):
    types = {
        "flex": {"kv_num_blocks": "int32", "kv_indices": "int32", "full_kv_num_blocks": "int32",
                 "full_kv_indices": "int32", "row_starts": "int32", "row_ends": "int32"},
        "cudnn": {"mask_func": "int32"},
        "flashmask": {"startend_row_indices": "int32"},
        "flashinfer": {"indptr": "int32", "indices": "int32", "mask": "bool"},
        "splash": {"block_mask": "int8", "data_next": "int32", "mask_next": "int32", "partial_mask_blocks": "bool"},
        "magi": {"q_ranges": "int32", "k_ranges": "int32", "attn_type_map": "int32"},
        "csr": {"indptr": "int64", "indices": "int64"},
        "coo": {"row": "int64", "col": "int64"},
    }
    for name, arrays in types.items():
        made = local.export(name, 256, heads=4)
        found = {key: str(value.dtype) for key, value in made.items() if isinstance(value, np.ndarray)}
        assert found == arrays
        assert (made["format"], made["queries"], made["keys"], made["heads"]) == (name, 256, 256, 1)


def test_pairs_are_those_of_the_formula(local):
    expected = window_mask(256, 50)
    coo = local.export("coo", 256)
    mask = np.zeros((256, 256), dtype=bool)
    mask[coo["row"], coo["col"]] = True
    assert (mask == expected).all()
    csr = local.export("csr", 256)
    assert (np.diff(csr["indptr"]) == expected.sum(1)).all() and (csr["indices"] == coo["col"]).all()
    flash = local.export("flashmask", 256)
    start = flash["startend_row_indices"][0, 0, :, 0]
    row, col = np.arange(256)[:, None], np.arange(256)[None, :]
    assert flash["causal"] == 1 and ((row >= col) & (row < start[None, :]) == expected).all()
    ends = local.export("cudnn", 256)["mask_func"][0]
    inside = (col < ends[0][:, None]) | ((col >= ends[1][:, None]) & (col < ends[2][:, None]))
    assert (inside == expected).all()


def test_what_cannot_be_exported(local):
    with pytest.raises(ValueError, match="no format `dense`"):
        local.export("dense", 256)
    with pytest.raises(attnc.CompileError) as raised:
        attnc.compile_text("pattern p = q % 4 == k % 4\n").export("flashmask", 64)
    assert raised.value.code == "E0630" and "key 1 of head 0" in raised.value.message
    with pytest.raises(attnc.CompileError, match="block of 64 that begins with query row 64"):
        local.export("splash", 100, block=64)
    alibi = attnc.compile_text("attention a { score = score - abs(q - k)\n attend causal }\n")
    with pytest.raises(attnc.CompileError, match="score modifier"):
        alibi.export("csr", 8)
    assert alibi.export("csr", 8, mask_only=True)["indices"].size == 36
