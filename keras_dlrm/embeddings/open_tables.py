"""`OpenTables`: rows of a collection's open vocabularies, given to new ids before each training step."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras import ops

from keras_dlrm import backend
from keras_dlrm.embeddings.row_access import ROWS, RowAccess, row_code
from keras_dlrm.embeddings.table_rows import bucket
from keras_dlrm.schema.columns import PADDING, Categorical
from keras_dlrm.schema.hashing import LARGEST
from keras_dlrm.schema.open_vocabulary import WAYS
from keras_dlrm.schema.packing import narrow, signed
from keras_dlrm.schema.schema import Schema
from keras_dlrm.sharding.active import current
from keras_dlrm.sharding.stacking import Stack, Table

if TYPE_CHECKING:
    from keras_dlrm.data.slot_map import SlotMap


@dataclasses.dataclass
class OpenTable:
    """The map of one table, the places of its columns' ids in `batch["sparse"]`, and how its rows start."""

    table: Table
    places: np.ndarray
    slots: SlotMap
    seconds: int | None  # `Open.ttl`, where it is a time of the clock
    constants: Any = None  # tensors of `identities` that graphs are to read, where they are not to hold the numbers themselves

    @functools.cached_property
    def columns(self) -> Any:
        """The places as an index: a slice where it takes them, which does not copy."""
        first, last = int(self.places[0]), int(self.places[-1])
        return slice(first, last + 1) if (np.diff(self.places) == 1).all() else self.places


class OpenTables:
    """The maps of all open vocabularies of a collection; as one of its `before_steps` it gives new ids rows, which start anew.

    A row of a new id is drawn from (seed, table, id), on the host: the same values on every backend, whatever row it is and
    whenever that happens. Its optimizer slots start as the row rule says.

    Args:
        schema: Schema with an open column.
        stacks: Stacks of the collection.
        seed: Seed of the collection.
    """

    def __init__(self, schema: Schema, stacks: list[Stack], seed: int) -> None:
        from keras_dlrm.data.slot_map import SlotMap  # Numba is slow to import

        if backend.replicas() is not None:
            raise ValueError(
                "EmbeddingCollection: an open vocabulary does not train in the scope of a strategy with replicas; shard its table "
                "with a plan (kd.plan), or train in one process."
            )
        if current() is not None and keras.backend.backend() == "jax":
            raise ValueError(
                "EmbeddingCollection: a plan does not shard the tables of open vocabularies on JAX, whose rows are on devices of "
                "several processes; train on TensorFlow or torch, or in one process."
            )
        self.schema, self.seed = schema, seed
        stored = {table.name: table for stack in stacks for table in stack.tables}
        self.tables: dict[str, OpenTable] = {}
        self._fitted: tuple[list[Categorical], list[int]] = [], []  # columns of other vocabularies, and their places
        for column, start in zip(schema.categorical, schema.offsets, strict=True):
            places = np.arange(start, start + column.hotness)
            if column.open is None:
                self._fitted[0].append(column)
                self._fitted[1].extend(places)
                continue
            known = self.tables.get(column.table_name)
            if known is not None:
                known.places = np.concatenate([known.places, places])
                continue
            options, seconds = column.open, column.open.seconds
            ttl = options.ttl if seconds is None else seconds
            slots = SlotMap(options.rows, WAYS, options.evict, ttl, options.admit)  # type: ignore[arg-type]
            if column.table_name not in stored:
                raise ValueError(
                    f"EmbeddingCollection: table {column.table_name!r} of the open column {column.name!r} is split by "
                    "quotient_remainder, and rows of its parts stand for many ids; raise its threshold."
                )
            self.tables[column.table_name] = OpenTable(stored[column.table_name], places, slots, seconds)
        self._logged = self._totals()

    def __call__(self, ids: np.ndarray, rows: RowAccess, training: bool) -> np.ndarray:
        """Ids of a batch as codes of their rows; see `BeforeStep`."""
        ids = np.maximum(signed(ids), PADDING - 1)  # one that is out of range is not the code of a row
        training = training and rows.collection.trainable  # the rows of a frozen layer keep their ids
        # Each process assigns the ids of all processes in their order, so that all maps are one: that of the whole batch.
        every, here, now = self._of_all(ids, rows.collection.sharded is not None and training)
        codes = np.empty(ids.shape, np.int32)
        columns, places = self._fitted
        codes[:, places] = narrow(columns, ids[:, places])
        fresh = {}
        for name, each in self.tables.items():
            asked = every[:, each.columns]
            if training:
                slots, replaced = each.slots.assign(asked, None if each.seconds is None else now)
                if len(replaced.slots):
                    fresh[name] = (replaced.slots, self._fresh(each, rows.slots(name), replaced.after))
            else:
                slots = each.slots.find(asked)
            codes[:, each.columns] = row_code(slots[here])
        np.copyto(codes, ids, "unsafe", ids < 0)
        rows.write(fresh)
        return codes

    def _of_all(self, ids: np.ndarray, shared: bool) -> tuple[np.ndarray, slice, int]:
        """Ids of a whole batch, of which each process has a part, this one's rows in it, and the time."""
        now = int(time.time())
        if not shared:
            return ids, slice(None), now
        from keras_dlrm.sharding import collectives, everyone  # not loaded by programs of one process

        columns = np.concatenate([each.places for each in self.tables.values()])
        gathered = everyone.arrays(np.concatenate([ids[:, columns].reshape(-1), [now]]))
        first, processes = collectives.process_rank() * len(ids), len(gathered)
        every = np.full((processes * len(ids), ids.shape[1]), PADDING, np.int64)
        every[:, columns] = gathered[:, :-1].reshape(-1, len(columns))
        return every, slice(first, first + len(ids)), int(gathered[:, -1].max())

    def _fresh(self, each: OpenTable, slots: Mapping[str, tuple[tuple[int, ...], float]], ids: np.ndarray) -> dict[str, np.ndarray]:
        """First values of the rows of new ids (n,), and of their optimizer slots."""
        from keras_dlrm.data.kernels.id_rows import rows_of_ids

        table = each.table
        values = {name: np.full((len(ids), *shape), initial, np.float32) for name, (shape, initial) in slots.items()}
        return {ROWS: rows_of_ids([self.seed, *table.number], ids, table.width, table.half_width), **values}

    # -- in graphs ---------------------------------------------------------------------------------------------------

    def rows_in_graph(self, stack: Stack, ids: Any, rows: Any) -> Any:
        """Rows of a lookup's positions, where ids of open vocabularies are looked up in the maps as they are now.

        Args:
            stack: The stack that is looked up.
            ids: Integer (B, positions).
            rows: int32 (B, positions), rows of all other ids.
        """
        for places, each in self.of_stack(stack):
            # Columns of the lookup, and those that were found behind them, in the order of the positions.
            order = np.arange(stack.positions, dtype=np.int32)
            order[places] = stack.positions + np.arange(len(places))
            of_open = self._slots_in_graph(each, ops.take(ids, places, axis=1))
            every = ops.take(ops.concatenate([rows, of_open], axis=1), order, axis=1)
            rows = ops.where(ids >= 0, every, rows)
        return rows

    def of_stack(self, stack: Stack) -> Iterator[tuple[np.ndarray, OpenTable]]:
        """The open tables of a stack, each with the positions of its lookups, int32."""
        for name, start in stack.starts.items():
            places = np.flatnonzero(stack.per_position["open"] & (stack.per_position["start"] == start))
            if name in self.tables and len(places):
                yield places.astype(np.int32), self.tables[name]

    def _slots_in_graph(self, each: OpenTable, ids: Any) -> Any:
        """Ids (B, n) → rows, int32 (B, n), 0 where an id has none."""
        low, high = each.constants or map(ops.convert_to_tensor, self.identities(each))
        ids = ops.where(ids >= 0, ids, ops.zeros_like(ids))
        buckets = bucket(ids, each.slots.buckets)
        if "int64" in str(ids.dtype):
            own_low = ops.cast(ops.bitwise_and(ids, LARGEST), "int32")
            own_high = ops.cast(ops.right_shift(ids, 31) - (LARGEST + 1), "int32")
        else:
            own_low, own_high = ops.cast(ids, "int32"), ops.full_like(ops.cast(ids, "int32"), -LARGEST - 1)
        same = ops.logical_and(
            ops.equal(ops.take(low, buckets, axis=0), ops.expand_dims(own_low, -1)),
            ops.equal(ops.take(high, buckets, axis=0), ops.expand_dims(own_high, -1)),
        )
        way = ops.cast(ops.argmax(ops.cast(same, "int32"), axis=-1), "int32")
        return ops.where(ops.any(same, axis=-1), 1 + ops.cast(buckets, "int32") * each.slots.ways + way, 0)

    @staticmethod
    def identities(each: OpenTable) -> tuple[np.ndarray, np.ndarray]:
        """Lower 31 bits of the ids of a map's slots, -1 where there is none, and upper ones less 2³¹: int32 (buckets, ways)."""
        ids = each.slots.identities
        low = np.where(ids < 0, -1, ids & LARGEST).astype(np.int32)
        return low, ((np.maximum(ids, 0) >> 31) - (LARGEST + 1)).astype(np.int32)

    # -- state -------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, np.ndarray]:
        """State of all maps, by table and array: `item/identities` and so on."""
        return {f"{name}/{key}": array for name, each in self.tables.items() for key, array in each.slots.state().items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state` gave; `ValueError` where it is that of other maps."""
        for name, each in self.tables.items():
            each.slots.restore({key.rpartition("/")[2]: state[key] for key in state if key.rpartition("/")[0] == name})
        self._logged = self._totals()

    def logs(self) -> dict[str, float]:
        """Ids that got a row, ids that lost theirs, and uses that found no free row, since the last call; share of rows in use.

        Empty where nothing was trained since then.
        """
        totals, before = self._totals(), self._logged
        if totals["steps"] == before["steps"]:
            return {}
        self._logged = totals
        maps = [each.slots for each in self.tables.values()]
        names = ("admitted", "evicted", "collisions")
        counts = {f"open_{name}": float(totals[name] - before[name]) for name in names}
        return {**counts, "open_occupancy": sum(m.occupied for m in maps) / sum(m.rows - 1 for m in maps)}

    def _totals(self) -> dict[str, int]:
        maps = [each.slots for each in self.tables.values()]
        return {name: sum(getattr(m, name) for m in maps) for name in ("admitted", "evicted", "collisions", "steps")}
