"""`kd.export.litert`: a trained model as a LiteRT (TensorFlow Lite) file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_dlrm.export.elsewhere import environment
from keras_dlrm.files.durable import publish, workspace
from keras_dlrm.files.replaced import check_replaced
from keras_dlrm.files.seal import OPEN_SEAL, seal

# What a flatbuffer can address, less what is beside the tables.
MOST_BYTES = (1 << 31) - (1 << 26)


def litert(model: Any, path: str | Path, tables: str | None = None) -> Path:
    """Write a model as LiteRT (TensorFlow Lite), of built-in operations alone.

    The signature `serving_default` takes and gives what that of `kd.export.savedmodel` does; the interpreter's signature
    runner resizes it to the rows that it is fed, of which there must be one at least. A model of the JAX or torch
    backend is rebuilt under TensorFlow in a process of its own.

    Before the file is renamed to `path` the interpreter loads it and its answers are compared with the model's: `path` is
    complete or absent, or what it was.

    Args:
        model: A model of `kd.models`, from any backend.
        path: The file; replaced if it exists. Its folder is made if it does not.
        tables: How tables are stored, as in `kd.export.onnx`; their own dtype by default.

    Returns:
        The path.

    Raises:
        NotImplementedError: a column is hashed, which takes operations that LiteRT does not have.
        RuntimeError: the conversion fails, or the answers differ by more than 1e-5 (0.02 in half precision).
        NotFinite: a weight is NaN or infinite.
        TypeError: not a model of `kd.models`.
        ValueError: unknown `tables`; tables larger than a LiteRT file can be.

    Example: see docs/onnx.md.
    """
    from keras_dlrm.export.requests import check_batch, expected_probabilities
    from keras_dlrm.export.tables.stored_tables import StoredTables
    from keras_dlrm.models.click_model import ClickModel
    from keras_dlrm.models.not_finite import require_finite

    if not isinstance(model, ClickModel):
        raise TypeError(
            f"litert: expected a model of kd.models that has a schema, not {type(model).__name__}; use kd.export.savedmodel or "
            "kd.export.onnx for a functional SparseModel."
        )
    path = Path(path)
    check_replaced("litert", path, "model.tflite", lambda start: start[4:8] == b"TFL3")
    hashed = [c.name for c in model.schema.categorical if c.hashed]
    if hashed:
        raise NotImplementedError(
            f"litert: column {hashed[0]!r} is hashed, which takes operations that LiteRT does not have; use kd.export.onnx or "
            "kd.export.savedmodel."
        )
    require_finite("litert", model)
    stored = StoredTables(model, tables)
    if stored.nbytes > MOST_BYTES:
        raise ValueError(
            f"litert: the tables have {stored.nbytes:,} bytes, but a LiteRT file holds at most {MOST_BYTES:,}; use fewer bytes a "
            "row (tables='int8'), kd.export.onnx or kd.export.savedmodel."
        )
    batch = check_batch(model.schema)
    expected = expected_probabilities(model, batch, None if tables is None else stored)
    path.parent.mkdir(parents=True, exist_ok=True)
    with workspace(path) as aside:
        if keras.backend.backend() == "tensorflow":
            from keras_dlrm.export.lite.conversion import convert

            convert(model, aside / "model.tflite", tables)
        else:
            _convert_elsewhere(model, aside, tables)
        # Interpreters read a flatbuffer from its beginning, and leave alone what is behind it.
        with open(aside / "model.tflite", "ab") as file:
            file.write(OPEN_SEAL.encode())
        seal(aside / "model.tflite")
        _check(aside / "model.tflite", batch, expected, model.compute_dtype)
        publish(aside / "model.tflite", path)
    return path


def _convert_elsewhere(model: Any, aside: Path, tables: str | None) -> None:
    """In a process where Keras runs on TensorFlow."""
    model.save(aside / "model.keras")
    done = subprocess.run(
        [sys.executable, "-m", "keras_dlrm.export.lite.conversion", str(aside), tables or ""],
        env=environment(),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"litert: converting the model under TensorFlow failed:\n{done.stderr[-4000:]}")


def _check(path: Path, batch: dict[str, np.ndarray], expected: np.ndarray, dtype: str) -> None:
    from keras_dlrm.export.lite.conversion import answers

    allowed = 1e-5 if dtype == "float32" else 0.02
    for rows in (len(expected), 1):
        got = answers(path, {name: array[:rows] for name, array in batch.items()})
        missing = np.isnan(expected[:rows])
        difference = float(np.max(np.abs(got - expected[:rows]), initial=0.0, where=~missing))
        if got.shape != (rows, 1) or not difference <= allowed or not np.isnan(got[missing]).all():
            raise RuntimeError(
                f"litert: of {rows} rows the written model differs from the live one by {difference}; at most {allowed} is "
                "allowed."
            )
