"""Explanation of a prediction: contributions and interactions of features."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_dlrm.serving.versions import operations
from keras_dlrm.serving.versions.features import Feature, features_of
from keras_dlrm.serving.versions.version import Version
from keras_dlrm.serving.wire.errors import ServingError, invalid, shown
from keras_dlrm.serving.wire.json_tensors import inputs_from_json
from keras_dlrm.serving.wire.tensors import Signature, nbytes

# Pairs are formed among so many features, those that change the logit most on their own: 4,950 pairs.
MAX_FEATURES = 100
# A run is of so many rows and bytes, and a row, which is repeated for each pair, of so many bytes.
_ROWS_PER_RUN, _BYTES_PER_RUN, _BYTES_OF_A_ROW = 2048, 16 * 2**20, 64 * 2**10
_LOGITS = ("logit", "logits")
# Of several labels, one output each.
_OF_LABEL = "probability_"
_SCORES = ("probability", "probabilities", "predictions", "prediction", "outputs", "output", "scores")


def explain(version: Version, signature: Signature, document: Mapping[str, Any], max_bytes: int) -> dict[str, Any]:
    """Changes that each feature, and each pair of features, makes to one prediction.

    Write f(S) for the logit with the features in S taken away: an id or a list of ids becomes padding, a text the empty
    one, a dense value what stands for a missing one (for a raw number NaN, if the model then answers a number). Then

    - the change of feature i is f(∅) - f({i}): what its value adds to the logit, all else being as it is;
    - the change of the pair i, j is f(∅) - f({i}) - f({j}) + f({i, j}): what the two add *together*, beyond what each
      adds without the other. It is 0 where the model merely sums them, and symmetric in i and j.

    Both are exact for any model, by running the signature itself on 1 + n + n(n-1)/2 rows, in parts of bounded memory. They
    say what the model does at this row, not what causes a click, and they depend on what stands for missing. A logit is
    log(p / (1 - p)) of the float32 probability, unless the signature has an output `logit`; near 0 and 1 that is coarse, and
    `resolution` says how coarse: a smaller change is rounding.

    The document is as for `:predict`, with one row, and perhaps `top`, how many pairs to give (20 by default), and `output`, which
    of several labels to explain, such as `probability_like` (the first one by default). The answer has
    `value` and `logit` of the row, `features` and `pairs` with their changes, the strongest first, of a feature also how many of
    its values are `unseen`, and `resolution`. `ServingError` for other than one row of at most 64 KiB, or without a score.
    """
    document = dict(document)
    top = document.pop("top", 20)
    if type(top) is not int or not 0 <= top <= 5000:
        raise invalid(f"'top' must be an integer from 0 to 5000, not {shown(top)}.")
    asked = document.pop("output", None)
    if asked is not None and asked not in signature.outputs:
        raise invalid(f"'output' is {shown(asked)}; signature {signature.name!r} has {', '.join(map(repr, signature.outputs))}.")
    features = [f for f in features_of(signature, version.schema) if not f.weight]
    arrays, _ = inputs_from_json(document, signature, max_bytes)
    for name, array in arrays.items():
        if len(array) != 1:
            raise invalid(f"an explanation is of one row, but input {name!r} has {len(array)}.")
    size = sum(map(nbytes, arrays.values()))
    if size > _BYTES_OF_A_ROW:
        text = f"the row has {size} bytes; an explanation, which repeats it, takes {_BYTES_OF_A_ROW}."
        raise ServingError("INVALID_ARGUMENT", text, 413)
    # Float ids and the like are written over: the arrays must be ours.
    row = {name: np.array(array) for name, array in arrays.items()}
    missing = _missing_values(version, signature, features, row, asked)
    output, value, base = _logits(version, signature, row, asked)
    singles = _ablated(version, signature, row, features, missing, [(i,) for i in range(len(features))], asked)
    change = base[0] - singles
    order = np.argsort(-np.abs(change), kind="stable")
    pairs = list(itertools.combinations(sorted(order[:MAX_FEATURES].tolist()), 2))
    both = _ablated(version, signature, row, features, missing, pairs, asked)
    first, second = (np.array(side, int) for side in (zip(*pairs, strict=True) if pairs else ((), ())))
    together = base[0] - singles[first] - singles[second] + both
    strongest = np.argsort(-np.abs(together), kind="stable")[:top]
    known = {name: column for name, column in version.known.columns.items() if name in row}
    unseen = {name: (version.known.count(column, row[name]) or (0, 0))[1] for name, column in known.items()}
    return {
        "model": version.model_name,
        "version": version.number,
        "signature": signature.name,
        "output": output,
        "value": float(value[0]),
        "logit": float(base[0]),
        "resolution": 0.0 if output in _LOGITS else _resolution(np.concatenate([base, singles, both])),
        "features": [
            {
                "name": features[i].name, "values": features[i].values(row[features[i].input]),
                "change": float(change[i]), "unseen": unseen.get(features[i].input, 0),
            }
            for i in order
        ],
        "pairs": [
            {"features": [features[first[k]].name, features[second[k]].name], "change": float(together[k])} for k in strongest
        ],
    }  # fmt: skip


def _ablated(
    version: Version, signature: Signature, row: Mapping[str, np.ndarray], features: Sequence[Feature],
    missing: Sequence[Any], subsets: Sequence[tuple[int, ...]], asked: str | None,
) -> np.ndarray:  # fmt: skip
    """The logit of the row without each subset of the features."""
    logits = []
    size = min(_ROWS_PER_RUN, max(1, _BYTES_PER_RUN // max(1, sum(map(nbytes, row.values())))))
    for start in range(0, len(subsets), size):
        part = subsets[start : start + size]
        arrays = {name: np.repeat(array, len(part), axis=0) for name, array in row.items()}
        for i, subset in enumerate(part):
            for j in subset:
                features[j].take_away(arrays[features[j].input], i, missing[j])
        logits.append(_logits(version, signature, arrays, asked)[2])
    return np.concatenate(logits) if logits else np.zeros(0)


def _missing_values(
    version: Version, signature: Signature, features: Sequence[Feature], row: Mapping[str, np.ndarray], asked: str | None
) -> list[Any]:
    """Missing value of each feature: its first choice where the model gives a number for it."""
    chosen = [feature.missing[0] for feature in features]
    choices = [(i, feature.kind) for i, feature in enumerate(features) if len(feature.missing) > 1]
    for kind in {kind for _, kind in choices}:
        of_kind = [i for i, other in choices if other == kind]
        try:
            for i in of_kind:
                _ablated(version, signature, row, features, chosen, [(i,)], asked)
        except ServingError:
            for i in of_kind:
                chosen[i] = features[i].missing[1]
    return chosen


def _logits(
    version: Version, signature: Signature, arrays: Mapping[str, np.ndarray], asked: str | None
) -> tuple[str, np.ndarray, np.ndarray]:
    """Name of the output that is explained, the one that is asked for if any, its values (R,) and their logits (R,)."""
    outputs = operations.run(version.model, signature, arrays)
    rows = len(next(iter(arrays.values())))
    fitting = [n for n, a in outputs.items() if a.dtype.kind == "f" and a.shape in ((rows,), (rows, 1))]
    known = [name for name in (*_LOGITS, *_SCORES) if name in fitting] or [n for n in fitting if n.startswith(_OF_LABEL)]
    known = [name for name in fitting if name == asked] if asked is not None else known
    if not known and (asked is not None or len(fitting) != 1):
        raise invalid(f"signature {signature.name!r} has no output that is one number per row to explain.")
    name = (known or fitting)[0]
    values = outputs[name].ravel().astype(np.float64)
    if name in _LOGITS:
        return name, values, values
    if values.size and not (0 <= values.min() and values.max() <= 1):
        raise invalid(f"signature {signature.name!r}: output {name!r} is not a probability; nothing to take a logit of.")
    smallest = 2.0**-24  # the step of float32 below 1
    clipped = np.clip(values, 2.0**-126, 1 - smallest)
    return name, values, np.log(clipped) - np.log1p(-clipped)


def _resolution(logits: np.ndarray) -> float:
    """Largest rounding error of a second difference of these logits, each that of a float32 probability."""
    probability = 1 / (1 + np.exp(-logits))
    step = np.spacing(probability.astype(np.float32)).astype(np.float64)
    return float(np.max(4 * step / np.maximum(probability * (1 - probability), 2.0**-126), initial=0.0))
