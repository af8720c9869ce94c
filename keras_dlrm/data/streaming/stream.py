"""`Stream`, the base of every stream: positions to resume from, and chunks of packed rows."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from keras_dlrm.data.preprocessor.bad_rows import BadRows
from keras_dlrm.data.preprocessor.preprocessor import Preprocessor
from keras_dlrm.support.arguments import integer


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Rows that were read together.

    Args:
        batch: Packed batch of B rows; `None` where none of those read can be used.
        label: float32 (B,).
        read: How many were read, bad ones included.
        positions: Where the stream goes on behind them, by file or partition.
    """

    batch: dict[str, np.ndarray] | None
    label: np.ndarray
    read: int
    positions: dict[str, int]

    @property
    def rows(self) -> int:
        """Rows of the batch."""
        return len(self.label)


class Stream:
    """Base of the streams. A source defines `_start`, `_look`, `_take` and `_pack`.

    Args:
        preprocessor: Fitted; maps raw columns to packed batches, as it does for files and requests.
        on_error: What to do with rows that cannot be used: `"raise"` or `"skip"`.
        max_skipped: With `"skip"`, an error when more than so many were left out; `None` for no limit.
        poll: Seconds between two looks for more where the end was reached.

    Attributes:
        positions: Where each file or partition goes on: the number of its next row.
        bad: `BadRows`: the policy, how many were left out, and the first 100.
    """

    def __init__(self, preprocessor: Preprocessor, on_error: str, max_skipped: int | None, poll: float) -> None:
        schema = preprocessor.schema
        if schema.weighted:
            raise ValueError(f"{type(self).__name__}: a weighted=True schema names no column of weights.")
        if schema.sample_weight is not None:
            raise ValueError(
                f"{type(self).__name__}: streams carry no row weights; leave sample_weight={schema.sample_weight!r} out."
            )
        if not poll > 0:
            raise ValueError(f"{type(self).__name__}: poll={poll!r} must be a number of seconds above 0.")
        self.preprocessor = preprocessor
        self.bad = BadRows(on_error, max_skipped)
        self.poll = poll
        self.positions: dict[str, int] = {}
        self._ready = False

    # -- of a source -------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        """Forget what was read ahead, and set what is missing in `positions`."""
        raise NotImplementedError

    def _look(self) -> bool:
        """Look for more. Whether there is."""
        raise NotImplementedError

    def _take(self, rows: int) -> list[Any]:
        """At most so many of the rows that are there, in pieces with a length; moves `positions`. None at the end."""
        raise NotImplementedError

    def _pack(self, pieces: Sequence[Any]) -> tuple[dict[str, np.ndarray], np.ndarray] | None:
        raise NotImplementedError

    def _length(self, batch_size: int) -> int | None:
        """Number of batches of one pass, where that is known beforehand."""
        return None

    # -- for users ---------------------------------------------------------------------------------------------------

    def seek(self, positions: Mapping[str, int] | None = None) -> None:
        """Go on at these positions: those of a `Chunk`. Without them, at the start.

        Raises:
            ValueError: a position lies outside of what the source holds.
        """
        who = type(self).__name__
        self.positions = {name: integer(who, f"positions[{name!r}]", n, 0) for name, n in (positions or {}).items()}
        self._start()
        self._look()
        self._ready = True

    def read(
        self,
        rows: int,
        max_wait: float = 10.0,
        until_end: bool = False,
        stop: Callable[[], bool] | None = None,
    ) -> Chunk | None:
        """Read the next rows, and wait for them where there are none yet.

        Args:
            rows: Most rows to read.
            max_wait: Seconds from the first row on after which fewer are enough.
            until_end: Do not wait: what is there is enough.
            stop: Called between two looks; true ends the waiting.

        Returns:
            The chunk, or `None` where there was nothing and `until_end` or `stop` ended the waiting.

        Raises:
            ValueError: a row cannot be used, and `on_error` is `"raise"`; the message says where it is.
        """
        rows = integer("read", "rows", rows)
        if not self._ready:
            self.seek(self.positions)
        pieces: list[Any] = []
        got, since = 0, 0.0
        while got < rows:
            taken = self._take(rows - got)
            if taken:
                since = since if got else time.monotonic()
                pieces += taken
                got += sum(len(piece) for piece in taken)
            elif self._look():
                continue
            elif until_end or (stop is not None and stop()) or (got and time.monotonic() - since >= max_wait):
                break
            else:
                time.sleep(self.poll)
        if not got:
            return None
        packed = self._pack(pieces)
        batch, label = packed if packed is not None else (None, np.zeros(0, np.float32))
        return Chunk(batch, label, got, dict(self.positions))

    def batches(self, batch_size: int) -> Iterator[tuple[dict[str, np.ndarray], np.ndarray]]:
        """Batches `(batch, label)` from here to what is the end by then; smaller ones where rows were left out."""
        while (chunk := self.read(batch_size, until_end=True)) is not None:
            if chunk.batch is not None:
                yield chunk.batch, chunk.label

    def dataset(self, batch_size: int) -> Any:
        """A `tf.data.Dataset` of `batches` for `model.fit`: each epoch is one pass from the start to the end.

        Of Parquet files of which no row may be left out it knows its length, from those that are there now: new ones
        need a new dataset.
        """
        from keras_dlrm.data.packed.tf_data import from_batches

        def one_pass() -> Iterator[tuple[dict[str, np.ndarray], np.ndarray]]:
            self.seek()
            yield from self.batches(batch_size)

        return from_batches(one_pass, self.preprocessor.schema, length=self._length(batch_size)).prefetch(2)

    def close(self) -> None:
        """Let go of files and connections."""

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
