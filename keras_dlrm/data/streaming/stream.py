"""`Stream`, the base of every stream: positions to resume from, and chunks of packed rows."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import importlib.metadata
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import polars as pl

from keras_dlrm.data.preprocessor.bad_rows import BadRow, BadRows
from keras_dlrm.data.preprocessor.block import Faults, FrameBlock
from keras_dlrm.data.preprocessor.columns import Columns
from keras_dlrm.data.preprocessor.preprocessor import Preprocessor
from keras_dlrm.support.arguments import integer

Packed = tuple[dict[str, np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Rows that were read together.

    Args:
        batch: Packed batch of B rows; `None` where none of those read can be used.
        label: float32 (B,).
        read: How many were read, bad ones included.
        positions: Where the stream continues behind them, by file or partition.
    """

    batch: dict[str, np.ndarray] | None
    label: np.ndarray
    read: int
    positions: dict[str, int]

    @property
    def rows(self) -> int:
        """Rows of the batch."""
        return len(self.label)


@dataclasses.dataclass(frozen=True)
class Piece:
    """Rows of one file or partition as a source has them: its name, the rows' numbers there, and their content."""

    source: str
    numbers: Sequence[int]
    content: Any

    def __len__(self) -> int:
        return len(self.numbers)


class Stream(contextlib.AbstractContextManager["Stream"]):
    """Base of the streams. A source defines `_start`, `_look`, `_take` and `_pack`.

    Args:
        preprocessor: Fitted; maps raw columns to packed batches, as it does for files and requests.
        on_error: What to do with rows that cannot be used: `"raise"` or `"skip"`.
        max_skipped: With `"skip"`, an error when more than so many were left out; `None` for no limit.
        poll: Seconds between two looks for more where the end was reached.

    Attributes:
        positions: Where each file or partition continues: the number of its next row.
        bad: `BadRows`: the policy, how many were left out, and the first 100.
    """

    def __init__(self, preprocessor: Preprocessor, on_error: str, max_skipped: int | None, poll: float) -> None:
        schema, who = preprocessor.schema, type(self).__name__
        if schema.weighted:
            raise ValueError(f"{who}: a weighted=True schema names no column of weights.")
        if schema.sample_weight is not None:
            raise ValueError(f"{who}: streams carry no row weights; leave sample_weight={schema.sample_weight!r} out.")
        if not poll > 0:
            raise ValueError(f"{who}: poll={poll!r} must be a number of seconds above 0.")
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

    def _take(self, rows: int) -> list[Piece]:
        """At most so many of the rows that are there; moves `positions`. None at the end."""
        raise NotImplementedError

    def _pack(self, pieces: Sequence[Piece]) -> Packed | None:
        raise NotImplementedError

    def _length(self, batch_size: int) -> int | None:
        """Number of batches of one pass, where that is known beforehand."""
        return None

    # -- for users ---------------------------------------------------------------------------------------------------

    def seek(self, positions: Mapping[str, int] | None = None) -> None:
        """Go on at these positions: those of a `Chunk`. Without them, at the start.

        Raises:
            ValueError: a position is outside of what the source holds.
        """
        who = type(self).__name__
        self.positions = {name: integer(who, f"positions[{name!r}]", n, 0) for name, n in (positions or {}).items()}
        self._start()
        self._look()
        self._ready = True

    def read(
        self, rows: int, max_wait: float = 10.0, until_end: bool = False, stop: Callable[[], bool] | None = None
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
        pieces: list[Piece] = []
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

        Of Parquet files of which no row may be left out it knows its length; files that come later need a new dataset.
        """
        from keras_dlrm.data.packed.tf_data import from_batches

        def one_pass() -> Iterator[tuple[dict[str, np.ndarray], np.ndarray]]:
            self.seek()
            yield from self.batches(batch_size)

        return from_batches(one_pass, self.preprocessor.schema, length=self._length(batch_size)).prefetch(2)

    def close(self) -> None:
        """Let go of files and connections."""

    def __exit__(self, *error: object) -> None:
        self.close()


TENSORFLOW = "2.16"
INSTALL = (
    "Make an environment of its own with Python 3.11 or 3.12: pip install -r requirements-io.txt, then "
    "pip install --no-deps . in a clone of keras_dlrm; see docs/streaming.md"
)


def tensorflow_io(who: str, module: str = "tensorflow_io") -> ModuleType:
    """Import tensorflow-io, or a module of it; `who` needs it is for the error.

    Its native code is linked against one TensorFlow: alongside another one it imports, and fails at the first operation.

    Raises:
        ImportError: it is not installed, or alongside a TensorFlow that it cannot work with.
    """
    version = "none"
    for name in ("tensorflow", "tensorflow-cpu"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            version = importlib.metadata.version(name)
    if version.split(".")[:2] != TENSORFLOW.split("."):
        raise ImportError(
            f"{who} needs tensorflow-io, whose native operations load on TensorFlow {TENSORFLOW}.x only; here is TensorFlow "
            f"{version}. {INSTALL}."
        )
    try:
        with warnings.catch_warnings():
            # Its module for Kafka announces a successor, which neither seeks nor tells offsets.
            warnings.simplefilter("ignore", DeprecationWarning)
            return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{who} needs tensorflow-io, which cannot be imported ({error}). {INSTALL}.") from error


def pack(
    preprocessor: Preprocessor,
    frame: pl.DataFrame,
    sources: Sequence[str],
    numbers: Sequence[int],
    bad: BadRows,
    known: Sequence[BadRow] = (),
    unit: str = "row",
) -> Packed | None:
    """Raw columns → packed batch and labels of the rows that can be used, as files are read; `None` where there are none.

    Args:
        preprocessor: Fitted; its schema names the label.
        frame: The columns of the schema, B rows.
        sources: Name of each row's file or partition.
        numbers: Number of each row there.
        bad: What to do with rows that cannot be used.
        known: Rows before, between or behind these that turned out bad already.
        unit: What is numbered: `"offset"` or `"row"`.
    """
    places, unusable, more, rows = np.arange(len(frame)), list[BadRow](), 0, None
    if len(frame):
        block = FrameBlock(Faults(sources[0], unit, places), frame)
        try:
            rows = Columns(preprocessor.schema, preprocessor.dense_state, preprocessor.vocabularies).work(block)
        except TypeError as error:  # a column of another type, whatever its values are
            raise ValueError(str(error)) from error
        unusable, more = block.faults.first()
    placed = [dataclasses.replace(row, file=sources[row.row], row=int(numbers[row.row])) for row in unusable]
    # In the order of the stream, so that "raise" names the first one.
    order = {source: i for i, source in enumerate(dict.fromkeys([*(row.file for row in known), *sources]))}
    bad.add(sorted([*known, *placed], key=lambda row: (order[row.file], row.row)), more)
    if rows is None or not len(rows):
        return None
    arrays = {"dense": rows.dense, "sparse": rows.sparse}
    return {name: arrays[name] for name in preprocessor.schema.input_names}, rows.label


def text_frame(preprocessor: Preprocessor, names: Sequence[str], rows: Sequence[Sequence[Any]]) -> pl.DataFrame:
    """Rows of decoded messages as a frame: strings, and lists of strings in the multi-hot columns."""
    many = {c.name for c in preprocessor.schema.categorical if c.multi_hot}
    return pl.DataFrame(rows, {name: pl.List(pl.String) if name in many else pl.String for name in names}, orient="row")
