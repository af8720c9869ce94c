"""Permutation importance: what a model loses when a column no longer belongs to its rows."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from keras_dlrm.metrics.scores import scores
from keras_dlrm.metrics.validation import flat
from keras_dlrm.schema.crosses import fill
from keras_dlrm.schema.schema import Schema
from keras_dlrm.support.arguments import integer, shown


def permutation_importance(
    predict: Callable[[dict[str, np.ndarray]], Any], schema: Schema, batch: Mapping[str, Any], labels: Any, weights: Any = None,
    shuffles: int = 3, seed: int = 0, columns: Collection[str] | None = None,
) -> list[dict[str, Any]]:  # fmt: skip
    """Drop of the AUC when the values of one column are shuffled among the rows, the most important column first.

    A column whose information others have as well shows little importance, though the model may use it a lot. Crossed columns
    are not shuffled by themselves: they follow the columns that they are made of.

    Args:
        predict: Packed batch → p(click), (n,) or (n, 1), such as a model's `predict_on_batch`.
        schema: The columns of `batch`.
        batch: Packed rows: `{"dense": (n, n_dense), "sparse": (n, W)[, "weights": (n, W)]}`, as the schema has them.
        labels: 0 or 1, or numbers between, (n,) or (n, 1), not all equal.
        weights: What each row counts, finite and at least 0; 1 each by default.
        shuffles: How often each column is shuffled, at least 1.
        seed: Seed of the shuffles; those of a column do not depend on the other columns.
        columns: Names of the columns to shuffle; all by default. Each costs `shuffles` predictions of all rows.

    Returns:
        For each of them `{"column", "auc_drop", "auc_spread", "logloss_rise", "logloss_spread"}`: means over the shuffles,
        and their standard deviations, which are `None` with one shuffle.

    Raises:
        KeyError, ValueError: the batch is not of the schema, a column is not in it, or labels and predictions are bad, as for
            `scores`.

    Example:

    >>> schema = Schema(dense=["x", "y"])
    >>> batch = {"dense": np.array([[0.1, 5], [0.9, 5], [0.2, 5], [0.8, 5]], np.float32)}
    >>> found = permutation_importance(lambda rows: rows["dense"][:, 0], schema, batch, [0, 1, 0, 1])
    >>> [row["column"] for row in found], found[1]["auc_drop"]
    (['x', 'y'], 0.0)

    Source: Breiman, Random Forests, Machine Learning 45, 2001, section 10; Fisher et al., JMLR 20, 2019.
    """
    shuffles = integer("permutation_importance", "shuffles", shuffles)
    seed = integer("permutation_importance", "seed", seed, 0)
    schema.validate(batch)
    places_by_column = _places(schema)
    for name in columns or ():
        if name not in places_by_column:
            raise ValueError(f"permutation_importance: no column {name!r}; the schema has {shown(list(places_by_column))}.")
    rows = {key: np.array(batch[key]) for key in schema.input_names}
    n = len(flat("permutation_importance", "labels", labels))

    def scored() -> dict[str, float]:
        if schema.categorical:
            fill(schema, rows["sparse"])
        return scores(labels, predict(rows), weights)

    whole = scored()
    changed = []
    for number, (column, places) in enumerate(places_by_column.items()):
        if columns is not None and column not in columns:
            continue
        random = np.random.default_rng((seed, number))
        kept = {key: rows[key][:, place].copy() for key, place in places.items()}
        changes = []
        for _ in range(shuffles):
            order = random.permutation(n)
            for key, place in places.items():
                rows[key][:, place] = kept[key][order]
            shuffled = scored()
            changes.append((whole["auc"] - shuffled["auc"], shuffled["logloss"] - whole["logloss"]))
        for key, place in places.items():
            rows[key][:, place] = kept[key]
        (drop, rise), spread = np.mean(changes, axis=0), np.std(changes, axis=0, ddof=1) if shuffles > 1 else (None, None)
        auc_spread, loss_spread = (None if value is None else float(value) for value in spread)
        changed.append({"column": column, "auc_drop": float(drop), "auc_spread": auc_spread, "logloss_rise": float(rise),
                        "logloss_spread": loss_spread})  # fmt: skip
    return sorted(changed, key=lambda entry: -entry["auc_drop"])


def _places(schema: Schema) -> dict[str, dict[str, slice]]:
    """Places of each column in a packed batch, by key, but for crossed ones."""
    places = {name: {"dense": slice(i, i + 1)} for i, name in enumerate(schema.dense_names)}
    for column, start in zip(schema.categorical, schema.offsets, strict=True):
        keys = ("sparse", "weights") if schema.weighted else ("sparse",)
        if not column.crossed:
            places[column.name] = {key: slice(start, start + column.hotness) for key in keys}
    return places
