"""Layers without a known ONNX form, converted one by one through tf2onnx."""

import json
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_dlrm.backend.private_keras import layers_in
from keras_dlrm.export.elsewhere import run
from keras_dlrm.export.onnx_graph.graph import OPSET, Graph, Value


def foreign(graph: Graph, layer: Any, args: Sequence[Any]) -> list[str]:
    """Add a layer, called with tensors or lists of tensors alone, to a graph; the flat names of its outputs.

    Its tables, if it had any, would be copied; so the models' own never come here. Where Keras does not run on TensorFlow the
    layer is rebuilt there from its config and weights, in a process of its own; its class has to be registered with Keras in a
    module that can be imported. `NotImplementedError`, which says why, where it cannot be converted.
    """
    from onnx import compose, numpy_helper

    who = f"layer {layer.name!r}, a {type(layer).__name__}"
    values = keras.tree.flatten(list(args))
    if not values or not all(isinstance(value, Value) for value in values):
        raise NotImplementedError(f"{who}, with arguments that are not tensors")
    try:
        import tf2onnx  # noqa: F401
    except ModuleNotFoundError as error:
        raise NotImplementedError(f"{who}, which needs the package tf2onnx (pip install tf2onnx)") from error
    places = iter(range(len(values)))
    shape = keras.tree.map_structure(lambda value: next(places), list(args))
    specs = [[list(value.shape), value.dtype] for value in values]
    if keras.backend.backend() == "tensorflow":
        from keras_dlrm.export.onnx_graph.foreign_layer import convert_layer

        model = convert_layer(layer, shape, specs)
    else:
        model = _elsewhere(layer, shape, specs, who)
    strange = sorted({n.domain for n in model.graph.node} - {"", "ai.onnx"})
    if strange or model.opset_import[0].version != OPSET:
        raise NotImplementedError(f"{who}, which tf2onnx gives operations of {strange or model.opset_import[0].version}")
    model = compose.add_prefix(model, graph.new_name(layer.name) + "/")
    for tensor in model.graph.initializer:
        graph.constants[tensor.name] = numpy_helper.to_array(tensor)
    for declared, value in zip(model.graph.input, values, strict=True):
        graph.op("Identity", value.name, output=declared.name)
    graph.nodes.extend(model.graph.node)
    return [output.name for output in model.graph.output]


def _elsewhere(layer: Any, shape: Any, specs: Any, who: str) -> Any:
    import onnx

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights: dict[str, Any] = {f"w{i}": np.asarray(w, np.float32) for i, w in enumerate(layer.get_weights())}
        np.savez(folder / "weights.npz", **weights)
        modules = sorted({type(part).__module__ for part in layers_in(layer)} - {"__main__"})
        described = [modules, keras.saving.serialize_keras_object(layer), shape, specs]
        (folder / "layer.json").write_text(json.dumps(described))
        try:
            run(who, ["-m", "keras_dlrm.export.onnx_graph.foreign_layer", name])
        except RuntimeError as error:
            last = [line for line in str(error).splitlines() if re.match(r"[\w.]+(Error|Exception): ", line)][-1:]
            reason = (last or ["no message"])[0][:300]
            raise NotImplementedError(f"{who}, which does not convert under TensorFlow ({reason})") from error
        return onnx.load(folder / "layer.onnx")
