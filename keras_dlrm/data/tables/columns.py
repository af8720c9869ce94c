"""Blocks of a table → rows of numbers: final where that is known already, else as they will be when all is read."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any

import numpy as np
import polars as pl

from keras_dlrm.data.kernels.text_ids import TextIds, Texts
from keras_dlrm.data.kernels.text_rows import read_numbers, split_fields
from keras_dlrm.data.packed.writer import WEIGHTS, allowed_labels
from keras_dlrm.data.preprocessor import dense
from keras_dlrm.data.preprocessor import raw_columns as raw
from keras_dlrm.data.preprocessor.unseen import Tally
from keras_dlrm.data.preprocessor.vocabulary import Keys, Vocabulary
from keras_dlrm.data.tables.block import Block
from keras_dlrm.data.tables.frames import FrameBlock
from keras_dlrm.data.tables.records import RecordBlock
from keras_dlrm.data.tables.text import TextBlock
from keras_dlrm.schema.columns import PADDING, Categorical, Dense
from keras_dlrm.schema.schema import Schema

_SEPARATOR = ord(raw.SEPARATOR)

# Which rows are at fault, what their values are, and why.
Fault = tuple[np.ndarray, str, Callable[[int], object], "str | Callable[[int], str]"]


@dataclasses.dataclass(frozen=True)
class Rows:
    """n good rows of a block.

    Args:
        label: float32 (n,), in [0, 1], or NaN where there is none.
        sample_weight: float32 (n,), 1 where the schema names none.
        dense: float32 (n, n_dense); columns that wait for their statistics are not filled.
        late: float64 (n, n_late), raw values of these columns, NaN where missing.
        sparse: int32 (n, W): ids, or numbers of `TextIds` where the vocabulary is still being read; -1 for padding.
    """

    label: np.ndarray
    sample_weight: np.ndarray
    dense: np.ndarray
    late: np.ndarray
    sparse: np.ndarray

    def __len__(self) -> int:
        return len(self.label)


@dataclasses.dataclass(frozen=True)
class _Flat:
    """Values of a categorical column that get numbers: texts, or a series whose texts are made later."""

    values: Any
    rows: np.ndarray
    places: np.ndarray


class Columns:
    """Works off the columns of blocks.

    Args:
        schema: What the columns are.
        state: Fitted parameters by dense column, or `None` where they are still to be fitted.
        vocabularies: Known vocabularies by table; values of other tables without a size are numbered.
        labelled: Whether there is a label; without one all labels are NaN.

    Attributes:
        unseen: Values that the known vocabularies do not have, counted as columns are worked off.
    """

    def __init__(
        self,
        schema: Schema,
        state: dict[str, dict[str, Any]] | None,
        vocabularies: dict[str, Vocabulary],
        labelled: bool = True,
    ) -> None:
        self.schema, self._vocabularies = schema, vocabularies
        self.unseen = Tally()
        self._labelled = labelled
        self._state = state or {}
        self.late = [j for j, c in enumerate(schema.dense) if state is None and dense.needs_fit(c)]
        self.known = [c for c in schema.categorical if c.vocabulary_size is not None or c.table_name in vocabularies]
        known = {c.name for c in self.known}
        self.open: dict[str, list[tuple[Categorical, int]]] = {}
        for column, offset in zip(schema.categorical, schema.offsets, strict=True):
            if column.name not in known:
                self.open.setdefault(column.table_name, []).append((column, offset))
        self.texts = {table: TextIds() for table in self.open}

    @property
    def names(self) -> list[str]:
        """Columns that are read."""
        return [*self.schema.dense_names, *self.schema.categorical_names, *self._row_names]

    @property
    def _row_names(self) -> Sequence[str]:
        return self.schema.row_names if self._labelled else ()

    def work(self, block: Block, executor: Executor) -> Rows:
        """The good rows of a block; the others are in `block.faults` then."""
        schema, n = self.schema, len(block)
        out = np.empty((n, schema.n_dense), np.float32)
        late = np.empty((n, len(self.late)))
        sparse = np.full((n, schema.width), PADDING, np.int32)
        label, weight = np.full(n, np.nan, np.float32), np.ones(n, np.float32)
        offsets = dict(zip(schema.categorical_names, schema.offsets, strict=True))
        known = {c.name for c in self.known}
        flats: dict[str, _Flat] = {}

        def one(column: Dense | Categorical | str) -> Sequence[Fault]:
            if isinstance(column, str):
                return _label(block, schema, label) if column == schema.label else _weight(block, column, weight)
            if isinstance(column, Dense):
                j = schema.dense_names.index(column.name)
                if j in self.late:
                    return _late(block, column, late[:, self.late.index(j)])
                return _early(block, column, self._state.get(column.name, {}), out[:, j])
            flat, faults = _flat(block, column)
            if column.name not in known:
                flats[column.name] = flat
                return faults
            ids, more = self._ids(flat, column, n, block.faults.file)
            sparse[flat.rows, offsets[column.name] + flat.places] = ids
            return [*faults, *more]

        todo = [*self._row_names, *schema.dense, *schema.categorical]
        for column, faults in zip(todo, list(executor.map(one, todo)), strict=True):
            for mask, _, value, reason in faults:
                block.faults.add(mask, column if isinstance(column, str) else column.name, value, reason)
        good = ~block.faults.bad if block.faults else None

        def number(table: str) -> None:
            parts = []
            for column, offset in self.open[table]:
                flat = flats[column.name]
                keep = None if good is None else np.flatnonzero(good[flat.rows])
                values, rows, places = flat.values, flat.rows, flat.places
                if keep is not None:
                    values = values.take(keep) if isinstance(values, Texts) else values.gather(keep)
                    rows, places = rows[keep], places[keep]
                if not isinstance(values, Texts):
                    # Texts are normalised when they are counted, each once.
                    if values.dtype != pl.String:
                        values = Keys().normalise(values, f"{block.faults.file}, column {column.name!r}")
                    values = Texts.of(values)
                parts.append((values, rows, offset + places))
            _number(self.texts[table], parts, sparse)

        list(executor.map(number, self.open))
        if good is not None:
            label, weight, out, late, sparse = label[good], weight[good], out[good], late[good], sparse[good]
        return Rows(label, weight, out, late, sparse)

    def _count(self, column: Categorical, there: np.ndarray, unseen: np.ndarray, again: np.ndarray | None) -> None:
        if again is not None:
            times = np.bincount(again, minlength=len(there))
            there, unseen = times[there], times[unseen]
        self.unseen.add(column.name, int(there.sum()), int(unseen.sum()))

    def _ids(self, flat: _Flat, column: Categorical, n: int, file: str) -> tuple[np.ndarray, Sequence[Fault]]:
        """Final ids of a column, and which of the n rows have none."""
        values, again = flat.values, None
        if isinstance(values, Texts):
            # Each different text is looked at once.
            distinct = TextIds()
            again = distinct.encode(values)
            values = distinct.since(0).series()
        vocabulary = self._vocabularies.get(column.table_name)
        if vocabulary is not None:
            who = f"{file}, column {column.name!r}"
            bad, reason = vocabulary.keys.unusable(values, who)
            ids, unseen, missing = vocabulary.looked_up(values.set(pl.Series(bad), None) if bad.any() else values, who)
            self._count(column, ~missing, unseen, again)
        else:
            ids, bad, reason = raw.checked_ids(values, column, file)
        if again is not None:
            ids, bad = ids[again], bad[again]
        if not bad.any():
            return ids, ()
        first = dict(zip(flat.rows[bad][::-1].tolist(), np.flatnonzero(bad)[::-1].tolist(), strict=True))
        mask = np.zeros(n, bool)
        mask[flat.rows[bad]] = True

        def value(row: int) -> object:
            at = first[row]
            return values[int(again[at]) if again is not None else at]

        return ids, [(mask, column.name, value, reason)]


def _number(ids: TextIds, parts: list[tuple[Texts, np.ndarray, np.ndarray]], sparse: np.ndarray) -> None:
    """Numbers by first appearance, over the columns of one table in the order of the rows."""
    if len(parts) == 1:
        texts, rows, places = parts[0]
        sparse[rows, places] = ids.encode(texts)
        return
    begins = np.cumsum([0, *(len(texts.data) for texts, _, _ in parts)])
    if len({id(texts.data) for texts, _, _ in parts}) == 1:
        data, begins = parts[0][0].data, np.zeros_like(begins)
    else:
        data = np.concatenate([texts.data for texts, _, _ in parts])
    starts = np.concatenate([texts.starts + at for (texts, _, _), at in zip(parts, begins[:-1], strict=True)])
    ends = np.concatenate([texts.ends + at for (texts, _, _), at in zip(parts, begins[:-1], strict=True)])
    rows = np.concatenate([rows for _, rows, _ in parts])
    places = np.concatenate([places for _, _, places in parts])
    order = np.argsort(rows * sparse.shape[1] + places, kind="stable")
    sparse[rows[order], places[order]] = ids.encode(Texts(data, starts[order], ends[order]))


def _numbers(block: Block, name: str) -> tuple[np.ndarray, np.ndarray, Callable[[int], object], Sequence[Fault]]:
    """A column as float64 (n,), where it is no number, what it is in a row, and what else is wrong with it."""
    if isinstance(block, TextBlock):
        texts = block.texts[name]
        out, other = np.empty(len(texts)), np.empty(len(texts), bool)
        if read_numbers(texts.data, texts.starts, texts.ends, out, other):
            rows = np.flatnonzero(other)
            found, lost = raw.numeric(texts.take(rows).series(), name, raw.Where())
            out[rows], other[rows] = found, lost
        return out, other, texts.text, ()
    if isinstance(block, RecordBlock):
        values, rows, places, lengths = block.flat(name)
        out, lost = np.full(len(block), np.nan), np.zeros(len(block), bool)
        numbers, none = raw.numeric(values, name, raw.Where(block.faults.file, int(block.numbers[0])))
        out[rows], lost[rows] = numbers, none
        several = lengths > 1
        fault = (several, name, lambda row: block.value(name, row), "must be a single number")
        return out, lost & ~several, lambda row: block.value(name, row), [fault] if several.any() else ()
    if not isinstance(block, FrameBlock):
        raise TypeError(f"{type(block).__name__}: no block of a table.")
    values = block.frame[name]
    numbers, lost = raw.numeric(values, name, raw.Where(block.faults.file, int(block.numbers[0])))
    return numbers, lost, lambda row: values[row], ()


def _label(block: Block, schema: Schema, out: np.ndarray) -> Sequence[Fault]:
    name = schema.label
    numbers, lost, value, faults = _numbers(block, name)
    good, allowed = allowed_labels(schema, numbers)
    bad = lost | ~good
    out[:] = np.where(bad, 0.0, numbers)
    return [*faults, (bad, name, value, allowed)]


def _weight(block: Block, name: str, out: np.ndarray) -> Sequence[Fault]:
    numbers, _, value, faults = _numbers(block, name)
    with np.errstate(over="ignore"):
        out[:] = numbers
    return [*faults, (~(np.isfinite(out) & (out >= 0)), name, value, WEIGHTS)]


def _finite(block: Block, column: Dense) -> tuple[np.ndarray, np.ndarray, Callable[[int], object], list[Fault]]:
    numbers, lost, value, faults = _numbers(block, column.name)
    infinite = np.isinf(numbers)
    wrong = lost | infinite
    if not wrong.any():
        return numbers, wrong, value, list(faults)
    numbers = np.where(wrong, np.nan, numbers)
    found: list[Fault] = [*faults, (lost, column.name, value, raw.NUMBER), (infinite, column.name, value, raw.FINITE)]
    return numbers, wrong, value, found


def _early(block: Block, column: Dense, state: dict[str, Any], out: np.ndarray) -> Sequence[Fault]:
    numbers, _, value, faults = _finite(block, column)
    out[:] = dense.apply(column, state, numbers)
    outside = ~np.isfinite(out)
    return [*faults, (outside, column.name, value, dense.OUTSIDE)] if outside.any() else faults


def _late(block: Block, column: Dense, out: np.ndarray) -> Sequence[Fault]:
    out[:], _, value, faults = _finite(block, column)
    outside = dense.unusable(column, out)
    return [*faults, (outside, column.name, value, dense.OUTSIDE)] if outside.any() else faults


def _flat(block: Block, column: Categorical) -> tuple[_Flat, Sequence[Fault]]:
    """The values of a categorical column, and which rows have too many."""
    if isinstance(block, TextBlock):
        texts = block.texts[column.name]
        n = len(texts)
        if not column.multi_hot:
            return _Flat(texts, np.arange(n), np.zeros(n, np.int64)), ()
        starts, ends, rows, places = (np.empty(n * column.hotness, np.int64) for _ in range(4))
        long = np.empty(n, np.int64)
        total = split_fields(
            texts.data, texts.starts, texts.ends, _SEPARATOR, column.hotness, starts, ends, rows, places, long
        )
        flat = _Flat(Texts(texts.data, starts[:total], ends[:total]), rows[:total], places[:total])
        if not long.any():
            return flat, ()
        if column.truncate is None:
            reason = raw.too_long(column)
            return flat, [(long > 0, column.name, texts.text, lambda row: f"has {long[row]} {reason}")]
        return _Flat(*raw.truncated(column, *raw.flatten(texts.series(), column))[:3]), ()
    if isinstance(block, RecordBlock):
        values, rows, places, lengths = block.flat(column.name)
    elif isinstance(block, FrameBlock):
        values, rows, places, lengths = raw.flatten(block.frame[column.name], column)
    else:
        raise TypeError(f"{type(block).__name__}: no block of a table.")
    too_long = lengths > column.hotness
    if not too_long.any():
        return _Flat(values, rows, places), ()
    if column.truncate is not None:
        return _Flat(*raw.truncated(column, values, rows, places, lengths)[:3]), ()
    reason = raw.too_long(column)
    keep = ~too_long[rows]

    def value(row: int) -> object:
        found = block.value(column.name, row) if isinstance(block, RecordBlock) else block.frame[column.name][row]
        return found.to_list() if hasattr(found, "to_list") else found

    fault = (too_long, column.name, value, lambda row: f"has {lengths[row]} {reason}")
    return _Flat(values.filter(keep), rows[keep], places[keep]), [fault]
