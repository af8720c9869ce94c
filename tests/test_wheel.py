"""A wheel of the package has all of its files, and works where nothing else of the repository is."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
pytestmark = [pytest.mark.neutral, pytest.mark.slow]
PROGRAM = """
import keras_dlrm as kd
schema = kd.Schema(dense=["x"], categorical=[kd.Categorical("a", 20)])
batch, label = next(kd.data.synthetic.PlantedClickLog(schema, seed=0).batches(64, n_batches=1))
model = kd.models.DLRM(schema, 4, [4], [1])
model.compile("adagrad")
model.fit(batch, label, batch_size=32, verbose=0)
print(kd.__file__)
"""


def test_a_wheel_has_every_file_and_trains(tmp_path):
    setuptools = pytest.importorskip("setuptools", minversion="77")
    assert setuptools
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    shutil.copytree(ROOT / "keras_dlrm", source / "keras_dlrm", ignore=shutil.ignore_patterns("__pycache__"))
    expected = {path.relative_to(source).as_posix() for path in source.glob("keras_dlrm/**/*") if path.is_file()}
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", "."]
    subprocess.run([*pip, str(source)], cwd=tmp_path, check=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert {name for name in archive.namelist() if ".dist-info/" not in name} == expected
        archive.extractall(tmp_path / "installed")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "installed")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert str(tmp_path / "installed") in done.stdout
