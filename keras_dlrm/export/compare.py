"""Cost of tables in fewer bytes, in AUC and normalized entropy."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_dlrm.embeddings.quantized import KINDS
from keras_dlrm.export.requests import expected_probabilities
from keras_dlrm.export.tables.stored_tables import StoredTables
from keras_dlrm.metrics import scores
from keras_dlrm.models.click_model import ClickModel
from keras_dlrm.schema.same_schema import check_same
from keras_dlrm.schema.schema import Schema
from keras_dlrm.support.arguments import choice


def compare_tables(
    model: Any, part: Any, kinds: Sequence[str] = KINDS, prune: str | Mapping[str, Any] | None = None, batch_size: int = 8192
) -> list[dict[str, Any]]:
    """Score a model on a part of a log with its tables as exported files hold them.

    Args:
        model: A model of `kd.models`, from any backend.
        part: A split of a processed log (`kd.data.open(…).split("test")`), or an iterable of (packed batch, labels).
        kinds: Kinds of table, see `kd.export.onnx`.
        prune: As `kd.export.onnx` takes it; each kind is then also scored with the rows left out.
        batch_size: Rows of a batch of a split.

    Returns:
        A dict per way of storing, that of the live model first: `tables` and `pruned_rows`, `bytes` of all tables and
        their `share` of those in float32, `auc` and `ne`, and how much these change: `auc_change`, `ne_change`.

    Raises:
        ValueError: an unknown kind, or the split of another log than the model is for.

    Example:

    >>> schema = kd.Schema(categorical=[kd.Categorical("a", 50), kd.Categorical("b", 50)])
    >>> batch, label = next(kd.data.synthetic.PlantedClickLog(schema, seed=0).batches(500, n_batches=1))
    >>> rows = compare_tables(kd.models.DLRM(schema, 16, top_mlp=[1], seed=0), [(batch, label)], ["int8", "int4"])
    >>> [(row["tables"], round(row["share"], 2)) for row in rows]
    [('live', 1.0), ('int8', 0.3), ('int4', 0.2)]
    """
    if not isinstance(model, ClickModel):
        raise TypeError(f"compare_tables: expected a model of kd.models, not {type(model).__name__}.")
    model.schema.require_one_label("compare_tables")
    for kind in kinds:
        choice("compare_tables", "kinds", kind, KINDS)
    if isinstance(getattr(part, "schema", None), Schema):
        check_same("compare_tables", model.schema, part.schema, scores=True)
    batches = None if hasattr(part, "batches") else list(part)
    stacks = [] if model.embeddings is None else model.embeddings.stacks
    whole = 4 * sum(stack.rows * stack.width for stack in stacks)
    ways: list[tuple[str, Any]] = [("live", None)]
    for pruning in [None] if prune is None else [None, prune]:
        ways += [(kind, StoredTables(model, kind, pruning)) for kind in kinds]
    results: list[dict[str, Any]] = []
    for name, stored in ways:
        labels, got, weights = [], [], []
        for batch, label, *weight in part.batches(batch_size) if batches is None else batches:
            labels.append(np.asarray(label).reshape(-1))
            got.append(expected_probabilities(model, batch, stored).reshape(-1))
            weights += [np.asarray(w).reshape(-1) for w in weight]
        counted = np.concatenate(weights) if weights else None
        of = scores(np.concatenate(labels), np.concatenate(got).astype(np.float64), counted)
        first = results[0] if results else {"auc": of["auc"], "ne": of["ne"]}
        sizes = {"pruned_rows": 0, "bytes": whole, "share": 1.0}
        if stored is not None:
            sizes = {"pruned_rows": stored.pruned_rows, "bytes": stored.nbytes, "share": stored.nbytes / whole}
        change = {f"{score}_change": float(of[score] - first[score]) for score in ("auc", "ne")}
        results.append({"tables": name, **sizes, "auc": float(of["auc"]), "ne": float(of["ne"]), **change})
    return results
