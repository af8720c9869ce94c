"""Reader of Criteo's raw files: a label, 13 counts and 26 hashed categories, tab-separated, no header; a compiled parser."""

from __future__ import annotations

import dataclasses
import gzip
import re
import zlib
from collections.abc import Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import IO

import numpy as np

from keras_dlrm.data.kernels.compiled import compiled
from keras_dlrm.data.preprocessor.bad_rows import EXAMPLES, BadRow, BadRows
from keras_dlrm.files.paths import blank
from keras_dlrm.files.read_ahead import one_ahead
from keras_dlrm.schema.criteo import CATEGORICAL, COLUMNS, DENSE, LABEL

BLOCK_BYTES = 2**24


@dataclasses.dataclass(frozen=True)
class Block:
    """The lines of one part of a log that can be used.

    Args:
        label: float32 (n,), 0 or 1.
        counts: int32 (n, 13), 0 where missing.
        keys: uint64 (26, n), 0 where missing.
        offset: Bytes of the (unpacked) file that were read up to here.
        lines: Lines that were read up to here, right and wrong ones.
        share: Share of the file that was read up to here, in bytes.
    """

    label: np.ndarray
    counts: np.ndarray
    keys: np.ndarray
    offset: int
    lines: int
    share: float

    def __len__(self) -> int:
        return len(self.label)

    def take(self, rows: np.ndarray) -> Block:
        """Only some of the rows."""
        return dataclasses.replace(
            self, label=self.label[rows], counts=self.counts[rows], keys=np.ascontiguousarray(self.keys[:, rows])
        )


def read(
    path: Path, executor: Executor, workers: int, bad: BadRows, offset: int = 0, lines: int = 0
) -> Iterator[Block]:
    """Parse a log, plain or `.gz`, in blocks of lines, from the `offset` and `lines` of the last `Block` that is known on."""
    for text, end, share in one_ahead(_texts(path, offset)):
        data = np.frombuffer(text, np.uint8)
        parts = _split(text, data, workers)
        sizes = list(executor.map(lambda part: int(np.count_nonzero(part == _LF)), parts))
        n = sum(sizes)
        label, counts = np.empty(n, np.float32), np.empty((n, len(DENSE)), np.int32)
        keys, good = np.empty((len(CATEGORICAL), n), np.uint64), np.empty(n, bool)
        bounds = np.cumsum([0, *sizes])
        rows = [slice(int(a), int(b)) for a, b in zip(bounds[:-1], bounds[1:], strict=True)]
        work = [(p, label[r], counts[r], keys[:, r], good[r]) for p, r in zip(parts, rows, strict=True)]
        list(executor.map(lambda arguments: parse(*arguments), work))
        block = Block(label, counts, keys, end, lines + n, share)
        if not good.all():
            wrong = np.flatnonzero(~good)
            ends = np.flatnonzero(data == 10)
            examples = []
            for line in wrong[:EXAMPLES].tolist():
                start = int(ends[line - 1]) + 1 if line else 0
                content = text[start : int(ends[line])].removesuffix(b"\r")
                examples.append(explain(str(path), lines + line + 1, content))
            bad.add(examples, len(wrong) - len(examples))
            block = block.take(np.flatnonzero(good))
        lines += n
        yield block


def _split(text: bytes, data: np.ndarray, parts: int) -> list[np.ndarray]:
    """Parts of about the same size, of whole lines."""
    cuts = [0]
    for k in range(1, parts):
        cuts.append(max(cuts[-1], text.find(b"\n", len(text) * k // parts) + 1))
    return [data[a:b] for a, b in zip(cuts, [*cuts[1:], len(text)], strict=True) if b > a]


def _texts(path: Path, offset: int) -> Iterator[tuple[bytes, int, float]]:
    """Whole lines of about `BLOCK_BYTES`, where they end, and the share of the file that was read."""
    size = max(path.stat().st_size, 1)
    try:
        if not offset and blank(path, b"\t"):
            return
        with open(path, "rb") as raw:
            packed = path.suffix.lower() == ".gz"
            file: IO[bytes] = gzip.open(raw, "rb") if packed else raw  # type: ignore[assignment]
            file.seek(offset)
            rest = b""
            while chunk := file.read(BLOCK_BYTES):
                offset += len(chunk)
                end = chunk.rfind(b"\n") + 1
                if not end:
                    # Of a line that is too long, what shows that it is; a file without line ends needs no memory.
                    rest = (rest + chunk)[: MAX_LINE + 2]
                    continue
                yield rest + chunk[:end], offset - len(chunk) + end, min(raw.tell() / size, 1.0)
                rest = chunk[end:]
            if rest:
                yield rest + b"\n", offset, 1.0
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        why = f"broken after {offset:,} unpacked bytes ({error})"
        raise ValueError(f"{path}: {why}; copy or fetch the file again.") from None


# Bytes; a right line has some 230 of them, and a broken file may be one line.
MAX_LINE = 65_536

N_COUNTS, N_KEYS = len(DENSE), len(CATEGORICAL)
_TAB, _LF, _CR = 9, 10, 13
_DIGITS = np.full(256, 255, np.uint8)
for _text in ("0123456789abcdef", "0123456789ABCDEF"):
    _DIGITS[[ord(c) for c in _text]] = np.arange(16)


@compiled
def parse(data, label, counts, keys, good):  # type: ignore[no-untyped-def]
    """Parse whole lines.

    Args:
        data: uint8 (n,) that ends with a line end.
        label: float32 (L,), to be filled, for L lines.
        counts: int32 (L, 13), likewise; 0 where missing.
        keys: uint64 (26, L), likewise; 0 where missing.
        good: bool (L,), likewise: False where a line cannot be used, and the others' places hold nothing then.
    """
    at = 0
    for line in range(len(good)):
        start = at
        right: bool = True
        for column in range(N_COUNTS + 1):
            negative = data[at] == 45
            signed = negative or data[at] == 43
            if signed:
                at += 1
            first = at
            number = 0
            digit = int(data[at]) - 48
            while 0 <= digit < 10:
                number = min(number * 10 + digit, 2**40)
                at += 1
                digit = int(data[at]) - 48
            # Missing is an empty field; a label must be there.
            right = bool(at > first or (column > 0 and not signed))
            number = -number if negative else number
            if column == 0:
                right = right and 0 <= number <= 1
                label[line] = number
            else:
                right = right and -(2**31) <= number < 2**31
                counts[line, column - 1] = number
            if not right or data[at] != _TAB:
                right = False
                break
            at += 1
        if right:
            for column in range(N_KEYS):
                first = at
                key = np.uint64(0)
                half = _DIGITS[data[at]]
                while half < 16:
                    key = key << np.uint64(4) | half
                    at += 1
                    half = _DIGITS[data[at]]
                keys[column, line] = key
                if at - first > 16:
                    right = False
                    break
                if column < N_KEYS - 1:
                    if data[at] != _TAB:
                        right = False
                        break
                    at += 1
        if right:
            right = at - start <= MAX_LINE
            if data[at] == _CR and data[at + 1] == _LF:
                at += 1
            right = right and data[at] == _LF
        good[line] = right
        while data[at] != _LF:
            at += 1
        at += 1


_NUMBER = re.compile(rb"([+-]?)(?=[0-9])0*([0-9]*)")
_KEY = re.compile(rb"[0-9a-fA-F]{0,16}")


def explain(file: str, number: int, line: bytes) -> BadRow:
    """The first thing that is wrong with a line, without its end, of a file."""
    fields, whole = line.split(b"\t"), ""
    if len(line) > MAX_LINE:
        whole = f"the line has more than {MAX_LINE:,} bytes; it starts with {_shown(line)!r}"
    elif len(fields) != len(COLUMNS):
        fault = "the line is too long"
        if len(fields) < len(COLUMNS):
            fault = f"column {COLUMNS[len(fields)]} is missing, the line is cut short"
        whole = (
            f"{len(fields)} columns where Criteo's format has {len(COLUMNS)} (label, 13 counts, 26 categories, "
            f"tab-separated); {fault}. It starts with {_shown(line)!r}"
        )
    if whole:
        return BadRow(file, number, "", "", whole)
    for name, field in zip(COLUMNS, fields, strict=True):
        value = _int32(field)
        if name == LABEL:
            right, reason = value in (0, 1), "must be 0 or 1"
        elif name in DENSE:
            right, reason = not field or value is not None, "must be a 32-bit integer or empty"
        else:
            right, reason = _KEY.fullmatch(field) is not None, "must be hexadecimal digits (at most 16) or empty"
        if not right:
            return BadRow(file, number, name, _shown(field), reason)
    raise RuntimeError(f"{file}, line {number}: the parser refused {line!r}, which is right; please report it.")


def _int32(field: bytes) -> int | None:
    number = _NUMBER.fullmatch(field)
    if number is None or len(number[2]) > 10:
        return None
    value = int(number[2] or b"0") * (-1 if number[1] == b"-" else 1)
    return value if -(2**31) <= value < 2**31 else None


def _shown(text: bytes) -> str:
    return text[:60].decode("utf-8", "replace")
