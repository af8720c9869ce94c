"""The parser of Criteo lines against a plain Python one, on mutated lines.

`python tests/data/test_criteo_fuzz.py --inputs 200000` runs as many as it is told.
"""

from __future__ import annotations

import argparse
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from keras_dlrm.data.criteo import reader
from keras_dlrm.data.preprocessor.bad_rows import BadRows

pytestmark = pytest.mark.neutral

DIGITS, HEX = b"0123456789", b"0123456789abcdefABCDEF"
FIELDS = (
    b"", b"0", b"-0", b"+7", b"-", b"+", b"--1", b"1-", b"2147483647", b"2147483648", b"-2147483648", b"-2147483649",
    b"9" * 30, b"0" * 400 + b"5", b"1.5", b"1e3", b"nan", b"NaN", b"inf", b" 1", b"1 ", b"1_0", b"\xd9\xa1", b"\x00",
    b"f" * 16, b"f" * 17, b"0" * 16, b"0" * 17, b"0x1f", b"xyz", b"FFFF", b"\r", b"\"1\"", b"\xff\xfe", b"g",
)  # fmt: skip


def number(field: bytes) -> int | None:
    """An integer of 32 bits, written as an optional sign and decimal digits."""
    sign, digits = (field[:1], field[1:]) if field[:1] in (b"+", b"-") else (b"", field)
    if not digits or any(c not in DIGITS for c in digits):
        return None
    value = 0
    for c in digits:
        value = min(10 * value + c - 48, 2**40)
    value = -value if sign == b"-" else value
    return value if -(2**31) <= value <= 2**31 - 1 else None


def oracle(line: bytes) -> tuple[int, list[int], list[int]] | str:
    """Label, counts and keys of a line; or the column that is wrong, "" for the line as a whole."""
    if line.endswith(b"\r"):
        line = line[:-1]
    if len(line) > 65_536:
        return ""
    fields = line.split(b"\t")
    if len(fields) != 40:
        return ""
    label = number(fields[0])
    if label not in (0, 1):
        return "label"
    counts, keys = [], []
    for j, field in enumerate(fields[1:14], 1):
        count = number(field) if field else 0
        if count is None:
            return f"I{j}"
        counts.append(count)
    for j, field in enumerate(fields[14:], 1):
        if len(field) > 16 or any(c not in HEX for c in field):
            return f"C{j}"
        keys.append(int(field, 16) if field else 0)
    return label, counts, keys


def valid_line(random: np.random.Generator) -> bytes:
    """A line of the format, with missing fields."""
    counts = [
        b"" if u < 0.2 else b"%d" % v for u, v in zip(random.random(13), random.integers(-3, 10**6, 13), strict=True)
    ]
    keys = [
        b"" if u < 0.2 else b"%08x" % v for u, v in zip(random.random(26), random.integers(0, 2**32, 26), strict=True)
    ]
    return b"\t".join([b"%d" % random.integers(0, 2), *counts, *keys])


def mutated(line: bytes, random: np.random.Generator) -> bytes:
    """A line with a few things changed; it may have become several."""
    for _ in range(random.integers(0, 3)):
        kind = random.integers(0, 9)
        at = int(random.integers(0, len(line) + 1))
        if kind == 0:
            line = line[:at]
        elif kind == 1:
            line = line[:at] + bytes([random.integers(0, 256)]) + line[at:]
        elif kind == 2:
            line = line[:at] + bytes([random.integers(0, 256)]) + line[at + 1 :]
        elif kind == 3:
            line = line[:at] + line[at + int(random.integers(1, 9)) :]
        elif kind == 4:
            line = line[:at] + b"\t" + line[at:]
        elif kind == 5:
            line = line + b"\r" * int(random.integers(1, 3))
        elif kind == 6 and random.random() < 0.02:
            line = line[:at] + b"0" * int(random.choice([65_000, 65_536, 70_000])) + line[at:]
        else:
            fields = line.split(b"\t")
            fields[random.integers(0, len(fields))] = FIELDS[random.integers(0, len(FIELDS))]
            line = b"\t".join(fields)
    return line


def compare(lines: list[bytes], end: bytes, workers: int) -> int:
    """Parse a file of lines and compare every line with the oracle. Returns the number of its lines."""
    text = b"\n".join(lines) + end
    expected = [oracle(line) for line in text.split(b"\n")]
    if text.endswith(b"\n") or not text:
        expected.pop()
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(workers) as executor:
        path = Path(name) / "log"
        path.write_bytes(text)
        bad = BadRows("skip")
        blocks = list(reader.read(path, executor, workers, bad))
    right = [(i, e) for i, e in enumerate(expected) if not isinstance(e, str)]
    wrong = [(i + 1, e) for i, e in enumerate(expected) if isinstance(e, str)]
    assert sum(len(block) for block in blocks) == len(right)
    if right:
        assert np.concatenate([b.label for b in blocks]).tolist() == [e[0] for _, e in right]
        assert np.concatenate([b.counts for b in blocks]).tolist() == [e[1] for _, e in right]
        assert np.concatenate([b.keys for b in blocks], axis=1).T.tolist() == [e[2] for _, e in right]
    assert bad.skipped == len(wrong)
    assert [(row.row, row.column) for row in bad.examples] == wrong[: len(bad.examples)]
    assert len(bad.examples) == min(len(wrong), 100)
    return len(expected)


def run(inputs: int, seed: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """At least so many mutated lines, in files of some hundred, in blocks of random sizes."""
    random = np.random.default_rng(seed)
    done = 0
    while done < inputs:
        monkeypatch.setattr(reader, "BLOCK_BYTES", int(random.choice([61, 997, 20_011, 2**24])))
        lines = [mutated(valid_line(random), random) for _ in range(random.integers(1, 400))]
        done += compare(lines, [b"", b"\n", b"\r\n"][random.integers(0, 3)], int(random.integers(1, 4)))
    return done


@pytest.mark.slow
def test_mutated_lines_are_taken_or_refused_as_by_a_plain_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(6000, 0, monkeypatch) >= 6000


@pytest.mark.parametrize("field", FIELDS)
def test_odd_fields_in_every_column(field: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = valid_line(np.random.default_rng(1)).split(b"\t")
    lines = [b"\t".join([*fields[:k], field, *fields[k + 1 :]]) for k in range(40)]
    compare(lines, b"\n", 2)
    compare([b"", *lines, b""], b"\r\n", 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with pytest.MonkeyPatch.context() as monkeypatch:
        print(f"{run(arguments.inputs, arguments.seed, monkeypatch):,} lines, no difference")


if __name__ == "__main__":
    main()
