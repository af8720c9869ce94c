"""Standard error of a program while TensorFlow is imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from helpers.children import environment

pytestmark = pytest.mark.neutral
NOISE = r"""
WARNING: All log messages before absl::InitializeLog() is called are written to STDERR
I0000 00:00:1795918521.396163   18609 port.cc:153] oneDNN custom operations are on. To turn them off, set `A=0`.
E0000 00:00:1795918565.143210   18609 cuda_platform.cc:52] failed call to cuInit: INTERNAL: CUDA error
2026-11-29 02:14:41.123456: I tensorflow/core/util/port.cc:153] oneDNN custom operations are on.
""".strip()
# In place of TensorFlow: its import writes to the descriptor, as C++ does, and to `sys.stderr`.
TENSORFLOW = f"""
import os, sys, types, warnings
os.write(2, {NOISE!r}.encode() + b"\\n")
os.write(2, b"F0000 00:00:1795918565.143210   18609 check.cc:1] fatal\\n")
print("said by a plugin of one's own", file=sys.stderr)
warnings.warn("a warning")
config = types.SimpleNamespace(list_physical_devices=lambda: os.write(2, b"E0000 00:00:1.2 3 x.cc:1] no GPU\\n"))
"""
PROGRAM = """
import importlib.util, os, sys
from keras_dlrm.support.quiet import quiet_imports
with quiet_imports(), quiet_imports():  # as a command and what it calls have it
    importlib.util.find_spec("tensorflow")
    import tensorflow
os.write(2, b"E0000 00:00:1.2 3 x.cc:1] at run time\\n")
"""


def said(folder: Path, tensorflow: str, first: str = "") -> tuple[int, str]:
    (folder / "tensorflow.py").write_text(tensorflow)
    variables = environment(PYTHONPATH=f"{folder}:{environment()['PYTHONPATH']}")
    done = subprocess.run([sys.executable, "-c", first + PROGRAM], env=variables, capture_output=True, text=True)
    return done.returncode, done.stderr


def test_the_log_of_an_import_is_left_out_and_nothing_else(tmp_path: Path) -> None:
    code, text = said(tmp_path, TENSORFLOW)
    assert code == 0
    fatal, own, warning, *rest = text.splitlines()
    assert fatal.endswith("check.cc:1] fatal")
    assert own == "said by a plugin of one's own"
    assert "UserWarning: a warning" in warning
    assert rest[-1] == "E0000 00:00:1.2 3 x.cc:1] at run time"
    assert "oneDNN" not in text and "GPU" not in text and "cuInit" not in text


def test_an_import_that_fails_says_all(tmp_path: Path) -> None:
    code, text = said(tmp_path, TENSORFLOW + "raise ImportError('no library')\n")
    assert code == 1
    assert NOISE in text
    assert text.rstrip().endswith("ImportError: no library")


def test_an_import_by_a_process_whose_standard_error_is_closed_works(tmp_path: Path) -> None:
    plain = "import types\nconfig = types.SimpleNamespace(list_physical_devices=list)\n"
    code, _ = said(tmp_path, plain, "import os; os.close(2)\nimport importlib.util\nos.write = lambda *_: None\n")
    assert code == 0


@pytest.mark.slow
def test_keras_is_imported_without_packages_that_others_still_get() -> None:
    program = """
import sys
from keras_dlrm.support.quiet import lean_imports, quiet_imports
with quiet_imports(), lean_imports():
    import keras, keras_dlrm
    assert not {"matplotlib", "sklearn", "jax"} & set(sys.modules)
    import matplotlib
assert keras.saving.get_registered_object("keras_dlrm>DLRM")
"""
    variables = environment(KERAS_BACKEND="torch")
    done = subprocess.run([sys.executable, "-c", program], env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
