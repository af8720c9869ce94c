"""What importing the package costs, and where a framework may be named."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "keras_dlrm"
FRAMEWORKS = {"tensorflow", "jax", "torch"}
# The seam, the train steps and the exporters are per framework; nothing else is. One file of the server loads SavedModels.
MAY_NAME_A_FRAMEWORK = (
    "backend/", "data/packed/", "data/tables/records.py", "export/", "parameter_server/", "serving/versions/saved_model.py",
    "sharding/collectives/", "step/",
)  # fmt: skip
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
@pytest.mark.neutral
def test_a_program_with_a_backend_option_of_its_own_knows_the_classes(tmp_path):
    program = tmp_path / "program.py"
    program.write_text("import keras, keras_dlrm; assert keras.saving.get_registered_object('keras_dlrm>DLRM')")
    options = {"cwd": tmp_path, "env": {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}, "capture_output": True, "text": True}
    done = subprocess.run([sys.executable, program, "--backend", "spark"], **options)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("first", ["keras_dlrm", "keras_dlrm.layers", "keras_dlrm.embeddings.hashing", "keras"])
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


@pytest.mark.neutral
def test_frameworks_are_imported_by_name_only_in_the_seam():
    named = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        place = path.relative_to(PACKAGE).as_posix()
        if not place.startswith(MAY_NAME_A_FRAMEWORK) and imported_packages(path) & FRAMEWORKS:
            named[place] = sorted(imported_packages(path) & FRAMEWORKS)
    assert named == {}


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
