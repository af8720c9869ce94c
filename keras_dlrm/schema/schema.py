"""`Schema`: the description of a click log's columns."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from keras_dlrm.files.documents import from_json, from_yaml, read
from keras_dlrm.files.durable import write
from keras_dlrm.schema import crosses, packing
from keras_dlrm.schema.columns import Categorical, Dense, check_name, check_set, compact, from_entry, listed
from keras_dlrm.schema.label import checked_label, names_of
from keras_dlrm.schema.vectors import dense_entries
from keras_dlrm.support.arguments import shown

# Further arguments of a schema, with their defaults, which its files leave out.
_FLAGS: dict[str, Any] = {"weighted": False, "sample_weight": None, "soft_labels": False}


class Schema:
    """The columns of a click log: what a model's inputs are called, how wide they are and what values they may take.

    A packed batch of B examples is `{"dense": float32 (B, n_dense), "sparse": int (B, W)}` with `W = Σ hotness`, -1
    for padding, and optionally `"weights": float32 (B, W)`, one factor per id. Columns stand in the order given here.

    Args:
        dense: Dense columns: names or `Dense`.
        categorical: Sparse columns: names, for vocabularies that are fitted, or `Categorical`.
        label: Name of the label column (0 or 1), or a list of several names; then a model gives a probability for each, and a
            label may be missing in some rows, which count for the others.
        weighted: Whether batches carry per-id `"weights"`.
        soft_labels: Whether labels may also be numbers between 0 and 1, such as chances.
        sample_weight: Name of a column of row weights, finite and at least 0: what a row counts in training and scores.

    Raises:
        ValueError: duplicate names, tables shared at different sizes, a crossed column of unknown ones, no column at all.

    Example:

    >>> schema = Schema(dense=["I1"], categorical=[Categorical("C1", 10), Categorical("tags", 5, hotness=3)])
    >>> batch = schema.pack({"I1": [0.5, 1.5], "C1": [3, 9], "tags": [[1, 2], []]})
    >>> batch["sparse"].tolist()
    [[3, 1, 2, -1], [9, -1, -1, -1]]
    """

    def __init__(
        self,
        dense: Iterable[str | Dense] = (),
        categorical: Iterable[str | Categorical] = (),
        label: str | Iterable[str] = "label",
        weighted: bool = False,
        sample_weight: str | None = None,
        soft_labels: bool = False,
    ) -> None:
        self.dense = tuple(Dense(d) if isinstance(d, str) else d for d in listed("dense", dense))
        self.categorical = tuple(Categorical(c) if isinstance(c, str) else c for c in listed("categorical", categorical))
        self.label = checked_label(label)
        self.weighted, self.sample_weight, self.soft_labels = weighted, sample_weight, soft_labels
        self.inferred: Any = None
        for name, flag in (("weighted", weighted), ("soft_labels", soft_labels)):
            if not isinstance(flag, bool):
                raise TypeError(f"Schema: {name}={shown(flag)} must be True or False.")
        for column in self.dense:
            if not isinstance(column, Dense):
                raise TypeError(f"Schema: dense holds {shown(column)}; give column names or kd.Dense(name, …).")
        for entry in self.categorical:
            if not isinstance(entry, Categorical):
                raise TypeError(f"Schema: categorical holds {shown(entry)}; give column names or kd.Categorical(name, …).")
        if not self.dense and not self.categorical:
            raise ValueError("Schema: no columns; give at least one dense or categorical column.")
        if self.weighted and not self.categorical:
            raise ValueError("Schema: weighted=True needs a categorical column: weights belong to ids.")
        if sample_weight is not None:
            check_name(sample_weight, "Schema: sample_weight")
        names = [*self.column_names, *self.row_names]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"Schema: the name {shown(name)} is given to {names.count(name)} columns; make names unique.")
        check_set(self.dense, self.categorical, names)

    @classmethod
    def infer(cls, data: Any, label: str | Iterable[str], sample_weight: str | None = None, csv: Any = None) -> Schema:
        """A schema for a table, from its columns' names, types and values; up to 200,000 rows are looked at.

        Constants, names of rows, prose and what gives the label away are left out; times become hours. `to_yaml` has the reasons.

        Args:
            data: A frame (pandas, Polars, Arrow, a mapping of columns), or a path or pattern of Parquet, CSV or TSV files.
            label: Name of the label column, or a list of several.
            sample_weight: Name of a column of row weights, if there is one.
            csv: `kd.data.CsvDialect` of text files that are written in another way.

        Raises:
            KeyError, ValueError: there is no such column, a label is missing or not 0 or 1, or no column can be used.

        Example:

        >>> rows = {"click": [0, 1, 1] * 80, "price": [0.5, 1.5, 2.5, 4.0] * 60, "city": ["Oslo", "Rome", "Lima", "Lima"] * 60}
        >>> print(Schema.infer(rows, label="click").to_yaml())
        label: click
        dense:
        - {name: price, transform: distinct_quantile, encoding: piecewise_linear}  # numbers with a fraction
        categorical:
        - {name: city}  # texts: 3 values
        <BLANKLINE>
        """
        from keras_dlrm.schema.inference.sampling import sample  # Polars is slow to import
        from keras_dlrm.schema.inference.table import infer

        inferred = infer(sample(data, csv), names_of(checked_label(label)), sample_weight)
        schema = cls(inferred.dense, inferred.categorical, label, False, sample_weight, inferred.soft_labels)
        schema.inferred = inferred
        return schema

    # -- shape -------------------------------------------------------------------------------------------------------

    @property
    def dense_names(self) -> tuple[str, ...]:
        """Names of the dense columns, in order."""
        return tuple(c.name for c in self.dense)

    @property
    def categorical_names(self) -> tuple[str, ...]:
        """Names of the sparse columns, in order."""
        return tuple(c.name for c in self.categorical)

    @property
    def column_names(self) -> tuple[str, ...]:
        """Names of the dense columns, then of the sparse ones."""
        return (*self.dense_names, *self.categorical_names)

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the labels, one or several, in order."""
        return names_of(self.label)

    def require_one_label(self, who: str) -> None:
        """Raise `ValueError`, which begins with `who`, where there are several labels."""
        if len(self.labels) > 1:
            raise ValueError(f"{who}: the schema has the labels {list(self.labels)}; one is allowed here, as of with_label(name).")

    @property
    def row_names(self) -> tuple[str, ...]:
        """Names of the columns that are not inputs of a model: the labels, and the row weights where there are some."""
        return self.labels if self.sample_weight is None else (*self.labels, self.sample_weight)

    @property
    def n_dense(self) -> int:
        """Width of `batch["dense"]`."""
        return len(self.dense)

    @property
    def width(self) -> int:
        """Width W of `batch["sparse"]`: the sum of the columns' hotness."""
        return sum(c.hotness for c in self.categorical)

    @property
    def offsets(self) -> tuple[int, ...]:
        """Start of each sparse column in `batch["sparse"]`."""
        ends = np.cumsum([0, *(c.hotness for c in self.categorical)])
        return tuple(int(e) for e in ends[:-1])

    @property
    def table_sizes(self) -> dict[str, int]:
        """Rows of each logical table, by table name.

        Raises:
            ValueError: a vocabulary is not fitted yet.
        """
        self.require_fitted()
        return {c.table_name: int(c.vocabulary_size) for c in self.categorical}  # type: ignore[arg-type]

    @property
    def input_names(self) -> tuple[str, ...]:
        """Keys of a packed batch, in the order `dense, sparse, weights`."""
        present = {"dense": self.dense, "sparse": self.categorical, "weights": self.weighted}
        return tuple(name for name, there in present.items() if there)

    @property
    def fitted(self) -> bool:
        """True where every sparse column has a vocabulary size."""
        return all(c.vocabulary_size is not None for c in self.categorical)

    def require_fitted(self) -> None:
        """Raise `ValueError` naming the first sparse column without a vocabulary size."""
        for column in self.categorical:
            if column.vocabulary_size is None:
                raise ValueError(
                    f"Schema: column {column.name!r} has no vocabulary_size; give one, or take the schema of the "
                    "preprocessed data (kd.data.open(directory).schema)."
                )

    # -- packing -----------------------------------------------------------------------------------------------------

    def pack(self, columns: Mapping[str, Any], weights: Mapping[str, Any] | None = None) -> dict[str, np.ndarray]:
        """Named columns → packed batch, every value checked.

        Args:
            columns: Mapping or DataFrame (pandas, Polars): one entry of length B per dense and sparse column, no crossed ones. A
                multi-hot column is a (B, k ≤ hotness) array padded with -1, or a list of B lists. The label and
                the row weights may be present and are left out of the batch; any other column is an error.
            weights: For a weighted schema: per-id factors by sparse column, shaped like the ids; 1 where left out.

        Returns:
            `{"dense": float32 (B, n_dense), "sparse": int64 (B, W)}`, and `"weights": float32 (B, W)` where the
            schema is weighted. Keys without columns are absent.

        Raises:
            KeyError, TypeError: a column is missing, unknown or of the wrong dtype.
            ValueError: NaN or infinity in a dense column; an id out of range, or negative and not -1; more ids than
                hotness; columns of different lengths.
        """
        self.require_fitted()
        own = crosses.own(self.categorical)
        packing.check_names(columns, [*self.dense_names, *(c.name for c in own)], self.row_names)
        if weights is not None and not self.weighted:
            raise ValueError("pack: weights were given, but the schema has weighted=False; set weighted=True.")
        arrays = {name: packing.dense_values(name, columns[name]) for name in self.dense_names}
        lists: dict[str, packing.Lists] = {}
        for column in own:
            arrays[column.name], lists[column.name] = packing.id_matrix(column, columns[column.name])
        packing.check_lengths(arrays)
        batch: dict[str, np.ndarray] = {}
        if self.dense:
            batch["dense"] = np.stack([arrays[n] for n in self.dense_names], axis=1)
        if self.categorical:
            batch["sparse"] = crosses.packed(self, arrays)
        if self.weighted:
            batch["weights"] = packing.weight_matrix(self, weights or {}, batch["sparse"], lists)
        return batch

    def validate(self, batch: Mapping[str, Any]) -> None:
        """Check a packed NumPy batch: keys, shapes, dtypes, ids in range, finite dense values.

        Raises:
            KeyError: a key is missing or unknown.
            TypeError: a wrong dtype.
            ValueError: wrong widths or row counts, ids out of range, NaN; the message names the column and the value.

        Example:

        >>> Schema(categorical=[Categorical("C1", 10)]).validate({"sparse": np.array([[3]])})
        """
        self.require_fitted()
        packing.check_batch(batch, self.input_names, self.dense_names, self.categorical)

    # -- round trips -------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries and lists; fields at their defaults are left out."""
        columns = {"dense": [compact(c) for c in self.dense], "categorical": [compact(c) for c in self.categorical]}
        flags = {name: getattr(self, name) for name, default in _FLAGS.items() if getattr(self, name) != default}
        return {**columns, "label": self.label if isinstance(self.label, str) else list(self.label), **flags}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Schema:
        """Inverse of `to_dict`. Unknown keys are an error that names them."""
        if not isinstance(data, Mapping):
            raise TypeError(f"Schema: expected a mapping with 'dense', 'categorical' and 'label', not {shown(data)}.")
        known = ("dense", "categorical", "label", *_FLAGS)
        unknown = sorted(str(key) for key in set(data) - set(known))
        if unknown:
            raise ValueError(f"Schema: unknown key {shown(unknown[0])}; known are {', '.join(known)}.")
        return cls(
            dense_entries(data.get("dense")),
            [from_entry(Categorical, c) for c in listed("categorical", data.get("categorical"))],
            data.get("label", "label"),
            **{name: data.get(name, default) for name, default in _FLAGS.items()},
        )

    # Keras serializes by these two names.
    get_config = to_dict
    from_config = from_dict

    def to_json(self) -> str:
        """The schema as a JSON text."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Schema:
        """Inverse of `to_json`."""
        return cls.from_dict(from_json(text))

    def to_yaml(self) -> str:
        """The schema as a YAML text; of an inferred one with the reasons as comments."""
        if self.inferred is not None:
            from keras_dlrm.schema.inference.comments import commented

            return commented(self.to_dict(), self.inferred)
        import yaml

        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)

    @classmethod
    def from_yaml(cls, text: str) -> Schema:
        """Inverse of `to_yaml`."""
        return cls.from_dict(from_yaml(text))

    def save(self, path: str | Path) -> None:
        """Write the schema to `path`: YAML for `.yaml` and `.yml`, JSON for `.json`."""
        path = Path(path)
        write(path, self.to_yaml() if _is_yaml(path) else self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> Schema:
        """Inverse of `save`. An error names the file."""
        path = Path(path)
        _is_yaml(path)
        content = read(path, "a schema")
        try:
            return cls.from_dict(content)
        except (TypeError, ValueError) as error:
            raise type(error)(f"schema file {path}: {error}") from None

    def replace_categorical(self, **changes: Mapping[str, Any]) -> Schema:
        """A copy with fields of the named sparse columns replaced: `replace_categorical(C1={"vocabulary_size": 7})`."""
        for name in changes:
            if name not in self.categorical_names:
                raise KeyError(f"Schema: no sparse column {name!r}; there are {list(self.categorical_names)}.")
        return self.with_columns(self.dense, [dataclasses.replace(c, **changes.get(c.name, {})) for c in self.categorical])

    def with_columns(self, dense: Iterable[str | Dense], categorical: Iterable[Categorical]) -> Schema:
        """A schema of other columns, with the same label and flags."""
        return Schema(dense, categorical, self.label, **{name: getattr(self, name) for name in _FLAGS})

    def with_label(self, label: str) -> Schema:
        """A schema of the same columns and flags, with one label."""
        return Schema(self.dense, self.categorical, label, **{name: getattr(self, name) for name in _FLAGS})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schema) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash((self.dense, self.categorical, self.label, *(getattr(self, name) for name in _FLAGS)))

    def __repr__(self) -> str:
        return f"Schema({self.n_dense} dense, {len(self.categorical)} categorical (W={self.width}), label={self.label!r})"


def _is_yaml(path: Path) -> bool:
    if path.suffix not in (".yaml", ".yml", ".json"):
        raise ValueError(f"Schema file {path.name!r}: use the ending .yaml, .yml or .json.")
    return path.suffix != ".json"
