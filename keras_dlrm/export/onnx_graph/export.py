"""`kd.export.onnx`: a trained model as an ONNX file, from any backend."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from keras_dlrm.export import functional as own
from keras_dlrm.export.onnx_graph.files import add_checksums, new_session, remove_other_data, write_data
from keras_dlrm.export.onnx_graph.model import onnx_model, tables_of
from keras_dlrm.export.requests import check_answers, check_batch, expected_probabilities
from keras_dlrm.files.checksums import seal
from keras_dlrm.files.durable import check_replaced, publish, workspace
from keras_dlrm.models.not_finite import require_finite

# Tables that are larger lie in a file of their own, which ONNX Runtime maps into memory instead of reading it.
EXTERNAL_ABOVE = 1 << 26


def onnx(
    model: Any,
    path: str | Path,
    tables: str | None = None,
    prune: str | Mapping[str, Any] | None = None,
    external_data: bool | None = None,
) -> Path:
    """Write a model as ONNX, of standard operations alone.

    Inputs are a packed batch, `dense` float32 (B, n_dense), `sparse` int64 (B, W) and, for a weighted schema, `weights`
    float32 (B, W); the output is `probability` float32 (B, 1), for any B. Ids out of range are looked up as their
    column's OOV row, a dense feature of NaN or infinity gives NaN, and all else is as `predict` has it. All columns of equal
    width are looked up by one Gather.

    The graph is made from what Keras records of the model's own layers, in this process; tables go from the live model
    to the file a part at a time. Before the file is renamed to `path` ONNX Runtime loads it and its answers are compared
    with the model's: `path` is complete or absent, or what it was.

    A functional `SparseModel` with one `EmbeddingCollection` has its own inputs and outputs instead, called as in
    `kd.export.savedmodel`.

    Args:
        model: A model of `kd.models`, or a functional `SparseModel`, from any backend.
        path: The file; replaced if it exists. Its folder is made if it does not.
        tables: How tables are stored: `"float32"`, `"bfloat16"`, `"float16"`, `"int8"` or `"int4"`, see docs/onnx.md; their
            own dtype by default.
        prune: `"untrained"` leaves out rows that no training example had; or a mapping table name → bool (rows,), true for
            rows to leave out. Their ids are answered as unseen ones are.
        external_data: Whether tables lie in a file beside, `<path>.<checksum>.data`, which ONNX Runtime maps into memory:
            processes that serve the same file share it. By default where they have more than 64 MiB.

    Returns:
        The path.

    Raises:
        ImportError: onnx or onnxruntime is not installed.
        NotImplementedError: the model does something that is not known in ONNX.
        RuntimeError: the answers differ by more than 1e-5 (0.02 in half precision), or the file does not load.
        NotFinite: a weight is NaN or infinite.
        TypeError: not a model of `kd.models`.
        ValueError: unknown `tables` or `prune`, or tables too large for ONNX without external data.

    Example: see docs/onnx.md.
    """
    functional = own.is_functional("onnx", model)
    _require()
    path = Path(path)
    # The first field of every ONNX file is the version of the format, the second who made it.
    check_replaced("onnx", path, "model.onnx", lambda start: start[:1] == b"\x08" and b"keras_dlrm" in start[:32])
    require_finite("onnx", model)
    stored = tables_of(model, functional, tables, prune)
    external = bool(stored.stacks) and (stored.nbytes > EXTERNAL_ABOVE if external_data is None else bool(external_data))
    if not external and stored.nbytes >= 1 << 31:
        raise ValueError(
            f"onnx: the tables have {stored.nbytes:,} bytes, but an ONNX file holds at most 2 GiB; leave external_data=False out."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with workspace(path) as aside:
        data = write_data(stored, aside, path.name) if external else None
        written = onnx_model(model, functional, stored, data.name if data else None)
        add_checksums(written, data)
        (aside / path.name).write_bytes(written.SerializeToString())
        seal(aside / path.name)
        seen = None if tables is None and prune is None else stored
        if functional:
            batch = own.example(model)
            expected = own.answers(model, batch, seen)
        else:
            batch = check_batch(model.schema)
            expected = {"probability": expected_probabilities(model, batch, seen)}
        session = new_session(aside / path.name, verify=False)

        def answer(fed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            return dict(zip(expected, session.run(list(expected), fed), strict=True))

        check_answers("onnx", model, batch, expected, answer, least=int(functional))
        if data is not None:
            publish(data, path.parent / data.name)
        publish(aside / path.name, path)
    remove_other_data(path, data.name if data else None)
    return path


def _require() -> None:
    for name in ("onnx", "onnxruntime"):
        try:
            __import__(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise
            raise ImportError(
                f"kd.export.onnx needs the package {name}, which is not installed: pip install 'keras-dlrm[onnx]'."
            ) from error
