"""Every public thing has a docstring, and every example in one runs."""

import ast
import doctest
import importlib
import inspect
import re
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers.suite import suite_on

ROOT = Path(__file__).resolve().parent.parent
# Adapters of one interface, whose functions are documented once, alongside the choice.
ADAPTER = re.compile(r"keras_dlrm\.(backend|sharding\.collectives|step)\.(tensorflow|jax|torch)_\w+")


def module_names():
    for path in sorted((ROOT / "keras_dlrm").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[-1] == "__main__":  # runs the program when imported
            continue
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.neutral
def test_first_lines_say_what_a_module_is_or_does():
    """The folder trees of docs/ are made of them."""
    captions = {}
    for path in sorted((ROOT / "keras_dlrm").rglob("*.py")):
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        captions[path.relative_to(ROOT).as_posix()] = text.partition("\n")[0]
    vague = re.compile(r"(Of|As|Whose|What|Where|Which|How|Whether|When|Who|Does|Something|Everything)\b")
    bad = {path: line for path, line in captions.items() if not line.endswith(".") or vague.match(line) or "→" in line}
    assert bad == {}


def load(name):
    """The module, or a skip where it belongs to another backend or to an extra that is not installed."""
    backend, adapter = keras.backend.backend(), ADAPTER.fullmatch(name)
    if adapter and adapter[2] != backend:
        pytest.skip(f"{name} is for {adapter[2]}, this run is for {backend}")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] == "keras_dlrm":
            raise
        pytest.skip(f"{name} needs {error.name}, which is not installed")


def has_examples(name):
    """Whether a module's file has an example."""
    path = ROOT.joinpath(*name.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ">>>" in path.read_text(encoding="utf-8")


def on_one_backend(name):
    """A module, marked for its own backend, or for torch, on which examples take the least time; see `suite_on`."""
    own = re.search(r"\.(tensorflow|jax)_\w+$", name)
    return pytest.param(name, marks=suite_on(own[1] if own else "torch"))


@pytest.mark.parametrize("name", list(map(on_one_backend, filter(has_examples, module_names()))))
def test_examples_run(name, tmp_path, monkeypatch):
    import keras_dlrm as kd

    module = load(name)
    monkeypatch.chdir(tmp_path)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    runner = doctest.DocTestRunner(optionflags=flags, verbose=False)
    report: list[str] = []
    examples = {"np": np, "keras": keras, "kd": kd}
    with np.printoptions(precision=4, suppress=True, linewidth=120, threshold=1000):
        for test in doctest.DocTestFinder(exclude_empty=True).find(module, name, extraglobs=examples):
            keras.utils.set_random_seed(0)
            runner.run(test, out=report.append)
    if report:
        pytest.fail("".join(report), pytrace=False)


def of_every_backend(name):
    """A module whose docstrings are the same on every backend is looked at once."""
    return name if ADAPTER.fullmatch(name) else pytest.param(name, marks=pytest.mark.neutral)


@pytest.mark.parametrize("name", list(map(of_every_backend, module_names())))
def test_everything_public_has_a_docstring(name):
    module = load(name)
    if ADAPTER.fullmatch(name):
        assert module.__doc__
        return
    bare = [] if module.__doc__ or not Path(str(module.__file__)).read_text(encoding="utf-8").strip() else [name]
    for key, value in vars(module).items():
        if key.startswith("_") or getattr(value, "__module__", None) != name:
            continue
        if inspect.isclass(value) or inspect.isfunction(value):
            bare += [] if value.__doc__ else [key]
        if inspect.isclass(value):
            for method, function in vars(value).items():
                inherited = any(method in vars(base) for base in value.__mro__[1:])
                if inspect.isfunction(function) and not method.startswith("_") and not inherited:
                    bare += [] if function.__doc__ else [f"{key}.{method}"]
    assert bare == [], f"without a docstring in {name}: {bare}"
