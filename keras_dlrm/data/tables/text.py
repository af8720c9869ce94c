"""Reader of CSV and TSV files, in blocks of rows."""

from __future__ import annotations

import dataclasses
import gzip
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import polars as pl

from keras_dlrm.data.kernels import text_rows
from keras_dlrm.data.kernels.first_appearance import Texts
from keras_dlrm.data.preprocessor import raw_columns as raw
from keras_dlrm.data.preprocessor.block import Block, Fault, Faults, Flat, Numbers, TooLong
from keras_dlrm.data.preprocessor.csv_dialect import CsvDialect
from keras_dlrm.data.tables.table_file import BLOCK_ROWS, TableFile, readable
from keras_dlrm.files.paths import blank
from keras_dlrm.schema.columns import Categorical

BLOCK_BYTES = 2**23
_BOM = b"\xef\xbb\xbf"
_SEPARATOR = ord(raw.SEPARATOR)


class TextFile(TableFile):
    """A delimited text file, plain or `.gz`."""

    unit = "line"

    def __init__(self, path: Path, dialect: CsvDialect) -> None:
        super().__init__(path)
        self._dialect = dialect
        endings = [s.lower() for s in path.suffixes]
        self._packed = endings[-1:] == [".gz"]
        self._separator = dialect.byte("".join((endings[:-1] if self._packed else endings)[-1:]))

    def columns(self) -> list[str]:
        """Names in the header; none where the file is empty. `ValueError` where the first line is no header."""
        with readable(self.path):
            return [] if blank(self.path, bytes([self._separator])) else self._header()[0]

    def types(self, names: Sequence[str]) -> tuple[dict[str, Any], bool]:
        return dict.fromkeys(names, pl.String), bool(self.columns())

    def _header(self) -> tuple[list[str], int, int]:
        """The names, and bytes and lines up to their end."""
        with readable(self.path), self._open() as file:
            first = file.read(text_rows.MAX_ROW + 2)
        skip = len(_BOM) if first.startswith(_BOM) else 0
        if self._dialect.names is not None:
            return list(self._dialect.names), skip, 0
        data = np.frombuffer(bytearray(first), np.uint8)
        width, names = 1, None
        for _ in range(2):  # The number of fields is known when they have been looked at once.
            starts, ends = np.zeros((width, 1), np.int64), np.zeros((width, 1), np.int64)
            numbers, codes, counts = np.zeros(1, np.int64), np.zeros(1, np.uint8), np.zeros(1, np.int64)
            slots = np.arange(width)
            found, end, lines = text_rows.find_rows(
                data, skip, len(first) <= text_rows.MAX_ROW, self._separator, self._dialect.quote, width, slots, starts, ends,
                numbers, codes, counts,
            )  # fmt: skip
            if found and codes[0] == text_rows.GOOD:
                fields = Texts(data, starts[:, 0], ends[:, 0])
                names = [fields.text(k) for k in range(width)]
                break
            if not found or codes[0] != text_rows.FIELDS:
                break
            width = int(counts[0])
        if names is None or names == [""]:
            raise ValueError(
                f"{self.path} cannot be read as a table: its first line must be the names of the columns, in UTF-8."
            )
        return names, int(end), int(lines)

    def _open(self) -> IO[bytes]:
        return gzip.open(self.path, "rb") if self._packed else open(self.path, "rb")  # type: ignore[return-value]

    def blocks(self, names: Sequence[str], place: dict[str, int] | None = None) -> Iterator[Block]:
        if not self.columns():
            return
        header, offset, line = self._header()
        if place:
            offset, line = place["offset"], place["line"]
        slots = np.full(len(header), -1, np.int64)
        for slot, name in enumerate(names):
            slots[header.index(name)] = slot
        size = max(self.path.stat().st_size, 1)
        with readable(self.path), open(self.path, "rb") as raw:
            file: IO[bytes] = gzip.open(raw, "rb") if self._packed else raw  # type: ignore[assignment]
            file.seek(offset)
            rest, dropped, final = b"", 0, False
            while not final:
                chunk = file.read(BLOCK_BYTES)
                final = not chunk
                if len(rest) > text_rows.MAX_ROW and b"\n" not in rest[text_rows.MAX_ROW :]:
                    # Of a line that is too long, what shows that it is: one without an end needs no memory.
                    end = chunk.find(b"\n")
                    more = len(chunk) if end < 0 else end
                    dropped += len(rest) - (text_rows.MAX_ROW + 1) + more
                    rest, chunk = rest[: text_rows.MAX_ROW + 1], chunk[more:]
                data = np.frombuffer(bytearray(rest + chunk), np.uint8)
                at = 0
                share = min(raw.tell() / size, 1.0)
                while True:
                    block, after, lines = self._block(data, at, final, names, slots, line)
                    if not len(block):
                        break
                    # The bytes that were dropped belong to the first row that ends after them.
                    offset += after - at + dropped
                    dropped = 0
                    line += lines
                    block.place, block.share = {"offset": offset, "line": line}, share
                    at = after
                    yield block
                rest = data[at:].tobytes()

    def _block(
        self, data: np.ndarray, at: int, final: bool, names: Sequence[str], slots: np.ndarray, line: int
    ) -> tuple[TextBlock, int, int]:
        room = min(BLOCK_ROWS, int(np.count_nonzero(data[at:] == 10)) + 1)
        starts, ends = np.empty((len(names), room), np.int64), np.empty((len(names), room), np.int64)
        numbers, codes, counts = np.empty(room, np.int64), np.empty(room, np.uint8), np.empty(room, np.int64)
        n, after, lines = text_rows.find_rows(
            data, at, final, self._separator, self._dialect.quote, len(slots), slots, starts, ends, numbers, codes, counts
        )
        numbers = numbers[:n] + line + 1
        faults = Faults(str(self.path), self.unit, numbers)
        if codes[:n].any():
            wrong = codes[:n] != text_rows.GOOD
            starts[:, :n][:, wrong] = ends[:, :n][:, wrong] = 0
            named = "the header has" if self._dialect.names is None else "the dialect names"
            reasons = {
                text_rows.FIELDS: lambda row: f"the row has {counts[row]} fields; {named} {len(slots)}",
                text_rows.QUOTES: lambda row: "a quoted field does not end where a field ends; double quotes inside it",
                text_rows.UTF8: lambda row: "the row is not UTF-8; write the file in UTF-8",
                text_rows.LONG: lambda row: f"the line has more than {text_rows.MAX_ROW:,} bytes",
            }
            for code, reason in reasons.items():
                faults.add("", (codes[:n] == code, lambda row: "", reason))
        self._dialect.set_missing(data, starts[:, :n], ends[:, :n])
        texts = {name: Texts(data, starts[k, :n], ends[k, :n]) for k, name in enumerate(names)}
        return TextBlock(faults, texts), int(after), int(lines)


@dataclasses.dataclass(eq=False)
class TextBlock(Block):
    """Rows of a text file, called by their lines, counted from 1: the fields by column."""

    texts: dict[str, Texts]

    def numeric(self, name: str) -> Numbers:
        texts = self.texts[name]
        values, lost = np.empty(len(texts)), np.empty(len(texts), bool)
        if text_rows.read_numbers(texts.data, texts.starts, texts.ends, values, lost):
            rows = np.flatnonzero(lost)
            values[rows], lost[rows] = raw.numeric(texts.take(rows).series(), name, raw.Where())
        return Numbers(values, lost, texts.text)

    def lists(self, column: Categorical) -> tuple[pl.Series, np.ndarray, np.ndarray, np.ndarray]:
        return raw.flatten(self.texts[column.name].series(), column)

    def flat(self, column: Categorical) -> tuple[Flat, Sequence[Fault]]:
        texts = self.texts[column.name]
        n = len(texts)
        if not column.multi_hot:
            return Flat(texts, np.arange(n), np.zeros(n, np.int64)), ()
        starts, ends, rows, places = (np.empty(n * column.hotness, np.int64) for _ in range(4))
        long = np.empty(n, np.int64)
        total = text_rows.split_fields(
            texts.data, texts.starts, texts.ends, _SEPARATOR, column.hotness, starts, ends, rows, places, long
        )
        if long.any() and column.truncate is not None:
            return super().flat(column)
        flat = Flat(Texts(texts.data, starts[:total], ends[:total]), rows[:total], places[:total])
        return flat, [(long > 0, texts.text, TooLong(column, long))] if long.any() else ()

    def value(self, name: str, row: int) -> object:
        return self.texts[name].text(row)

    def series(self, name: str, rows: np.ndarray) -> pl.Series:
        return self.texts[name].take(rows).series()

    def add_constant(self, name: str, value: str) -> None:
        data, rows = np.frombuffer(value.encode(), np.uint8), len(self)
        self.texts[name] = Texts(data, np.zeros(rows, np.int64), np.full(rows, len(data), np.int64))
