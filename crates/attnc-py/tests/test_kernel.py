"""Kernels on arrays: results against the definition, layouts, element types, memory that is not copied."""

import array_api_strict
import attnc
import numpy as np
import pytest
from conftest import WINDOW, dense, normal, qkv, window_mask


@pytest.fixture(scope="module")
def local():
    return attnc.compile_text(WINDOW)


def close(a, b, tolerance=2e-5):
    np.testing.assert_allclose(np.asarray(a, dtype=np.float64), b, rtol=0, atol=tolerance)


def test_a_file_is_compiled_with_its_params(patterns):
    q, k, v = qkv()
    kernel = attnc.compile(patterns / "window.attn", width=17)
    out, lse = kernel(q, k, v)
    expected, expected_lse = dense(q, k, v, window_mask(100, 17))
    assert out.dtype == np.float32 and out.shape == (2, 4, 100, 24)
    assert lse.dtype == np.float32 and lse.shape == (2, 4, 100)
    close(out, expected)
    close(lse, expected_lse)
    assert kernel.name == "window" and "window" in repr(kernel)
    assert attnc.compile(str(patterns / "window.attn:window"), set={"width": "17"}).plan_hash == kernel.plan_hash


def test_names_and_models(patterns):
    net = "attention near { attend q - k in 0 .. 3 }\nattention far { attend causal }\n" \
          "model net(layers = 2, heads = 2 on 1) { layer 0 => near, _ => far }\n"
    first, second = (attnc.compile_text(net, layer=layer) for layer in (0, 1))
    assert first.heads == (2, 1) and first.name == "net" and second.layer == 1
    q, k, v = qkv(1, 2, 1)
    close(first(q, k, v)[0], dense(q, k, v, window_mask(100, 3))[0])
    close(second(q, k, v)[0], dense(q, k, v, window_mask(100, 100))[0])
    assert attnc.compile_text(net, "near").heads is None


def test_arrays_without_a_batch(local):
    q, k, v = (a[0] for a in qkv())
    out, lse = local(q, k, v)
    assert out.shape == (4, 100, 24) and lse.shape == (4, 100)
    close(out, dense(q, k, v, window_mask(100, 8))[0])
    assert local(q, k, v, return_lse=False).shape == (4, 100, 24)


@pytest.mark.parametrize("layout", ["fused", "reversed", "transposed", "broadcast", "read-only"])
def test_strides_are_read_in_place(local, layout):
    q, k, v = qkv(1, 2, 2, 50, 16, 16)
    if layout == "fused":
        # [tokens, 3, heads, dim], as one projection leaves it.
        fused = normal(50, 3, 2, 16, seed=9)
        q, k, v = (np.transpose(fused[:, i], (1, 0, 2))[None] for i in range(3))
        assert not q.flags.c_contiguous
    elif layout == "reversed":
        q, k, v = q[:, :, ::-1], k[:, ::-1], v[..., ::-1]
    elif layout == "transposed":
        k = np.swapaxes(normal(1, 2, 16, 50, seed=4), -1, -2)
    elif layout == "broadcast":
        k = np.broadcast_to(k[:, :1], k.shape)
    else:
        for a in (q, k, v):
            a.flags.writeable = False
    out, _ = local(q, k, v)
    close(out, dense(q, k, v, window_mask(50, 8))[0])


def test_outputs_of_the_caller_are_written(local):
    q, k, v = qkv(1, 2, 2, 30, 8, 8)
    # [tokens, heads, dim], every second token.
    room = np.full((60, 2, 8), np.nan, dtype=np.float32)
    out = np.transpose(room[::2], (1, 0, 2))[None]
    lse = np.full((1, 2, 30), np.nan, dtype=np.float32)
    got = local(q, k, v, out=out, lse=lse)
    assert got[0] is out and got[1] is lse
    close(out, dense(q, k, v, window_mask(30, 8))[0])
    assert np.isnan(room[1::2]).all() and not np.isnan(lse).any()
    half = np.empty((1, 2, 30, 8), dtype=np.float16)
    assert local(q, k, v, out=half)[0] is half
    close(half, out, 2e-3)


def test_halves():
    q, k, v = (a.astype(np.float16) for a in qkv(1, 2, 1, 40, 16, 16))
    kernel = attnc.compile_text(WINDOW)
    out, lse = kernel(q, k, v)
    assert out.dtype == np.float16 and lse.dtype == np.float32
    close(out, dense(q, k, v, window_mask(40, 8))[0], 2e-3)


def test_bfloat16_of_numpy():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    q, k, v = (a.astype(ml_dtypes.bfloat16) for a in qkv(1, 2, 1, 40, 16, 16))
    out, _ = attnc.compile_text(WINDOW)(q, k, v)
    assert out.dtype == ml_dtypes.bfloat16
    close(out, dense(q, k, v, window_mask(40, 8))[0], 2e-2)


def test_arrays_of_another_library(local):
    q, k, v = qkv(1, 2, 2, 30, 8, 8)
    out, lse = local(*(array_api_strict.asarray(a) for a in (q, k, v)))
    assert type(out) is type(lse) is type(array_api_strict.asarray(q))
    close(np.from_dlpack(out), dense(q, k, v, window_mask(30, 8))[0])


def test_no_queries_and_no_items(local):
    q, k, v = qkv(1, 2, 2, 0, 8, 8)
    any_length = attnc.compile_text("attention a { require n_q >= 0\n empty = zero\n attend causal }")
    out, lse = any_length(q, k, v)
    assert out.shape == (1, 2, 0, 8) and lse.shape == (1, 2, 0)
    q, k, v = qkv(0, 2, 2, 5, 8, 8)
    assert local(q, k, v)[0].shape == (0, 2, 5, 8)


def test_starts_and_padding(local):
    q, k, v = qkv(2, 2, 1, 40, 8, 8)
    out, _ = local(q[:, :, 30:], k, v, q_start=30)
    close(out, dense(q, k, v, window_mask(40, 8))[0][:, :, 30:])
    out, lse = local(q, k, v, lengths=[(40, 40), (7, 7)])
    close(out[1, :, :7], dense(q, k, v, window_mask(40, 8))[0][1, :, :7])
    assert (out[1, :, 7:] == 0).all() and np.isneginf(lse[1, :, 7:]).all()


def test_data_by_name():
    text = """
tensor slopes[heads]
map keep : csr

attention data {
  empty = zero
  score = score - slopes[head] * abs(q - k)
  attend map keep
}
"""
    kernel = attnc.compile_text(text)
    q, k, v = qkv(1, 2, 1, 3, 8, 8)
    k, v = normal(1, 1, 4, 8, seed=5), normal(1, 1, 4, 8, seed=6)
    data = {"maps": {"keep": ([0, 2, 2, 5], [0, 2, 0, 1, 3])}, "q_start": 1}
    out, lse = kernel(q, k, v, tensors={"slopes": np.array([0.5, 0.25])}, **data)
    assert (out[:, :, 1] == 0).all() and np.isneginf(lse[:, :, 1]).all()
    mask = kernel.mask(3, 4, heads=2, **data)
    assert mask.tolist() == [[True, False, True, False], [False] * 4, [True, True, False, True]]
    with pytest.raises(attnc.RunError) as raised:
        kernel(q, k, v, **data)
    assert raised.value.code == "E0705" and "slopes" in raised.value.message


def test_a_space_of_one_axis_has_the_length_of_the_keys(patterns):
    kernel = attnc.compile(patterns / "neighbourhood_1d.attn")
    q, k, v = qkv(1, 1, 1, 64, 8, 8)
    kernel(q, k, v)
    assert kernel.mask(64).shape == (64, 64)


def test_documents(patterns):
    kernel = attnc.compile_text("pattern packed = same doc & causal\n")
    q, k, v = qkv(1, 1, 1, 20, 8, 8)
    doc = np.searchsorted([6, 15], np.arange(20), side="right")
    mask = (doc[:, None] == doc[None, :]) & window_mask(20, 20)
    out, _ = kernel(q, k, v, docs=[0, 6, 15])
    close(out, dense(q, k, v, mask)[0])
    assert (kernel.mask(20, docs=np.array([0, 6, 15, 20])) == mask).all()


def test_the_oracle_and_the_scalar_kernels_agree():
    q, k, v = qkv(1, 2, 1, 33, 8, 8)
    outs = [attnc.compile_text(WINDOW, target=t)(q, k, v)[0] for t in ("cpu", "cpu:scalar", "oracle")]
    close(outs[0], outs[2])
    close(outs[1], outs[2])
    assert attnc.compile_text(WINDOW, target="oracle").isa is None


def test_threads_change_no_bit(local):
    q, k, v = qkv(2, 4, 2, 300, 32, 32)
    outs = [local(q, k, v, threads=attnc.Threads(n))[0] for n in (1, 2, 3)]
    assert all((o == outs[0]).all() for o in outs)
    attnc.set_threads(2)
    assert (local(q, k, v)[0] == outs[0]).all()


def test_masks_pictures_and_costs(local):
    assert (local.mask(50) == window_mask(50, 8)).all()
    assert (local.mask(5, 20, q_start=9) == window_mask(20, 8)[9:14]).all()
    picture = local.show(4)
    assert str(picture) == "██······\n████····\n██████··\n████████\n"
    assert picture._repr_png_().startswith(b"\x89PNG") and picture.svg.startswith("<svg")
    cost = local.cost(100, heads=4, dim=16)
    assert cost["entries"] == 4 * window_mask(100, 8).sum()
    assert cost["useful_flops"] == cost["entries"] * 4 * 16 and cost["overhead"] >= 1
    assert local.cost(100, batch=3)["entries"] == 3 * local.cost(100)["entries"]


def test_a_text_in_the_one_layout():
    assert attnc.format("pattern p=q-k in 0..8") == "pattern p = q - k in 0 .. 8\n"


CHOSEN = """
level g = mean(4) of k, v
score means = dot(q, g.k)
select kept = top 6 of means per q among tokens within causal
attention of_kept {
  empty = zero
  align = end
  attend causal & (kept | q == k) ++ q - k in 4 .. @ g bias log(4)
}
"""


def test_what_is_handed_back_is_given_again():
    kernel = attnc.compile_text(CHOSEN, "of_kept")
    q, k, v = qkv()
    plain, plain_lse = kernel(q, k, v)
    names = ["kept", "means", "g.k", "g.v"]
    out, lse, back = kernel(q, k, v, returns=names)
    assert list(back) == names
    assert back["kept"].dtype == np.int32 and back["kept"].shape == (2, 4, 100, 6)
    assert back["means"].shape == (2, 4, 100, 25) and back["g.v"].shape == (2, 2, 25, 24)
    assert np.array_equal(plain, out) and np.array_equal(plain_lse, lse)
    # Slots of keys are means of four.
    close(back["g.k"], k.reshape(2, 2, 25, 4, k.shape[-1]).mean(axis=3))
    for given in (back, {"kept": back["kept"]}, {"g.k": back["g.k"][:, :, :20], "g.v": back["g.v"][:, :, :7]}):
        again, _, same = kernel(q, k, v, supplied=given, returns=["kept"])
        assert np.array_equal(out, again) and np.array_equal(same["kept"], back["kept"])
    # What is given is taken: nothing but the query itself, and no candidate beyond it.
    nothing = np.full((2, 1, 100, 1), -1)
    other, _, taken = kernel(q, k, v, supplied={"kept": nothing}, returns=["kept"])
    assert not np.array_equal(out, other) and (taken["kept"] == -1).all()
    out_only, back = kernel(q, k, v, returns=["g.k"], return_lse=False)
    assert np.array_equal(out, out_only) and list(back) == ["g.k"]


def test_what_padded_items_hand_back_is_given_again():
    kernel = attnc.compile_text(CHOSEN, "of_kept")
    q, k, v = qkv()
    lengths = [(100, 100), (61, 61)]
    out, lse, back = kernel(q, k, v, lengths=lengths, returns=["kept", "means", "g.k", "g.v"])
    # The second item has 16 slots, and selections of its own 61 queries.
    assert (back["g.k"][1, :, 16:] == 0).all() and (back["kept"][1, :, 61:] == -1).all()
    for given in (back, {"means": back["means"]}, {"kept": back["kept"]}):
        again, again_lse = kernel(q, k, v, lengths=lengths, supplied=given)
        assert np.array_equal(out, again) and np.array_equal(lse, again_lse)


def test_a_cache_that_grows_is_pooled_where_it_is_new():
    kernel = attnc.compile_text(CHOSEN, "of_kept")
    q, k, v = qkv()
    levels = {}
    for n in range(90, 100):
        step = q[:, :, n - 1 : n], k[:, :, :n], v[:, :, :n]
        expected, _ = kernel(*step)
        out, _, levels = kernel(*step, supplied=levels, returns=["g.k", "g.v"])
        assert np.array_equal(out, expected)
        levels = {name: rows[:, :, : n // 4] for name, rows in levels.items()}


@pytest.mark.parametrize(
    ("supplied", "code", "said"),
    [
        ({"keep": np.zeros((2, 4, 100, 1), dtype=np.int32)}, "E0720", "no level, score or selection named `keep`"),
        ({"kept": np.zeros((2, 4, 100), dtype=np.int32)}, "E0712", "is given as"),
        ({"kept": np.zeros((2, 4, 100, 1))}, "E0712", "as reals"),
        ({"kept": np.zeros((2, 3, 100, 1), dtype=np.int32)}, "E0712", "is given as"),
        ({"kept": np.zeros((2, 4, 99, 1), dtype=np.int32)}, "E0712", "99 rows"),
        ({"kept": np.full((2, 4, 100, 1), 100)}, "E0712", "no slot 100"),
        ({"kept": np.full((2, 4, 100, 1), -2)}, "E0712", "-2 stands behind"),
        ({"kept": np.full((2, 4, 100, 1), 2**32)}, "E0712", "no slot 2147483647"),
        ({"kept": np.zeros((2, 4, 100, 2), dtype=np.int32)}, "E0712", "given twice"),
        ({"kept": np.tile(np.arange(7), (2, 1, 100, 1))}, "E0712", "7 slots are given"),
        ({"g.k": np.zeros((2, 2, 26, 16))}, "E0712", "26 slots"),
        ({"g.q": np.zeros((2, 4, 25, 16))}, "E0713", "does not derive"),
        ({"means": np.zeros((2, 4, 100, 24))}, "E0712", "24 candidates"),
    ],
)
def test_what_is_given_must_fit(supplied, code, said):
    q, k, v = qkv()
    with pytest.raises(attnc.RunError) as raised:
        attnc.compile_text(CHOSEN, "of_kept")(q, k, v, supplied=supplied)
    assert raised.value.code == code and said in raised.value.message
