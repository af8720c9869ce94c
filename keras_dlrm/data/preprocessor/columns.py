"""Encoding of a block of a table: values to ids and numbers, final or provisional, and the counts of the latter."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any

import numpy as np
import polars as pl

from keras_dlrm.data.kernels.first_appearance import TextIds, Texts
from keras_dlrm.data.preprocessor import codebooks, dense, time_order
from keras_dlrm.data.preprocessor import raw_columns as raw
from keras_dlrm.data.preprocessor.block import Block, Fault, Flat, FrameBlock, Numbers
from keras_dlrm.data.preprocessor.unseen import Tally
from keras_dlrm.data.preprocessor.vocabulary import HEX, Keys, Vocabulary, counted
from keras_dlrm.schema import crosses
from keras_dlrm.schema.columns import PADDING, Categorical, Dense
from keras_dlrm.schema.label import allowed_labels
from keras_dlrm.schema.packing import WEIGHTS, Lists, ids_dtype
from keras_dlrm.schema.schema import Schema
from keras_dlrm.schema.time_parts import part_of, raw_names, sources
from keras_dlrm.schema.vectors import code_ids, semantic, vectors


@dataclasses.dataclass(frozen=True)
class Rows:
    """n good rows of a block.

    Args:
        label: float32 (n,), in [0, 1], or NaN where there is none; of T labels (n, T).
        sample_weight: float32 (n,), 1 where the schema names none.
        dense: float32 (n, n_dense); columns that wait for their statistics are not filled.
        late: float64 (n, n_late), raw values of these columns, NaN where missing, and the content vectors whose codebooks are still
            to be fitted.
        sparse: int32 (n, W): ids, or numbers of `TextIds` where the vocabulary is still being read, and crossed columns are not
            filled; -1 for padding.
        lists: The lists of sparse columns of a table in memory.
        when: uint64 (n,), keys of the column of times, 0 where there is none.
    """

    label: np.ndarray
    sample_weight: np.ndarray
    dense: np.ndarray
    late: np.ndarray
    sparse: np.ndarray
    lists: Mapping[str, Lists]
    when: np.ndarray

    def __len__(self) -> int:
        return len(self.label)


class Columns:
    """Works off the columns of blocks.

    Args:
        schema: What the columns are.
        state: Fitted parameters by dense column, or `None` where they are still to be fitted.
        vocabularies: Known vocabularies by table; values of other tables without a size are numbered.
        labeled: Whether there is a label; without one all labels are NaN.
        keys: `Keys` by table without a size, where values are not compared as text.
        time: Column of times that puts the rows in order, if there is one.

    Attributes:
        names: Columns that are read.
        unseen: Values that the known vocabularies do not have, counted as columns are worked off.
    """

    def __init__(
        self,
        schema: Schema,
        state: Mapping[str, dict[str, Any]] | None,
        vocabularies: Mapping[str, Vocabulary],
        labeled: bool = True,
        keys: Mapping[str, Keys] | None = None,
        time: str | None = None,
    ) -> None:
        self.schema, self._vocabularies = schema, vocabularies
        self.unseen = Tally()
        self._row_names = schema.row_names if labeled else ()
        self.time = time
        self.names = list(dict.fromkeys([*raw_names(schema), *self._row_names, *([] if time is None else [time])]))
        self._state = state or {}
        self.late = [j for j, c in enumerate(schema.dense) if state is None and dense.needs_fit(c)]
        self.late_vectors: dict[str, slice] = {}  # places in `Rows.late` of the vectors that wait for a codebook
        self.late_width = len(self.late)
        for name in dict.fromkeys(str(c.of) for c in semantic(schema.categorical) if state is None):
            self.late_vectors[name] = slice(self.late_width, self.late_width + vectors(schema)[name])
            self.late_width = self.late_vectors[name].stop
        self.open: dict[str, list[tuple[Categorical, int]]] = {}
        for column, offset in zip(schema.categorical, schema.offsets, strict=True):
            if column.vocabulary_size is None and column.table_name not in vocabularies:
                self.open.setdefault(column.table_name, []).append((column, offset))
        self.texts = {table: TextIds() for table in self.open}
        self.keys = {table: (keys or {}).get(table, Keys()) for table in self.open}

    def work(self, block: Block, executor: Executor | None = None) -> Rows:
        """The good rows of a block; the others are in `block.faults` then. Threads of the executor, if any, work on columns."""
        schema, n = self.schema, len(block)
        over: Any = map if executor is None else executor.map
        out = np.empty((n, schema.n_dense), np.float32)
        late = np.empty((n, self.late_width))
        sparse = np.full((n, schema.width), PADDING, ids_dtype(schema.categorical))
        label = np.full((n, len(schema.labels)), np.nan, np.float32)
        weight, when = np.ones(n, np.float32), np.zeros(n, np.uint64)
        offsets = dict(zip(schema.categorical_names, schema.offsets, strict=True))
        places = {name: j for j, name in enumerate(schema.dense_names)}
        flats: dict[str, Flat] = {}
        lists: dict[str, Lists] = {}
        content: dict[str, np.ndarray] = {}
        for name, width in vectors(schema).items():
            content[name], wrong = block.vectors(name, width)
            for fault in wrong:
                block.faults.add(name, fault)
            if name in self.late_vectors:
                late[:, self.late_vectors[name]] = content[name]

        def one(column: Dense | Categorical | str) -> Sequence[Fault]:
            if isinstance(column, str):
                if column not in schema.labels:
                    return _weight(block, column, weight)
                return _label(block, schema, column, label[:, schema.labels.index(column)])
            if isinstance(column, Dense):
                j = places[column.name]
                if column.element is not None:
                    numbers = _element(content[str(column.of)], column)
                else:
                    numbers = block.numeric(column.name) if column.of is None else _parts(block, column)
                if j in self.late:
                    return _dense(numbers, column, None, late[:, self.late.index(j)])
                return _dense(numbers, column, self._state.get(column.name, {}), out[:, j])
            if column.codes is not None:
                if column.of not in self.late_vectors:
                    self.encode(column, content[str(column.of)], self._state, sparse)
                return ()
            if column.of is not None:
                numbers = _parts(block, column)
                sparse[:, offsets[column.name]] = np.where(np.isnan(numbers.values), PADDING, numbers.values)
                return [*numbers.faults, (numbers.lost, numbers.value, time_order.TIME)]
            flat, faults = block.flat(column)
            if flat.lists is not None:
                lists[column.name] = flat.lists
            if column.table_name in self.open:
                flats[column.name] = flat
                return [*faults, *self._unusable(flat, column, block)]
            ids, more = self._ids(flat, column, block)
            sparse[flat.rows, offsets[column.name] + flat.places] = ids
            return [*faults, *more]

        todo = [*self._row_names, *schema.dense, *crosses.own(schema.categorical)]
        for name in (*sources(schema), *([] if self.time is None else [self.time])):
            block.check_single(name)
        for column, faults in zip(todo, list(over(one, todo)), strict=True):
            for fault in faults:
                block.faults.add(column if isinstance(column, str) else column.name, fault)
        if self.time is not None:
            block.faults.add(self.time, _time(block, self.time, when))
        good = ~block.faults.bad if block.faults else None

        def number(table: str) -> None:
            parts = []
            for column, offset in self.open[table]:
                flat = flats[column.name]
                if good is not None:
                    flat = flat.take(np.flatnonzero(good[flat.rows]))
                values = flat.values
                if not isinstance(values, Texts):
                    # Texts are normalized when they are counted, each once.
                    if values.dtype != pl.String:
                        values = Keys().normalize(values, block.where.of(column.name))
                    values = Texts.of(values)
                parts.append((values, flat.rows, offset + flat.places))
            _number(self.texts[table], parts, sparse)

        list(over(number, self.open))
        if good is not None:
            label, weight, when = label[good], weight[good], when[good]
            out, late, sparse = out[good], late[good], sparse[good]
        label = label[:, 0] if isinstance(schema.label, str) else label
        return Rows(label, weight, out, late, sparse if self.open else crosses.fill(schema, sparse), lists, when)

    def encode(self, column: Categorical, content: np.ndarray, state: Mapping[str, Any], sparse: np.ndarray) -> None:
        """Write the ids of a column of codes into packed ids (n, W), from its content vectors (n, width)."""
        start = self.schema.offsets[self.schema.categorical_names.index(column.name)]
        sparse[:, start : start + column.hotness] = code_ids(column, codebooks.encode(state[column.name], content))

    def _count(self, column: Categorical, there: np.ndarray, unseen: np.ndarray, again: np.ndarray | None) -> None:
        if again is None:
            return self.unseen.add(column.name, int(np.count_nonzero(there)), int(np.count_nonzero(unseen)))
        times = np.bincount(again, minlength=len(there))
        self.unseen.add(column.name, int(times[there].sum()), int(times[unseen].sum()))

    def _ids(self, flat: Flat, column: Categorical, block: Block) -> tuple[np.ndarray, Sequence[Fault]]:
        """Final ids of a column, and which rows have none."""
        values, again = flat.values, None
        if isinstance(values, Texts):
            # Each different text is looked at once.
            distinct = TextIds()
            again = distinct.encode(values)
            values = distinct.since(0).series()
        vocabulary = self._vocabularies.get(column.table_name)
        if vocabulary is not None:
            who = block.where.of(column.name)
            bad, reason = vocabulary.keys.unusable(values, who)
            ids, unseen, missing = vocabulary.looked_up(values, who)
            self._count(column, ~missing, unseen, again)
        else:
            ids, bad, reason = raw.checked_ids(values, column, block.faults.file)
        if again is not None:
            ids, bad = ids[again], bad[again]

        def value(at: int) -> object:
            return values[at if again is None else int(again[at])]

        return ids, _of_values(flat, bad, len(block), value, reason)

    def _unusable(self, flat: Flat, column: Categorical, block: Block) -> Sequence[Fault]:
        """Rows with values that will have no key."""
        keys = self.keys[column.table_name]
        if keys.kind != HEX:
            return ()
        values = flat.values.series() if isinstance(flat.values, Texts) else flat.values
        bad, reason = keys.unusable(values, block.where.of(column.name))
        return _of_values(flat, bad, len(block), values.__getitem__, reason)

    def read(self, tables: Any) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """`late` and `sparse` of one or many tables, as `raw_columns.frames` takes them; an error where a row cannot be used."""
        for table, where in raw.frames(tables, raw_names(self.schema), sources(self.schema)):
            rows = self.work(FrameBlock.in_memory(table, where))
            yield rows.late, rows.sparse

    def count(
        self, parts: Iterable[tuple[np.ndarray, np.ndarray]]
    ) -> tuple[dict[str, pl.DataFrame], dict[str, dict[str, Any]]]:
        """Counted keys by open table, and fitted parameters by dense column, of `late` and `sparse` of some rows in parts.

        Keys stand in the order of their first appearance in these rows.
        """
        fits = [dense.DenseFit(self.schema.dense[j]) for j in self.late]
        books = [codebooks.CodebookFit(c) for c in semantic(self.schema.categorical) if c.of in self.late_vectors]
        counts = {table: np.zeros(len(ids), np.int64) for table, ids in self.texts.items()}
        order: dict[str, list[np.ndarray]] = {table: [] for table in self.texts}
        for late, sparse in parts:
            for k, fit in enumerate(fits):
                fit.update(late[:, k])
            for book in books:
                book.update(late[:, self.late_vectors[str(book.column.of)]])
            for table, members in self.open.items():
                size, known = len(self.texts[table]), len(counts[table])
                if size > known:  # room for as many again: each part that has new texts would copy all counts
                    counts[table] = np.append(counts[table], np.zeros(2 * size - known, np.int64))
                places = [sparse[:, offset : offset + column.hotness] for column, offset in members]
                part = (places[0] if len(places) == 1 else np.concatenate(places, axis=1)).ravel()
                part = part[part != PADDING]
                fresh = part[counts[table][part] == 0]
                if len(fresh):
                    new, appeared = np.unique(fresh, return_index=True)
                    order[table].append(new[np.argsort(appeared)])
                np.add.at(counts[table], part, 1)
        tables = {}
        for table, count in counts.items():
            seen = np.concatenate([np.empty(0, np.int64), *order[table]])
            texts = self.texts[table].since(0).take(seen).series()
            tables[table] = counted(texts, count[seen], self.keys[table], f"table {table!r}")
        return tables, {fit.column.name: fit.state() for fit in fits} | {book.column.name: book.state() for book in books}


def _of_values(flat: Flat, bad: np.ndarray, n: int, value: Callable[[int], object], reason: str) -> Sequence[Fault]:
    """The fault of the rows, of n, that have a bad one among some flat values, of which `value` gives one."""
    if not bad.any():
        return ()
    first = dict(zip(flat.rows[bad][::-1].tolist(), np.flatnonzero(bad)[::-1].tolist(), strict=True))
    mask = np.zeros(n, bool)
    mask[flat.rows[bad]] = True
    return [(mask, lambda row: value(first[row]), reason)]


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


def _label(block: Block, schema: Schema, name: str, out: np.ndarray) -> Sequence[Fault]:
    label = block.numeric(name)
    good, allowed = allowed_labels(label.values, schema.soft_labels, missing=len(schema.labels) > 1)
    bad = label.lost | ~good
    out[:] = np.where(bad, 0.0, label.values)
    return [*label.faults, (bad, label.value, allowed)]


def _time(block: Block, name: str, out: np.ndarray) -> Fault:
    values = block.series(name, np.arange(len(block)))
    out[:], lost = time_order.keys(values, block.where.of(name))
    return lost, lambda row: block.value(name, row), time_order.REASON


def _weight(block: Block, name: str, out: np.ndarray) -> Sequence[Fault]:
    weight = block.numeric(name)
    with np.errstate(over="ignore"):
        out[:] = weight.values
    return [*weight.faults, (~(np.isfinite(out) & (out >= 0)), weight.value, WEIGHTS)]


def _parts(block: Block, column: Dense | Categorical) -> Numbers:
    """A column that is made of times, as numbers."""
    name = str(column.of)
    seconds, lost = time_order.seconds(block.series(name, np.arange(len(block))), block.where.of(name))
    return Numbers(part_of(str(column.part), seconds), lost, lambda row: block.value(name, row))


def _element(content: np.ndarray, column: Dense) -> Numbers:
    """An element of content vectors (n, width), as numbers."""
    values = content[:, column.element]
    return Numbers(values, np.zeros(len(values), bool), values.item)


def _dense(numbers: Numbers, column: Dense, state: dict[str, Any] | None, out: np.ndarray) -> Sequence[Fault]:
    """A dense column: transformed, or as it is, NaN where missing, where its state is still to be fitted (`None`)."""
    values, faults = numbers.values, list(numbers.faults)
    if numbers.lost.any():
        faults.append((numbers.lost, numbers.value, raw.NUMBER if column.of is None else time_order.TIME))
    # Infinite is what x/0 gives, as 0/0 gives NaN: neither is a value.
    values = np.where(numbers.lost | np.isinf(values), np.nan, values)
    out[:] = values if state is None else dense.apply(column, state, values)
    outside = dense.unusable(column, values) if state is None else ~np.isfinite(out)
    return [*faults, (outside, numbers.value, dense.OUTSIDE)]
