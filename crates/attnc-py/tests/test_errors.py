"""Bad input: an exception that names the argument, with the diagnostic and its parts."""

import attnc
import numpy as np
import pytest
from conftest import WINDOW, qkv


@pytest.fixture(scope="module")
def local():
    return attnc.compile_text(WINDOW)


def refused(kernel, *args, **kwargs):
    with pytest.raises(attnc.RunError) as raised:
        kernel(*args, **kwargs)
    return raised.value


def test_a_diagnostic_is_drawn_and_has_parts(tmp_path):
    file = tmp_path / "wrong.attn"
    file.write_text("/// é\npattern p = windw\n")
    with pytest.raises(attnc.CompileError) as raised:
        attnc.compile(file)
    error = raised.value
    assert isinstance(error, attnc.Error) and isinstance(error, ValueError)
    assert error.code == "E0201" and "windw" in error.message
    assert "pattern p = windw" in str(error) and str(error).startswith(error.message)
    label = error.labels[0]
    assert (label["line"], label["column"]) == (2, 13) and label["file"].endswith("wrong.attn")
    assert error.diagnostics[0]["severity"] == "error" and len(error.diagnostics) == 1


def test_files_and_params(tmp_path, patterns):
    def code(*args, **kwargs):
        with pytest.raises(attnc.Error) as raised:
            attnc.compile(*args, **kwargs)
        return raised.value.code

    assert code(tmp_path / "none.attn") == "E0801"
    assert code(tmp_path) == "E0802"
    window = patterns / "window.attn"
    assert code(window, windw=3) == "E0308"
    assert code(window, width="wide") == "E0309"
    assert code(window, "far") == "E0612"
    assert code(window, layer=-1) == "E0723"
    with pytest.raises(TypeError):
        attnc.compile(window, width=True)
    with pytest.raises(TypeError):
        attnc.compile(window, width=[3])
    with pytest.raises(ValueError, match="no target"):
        attnc.compile(window, target="gpux")
    (tmp_path / "bytes.attn").write_bytes(b"pattern p = \xff")
    assert code(tmp_path / "bytes.attn") == "E0807"


@pytest.mark.parametrize("place", [0, 1, 2])
def test_wrong_types_are_named(local, place):
    name = "qkv"[place]
    for dtype in ("float64", "int32", "bool", "complex64", ">f4"):
        arrays = list(qkv(1, 1, 1, 5, 8, 8))
        arrays[place] = arrays[place].astype(dtype)
        error = refused(local, *arrays)
        assert error.code == "E0732" and error.message.startswith(f"`{name}` has elements of"), error.message
    arrays[place] = [[1.0]]
    with pytest.raises(TypeError, match=f"`{name}` is a list"):
        local(*arrays)


def test_wrong_shapes_are_named(local):
    q, k, v = qkv(1, 2, 2, 5, 8, 8)
    assert refused(local, q[0, 0], k, v).message.startswith("`q` has 2 axes")
    with pytest.raises(ValueError, match="batch axis"):
        local(q, k[0], v)
    assert refused(local, q, k[..., :7], v).code == "E0721"
    assert refused(local, q, k, v[:, :, :4]).code == "E0721"
    assert refused(local, q, k[:, [0, 1, 0]], v[:, [0, 1, 0]]).code == "E0722"
    out = np.empty((1, 2, 5, 9), dtype=np.float32)
    assert "`out`" in refused(local, q, k, v, out=out).message
    lse = np.empty((1, 2, 4), dtype=np.float32)
    assert "`lse`" in refused(local, q, k, v, lse=lse).message
    assert refused(local, q, k, v, lengths=[(6, 5)]).code == "E0702"
    assert refused(local, q[:, :, :3], k, v).code == "E0711"


def test_outputs_that_cannot_be_written(local):
    q, k, v = qkv(1, 2, 2, 5, 8, 8)
    out = np.empty((1, 2, 5, 8), dtype=np.float32)
    out.flags.writeable = False
    error = refused(local, q, k, v, out=out)
    assert error.code == "E0739" and error.message == "`out` is read-only"
    wide = np.empty((1, 1, 5, 8), dtype=np.float32)
    error = refused(local, q, k, v, out=np.lib.stride_tricks.as_strided(wide, (1, 2, 5, 8), (320, 0, 32, 4)))
    assert error.code == "E0734" and error.message.startswith("`out` cannot be used where it lies")
    error = refused(local, q, k, v, out=q)
    assert error.code == "E0739" and error.message == "`out` shares memory with `q`"
    lse = np.empty((1, 2, 5), dtype=np.float64)
    assert refused(local, q, k, v, lse=lse).message.startswith("`lse` has elements of float64")
    both = np.empty(200, dtype=np.float32)
    out, lse = both[:80].reshape(1, 2, 5, 8), both[40:50].reshape(1, 2, 5)
    assert refused(local, q, k, v, out=out, lse=lse).message == "`lse` shares memory with `out`"


def test_memory_that_is_not_aligned(local):
    q, k, v = qkv(1, 1, 1, 5, 8, 8)
    room = np.zeros(q.nbytes + 1, dtype=np.uint8)
    odd = room[1:].view(np.float32).reshape(q.shape)
    error = refused(local, odd, k, v)
    assert error.code == "E0734" and error.message.startswith("`q` cannot be used")


def test_another_device(local):
    class Elsewhere:
        device = "cuda:3"

        def __dlpack_device__(self):
            return (2, 3)

        def __dlpack__(self, **kwargs):
            raise AssertionError("its memory is not asked for")

    q, k, v = qkv(1, 1, 1, 5, 8, 8)
    error = refused(local, q, Elsewhere(), v)
    assert error.code == "E0739" and error.message == "`k` is on device cuda:3"


def test_capsules_of_no_tensor(local):
    class Liar:
        def __init__(self, answer):
            self.answer = answer

        def __dlpack_device__(self):
            return (1, 0)

        def __dlpack__(self, **kwargs):
            if isinstance(self.answer, Exception):
                raise self.answer
            return self.answer

    q, k, v = qkv(1, 1, 1, 5, 8, 8)
    used = np.zeros(3, dtype=np.float32).__dlpack__()
    np.from_dlpack(type("Once", (), {"__dlpack__": lambda s, **k: used, "__dlpack_device__": lambda s: (1, 0)})())
    for answer in (3, None, used):
        with pytest.raises(TypeError, match="`v.__dlpack__"):
            local(q, k, Liar(answer))
    assert "gives no memory: no" in refused(local, q, k, Liar(BufferError("no"))).message


def test_data_that_does_not_fit():
    kernel = attnc.compile_text("map keep : bool\n\nattention a {\n  empty = zero\n  attend map keep\n}\n")
    q, k, v = qkv(1, 1, 1, 5, 8, 8)
    assert refused(kernel, q, k, v).code == "E0704"
    assert refused(kernel, q, k, v, maps={"keep": np.ones((4, 5), dtype=bool)}).code == "E0704"
    with pytest.raises(TypeError, match="`keep` has elements of float64"):
        kernel(q, k, v, maps={"keep": np.ones((5, 5))})
    with pytest.raises(TypeError, match="`keep`"):
        kernel(q, k, v, maps={"keep": object()})
    with pytest.raises(TypeError, match="maps"):
        kernel(q, k, v, maps={3: np.ones((5, 5), dtype=bool)})
    with pytest.raises(TypeError, match="sizes"):
        kernel(q, k, v, sizes={"n": "x"})
    keep = np.ones((5, 5), dtype=bool)
    maps = {"keep": keep}
    for given in ({"maps": maps | {"kep": keep}}, {"tensors": {"kep": np.ones(3, np.float32)}}, {"sizes": {"kep": 1}}):
        error = refused(kernel, q, k, v, **({"maps": maps} | given))
        assert error.code == "E0720" and "`kep`" in error.message
    memory = np.ones(160, dtype=np.uint8)
    out = memory.view(np.float32).reshape(1, 1, 5, 8)
    error = refused(kernel, q, k, v, out=out, maps={"keep": memory[:25].reshape(5, 5)})
    assert error.code == "E0739" and "`out` shares memory with `keep`" in error.message
    lse = q.reshape(-1)[:5].reshape(1, 1, 5)
    error = refused(kernel, q, k, v, lse=lse, maps=maps)
    assert error.code == "E0739" and "`lse` shares memory with `q`" in error.message
    read_only = np.empty((1, 1, 5), dtype=np.float32)
    read_only.flags.writeable = False
    assert "`lse`" in refused(kernel, q, k, v, lse=read_only, maps=maps).message
    with pytest.raises(TypeError, match="`docs`"):
        kernel(q, k, v, docs=[0.5])
    with pytest.raises(TypeError, match="tokens"):
        kernel.cost()
    with pytest.raises(ValueError):
        kernel.cost(-1)
    with pytest.raises(ValueError):
        kernel.cost(5, dtype="int8")
    with pytest.raises(OverflowError):
        kernel.cost(1 << 70)


def test_threads():
    with pytest.raises(attnc.Error):
        attnc.set_threads(5000)
    # What was refused changes nothing.
    kernel = attnc.compile_text(WINDOW)
    kernel(*qkv(1, 1, 1, 5, 8, 8))
    with pytest.raises(attnc.Error):
        attnc.Threads(100_000)
    with pytest.raises(OverflowError):
        attnc.Threads(-1)
