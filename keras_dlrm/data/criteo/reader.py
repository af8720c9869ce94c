"""Reader of Criteo's raw files: a label, 13 counts and 26 hashed categories, tab-separated, no header."""

from __future__ import annotations

import dataclasses
import gzip
import zlib
from collections.abc import Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import IO

import numpy as np

from keras_dlrm.data.criteo.line import MAX_LINE, count_lines, explain, parse
from keras_dlrm.data.preprocessor.bad_rows import EXAMPLES, BadRows
from keras_dlrm.files.paths import blank
from keras_dlrm.files.read_ahead import one_ahead
from keras_dlrm.schema.criteo import CATEGORICAL, DENSE

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
    """Parse a log, plain or `.gz`, in blocks of lines.

    Args:
        path: The file.
        executor: Where to parse; compiled code that lets other threads run.
        workers: Parts of a block that are parsed at once.
        bad: What to do with lines that cannot be used.
        offset, lines: Where to begin: those of the last `Block` that is known already.
    """
    for text, end, share in one_ahead(_texts(path, offset)):
        data = np.frombuffer(text, np.uint8)
        parts = _split(text, data, workers)
        sizes = list(executor.map(count_lines, parts))
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
            rows_found = []
            for line in wrong[:EXAMPLES].tolist():
                start = int(ends[line - 1]) + 1 if line else 0
                content = text[start : int(ends[line])].removesuffix(b"\r")
                rows_found.append(explain(str(path), lines + line + 1, content))
            bad.add(rows_found, len(wrong) - len(rows_found))
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
        raise ValueError(
            f"{path}: broken after {offset:,} unpacked bytes ({error}); copy or fetch the file again."
        ) from None
