"""`kd.export.onnx`: a trained model as an ONNX file, from any backend."""

import importlib.util
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_dlrm.backend.private_keras import run_recorded
from keras_dlrm.checkpoint.state import collections_of
from keras_dlrm.export import functional as own
from keras_dlrm.export.onnx_graph import files
from keras_dlrm.export.onnx_graph.graph import Graph, Value, large_tensor
from keras_dlrm.export.onnx_graph.layers import Converter
from keras_dlrm.export.requests import check_answers, check_batch, expected_probabilities
from keras_dlrm.export.signatures import label_outputs, named_probabilities, packed_inputs
from keras_dlrm.export.tables.stored_tables import StoredTables
from keras_dlrm.files.checksums import seal
from keras_dlrm.files.durable import check_replaced, publish, workspace
from keras_dlrm.models.not_finite import require_finite

# Tables that are larger are in a file of their own, which ONNX Runtime maps into memory instead of reading it.
EXTERNAL_ABOVE = 1 << 26


def onnx(
    model: Any, path: str | Path, tables: str | None = None, prune: str | Mapping[str, Any] | None = None,
    external_data: bool | None = None,
) -> Path:  # fmt: skip
    """Write a model as ONNX, of standard operations alone.

    Inputs are a packed batch, `dense` float32 (B, n_dense), `sparse` int64 (B, W) and, for a weighted schema, `weights`
    float32 (B, W); the output is `probability` float32 (B, 1), or (B, T) of T labels with one
    `probability_click` and the like (B, 1) for each, for any B. Ids out of range get their column's OOV row, a
    dense feature of NaN or infinity gives NaN. All columns of equal width are looked up by one Gather.

    The graph is made from what Keras records of the model's layers; tables go to the file a part at a time. Its answers in
    ONNX Runtime are compared with the model's before it is renamed: `path` is complete or absent, or what it was.

    A functional `SparseModel` with one `EmbeddingCollection` has its own inputs and outputs, as in `kd.export.savedmodel`.

    Args:
        model: A model of `kd.models`, or a functional `SparseModel`, from any backend.
        path: The file; replaced if it exists. Its folder is made if it does not.
        tables: `"float32"`, `"bfloat16"`, `"float16"`, `"int8"` or `"int4"`, see docs/onnx.md; their own dtype by default.
        prune: `"untrained"` leaves out rows that no training example had; or a mapping table name → bool (rows,), true for
            rows to leave out. Their ids are answered as unseen ones are.
        external_data: Whether tables are in `<path>.<checksum>.data`, which processes share; above 64 MiB by default.

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
    for name in ("onnx", "onnxruntime"):
        if importlib.util.find_spec(name) is None:
            raise ImportError(f"kd.export.onnx needs the package {name}, which is not installed: pip install 'keras-dlrm[onnx]'.")
    path = Path(path)
    # The first field of every ONNX file is the version of the format, the second who made it.
    check_replaced("onnx", path, "model.onnx", lambda start: start[:1] == b"\x08" and b"keras_dlrm" in start[:32])
    require_finite("onnx", model)
    stored = tables_of(model, functional, tables, prune)
    external = bool(stored.stacks) and (stored.nbytes > EXTERNAL_ABOVE if external_data is None else bool(external_data))
    if not external and stored.nbytes >= 1 << 31:
        fix = "leave external_data=False out."
        raise ValueError(f"onnx: the tables have {stored.nbytes:,} bytes, but an ONNX file holds at most 2 GiB; {fix}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with workspace(path) as aside:
        data = files.write_data(stored, aside, path.name) if external else None
        written = onnx_model(model, functional, stored, data.name if data else None)
        files.add_checksums(written, data)
        (aside / path.name).write_bytes(written.SerializeToString())
        seal(aside / path.name)
        seen = None if tables is None and prune is None else stored
        if functional:
            batch = own.example(model)
            expected = own.answers(model, batch, seen)
        else:
            batch = check_batch(model.schema)
            expected = named_probabilities(model.schema, expected_probabilities(model, batch, seen))
        session = files.new_session(aside / path.name, verify=False)

        def answer(fed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            return dict(zip(expected, session.run(list(expected), fed), strict=True))

        check_answers("onnx", model, batch, expected, answer, least=int(functional))
        if data is not None:
            publish(data, path.parent / data.name)
        publish(aside / path.name, path)
    files.remove_other_data(path, data.name if data else None)
    return path


def tables_of(model: Any, functional: bool, kind: str | None, prune: Any) -> StoredTables:
    """The tables of a model; `NotImplementedError` where a functional one has not exactly one `EmbeddingCollection`."""
    if functional:
        collections = collections_of(model)
        if len(collections) != 1:
            fault = f"{model.name} has {len(collections)} EmbeddingCollections, of which ONNX takes one"
            raise NotImplementedError(f"onnx: {fault}; export a SavedModel (kd.export.savedmodel).")
        model = types.SimpleNamespace(embeddings=collections[0])
    return StoredTables(model, kind, prune)


def onnx_model(model: Any, functional: bool, stored: StoredTables, data: str | None) -> Any:
    """The graph of a model, whose tables are in it, or in a file called `data`; `NotImplementedError` for what ONNX lacks."""
    graph = Graph()
    sizes = own.inputs(model) if functional else packed_inputs(model.schema)
    inputs = {name: Value(name, shape, dtype) for name, (shape, dtype) in sizes.items()}
    try:
        outputs = (_functional if functional else _click)(graph, stored, model, inputs)
    except NotImplementedError as error:
        fix = "Write it with other operations of keras.ops, or export a SavedModel (kd.export.savedmodel)."
        raise NotImplementedError(f"onnx: {model.name} uses {error}, which is not known in ONNX here. {fix}") from error
    for name, dtype, shape, offset, length in files.regions(stored):
        graph.large.append(large_tensor(name, dtype, shape, (data, offset, length) if data else _bytes(stored, name)))
    return graph.model(inputs.values(), outputs, files.metadata(None if functional else model.schema, stored))


def _functional(graph: Graph, stored: StoredTables, model: Any, inputs: dict[str, Value]) -> list[Value]:
    call = types.MethodType(lambda model, *flat: run_recorded(model, flat), model)
    values = keras.tree.flatten(Converter(graph, stored).run(call, *inputs.values()))
    outputs = []
    for name, value in zip(own.output_names(model), values, strict=True):
        graph.op("Identity", value.name, output=name)
        outputs.append(Value(name, value.shape, value.dtype))
    return outputs


def _click(graph: Graph, stored: StoredTables, model: Any, inputs: dict[str, Value]) -> list[Value]:
    logits = Converter(graph, stored).run(model.logits, inputs, training=False)
    if model.schema.dense:
        graph.must_be_finite.append(("dense", model.schema.n_dense))
    probability = graph.op("Sigmoid", logits.name, output=None if graph.must_be_finite else "probability")
    for i, (name, width) in enumerate(graph.must_be_finite):
        # Added last, because a runtime's ReLU and sigmoid may make numbers of NaN: 0 times the features, which is NaN where
        # one of them is NaN or infinite. As one product it takes 1.3 µs less than a sum, a comparison and a choice.
        last = i == len(graph.must_be_finite) - 1
        zeros = np.zeros((width, model.n_labels), np.float32)
        probability = graph.op("Gemm", name, zeros, probability, output="probability" if last else None)
    outputs = [Value("probability", (None, model.n_labels), "float32")]
    for i, name in enumerate(label_outputs(model.schema).values()):
        graph.op("Gather", "probability", np.array([i], np.int64), axis=1, output=name)
        outputs.append(Value(name, (None, 1), "float32"))
    return outputs


def _bytes(stored: StoredTables, name: str) -> bytes:
    stack = next(stack for stack in stored.stacks if name.startswith(f"{stack.name}."))
    key = name.removeprefix(f"{stack.name}.")
    return stack.map().tobytes() if key == "map" else b"".join(part[key].tobytes() for part in stack.parts())
