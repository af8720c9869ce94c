"""Cost of importing the package, and the modules that may name a framework."""

import ast
import functools
import importlib
import inspect
import json
import pkgutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.children import environment

PACKAGE = Path(__file__).resolve().parent.parent / "keras_dlrm"
FRAMEWORKS = {"tensorflow", "jax", "torch"}
# The seam, the train steps and the exporters are per framework; nothing else is. The server loads SavedModels.
MAY_NAME_A_FRAMEWORK = (
    "backend/", "data/packed/", "data/tables/records.py", "export/", "parameter_server/", "serving/versions/saved_model.py",
    "serving/versions/updates.py", "sharding/collectives/", "step/",
)  # fmt: skip
# Where private names of frameworks stand, each with its reason. The last is loaded with the package, before any framework.
PRIVATE_NAMES = {f"backend/private_{of}.py" for of in ("keras", "keras_rs", "tensorflow", "tfrs")} | {"support/lazy.py"}
# Private by name only: the standard library documents them; NumPy says by no other name how long a mapped file is now.
DOCUMENTED = {"os._exit", "_thread", "array._mmap"}
# Packages with classes that inherit from a framework's, on every backend.
PACKAGES = ("embeddings", "initializers", "layers", "metrics", "models", "schedules", "step")
HAVE_CLASSES = tuple(f"keras_dlrm.{package}" for package in PACKAGES)
COUNT = """
import json, sys
import keras
before = {name.split(".")[0] for name in sys.modules}
import keras_dlrm
print(json.dumps(sorted({name.split(".")[0] for name in sys.modules} - before)))
"""


@pytest.mark.slow
def test_importing_the_package_loads_nothing_heavy_beyond_keras():
    done = subprocess.run([sys.executable, "-c", COUNT], cwd=PACKAGE.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    new = set(json.loads(done.stdout.splitlines()[-1]))
    heavy = {"polars", "matplotlib", "click", "rich", "pandas", "pyarrow", "sklearn", "onnx", "onnxruntime", "tf2onnx"}
    assert new & (FRAMEWORKS | heavy) == set()


@pytest.mark.slow
def test_training_imports_tensorflow_on_its_own_backend_alone(tmp_path):
    program = """
import sys, keras, keras_dlrm as kd
from keras_dlrm.training.run import train
from keras_dlrm.training.experiment import Experiment
schema = kd.Schema(dense=["x"], categorical=[kd.Categorical("C1", 20)])
rows = {"train": 200, "valid": 100, "test": 100}
kd.data.synthetic.PlantedClickLog(schema).write("log", rows=rows)
train(Experiment({"type": "LogisticRegression"}, batch_size=100), kd.data.open("log"), "run")
print("tensorflow" in sys.modules, keras.backend.backend() == "tensorflow")
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    imported, needed = done.stdout.split()[-2:]
    assert imported == needed


@pytest.mark.slow
@pytest.mark.neutral
def test_a_program_with_a_backend_option_of_its_own_knows_the_classes(tmp_path):
    program = tmp_path / "program.py"
    program.write_text("import keras, keras_dlrm; assert keras.saving.get_registered_object('keras_dlrm>DLRM')")
    options = {"cwd": tmp_path, "env": environment(), "capture_output": True, "text": True}
    done = subprocess.run([sys.executable, program, "--backend", "spark"], **options)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.neutral
@pytest.mark.parametrize("first", ["keras_dlrm.embeddings.table_rows", "keras"])
def test_whatever_is_imported_first_the_classes_are_known(first):
    program = f"import {first}; import keras_dlrm, keras; print(keras.saving.get_registered_object('keras_dlrm>DLRM').__name__)"
    done = subprocess.run([sys.executable, "-c", program], cwd=PACKAGE.parent, capture_output=True, text=True)
    assert done.stdout.split() == ["DLRM"], done.stderr


def test_importing_the_package_leaves_the_choice_of_the_backend():
    program = "import sys, keras_dlrm; print('keras' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=PACKAGE.parent, capture_output=True, text=True)
    assert done.stdout.split() == ["False"], done.stderr


def imported_packages(path: Path) -> set[str]:
    """Top-level packages that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.slow
@pytest.mark.neutral
def test_frameworks_are_imported_by_name_only_in_the_seam():
    named = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        place = path.relative_to(PACKAGE).as_posix()
        if not place.startswith(MAY_NAME_A_FRAMEWORK) and imported_packages(path) & FRAMEWORKS:
            named[place] = sorted(imported_packages(path) & FRAMEWORKS)
    assert named == {}


INTERNAL = ("keras.src", "keras_rs.src", "tensorflow.python", "jax._src")


def is_private(name: object) -> bool:
    return isinstance(name, str) and name.startswith("_") and not name.startswith("__") and name.isidentifier() and name != "_"


def defined(tree: ast.AST) -> set[str]:
    """Names of functions and classes, and attributes that are assigned to `self`."""
    nodes = list(ast.walk(tree))
    names = {node.name for node in nodes if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))}
    stored = [node for node in nodes if isinstance(node, (ast.Attribute, ast.Name)) and isinstance(node.ctx, ast.Store)]
    return names | {node.id for node in stored if isinstance(node, ast.Name)} | {
        node.attr for node in stored if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "self"
    }  # fmt: skip


def private_names(tree: ast.AST, own: set[str]) -> Iterator[str]:
    """Private names that are not `own`, and private attributes of anything but `self` that the module does not define."""
    here = defined(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            if node.attr not in (own if ast.unparse(node.value) in ("self", "cls", "super()") else here):
                yield ast.unparse(node)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            module = f"{node.module}." if isinstance(node, ast.ImportFrom) and node.module else ""
            for name in (module + alias.name for alias in node.names):
                if any(map(is_private, name.split("."))) or name.startswith(INTERNAL):
                    yield name
        elif isinstance(node, ast.Call):  # getattr(x, "_name"), x.get("_name"), import_module("keras.src…")
            for value in (each.value for each in node.args if isinstance(each, ast.Constant)):
                if str(value).startswith(INTERNAL):
                    yield value
                attribute = ast.unparse(node.func) in ("getattr", "hasattr", "setattr", "delattr")
                if is_private(value) and attribute and value not in own and value != "_fields":
                    yield value


@pytest.mark.slow
@pytest.mark.neutral
def test_private_names_of_frameworks_stand_in_the_seam():
    paths = list(PACKAGE.rglob("*.py"))
    trees = {path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in paths}
    own = set().union(*(defined(tree) for place, tree in trees.items() if place not in PRIVATE_NAMES))
    uses = {place: set(private_names(tree, own)) - DOCUMENTED for place, tree in trees.items() if place not in PRIVATE_NAMES}
    assert {place: sorted(names) for place, names in uses.items() if names} == {}


@functools.cache
def names_in_body(of: type) -> frozenset[str]:
    """Private names that the body of a class defines or, with `self`, uses."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(of)))
    except (OSError, TypeError):
        return frozenset()
    attributes = {
        node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("self", "super()")
    }
    return frozenset(filter(is_private, attributes | defined(tree)))


@pytest.mark.slow
def test_classes_use_no_private_name_of_the_frameworks_classes_that_they_inherit_from():
    """An attribute, or a method that stands in for one, of the same name counts; so the seam's classes give these hooks names."""
    modules = [name for _, name, _ in pkgutil.walk_packages([str(PACKAGE)], "keras_dlrm.") if not name.endswith("__main__")]
    clashes = {}
    for module in modules:
        if module.startswith("keras_dlrm.backend.private_") or not module.startswith(HAVE_CLASSES):
            continue
        for name, of in inspect.getmembers(importlib.import_module(module), inspect.isclass):
            if of.__module__ == module:
                theirs = [base for base in of.__mro__ if base.__module__.split(".")[0] in ("keras", "keras_rs", "tensorflow")]
                if both := names_in_body(of) & set().union(*map(names_in_body, theirs)):
                    clashes[f"{module}.{name}"] = sorted(both)
    assert clashes == {}


@pytest.mark.slow
@pytest.mark.neutral
def test_the_package_has_no_assert_statements():
    """`python -O` removes them: checks raise."""
    asserting = [
        path.relative_to(PACKAGE).as_posix()
        for path in sorted(PACKAGE.rglob("*.py"))
        if any(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    ]
    assert asserting == []


@pytest.mark.slow
@pytest.mark.neutral
def test_importing_the_package_is_enough_to_load_a_model(tmp_path):
    make = f"""
import keras_dlrm as kd
schema = kd.Schema(categorical=[kd.Categorical("a", 5), kd.Categorical("b", 5)])
kd.models.DLRM(schema, 2, top_mlp=[1]).save({str(tmp_path / "m.keras")!r})
"""
    load = f"import keras_dlrm, keras; print(keras.saving.load_model({str(tmp_path / 'm.keras')!r}).count_params())"
    subprocess.run([sys.executable, "-c", make], cwd=PACKAGE.parent, check=True, capture_output=True)
    done = subprocess.run([sys.executable, "-c", load], cwd=PACKAGE.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "22"
