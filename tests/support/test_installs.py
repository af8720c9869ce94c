"""Messages about packages that are not installed."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from helpers.children import ROOT, environment

from keras_dlrm.support import installs

pytestmark = pytest.mark.neutral


def test_every_extra_that_is_named_exists() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {*installs._EXTRAS.values()} <= {*extras}


def test_a_module_that_is_missing_is_told_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    installs.require("here", "json")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r"here needs onnx, which is not installed: pip install 'keras-dlrm\[onnx\]'\."):
        installs.require("here", "onnx")


@pytest.mark.parametrize(
    ("missing", "arguments", "said"),
    [
        ("jax", ["train", "--backend", "jax"], "--backend jax needs jax, which is not installed: pip install 'keras-dlrm[jax]'."),
        ("tensorflow", ["train", "--backend", "torch", "--tensorboard"], "--tensorboard needs tensorflow, which is not installed"),
        ("grpc", ["serve", "."], "keras-dlrm serve needs grpc, which is not installed: pip install 'keras-dlrm[serving]'."),
    ],
)
def test_a_command_without_its_package_ends_in_one_sentence(missing: str, arguments: list[str], said: str, tmp_path: Path) -> None:
    program = f"import sys; sys.modules[{missing!r}] = None; from keras_dlrm.cli import main; main({arguments!r})"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {said}") and done.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_backend_of_the_environment_without_its_package_ends_in_one_sentence(tmp_path: Path) -> None:
    program = "import sys; sys.modules['torch'] = None; from keras_dlrm.cli import main; main(['train'])"
    variables = environment(KERAS_BACKEND="torch")
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=variables, capture_output=True, text=True)
    assert done.returncode == 2
    assert "error: this needs torch, which is not installed: pip install 'keras-dlrm[torch]'." in done.stderr
