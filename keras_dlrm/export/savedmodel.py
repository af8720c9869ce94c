"""A trained model as a TensorFlow SavedModel that stock TensorFlow Serving loads."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_dlrm.schema import Schema


def savedmodel(model: Any, directory: str | Path, preprocessor: Any = None, version: int | None = None) -> Path:
    """Write `directory/<version>/`, a SavedModel of stock TensorFlow operations.

    Its signature `serving_default` takes a packed batch, `dense` float32 (B, n_dense), `sparse` int64 (B, W) and, for
    a weighted schema, `weights` float32 (B, W), and gives `probability` float32 (B, 1), for any B. It loads without
    Keras and without this package. An id out of range is looked up as its column's OOV row.

    A model of the JAX or torch backend is rebuilt under TensorFlow in a process of its own. The version is written
    aside, loaded, compared with `model.predict` and only then renamed into place: it is complete or absent.

    Args:
        model: A model of `kd.models`, from any backend.
        directory: Folder of the versions; made if it does not exist.
        preprocessor: The `Preprocessor` that made the training data; saved beside the model in `assets.extra`.
        version: Number of the version; one more than the highest there is by default.

    Returns:
        The path of the version.

    Raises:
        FileExistsError: the version exists.
        RuntimeError: the written model does not load, or does not agree with `model` within 1e-5 (0.02 in half precision).

    Example: see docs/export.md.
    """
    from keras_dlrm.models.click_model import ClickModel

    if not isinstance(model, ClickModel):
        raise TypeError(f"savedmodel: expected a model of kd.models, not {type(model).__name__}.")
    if version is not None and (isinstance(version, bool) or not isinstance(version, int) or version < 0):
        raise ValueError(f"savedmodel: version={version!r} must be an integer >= 0.")
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    final = directory / str(_next_version(directory) if version is None else version)
    if final.exists():
        raise FileExistsError(f"savedmodel: {final} exists; give another version, or none for the next one.")
    # Not a number, so that a server that watches the folder does not take it for a version.
    aside = Path(tempfile.mkdtemp(prefix=".writing-", dir=directory))
    try:
        _write(model, aside / "model")
        extra = aside / "model" / "assets.extra"
        extra.mkdir()
        model.schema.save(extra / "schema.json")
        if preprocessor is not None:
            preprocessor.save(extra / "preprocessor")
        os.rename(aside / "model", final)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return final


def _next_version(directory: Path) -> int:
    return max((int(p.name) for p in directory.iterdir() if p.name.isdigit()), default=0) + 1


def _write(model: Any, path: Path) -> None:
    batch = example_batch(model.schema)
    expected = np.asarray(model.predict(batch, verbose=0))
    if keras.backend.backend() == "tensorflow":
        from keras_dlrm.export.tensorflow import write_and_check

        write_and_check(model, path, batch, expected)
        return
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "model.keras")
        arrays: dict[str, Any] = {"expected": expected, **batch}
        np.savez(Path(folder) / "expected.npz", **arrays)
        environment = {**os.environ, "KERAS_BACKEND": "tensorflow", "PYTHONPATH": os.pathsep.join(sys.path)}
        environment.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        done = subprocess.run(
            [sys.executable, "-m", "keras_dlrm.export.tensorflow", folder, str(path)],
            env=environment,
            capture_output=True,
            text=True,
        )
    if done.returncode:
        raise RuntimeError(f"savedmodel: rebuilding the model under TensorFlow failed:\n{done.stderr[-4000:]}")


def example_batch(schema: Schema, rows: int = 5) -> dict[str, np.ndarray]:
    """A packed batch with ids from both ends of each vocabulary, padding, and ids out of range.

    Args:
        schema: A fitted schema.
        rows: B.

    Example:

    >>> from keras_dlrm.schema import Categorical
    >>> example_batch(Schema(categorical=[Categorical("C1", 10)]), rows=4)["sparse"].ravel().tolist()
    [0, 9, -1, 10]
    """
    batch = {}
    if schema.dense:
        batch["dense"] = np.linspace(-1, 3, rows * schema.n_dense, dtype=np.float32).reshape(rows, -1)
    if schema.categorical:
        sizes = [int(c.vocabulary_size or 1) for c in schema.categorical for _ in range(c.hotness)]
        choices = [np.zeros(len(sizes), int), np.array(sizes) - 1, np.full(len(sizes), -1), np.array(sizes)]
        batch["sparse"] = np.stack([choices[i % 4] for i in range(rows)]).astype(np.int64)
    if schema.weighted:
        batch["weights"] = np.linspace(0.5, 2, rows * schema.width, dtype=np.float32).reshape(rows, -1)
    return batch
