"""Operations of a request on a loaded model: predict, classify, regress."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_dlrm.serving.wire.errors import invalid
from keras_dlrm.serving.wire.tensors import INFLATION, STRING, Signature, from_proto, shape_text

if TYPE_CHECKING:
    from keras_dlrm.serving.versions.saved_model import SavedModel


def arrays_from_proto(inputs: Mapping[str, Any], signature: Signature, max_bytes: int) -> dict[str, np.ndarray]:
    """The inputs of a `PredictRequest`, checked against the signature: `max_bytes` each, eight times as many in all."""
    signature.check_names(dict(inputs.items()))
    arrays: dict[str, np.ndarray] = {}
    left = INFLATION * max_bytes
    for name, proto in inputs.items():
        arrays[name] = from_proto(name, proto, min(max_bytes, max(left, 0)))
        left -= arrays[name].nbytes
    signature.check(arrays)
    return arrays


def run(
    model: SavedModel, signature: Signature, arrays: Mapping[str, np.ndarray], only: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """Run a signature on checked inputs; the outputs that are wanted (`only`), by default all.

    A NaN or infinity in an answer is an error that names the input which brought it, where one did. TensorFlow Serving
    would send it on. A NaN that the model takes for a missing value is no error: its answer is a number. `ServingError` also for
    an unknown output, or inputs that the model refuses.
    """
    for name in only:
        if name not in signature.outputs:
            names = ", ".join(map(repr, signature.outputs))
            raise invalid(f"signature {signature.name!r} has no output {name[:60]!r}; it has {names}.")
    outputs = model.run(signature.name, arrays)
    for name, array in outputs.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            culprit = [key for key, a in arrays.items() if a.dtype.kind == "f" and not np.isfinite(a).all()]
            why = f"input {culprit[0]!r} has NaN or infinity" if culprit else "an input is too large or the model is ill"
            raise invalid(f"signature {signature.name!r}: output {name!r} is not a finite number: {why}.")
    return {name: outputs[name] for name in only} if only else outputs


def classify(model: SavedModel, signature: Signature, proto: Any, max_bytes: int) -> list[list[tuple[bytes, float]]]:
    """Labels and scores of each example of an `Input`; a label is empty, a score 0, where the model has no such output.

    The signature's method is `classify`: `inputs` takes serialized `tf.Example`, `classes` and `scores` are (B, n). The examples
    may have eight times `max_bytes`, with the context in each. `ServingError` where the signature is another, or refuses them.
    """
    rows, outputs = _on_examples(model, signature, proto, "classify", max_bytes)
    classes, scores = outputs.get("classes"), outputs.get("scores")
    if classes is None and scores is None:
        raise invalid(f"signature {signature.name!r} has neither 'classes' nor 'scores' among its outputs.")
    for name, array in (("classes", classes), ("scores", scores)):
        if array is not None and (array.ndim != 2 or len(array) != rows):
            shapes = f"{shape_text(array.shape)}; it must be ({rows}, n)"
            raise invalid(f"signature {signature.name!r}: output {name!r} has shape {shapes}.")
    if classes is not None and scores is not None and classes.shape != scores.shape:
        shapes = f"'classes' {shape_text(classes.shape)} and 'scores' {shape_text(scores.shape)}"
        raise invalid(f"signature {signature.name!r}: {shapes} must have one shape.")
    width = (classes if classes is not None else scores).shape[1]  # type: ignore[union-attr]
    labels = [[b""] * width] * rows if classes is None else classes.tolist()
    values = [[0.0] * width] * rows if scores is None else scores.tolist()
    return [list(zip(*pair, strict=True)) for pair in zip(labels, values, strict=True)]


def regress(model: SavedModel, signature: Signature, proto: Any, max_bytes: int) -> list[float]:
    """The value of each example; as `classify`, with an output `outputs` (B,) or (B, 1)."""
    rows, outputs = _on_examples(model, signature, proto, "regress", max_bytes)
    if "outputs" not in outputs:
        raise invalid(f"signature {signature.name!r} has no output 'outputs'; it has {', '.join(map(repr, outputs))}.")
    values = outputs["outputs"]
    if values.dtype.kind != "f" or values.shape not in ((rows,), (rows, 1)):
        shapes = f"{shape_text(values.shape)}; it must be ({rows},) or ({rows}, 1)"
        raise invalid(f"signature {signature.name!r}: 'outputs' has shape {shapes}.")
    return values.ravel().tolist()


def serialized(proto: Any, max_bytes: int) -> np.ndarray:
    """Serialized examples of an `Input`, with the context in each, (B,); `ServingError` beyond `max_bytes` in all."""
    kind = proto.WhichOneof("kind")
    if kind is None:
        raise invalid("the request has no input; give an example_list or an example_list_with_context.")
    strings: list[bytes] = []
    size = 0
    for example in getattr(proto, kind).examples:
        if kind == "example_list_with_context":
            whole = type(example)()
            whole.CopyFrom(proto.example_list_with_context.context)
            # A feature of the example itself comes before the context's.
            for name, feature in example.features.feature.items():
                whole.features.feature[name].CopyFrom(feature)
            example = whole
        strings.append(example.SerializeToString())
        size += len(strings[-1])
        if size > max_bytes:
            raise invalid(f"the examples, each with the context, take more than the {max_bytes} bytes allowed.")
    array = np.empty(len(strings), object)
    array[:] = strings
    return array


def _on_examples(
    model: SavedModel, signature: Signature, proto: Any, method: str, max_bytes: int
) -> tuple[int, dict[str, np.ndarray]]:
    if signature.method != method:
        raise invalid(f"signature {signature.name!r} is for {signature.method}, not for {method}.")
    strings = serialized(proto, INFLATION * max_bytes)
    taken = signature.inputs.get("inputs")
    if taken is None or len(signature.inputs) != 1 or taken.dtype != STRING:
        raise invalid(f"signature {signature.name!r} must have the one input 'inputs' of DT_STRING.")
    signature.check({"inputs": strings})
    return len(strings), run(model, signature, {"inputs": strings})
