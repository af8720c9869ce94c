"""Criteo's raw click logs: lines of a label, 13 counts and 26 hashed categories, tab-separated, without a header."""

from __future__ import annotations

import dataclasses
import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from keras_dlrm.data.vocabulary import HEX, BadValue, Keys

if TYPE_CHECKING:
    import polars as pl

LABEL = "label"
DENSE = tuple(f"I{i}" for i in range(1, 14))
CATEGORICAL = tuple(f"C{i}" for i in range(1, 27))
COLUMNS = (LABEL, *DENSE, *CATEGORICAL)
BLOCK_BYTES = 2**26


@dataclasses.dataclass(frozen=True)
class Block:
    """Consecutive lines of a log, parsed.

    Args:
        label: int32 (n,).
        counts: int32 (n, 13), 0 where missing.
        hashes: 26 series of n UInt64, 0 where missing, after the modulo.
    """

    label: np.ndarray
    counts: np.ndarray
    hashes: list[pl.Series]

    def __len__(self) -> int:
        return len(self.label)


def read(path: Path, max_ind_range: int | None = None, block_bytes: int = BLOCK_BYTES) -> Iterator[Block]:
    """Parse a log in blocks of lines.

    Args:
        path: The file, plain or `.gz`.
        max_ind_range: Hashes are taken modulo this, or `None`.
        block_bytes: About as many bytes are held at once.

    Raises:
        ValueError: a line without 40 columns, or a value that cannot be used; the message names file, line (counted
            from 1), column and value.
    """
    line = 0
    rest = b""
    with _open(path) as file:
        while chunk := file.read(block_bytes):
            end = chunk.rfind(b"\n") + 1
            if not end:
                rest += chunk
                continue
            block, rest = rest + chunk[:end], chunk[end:]
            parsed = _parse(block, path, line, max_ind_range)
            line += len(parsed)
            yield parsed
    if rest:
        yield _parse(rest + b"\n", path, line, max_ind_range)


def count_lines(path: Path) -> int:
    """Lines of a file; a last one without a line end counts."""
    lines, last = 0, b"\n"
    with _open(path) as file:
        while chunk := file.read(BLOCK_BYTES):
            lines += chunk.count(b"\n")
            last = chunk[-1:]
    return lines + (last != b"\n")


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb")  # type: ignore[return-value]


def _parse(block: bytes, path: Path, first_line: int, max_ind_range: int | None) -> Block:
    import polars as pl

    if b"\r" in block:
        block = block.replace(b"\r\n", b"\n")
    _check_widths(block, path, first_line)
    table = pl.read_csv(
        block,
        has_header=False,
        separator="\t",
        quote_char=None,
        schema={name: pl.String for name in COLUMNS},
        encoding="utf8-lossy",
    )

    def fail(row: int, name: str, value: str | None, reason: str) -> ValueError:
        return ValueError(f"{path}, line {first_line + row + 1}, column {name}: value {value or ''!r} {reason}.")

    numbers = {}
    for name in (LABEL, *DENSE):
        text = table[name] if name == LABEL else table[name].fill_null("0").replace("", "0")
        numbers[name] = text.cast(pl.Int32, strict=False)
        bad = numbers[name].is_null()
        if name == LABEL:
            bad = bad | ~numbers[name].is_in([0, 1]).fill_null(False)
        if bad.any():
            row = int(bad.arg_max() or 0)
            raise fail(row, name, text[row], "must be 0 or 1" if name == LABEL else "must be a 32-bit integer or empty")
    keys = Keys(HEX, max_ind_range)
    hashes = []
    for name in CATEGORICAL:
        try:
            hashes.append(keys.normalise(table[name], name))
        except BadValue as error:
            raise fail(error.index, name, str(error.value), error.reason) from None
    counts = np.stack([numbers[name].to_numpy() for name in DENSE], axis=1)
    return Block(numbers[LABEL].to_numpy(), counts, hashes)


def _check_widths(block: bytes, path: Path, first_line: int) -> None:
    data = np.frombuffer(block, np.uint8)
    ends = np.flatnonzero(data == ord("\n"))
    tabs = np.flatnonzero(data == ord("\t"))
    widths = np.diff(np.searchsorted(tabs, ends), prepend=0) + 1
    wrong = widths != len(COLUMNS)
    if wrong.any():
        row = int(np.argmax(wrong))
        start = int(ends[row - 1]) + 1 if row else 0
        shown = block[start : int(ends[row])][:60].decode("utf-8", "replace")
        width = int(widths[row])
        fault = "the line is too long"
        if width < len(COLUMNS):
            fault = f"column {COLUMNS[width]} is missing, the line is cut short"
        raise ValueError(
            f"{path}, line {first_line + row + 1}: {width} columns where Criteo's format has {len(COLUMNS)} (label, "
            f"13 counts, 26 categories, tab-separated); {fault}. It starts with {shown!r}."
        )
