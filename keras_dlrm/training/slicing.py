"""Scores by value of a column, and by how frequent and how old its ids were in training, with the names of the values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from keras_dlrm.data.preprocessor.dense import needs_fit, undo
from keras_dlrm.metrics import frequency_bands, scores_by_slice
from keras_dlrm.metrics.slices import BANDS
from keras_dlrm.schema.columns import PADDING, Categorical

_BLOCK = 2**18  # rows
MISSING, UNSEEN = "(missing)", "(unseen)"
#: Bands of ids, the last one of those that training did not see: by exposures, and by the quarter in which an id came first.
_EXPOSURES = ("100 or more", "10 … 99", "1 … 9", "unseen")
_AGES = ("first quarter", "second quarter", "third quarter", "last quarter", "unseen")


class Slicer:
    """Tables of scores by slice of a part of a log.

    Args:
        log: A `ClickLog`.
        name: The part.
        probabilities: p(click) of its rows in file order, (N,).
    """

    def __init__(self, log: Any, name: str, probabilities: np.ndarray) -> None:
        self.log, part = log, log.split(name)
        self.batch, self.labels = part.arrays()
        self.probabilities, self.weights = probabilities, part.sample_weights()

    def tables(self, columns: Iterable[str]) -> list[dict[str, Any]]:
        """For each column `{"column", "by", "rows"}`, `by` being `"value"`, then of a categorical column with a training part
        `"frequency"`, `"exposures"` (how often its ids occur there) and `"age"` (in which quarter of its rows they came first).
        """
        names = list(dict.fromkeys(columns))
        schema = self.log.schema
        sparse = {c.name: (c, start) for c, start in zip(schema.categorical, schema.offsets, strict=True) if c.name in names}
        counts = id_counts(self.log.split("train"), sparse) if sparse and "train" in self.log.splits else {}
        tables = []
        for name in names:
            if name not in sparse:
                tables.append({"column": name, "by": "value", "rows": self._dense(name)})
                continue
            column, start = sparse[name]
            ids = np.asarray(self.batch["sparse"][:, start : start + column.hotness])
            tables.append({"column": name, "by": "value", "rows": self._values(column, ids)})
            if name in counts and len(counts[name][0]):
                known, seen, first = counts[name]
                seen = seen * known_id(column, known)  # unseen values have rows of their own, which training may have used
                quarter = np.minimum(4 * first // len(self.log.split("train")), 3)
                for by, names_of_bands, bands in (
                    ("frequency", BANDS, frequency_bands(seen)),
                    ("exposures", _EXPOSURES, np.select([seen >= 100, seen >= 10, seen >= 1], [0, 1, 2], 3)),
                    ("age", _AGES, np.where(seen == 0, 4, quarter)),
                ):
                    tables.append({"column": name, "by": by, "rows": self._bands(ids, known, seen, bands, names_of_bands)})
        return tables

    def _scored(self, slices: np.ndarray) -> list[dict[str, Any]]:
        return scores_by_slice(self.labels, self.probabilities, slices, self.weights)

    def _values(self, column: Categorical, ids: np.ndarray) -> list[dict[str, Any]]:
        if column.identity is not None and column.oov is not None:  # all OOV rows are one slice
            ids = np.where(_is_oov(column, ids), column.oov, ids)
        scored = self._scored(ids)
        names = value_names(self.log, column, [entry["value"] for entry in scored if entry["value"] is not None])
        return [_named(entry, names) for entry in scored]

    def _dense(self, name: str) -> list[dict[str, Any]]:
        """Up to ten ranges with about equal numbers of rows, in ascending order; equal values share one."""
        number = self.log.schema.dense_names.index(name)
        values = np.asarray(self.batch["dense"][:, number])
        cuts = np.unique(np.quantile(values, np.linspace(0, 1, 11)[1:-1]))
        extremes = values.min(), values.max()
        member = np.searchsorted(cuts, values, side="left")
        rows = sorted(self._scored(member), key=lambda entry: entry["value"])
        for entry in rows:
            inside = values[member == entry.pop("value")]
            ends = self._raw(number, np.array([inside.min(), inside.max(), *extremes]))
            low, high = (_number(end, float(np.abs(ends).max())) for end in ends[:2])
            entry["slice"] = low if low == high else f"{low} … {high}"
        return [{"slice": entry.pop("slice"), **entry} for entry in rows]

    def _raw(self, number: int, inputs: np.ndarray) -> np.ndarray:
        """Values of a dense column as the raw log has them, where the log tells how they were transformed."""
        column = self.log.schema.dense[number]
        if column.transform == "none":
            return inputs
        preprocessor = fitted_preprocessor(self.log)
        state = {} if preprocessor is None else preprocessor.dense_state.get(column.name, {})
        return inputs if preprocessor is None or (needs_fit(column) and not state) else undo(column, state, inputs)

    def _bands(
        self, ids: np.ndarray, known: np.ndarray, seen: np.ndarray, bands: np.ndarray, names: tuple[str, ...]
    ) -> list[dict[str, Any]]:
        """Scores by band of the ids, and how many ids and exposures of the training part it has; the last one is of all others."""
        place = np.minimum(np.searchsorted(known, ids), len(known) - 1)
        of_ids = np.where(known[place] == ids, bands[place], len(names) - 1)
        rows = []
        for entry in self._scored(np.where(ids == PADDING, PADDING, of_ids)):
            band = entry.pop("value")
            inside = seen[bands == band]
            known_band = 0 <= band < len(names) - 1
            counted = {"values": len(inside) if known_band else None, "exposures": int(inside.sum()) if known_band else None}
            rows.append((band % (len(names) + 1), {"slice": MISSING if band == PADDING else names[band], **entry, **counted}))
        return [row for _, row in sorted(rows, key=lambda numbered: numbered[0])]


def _number(value: float, largest: float) -> str:
    """A number of a column with four digits, without what rounding left of a 0."""
    if abs(value) < 1e-6 * largest:
        return "0"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _is_oov(column: Categorical, ids: np.ndarray) -> np.ndarray:
    oov = column.oov or 0
    return (ids >= oov) & (ids < oov + column.oov_rows)


def known_id(column: Categorical, ids: np.ndarray) -> np.ndarray:
    """Whether ids stand for a value of the vocabulary: neither padding nor, where a vocabulary was fitted, an OOV row."""
    fitted = column.identity is not None and column.oov is not None
    return (ids != PADDING) & ~(_is_oov(column, ids) if fitted else np.zeros(ids.shape, bool))


def _named(entry: dict[str, Any], names: Mapping[int, str]) -> dict[str, Any]:
    value = entry.pop("value")
    name = f"(others: {entry['values']:,} values)" if value is None else names[value]
    return {"slice": name, "id": value, **entry}


def fitted_preprocessor(log: Any) -> Any:
    """The preprocessor of a log; `None` where it has none, as planted logs, whose values are ids and model inputs."""
    try:
        return log.preprocessor
    except FileNotFoundError:
        return None


def value_names(log: Any, column: Categorical, ids: list[int]) -> dict[int, str]:
    """Names of some ids of a column: values of its vocabulary if one was fitted, else the ids."""
    names = {i: str(i) for i in ids} | {PADDING: MISSING}
    preprocessor = None if column.identity is None else fitted_preprocessor(log)
    if preprocessor is None:
        return names
    vocabulary = preprocessor.vocabularies.get(column.table_name)
    if vocabulary is not None:
        places = np.flatnonzero(np.isin(vocabulary.ids, ids))
        texts = vocabulary.values.gather(places).to_list()
        values = (text if isinstance(text, str) else f"{text:x}" for text in texts)
        names |= dict(zip(vocabulary.ids[places].tolist(), values, strict=True))
    return names if column.oov is None else names | {column.oov: UNSEEN}


Counts = tuple[np.ndarray, np.ndarray, np.ndarray]


def id_counts(part: Any, columns: Mapping[str, tuple[Categorical, int]]) -> dict[str, Counts]:
    """Different ids of some columns in a part of a log, ascending and without padding, how often each occurs, and its first row.

    Args:
        part: A `Split`.
        columns: Column and its first place in the packed ids, by name.
    """
    pieces: dict[str, list[Counts]] = {name: [] for name in columns}
    row = 0
    for batch, *_ in part.batches(_BLOCK):
        for name, (column, start) in columns.items():
            packed = batch["sparse"][:, start : start + column.hotness]
            ids, first, counts = np.unique(packed, return_index=True, return_counts=True)
            kept = ids != PADDING
            pieces[name].append((ids[kept], counts[kept], row + first[kept] // column.hotness))
            if len(pieces[name]) > 16:
                pieces[name] = [_merged(pieces[name])]
        row += len(batch["sparse"])
    return {name: _merged(each) for name, each in pieces.items()}


def _merged(pieces: list[Counts]) -> Counts:
    """The sum of several counts, in the order of the rows."""
    if not pieces:
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.int64)
    every, numbers, rows = (np.concatenate(arrays) for arrays in zip(*pieces, strict=True))
    ids, first, member = np.unique(every, return_index=True, return_inverse=True)
    counts = np.zeros(len(ids), np.int64)
    np.add.at(counts, member, numbers)
    return ids, counts, rows[first]
