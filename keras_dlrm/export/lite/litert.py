"""`kd.export.litert`: a trained model as a LiteRT (TensorFlow Lite) file."""

from pathlib import Path
from typing import Any

import keras

from keras_dlrm.export.elsewhere import run
from keras_dlrm.export.requests import check_answers, check_batch, expected_probabilities
from keras_dlrm.export.tables.stored_tables import StoredTables
from keras_dlrm.files.checksums import OPEN_SEAL, seal
from keras_dlrm.files.durable import check_replaced, publish, workspace
from keras_dlrm.models.click_model import ClickModel
from keras_dlrm.models.not_finite import require_finite

# What a flatbuffer can address, less what is alongside the tables.
MOST_BYTES = (1 << 31) - (1 << 26)


def litert(model: Any, path: str | Path, tables: str | None = None) -> Path:
    """Write a model as LiteRT (TensorFlow Lite), of built-in operations alone.

    The signature `serving_default` takes and gives what that of `kd.export.savedmodel` does; the interpreter's signature
    runner resizes it to the rows that it is fed, of which there must be one at least. A model of the JAX or torch
    backend is rebuilt under TensorFlow in a process of its own.

    The interpreter's answers are compared with the model's first: `path` is complete or absent, or what it was.

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
    if not isinstance(model, ClickModel):
        fix = "use kd.export.savedmodel or kd.export.onnx for a functional SparseModel."
        raise TypeError(f"litert: expected a model of kd.models that has a schema, not {type(model).__name__}; {fix}")
    path = Path(path)
    check_replaced("litert", path, "model.tflite", lambda start: start[4:8] == b"TFL3")
    hashed = [c.name for c in model.schema.categorical if c.hashed]
    if hashed:
        fault = f"column {hashed[0]!r} is hashed, which takes operations that LiteRT does not have"
        raise NotImplementedError(f"litert: {fault}; use kd.export.onnx or kd.export.savedmodel.")
    require_finite("litert", model)
    stored = StoredTables(model, tables)
    if stored.nbytes > MOST_BYTES:
        fix = "use fewer bytes a row (tables='int8'), kd.export.onnx or kd.export.savedmodel."
        raise ValueError(f"litert: the tables have {stored.nbytes:,} bytes, but a LiteRT file holds at most {MOST_BYTES:,}; {fix}")
    batch = check_batch(model.schema)
    expected = {"probability": expected_probabilities(model, batch, None if tables is None else stored)}
    path.parent.mkdir(parents=True, exist_ok=True)
    from keras_dlrm.export.lite.conversion import answers, convert

    with workspace(path) as aside:
        written = aside / "model.tflite"
        if keras.backend.backend() == "tensorflow":
            convert(model, written, tables)
        else:
            model.save(aside / "model.keras")
            run("litert", ["-m", "keras_dlrm.export.lite.conversion", str(aside), tables or ""])
        # Interpreters read a flatbuffer from its beginning, and leave alone what is behind it.
        with open(written, "ab") as file:
            file.write(OPEN_SEAL.encode())
        seal(written)
        check_answers("litert", model, batch, expected, lambda fed: {"probability": answers(written, fed)}, least=1)
        publish(written, path)
    return path
