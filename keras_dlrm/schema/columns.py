"""Kinds of columns: `Dense`, `Categorical`, checks of their options, and plain values in files."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from keras_dlrm.schema.open_vocabulary import Open
from keras_dlrm.schema.time_parts import CODE_PARTS, DENSE_PARTS, SPARSE_PARTS, check_part, check_sources
from keras_dlrm.support.arguments import choice, integer, number, shown

PADDING = -1
TRUNCATE = ("first", "last")
COMBINERS = ("sum", "mean", "sqrtn")
DENSE_TRANSFORMS = ("none", "log1p", "standardize", "log1p_standardize", "quantile", "distinct_quantile", "log_above_minimum")
DENSE_ENCODINGS = ("piecewise_linear", "periodic")
# Stands for a missing value of an encoded column: outside of what the quantile transforms give.
ENCODED_MISSING = -2.0
# Names of earlier releases, in their files and in programs written for them.
_OLDER_NAMES = {"standardise": "standardize", "log1p_standardise": "log1p_standardize"}
# Ids travel as int32 on JAX, which has no 64-bit integers unless asked for.
MAX_VOCABULARY_SIZE = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class Dense:
    """A dense (numeric) feature column and how raw values become model inputs.

    Args:
        name: Column name.
        transform: What a preprocessor does to raw values. `"none"` copies them, `"log1p"` is `log(1 + max(x, 0))`,
            `"standardize"` subtracts the mean and divides by the standard deviation of the training part,
            `"log1p_standardize"` does both, `"quantile"` maps a value to its rank among the training part's
            quantiles, in [-1, 1]; `"distinct_quantile"` to its place among the different ones of them, linear in between, so
            that a value that many rows have takes no more room than others. `"log_above_minimum"` is `log(x - m + 2)`,
            where m is the smallest value of the training part and smaller ones are taken as m (TorchRec's transform of
            Criteo's counts).
        missing: Value that stands for a missing one (null, NaN or infinite) *after* the transform; 0 by default, -2 for an
            encoded column.
        encoding: How a model makes a vector of the column, alongside the bottom MLP's: `"piecewise_linear"` or `"periodic"`
            (see `kd.layers`), for values in [-1, 1], as the quantile transforms give them; `None`: it makes none.
        of: Column of times, or of content vectors, in the raw rows that this one is made of; it has no values of its own there.
        part: `"days"`: days since 1970, of which a quantile transform makes how recent a time is.
        identity: Checksum of the statistics that a preprocessor fitted, which sets it; a model refuses data of others.
        element, width: Of a content vector, the number of the element and how many there are, as `ContentVector` gives them.

    Example:

    >>> Dense("price", transform="log1p").transform
    'log1p'
    """

    name: str
    transform: str = "none"
    missing: float = 0.0
    encoding: str | None = None
    of: str | None = None
    part: str | None = None
    identity: str | None = None
    element: int | None = None
    width: int | None = None

    def __post_init__(self) -> None:
        check_name(self.name, "Dense")
        if self.encoding not in (None, *DENSE_ENCODINGS):
            raise ValueError(
                f"Dense column {self.name!r}: encoding={shown(self.encoding)} is unknown; use one of {DENSE_ENCODINGS}, or None."
            )
        if self.encoding and self.missing == 0.0:  # in the middle of the others, and a vector of its own is wanted
            object.__setattr__(self, "missing", ENCODED_MISSING)
        if isinstance(self.transform, str):
            object.__setattr__(self, "transform", _OLDER_NAMES.get(self.transform, self.transform))
        choice(f"Dense column {self.name!r}", "transform", self.transform, DENSE_TRANSFORMS)
        if isinstance(self.missing, bool) or not isinstance(self.missing, (int, float, np.number)) or not np.isfinite(self.missing):
            raise ValueError(f"Dense column {self.name!r}: missing={shown(self.missing)} must be a finite number.")
        who = f"Dense column {self.name!r}"
        if self.width is None and self.element is None:
            check_part(who, self.of, self.part, DENSE_PARTS)
        else:
            integer(who, "element", self.element, 0, integer(who, "width", self.width) - 1)
            check_name(self.of, f"{who}: of")
        _check_identity(who, self.identity)


@dataclasses.dataclass(frozen=True)
class Categorical:
    """A sparse (categorical) feature column and the embedding table that it looks up.

    Args:
        name: Column name.
        vocabulary_size: Rows of the table; ids are `0 … vocabulary_size - 1`. `None` where a preprocessor is to fit
            the vocabulary on the training part; a model needs the fitted schema.
        hotness: Most ids that one example can have. Shorter lists are padded with -1.
        combiner: How the rows of one example are pooled: `"sum"`, `"mean"` (by the sum of the weights) or `"sqrtn"`
            (by the root of the sum of squared weights).
        table: Name of the table, where several columns share one; the column's own name by default.
        oov: Row that an unseen or out-of-range id is mapped to inside the graph, or `None`: such an id contributes
            nothing, like padding. A fitted vocabulary reserves this row for unseen values.
        oov_rows: Rows, from `oov` on, that a fitted vocabulary reserves for unseen values. A hash of the value chooses
            one, so that not all cold values are one.
        min_count: Values seen fewer times in the training part count as unseen when a vocabulary is fitted.
        max_vocabulary: Most rows a fitted vocabulary may have (the most frequent values are kept); `None` for no cap.
        hashed: Whether ids are unbounded: any integer from 0 to 2⁶³-1, hashed into the `vocabulary_size` rows inside
            the graph. Ids that meet in one row share it; none is fitted or unseen. A preprocessor makes ids of texts.
        truncate: What is kept of a list that is longer than `hotness`: its `"first"` or `"last"` values, with their
            weights. Missing values at the end of a list are padding and do not count. `None`: such a row is an error.
        of: Column of times, or of content vectors, in the raw rows that this one is made of; it has no values of its own there.
        part: `"hour"` (0 to 23, UTC) or `"weekday"` (0, a Monday, to 6), which are the ids; of a content vector `"prefixes"` or
            `"codes"`.
        identity: Checksum of the vocabulary that a preprocessor fitted, which sets it; a model refuses data of others.
        crossed: Names of the columns that this one is made of, as `Crossed` makes it.
        width, codes: Numbers of a content vector, and codes of a level, as `SemanticIds` makes it.
        id_dropout: Share of the rows whose ids of this column become unseen ones in training (the OOV row, or none where there
            is no such row), so that other columns learn to tell of an item that is new, and the OOV row is trained.
        open: `Open`, an open vocabulary; it sets `vocabulary_size`, and `hashed`, as ids are unbounded.

    Example:

    >>> Categorical("tags", 5000, hotness=8, combiner="mean").table_name
    'tags'
    """

    name: str
    vocabulary_size: int | None = None
    hotness: int = 1
    combiner: str = "sum"
    table: str | None = None
    oov: int | None = 0
    min_count: int = 1
    max_vocabulary: int | None = None
    hashed: bool = False
    oov_rows: int = 1
    truncate: str | None = None
    of: str | None = None
    part: str | None = None
    identity: str | None = None
    crossed: tuple[str, ...] = ()
    width: int | None = None
    codes: int | None = None
    id_dropout: float = 0.0
    open: Open | None = None

    def __post_init__(self) -> None:
        check_name(self.name, "Categorical")
        who = f"Categorical column {self.name!r}"
        if self.open is not None:
            self._check_open(who)
        if self.crossed != ():
            self._check_crossed()
        if self.codes is not None:
            self._check_codes(who)
        elif self.of is not None or self.part is not None:
            self._check_part(who)
        for field in ("vocabulary_size", "max_vocabulary"):
            if getattr(self, field) is not None:
                integer(who, field, getattr(self, field), 1, MAX_VOCABULARY_SIZE)
        for field in ("hotness", "min_count", "oov_rows"):
            integer(who, field, getattr(self, field))
        choice(who, "combiner", self.combiner, COMBINERS)
        if self.truncate not in (None, *TRUNCATE):
            raise ValueError(f"{who}: truncate={shown(self.truncate)} is unknown; use one of {TRUNCATE}, or None.")
        if self.oov is not None:
            integer(who, "oov", self.oov, 0, None if self.vocabulary_size is None else self.vocabulary_size - 1)
        if self.oov_rows > 1:
            self._check_oov_rows(who)
        if self.table is not None:
            check_name(self.table, f"{who}: table")
        _check_identity(who, self.identity)
        number(who, "id_dropout", self.id_dropout, below=1.0)
        if not isinstance(self.hashed, bool):
            raise TypeError(f"{who}: hashed={shown(self.hashed)} must be True or False.")
        if self.hashed and self.vocabulary_size is None:
            raise ValueError(f"{who}: hashed=True needs a vocabulary_size, the rows that ids are hashed into.")

    def _check_open(self, who: str) -> None:
        if isinstance(self.open, Mapping):
            object.__setattr__(self, "open", Open(**self.open))
        if not isinstance(self.open, Open):
            raise TypeError(f"{who}: open={shown(self.open)} must be kd.Open(rows=…).")
        rows = self.open.table_rows
        if self.vocabulary_size not in (None, rows):
            size = shown(self.vocabulary_size)
            raise ValueError(f"{who}: vocabulary_size={size} does not go with open=…, which has {rows} rows; leave it out.")
        object.__setattr__(self, "vocabulary_size", rows)
        object.__setattr__(self, "hashed", True)
        for field in ("oov", "oov_rows", "min_count", "max_vocabulary", "of", "part", "identity", "crossed", "codes"):
            if getattr(self, field) != type(self).__dataclass_fields__[field].default:
                raise ValueError(f"{who}: {field}={shown(getattr(self, field))} does not go with open=…; leave it out.")

    def _check_crossed(self) -> None:
        who, parents = f"Crossed column {self.name!r}", self.crossed
        if isinstance(parents, str) or not isinstance(parents, Iterable):
            raise TypeError(f"{who}: columns={shown(parents)} must be a list of names of sparse columns.")
        object.__setattr__(self, "crossed", tuple(parents))
        for name in self.crossed:
            check_name(name, f"{who}: columns")
        if len(set(self.crossed)) < max(2, len(self.crossed)):
            raise ValueError(f"{who}: columns={list(self.crossed)} must be two or more different ones.")
        if self.name in self.crossed:
            raise ValueError(f"{who}: columns={list(self.crossed)} has the column itself; give others.")
        if self.vocabulary_size is None:
            raise ValueError(f"{who}: it needs a vocabulary_size, the rows that combinations are hashed into.")
        object.__setattr__(self, "oov", None)
        # What says how raw values become ids does not apply to it, and neither does sharing the table of others.
        others = ("hotness", "table", "min_count", "max_vocabulary", "hashed", "oov_rows", "truncate", "of", "id_dropout", "open")
        for field in others:
            if getattr(self, field) != type(self).__dataclass_fields__[field].default:
                raise ValueError(f"{who}: {field}={shown(getattr(self, field))} is none of its options; leave it out.")

    def _check_part(self, who: str) -> None:
        check_part(who, self.of, self.part, SPARSE_PARTS)
        size = SPARSE_PARTS[str(self.part)]
        if self.vocabulary_size not in (None, size) or self.hotness != 1 or self.truncate or self.hashed or self.oov_rows != 1:
            raise ValueError(f"{who}: part={self.part!r} has {size} ids, one a row; leave out what says otherwise.")
        object.__setattr__(self, "vocabulary_size", size)

    def _check_codes(self, who: str) -> None:
        check_part(who, self.of, self.part, CODE_PARTS)
        integer(who, "width", self.width)
        integer(who, "codes", self.codes)
        integer(who, "vocabulary_size", self.vocabulary_size, self.hotness * int(self.codes or 1) if self.part == "codes" else 1)
        object.__setattr__(self, "oov", None)
        for field in ("table", "min_count", "max_vocabulary", "hashed", "oov_rows", "truncate"):
            if getattr(self, field) != type(self).__dataclass_fields__[field].default:
                raise ValueError(f"{who}: {field}={shown(getattr(self, field))} is none of its options; leave it out.")

    def _check_oov_rows(self, who: str) -> None:
        if self.oov is None or self.hashed:
            why = "oov=None leaves unseen values out" if self.oov is None else "no value of a hashed column is unseen"
            raise ValueError(f"{who}: oov_rows={self.oov_rows}, but {why}; leave oov_rows out.")
        if self.vocabulary_size is not None and self.oov + self.oov_rows > self.vocabulary_size:
            raise ValueError(
                f"{who}: oov={self.oov} with oov_rows={self.oov_rows} goes beyond vocabulary_size={self.vocabulary_size}; "
                "give fewer oov_rows or more rows."
            )

    @property
    def multi_hot(self) -> bool:
        """True where its raw values are lists."""
        return self.hotness > 1 or self.truncate is not None

    @property
    def table_name(self) -> str:
        """Name of the logical table that the column looks up."""
        return self.table or self.name


def check_set(dense: Iterable[Dense], categorical: Sequence[Categorical], names: Sequence[str]) -> None:
    """`ValueError` where columns do not go together; `names` are those of all columns, and of the label."""
    _check_tables(categorical)
    check_sources((*dense, *categorical), names)
    _check_crosses(categorical, names)


def _check_crosses(categorical: Sequence[Categorical], names: Sequence[str]) -> None:
    """`ValueError` where a crossed column has a parent that is no sparse column of one value a row."""
    parents = {column.name: column for column in categorical if not column.crossed}
    crossed = [column for column in categorical if column.crossed]
    for column in crossed:
        for name in column.crossed:
            if name not in parents:
                is_crossed = name in [other.name for other in crossed]
                kind = "a crossed column itself" if is_crossed else "no sparse column" if name in names else "unknown"
                raise ValueError(f"Schema: column {column.name!r} crosses {name!r}, which is {kind}; use some of {list(parents)}.")
            if parents[name].multi_hot:
                raise ValueError(
                    f"Schema: column {column.name!r} crosses {name!r}, which holds lists (hotness={parents[name].hotness}); only "
                    "columns of one value a row can be crossed."
                )


def _check_tables(columns: Iterable[Categorical]) -> None:
    """`ValueError` where columns that share a table differ in what it is."""
    first: dict[str, Categorical] = {}
    for column in columns:
        known = first.setdefault(column.table_name, column)
        for field in ("vocabulary_size", "oov", "oov_rows", "min_count", "max_vocabulary", "hashed", "identity", "open"):
            if getattr(known, field) != getattr(column, field):
                raise ValueError(
                    f"Schema: columns {known.name!r} and {column.name!r} share table {column.table_name!r} but give "
                    f"{field}={getattr(known, field)} and {getattr(column, field)}; a shared table has one."
                )


def check_name(name: Any, who: str) -> None:
    """`TypeError` unless `name` is a string that is not empty."""
    if not isinstance(name, str) or not name:
        raise TypeError(f"{who}: name={shown(name)} must be a string that is not empty.")


def _check_identity(who: str, value: Any) -> None:
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{who}: identity={shown(value)} must be a string that a preprocessor made; leave it out.")


def listed(field: str, columns: Any) -> list[Any]:
    """Columns as a list. One name, or a mapping by name, would fall apart into letters or lose its values."""
    if columns is None:
        return []
    if isinstance(columns, (str, Mapping, Categorical, Dense)) or not isinstance(columns, Iterable):
        kind = {"str": "string", "dict": "mapping"}.get(type(columns).__name__, type(columns).__name__)
        entries = "names" if field == "dense" else "columns, each with a name"
        raise TypeError(f"Schema: {field}={shown(columns)} is one {kind}; give a list of {entries}.")
    return list(columns)


def compact(column: Any) -> dict[str, Any]:
    """The fields of a column, or of another dataclass, that are not at their defaults; its name in any case."""
    out = {}
    for field in dataclasses.fields(column):
        value = getattr(column, field.name)
        if field.name == "name" or value != field.default:
            out[field.name] = value.item() if isinstance(value, np.generic) else list(value) if field.name == "crossed" else value
    if isinstance(column, Categorical) and column.part in SPARSE_PARTS:
        del out["vocabulary_size"]
    if isinstance(column, Categorical) and column.open is not None:
        del out["vocabulary_size"], out["hashed"]
        out["open"] = column.open.to_dict()
    if isinstance(column, Categorical) and (column.crossed or column.codes):
        del out["oov"]
    if isinstance(column, Dense) and column.encoding and column.missing == ENCODED_MISSING:
        del out["missing"]
    return out


def from_entry(kind: Any, entry: Any) -> Any:
    """The column, `Dense` or `Categorical`, that a name or a mapping of its fields describes."""
    if isinstance(entry, (kind, str)):
        return kind(entry) if isinstance(entry, str) else entry
    if not isinstance(entry, Mapping):
        raise TypeError(f"Schema: a column is described by {shown(entry)}; give a mapping with its fields.")
    known = [f.name for f in dataclasses.fields(kind)]
    unknown = sorted(str(key) for key in set(entry) - set(known))
    if unknown:
        raise ValueError(f"Schema: unknown field {shown(unknown[0])} in {shown(dict(entry))}; known are {known}.")
    if "name" not in entry:
        raise ValueError(f"Schema: a column without a name: {shown(dict(entry))}.")
    return kind(**entry)
