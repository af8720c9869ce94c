"""The reader of CSV and TSV against a plain Python one, on mutated lines; typed cells against the preprocessor.

`python tests/data/test_tables_fuzz.py --inputs 200000` runs as many as it is told.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keras_dlrm.data import tables
from keras_dlrm.data.kernels import text_rows
from keras_dlrm.data.preprocessor.columns import Columns
from keras_dlrm.data.preprocessor.preprocessor import Preprocessor
from keras_dlrm.data.tables import text as table_text
from keras_dlrm.data.tables.files import open_table
from keras_dlrm.schema.schema import Categorical, Dense, Schema

pytestmark = pytest.mark.neutral

SCHEMA = Schema(
    dense=[Dense("a"), Dense("b", "log1p")],
    categorical=[Categorical("c"), Categorical("d", 5), Categorical("e", hotness=2), Categorical("f", table="c")],
    label="y",
)
NAMES = ["a", "y", "c", "skip", "b", "d", "e", "f"]
FIELDS = (
    b"", b"0", b"1", b"-1", b"-0", b"+7", b"-", b"+", b"--1", b"2147483648", b"9" * 30, b"0" * 400 + b"5", b"1.5", b"1e3",
    b"1e400", b"1e-400", b"nan", b"NaN", b"inf", b"-Infinity", b" 1", b"1 ", b"1_0", b"\xd9\xa1", b"\x00", b"0x1f", b".5", b"5.",
    b".", b"3.0", b"03", b"3.00", b"4", b"5", b"-2", b"123456789012345.6", b"0.1", b"0.30000000000000004", b"1" * 15, b"1" * 16,
    b"a|b", b"a|b|c", b"|", b"||", b"a|", b"\r", b'"', b'"1"', b'""', b'"a""b"', b'"a', b'a"b', b'"a"b', b'"x\ny"', b'"x\r\ny"',
    b'"1"\r', b"\xff\xfe", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\x80", "Köln😀".encode(), b"\xe2\x82", b"\xef\xbb\xbf",
)  # fmt: skip


def split_rows(data: bytes, separator: bytes, width: int) -> list[tuple[int, list[bytes] | str]]:
    """Lines and fields of the rows of a file, or what is wrong with a row; by the book, a byte at a time."""
    rows: list[tuple[int, list[bytes] | str]] = []
    at, line = 0, 1
    while at < len(data):
        fields: list[bytes] = []
        position, wrong = at, ""
        while True:
            if data[position : position + 1] == b'"':
                content, position = b"", position + 1
                while position < len(data) and not (
                    data[position : position + 1] == b'"' and data[position + 1 : position + 2] != b'"'
                ):
                    content += data[position : position + 1]
                    position += 2 if data[position : position + 1] == b'"' else 1
                if position >= len(data):
                    wrong = "quotes"
                    break
                position += 1
                rest = data[position:]
                if rest[:2] == b"\r\n" or rest == b"\r":
                    position += 1
                if data[position : position + 1] not in (b"", b"\n", separator):
                    wrong = "quotes"
                    break
                fields.append(content)
            else:
                ends = [e for e in (data.find(separator, position), data.find(b"\n", position)) if e >= 0]
                end = min(ends, default=len(data))
                content = data[position:end]
                if data[end : end + 1] in (b"", b"\n") and content.endswith(b"\r"):
                    content = content[:-1]
                fields.append(content)
                position = end
            if data[position : position + 1] != separator:
                break
            position += 1
        if wrong:
            position = data.find(b"\n", at)
            position = len(data) if position < 0 else position
        text = data[at:position]
        try:
            text.decode()
        except UnicodeDecodeError:
            wrong = wrong or ("utf8" if len(fields) == width else "")
        if not wrong and len(fields) != width:
            wrong = "fields"
        rows.append((line, wrong or fields))
        line += 1 if wrong == "quotes" else 1 + text.count(b"\n")
        at = position + 1
    return rows


def number(field: bytes) -> float | None:
    """A decimal number; NaN where missing; `None` where it is none."""
    text = field.decode()
    if not text:
        return math.nan
    if not text.isascii() or text != text.strip() or "_" in text or "\x00" in text:
        return None
    try:
        return float(text)
    except ValueError:
        return None


def key(field: bytes) -> str | None:
    """The value of a vocabulary; `None` where missing."""
    text = field.decode()
    sign, digits = (text[:1], text[1:]) if text[:1] in ("+", "-") else ("", text)
    whole, point, rest = digits.partition(".")
    if point and whole and rest and set(rest) == {"0"} and all(c.isdecimal() for c in whole):
        text = sign + whole
    return None if text in ("", "-1") else text


def oracle(fields: list[bytes]) -> tuple[int, float, float, str | None, int, list[str | None], str | None] | str:
    """Meaning of a row, or the first column that is wrong."""
    a, y, c, _, b, d, e, f = fields
    label = number(y)
    if label not in (0.0, 1.0):
        return "y"
    dense = []
    for name, field in (("a", a), ("b", b)):
        value = number(field)
        if value is None:
            return name
        value = math.nan if math.isinf(value) else value
        with np.errstate(over="ignore"):
            narrow = np.float32(value if name == "a" else max(value, 0.0))
        if np.isinf(narrow):
            return name
        dense.append(value)
    given = key(d)
    if given is not None and not (
        given.lstrip("+-").isdigit() and given.isascii() and given[1:].isdigit() | (len(given) == 1)
    ):
        return "d"
    if given is not None and not 0 <= int(given) < 5:
        return "d"
    parts = e.split(b"|") if e else []
    if len(parts) > 2:
        return "e"
    return int(label), dense[0], dense[1], key(c), -1 if given is None else int(given), [key(p) for p in parts], key(f)


def compare(lines: list[bytes], separator: bytes, end: bytes, size: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """Read a file of lines and compare every row with the oracle. Returns the number of its rows."""
    monkeypatch.setattr(table_text, "BLOCK_BYTES", size)
    monkeypatch.setattr(table_text, "BLOCK_ROWS", max(size // 50, 1))
    text = end.join([separator.join(n.encode() for n in NAMES), *lines]) + end
    rows = split_rows(text, separator, len(NAMES))[1:]
    columns = Columns(SCHEMA, None, {})
    found, faults = [], []
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(2) as executor:
        path = Path(name) / ("log.csv" if separator == b"," else "log.tsv")
        path.write_bytes(text)
        for block in open_table(path).blocks(columns.names):
            found.append(columns.work(block, executor))
            examples, more = block.faults.first()
            faults += [(bad.row, bad.column) for bad in examples]
            assert more == 0 or len(examples) == 100
    keys = {t: ids.since(0).series().to_list() for t, ids in columns.texts.items()}
    expected = [(line, oracle(row) if isinstance(row, list) else "") for line, row in rows]
    right = [meaning for _, meaning in expected if isinstance(meaning, tuple)]
    wrong = [(line, meaning) for line, meaning in expected if isinstance(meaning, str)]
    assert sum(len(part) for part in found) == len(right)
    if len(wrong) <= 100:
        assert faults == wrong
    at = 0
    for part in found:
        for i in range(len(part)):
            label, a, b, c, d, e, f = right[at]
            at += 1
            assert part.label[i] == label
            dense = [
                0.0 if math.isnan(a) else a,
                0.0 if math.isnan(b) else np.log(np.float32(max(b, 0.0)) + np.float32(1)),
            ]
            np.testing.assert_array_equal(part.dense[i], np.array(dense, np.float32))
            sparse = part.sparse[i].tolist()
            texts = [keys["c"][sparse[0]], keys["c"][sparse[4]]]
            assert [key(t.encode()) for t in texts] == [c, f] and sparse[1] == d
            listed = [key(keys["e"][n].encode()) for n in sparse[2:4] if n >= 0]
            assert listed == e
    return len(rows)


def valid_line(random: np.random.Generator, separator: bytes) -> bytes:
    """A line of the format, with missing fields."""
    texts = [b"", b"a", b"bb", b"3.0", b"x y", "Köln".encode(), b'"q,""\t"']
    fields = [
        b"%.3f" % random.normal(0, 1000), b"%d" % random.integers(0, 2), texts[random.integers(0, 7)], b"z",
        b"%d" % random.integers(-5, 10**6), b"%d" % random.integers(-1, 5), b"|".join(texts[k] for k in random.integers(0, 6, 2)),
        texts[random.integers(0, 7)],
    ]  # fmt: skip
    return separator.join(b"" if random.random() < 0.05 and k != 1 else field for k, field in enumerate(fields))


def mutated(line: bytes, separator: bytes, random: np.random.Generator) -> bytes:
    """A line with a few things changed; it may have become several."""
    for _ in range(random.integers(0, 3)):
        kind, at = random.integers(0, 10), int(random.integers(0, len(line) + 1))
        if kind == 0:
            line = line[:at]
        elif kind == 1:
            line = line[:at] + bytes([random.integers(0, 256)]) + line[at + int(random.integers(0, 2)) :]
        elif kind == 2:
            line = line[:at] + line[at + int(random.integers(1, 9)) :]
        elif kind == 3:
            line = line[:at] + [separator, b'"', b"\n", b"\r"][random.integers(0, 4)] + line[at:]
        elif kind == 4:
            line = line + b"\r" * int(random.integers(1, 3))
        else:
            fields = line.split(separator)
            fields[random.integers(0, len(fields))] = FIELDS[random.integers(0, len(FIELDS))]
            line = separator.join(fields)
    return line


def run(inputs: int, seed: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """At least so many mutated lines, in files of some hundred, in blocks of random sizes."""
    random = np.random.default_rng(seed)
    done = 0
    while done < inputs:
        size = int(random.choice([61, 997, 20_011, 2**22]))
        separator = [b",", b"\t"][random.integers(0, 2)]
        lines = [mutated(valid_line(random, separator), separator, random) for _ in range(random.integers(1, 300))]
        done += compare(lines, separator, [b"\n", b"\r\n"][random.integers(0, 2)], size, monkeypatch)
    return done


@pytest.mark.slow
def test_mutated_lines_are_taken_or_refused_as_by_a_plain_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(4000, 0, monkeypatch) >= 4000


@pytest.mark.soak
def test_very_many_mutated_lines_are_taken_or_refused_as_by_a_plain_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(100_000, 1, monkeypatch) >= 100_000


@pytest.mark.slow
@pytest.mark.parametrize("separator", [b",", b"\t"])
def test_odd_fields_in_every_column(separator: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = [b"1.5", b"1", b"a", b"z", b"3", b"2", b"p|q", b"b"]
    for field in FIELDS:
        lines = [separator.join([*fields[:k], field, *fields[k + 1 :]]) for k in range(len(fields))]
        compare(lines, separator, b"\n", 2**20, monkeypatch)
        compare([*lines, b"", *lines], separator, b"\r\n", 150, monkeypatch)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=30))
def test_text_is_found_to_be_utf8_as_python_finds(data: bytes) -> None:
    try:
        data.decode()
        right = True
    except UnicodeDecodeError:
        right = False
    assert text_rows.valid_utf8(np.frombuffer(data, np.uint8), 0, len(data)) == right


CELLS = st.one_of(
    st.none(), st.integers(-(2**63), 2**63 - 1), st.floats(width=64), st.text(max_size=5), st.sampled_from(["3.0", "-1", "", "1e9"])
)  # fmt: skip


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cells=st.lists(st.tuples(CELLS, CELLS, st.lists(st.text(max_size=3), max_size=3)), min_size=1, max_size=20))
def test_typed_cells_are_taken_or_refused_as_by_the_preprocessor_one_by_one(tmp_path: Path, cells: list) -> None:
    schema = Schema(
        dense=["x"], categorical=[Categorical("c"), Categorical("tags", hotness=2), Categorical("g", 9)], label="y"
    )
    for dtype in (pl.Int64, pl.Float64, pl.String):
        numbers = pl.Series(
            "x", [c[0] if dtype != pl.String or c[0] is None else str(c[0]) for c in cells], strict=False
        )
        numbers = numbers.cast(dtype, strict=False)
        values = pl.Series("c", [None if c[1] is None else str(c[1]) for c in cells], dtype=pl.String)
        frame = pl.DataFrame(
            {"x": numbers, "c": values.cast(dtype, strict=False), "tags": [c[2] for c in cells], "g": numbers},
            schema_overrides={"tags": pl.List(pl.String)},
        ).with_columns(y=pl.lit(1))
        good = []
        for i in range(len(frame)):
            try:
                Preprocessor.fit(schema, frame[i : i + 1]).transform(frame[i : i + 1])
                good.append(i)
            except ValueError:
                pass
        path, output = tmp_path / "log.parquet", tmp_path / "out"
        frame.write_parquet(path)
        if not good:
            with pytest.raises(ValueError, match="no rows"):
                tables.preprocess(schema, path, output=output, on_error="skip", overwrite=True)
            continue
        log = tables.preprocess(schema, path, output=output, on_error="skip", overwrite=True)
        used = frame[good]
        expected = Preprocessor.fit(schema, used)
        assert log.schema == expected.schema
        for name, array in expected.transform(used).items():
            np.testing.assert_array_equal(log.split("train").arrays()[0][name], array)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with pytest.MonkeyPatch.context() as monkeypatch:
        print(f"{run(arguments.inputs, arguments.seed, monkeypatch):,} rows, no difference")


if __name__ == "__main__":
    main()
