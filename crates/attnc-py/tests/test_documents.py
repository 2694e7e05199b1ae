"""The programs of the documentation run as printed, and the stubs name what there is."""

import ast
import inspect
import re

import attnc
import pytest
from conftest import ROOT


def programs():
    for page in ["README.md", "docs/embedding.md"]:
        text = (ROOT / page).read_text()
        for i, code in enumerate(re.findall(r"^```python\n(.*?)^```$", text, re.S | re.M)):
            yield pytest.param(code, id=f"{page}-{i}")


@pytest.mark.parametrize("code", list(programs()))
def test_programs_run_as_printed(code, monkeypatch):
    monkeypatch.chdir(ROOT)
    names = {}
    exec(compile(code, "printed", "exec"), names)
    assert names["out"].shape == (1, 4, 2000, 64)


def test_there_is_a_program_to_run():
    assert len(list(programs())) >= 1


def test_stubs_name_what_there_is():
    stub = ast.parse((ROOT / "crates/attnc-py/python/attnc/__init__.pyi").read_text())
    functions = {n.name: n for n in stub.body if isinstance(n, ast.FunctionDef)}
    classes = {n.name: n for n in stub.body if isinstance(n, ast.ClassDef)}
    for name in attnc.__all__:
        if name == "__version__":
            continue
        what = getattr(attnc, name)
        assert what.__doc__, f"{name} has no docstring"
        if inspect.isclass(what):
            known = {n.name for n in classes[name].body if isinstance(n, ast.FunctionDef)}
            found = {n for n in vars(what) if not n.startswith("__")} | ({"__call__"} if name == "Kernel" else set())
            if not issubclass(what, Exception):
                assert found <= known, f"{name} lacks {found - known}"
            methods = [n for n in classes[name].body if isinstance(n, ast.FunctionDef)]
        else:
            methods = []
            same(functions[name], what)
        for method in methods:
            target = getattr(what, method.name)
            # Of `__call__` Python knows no arguments.
            if callable(target) and method.name not in ("__new__", "__call__"):
                same(method, target)


def test_the_class_says_how_it_is_called():
    for word in ["[batch, heads, tokens, dim]", "lse", "q_start", "attnc.RunError"]:
        assert word in attnc.Kernel.__doc__


def same(stub, what):
    """Arguments of a stub are those of the function."""
    found = [p for p in inspect.signature(what).parameters if p != "self"]
    known = [a.arg for a in stub.args.posonlyargs + stub.args.args + stub.args.kwonlyargs if a.arg != "self"]
    known += [a.arg for a in (stub.args.vararg, stub.args.kwarg) if a]
    assert found == known, f"{stub.name}: {found} and {known}"
