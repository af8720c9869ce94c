"""`CachedTables`: the store of an `EmbeddingCollection` whose tables are host tables."""

import dataclasses
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from keras_dlrm import backend
from keras_dlrm.backend.private_keras import in_symbolic_scope
from keras_dlrm.embeddings.host.host_stack import HostStack, parts_of
from keras_dlrm.embeddings.host.host_tables import HostTables
from keras_dlrm.embeddings.inputs import map_ids
from keras_dlrm.embeddings.lookup import goes_to_tape
from keras_dlrm.embeddings.row_access import RowAccess, prepared, row_code
from keras_dlrm.embeddings.table_rows import table_rows
from keras_dlrm.embeddings.whole_tables import WholeTables
from keras_dlrm.schema.columns import PADDING
from keras_dlrm.schema.schema import Schema
from keras_dlrm.sharding.stacking import Stack, stack_rows


@dataclasses.dataclass
class _Batch:
    ids: np.ndarray  # (B, W), as they came
    number: int = -1
    slots: list[np.ndarray | None] = dataclasses.field(default_factory=list)  # of each stack

    @property
    def has_room(self) -> bool:
        """Whether there are slots for all its rows."""
        return bool(self.slots) and all(slots is not None for slots in self.slots)


class CachedTables(WholeTables):
    """The cached rows of host tables as variables, what is looked up there, and all other rows.

    Before each step of Keras's loops it is called with the batch's ids: as a `BeforeStep` it gives them slots of the cache. A
    model that is called directly reads rows where they are, and moves none.
    """

    def __init__(self, schema: Schema, stacks: Sequence[Stack], operation: str | None, host: HostTables) -> None:
        super().__init__(stacks, operation)
        self._schema = schema
        self.host = host
        self.hosts: list[HostStack] = []
        self._coming: deque[_Batch] = deque()
        self._number = -1
        self._cleared = 0

    def build(self, layer: Any) -> None:
        for stack, slots in zip(self.stacks, self.host.shares(self.stacks), strict=True):
            table = layer.add_table(f"tables_{stack.width}", (slots, stack.width))
            table.host = HostStack(table, stack.rows, layer.initial_rows(stack), self.host.folder)
            self.hosts.append(table.host)
            self.variables.append(table)

    @property
    def most_examples(self) -> int:
        """Examples of a batch whose rows have room in the cache whatever they look up; 1 at least."""
        rooms = [
            slots // (self._schema.width if stack.take is None else len(stack.take))
            for stack, slots in zip(self.stacks, self.host.shares(self.stacks), strict=True)
            if slots < stack.rows
        ]
        return max(1, min(rooms, default=2**31))

    # -- before a step -----------------------------------------------------------------------------------------------

    def expect(self, inputs: Any) -> None:
        """Take note of the inputs of a step that will train, after those noted before."""

        def note(ids: np.ndarray) -> np.ndarray:
            self._coming.append(_Batch(ids))
            return ids

        map_ids(note, inputs, self._schema)

    def __call__(self, ids: np.ndarray, rows: RowAccess, training: bool) -> np.ndarray:
        if self._cleared != (cleared := sum(host.cache.cleared for host in self.hosts)):
            # Tables or slots were replaced between two steps, and what was on its way went with them.
            self._cleared, self._coming = cleared, deque(_Batch(later.ids) for later in self._coming)
        batch = self._next(ids, training)
        self._announce(batch, training, batch)
        if not batch.has_room:  # rows of later batches have taken the room
            self._coming.clear()
            self._announce(batch, training, batch)
        for later in self._coming:
            self._announce(later, True, batch)
            if not later.has_room:
                break
        coded = np.full(ids.shape, PADDING, np.int32)
        for stack, host, slots in zip(self.stacks, self.hosts, batch.slots, strict=True):
            if slots is None:
                needed = np.unique(stack_rows(stack, ids))
                raise ValueError(
                    f"HostTables: a batch of {len(ids)} examples looks up {(needed >= 0).sum():,} rows of the tables of width "
                    f"{stack.width}, whose cache has {len(host.cache.row_of):,}; raise device_rows from "
                    f"{self.host.device_rows:,}, or take smaller batches."
                )
            host.land(batch.number)
            own = np.where(slots >= 0, row_code(slots), np.int32(PADDING)).reshape(len(ids), -1)
            coded[:, slice(None) if stack.take is None else stack.take] = own
        return coded

    def _next(self, ids: np.ndarray, training: bool) -> _Batch:
        """The batch as it was expected. Those before it never came, as when `fit` ended; what is evaluated comes in between."""
        while training and self._coming:
            batch = self._coming.popleft()
            if np.array_equal(batch.ids, ids):
                return batch
        return _Batch(ids)

    def _announce(self, batch: _Batch, training: bool, current: _Batch) -> None:
        """Find room for a batch among rows that neither the batch of the current step needs nor those after it."""
        if batch.has_room:
            return
        self._number += 1
        done = min((each.number for each in [current, *self._coming] if each.number >= 0), default=self._number) - 1
        batch.number = self._number
        batch.slots = []
        for stack, host in zip(self.stacks, self.hosts, strict=True):
            host.land(done)  # else a row might give way that has not come yet
            host.cache.done = done
            batch.slots.append(host.announce(stack_rows(stack, batch.ids).reshape(-1), batch.number, training))

    # -- lookups -----------------------------------------------------------------------------------------------------

    def rows_of(self, stack: Stack, ids: Any) -> Any:
        """int32 slots for the ids (B, positions) of a step, else rows of the tables; -1 where an id contributes nothing."""
        if not self._of_slots():
            return table_rows(stack, ids)
        return ops.where(ids < PADDING - 1, row_code(ops.cast(ids, "int32")), PADDING)

    def vectors(self, number: int, rows: Any, training: bool | None) -> Any:
        if self._of_slots():
            return self.looked_up(number, rows, training)
        start = self.stacks[number].per_position["start"]
        if goes_to_tape(self.variables[number]):
            return super().vectors(number, rows, training)
        asked = ops.convert_to_numpy(rows).astype(np.int64)
        asked = np.where(asked >= 0, asked + start, PADDING)
        unique, index = np.unique(asked, return_inverse=True)
        host, table = self.hosts[number], self.variables[number]
        values = np.where(unique[:, None] >= 0, host.read_at(table, np.maximum(unique, 0)), np.float32(0))
        return ops.convert_to_tensor(values[index.reshape(asked.shape)])

    def _of_slots(self) -> bool:
        """Whether ids are slots; else they are read as they are, which takes values that are there."""
        if prepared.value or in_symbolic_scope():
            return True
        if backend.can_write():
            return False
        raise RuntimeError(
            "HostTables: tables are looked up in a compiled function outside of a model's own steps, where their rows cannot be "
            "brought; use fit, evaluate, predict, train_on_batch or the model itself, of a kd.models model or a SparseModel."
        )

    # -- logical tables ----------------------------------------------------------------------------------------------

    def write(self, name: str, rows: Any) -> None:
        ((shard, variable, start),) = self.parts(name)
        for first, last in parts_of(shard.rows):
            self.write_rows(variable, None, start + first, np.asarray(rows[first:last], np.float32))
