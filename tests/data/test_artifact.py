"""A preprocessor on disk: whole or as it was, checked when it is read, and readable from the version before."""

import json
import os

import polars as pl
import pytest

from keras_dlrm.data.preprocessor import artifact
from keras_dlrm.data.preprocessor.preprocessor import Preprocessor
from keras_dlrm.files.checksums import sealed
from keras_dlrm.files.marker import MARKER
from keras_dlrm.schema.schema import Categorical, Dense, Schema

pytestmark = pytest.mark.neutral

SCHEMA = Schema(
    dense=[Dense("x", "standardize")], categorical=[Categorical("a", oov_rows=3), Categorical("b"), Categorical("c", 5)]
)
ROWS = {"x": [1.0, 3.0, 5.0], "a": ["u", "v", "u"], "b": ["s", "t", "r"], "c": [0, 4, 2]}
NEW = {"x": [2.0], "a": ["w"], "b": ["t"], "c": [1]}


def fitted():
    return Preprocessor.fit(SCHEMA, pl.DataFrame(ROWS))


def files(directory):
    return {p.name: p.read_bytes() for p in directory.iterdir()}


def vocabulary(directory, number):
    return next(directory.glob(f"vocabulary_{number:03d}.*"))


def same(one, other):
    assert one.schema == other.schema and one.dense_state == other.dense_state
    for rows in (ROWS, NEW):
        first, second = one.transform(rows), other.transform(rows)
        assert all((first[name] == second[name]).all() for name in first)
    return True


def test_loading_what_is_no_preprocessor(tmp_path):
    with pytest.raises(FileNotFoundError, match="preprocessor.json does not exist"):
        Preprocessor.load(tmp_path)
    for text in ("{", "[]", '{"format": "keras_dlrm preprocessor", "version": 7}'):
        (tmp_path / "preprocessor.json").write_text(text)
        with pytest.raises(ValueError, match=r"preprocessor.json.*(damaged|version None|version 7)"):
            Preprocessor.load(tmp_path)
    (tmp_path / "preprocessor.json").write_text('{"format": "keras_dlrm preprocessor", "version": 2}')
    with pytest.raises(ValueError, match=r"damaged \(KeyError: 'schema'\)"):
        Preprocessor.load(tmp_path)


def test_a_vocabulary_that_is_damaged_mixed_up_or_gone_is_named(tmp_path):
    fitted().save(tmp_path)
    first, second = vocabulary(tmp_path, 0), vocabulary(tmp_path, 1)
    whole = first.read_bytes()
    for wrong in (second.read_bytes(), whole[:-1], b"", whole[:30] + b"\0" + whole[31:]):
        first.write_bytes(wrong)
        with pytest.raises(ValueError, match=rf"{first.name}: this is not the vocabulary of table 'a'"):
            Preprocessor.load(tmp_path)
    first.unlink()
    with pytest.raises(ValueError, match=rf"{first.name}: the vocabulary of table 'a' cannot be read"):
        Preprocessor.load(tmp_path)


def test_a_vocabulary_outside_of_its_folder_is_refused(tmp_path):
    fitted().save(tmp_path / "log")
    path = tmp_path / "log" / "preprocessor.json"
    content = json.loads(path.read_text())
    entry = content["vocabularies"]["a"]
    (tmp_path / "log" / entry["file"]).rename(tmp_path / "private.parquet")
    (tmp_path / "log" / "link").symlink_to(tmp_path / "private.parquet")
    for file in ("../private.parquet", str(tmp_path / "private.parquet"), "link", 7):
        entry["file"] = file
        path.write_text(json.dumps(sealed(content)))
        with pytest.raises(ValueError, match=r"preprocessor.json names the file .* is not inside"):
            Preprocessor.load(tmp_path / "log")


def test_version_1_is_read_as_it_was_meant(tmp_path):
    # As an earlier release wrote it: no checksums, one OOV row, plain names of files, `True` and `true` as two values.
    schema = {
        "dense": [],
        "categorical": [{"name": "city", "vocabulary_size": 5}, {"name": "hex", "vocabulary_size": 2, "oov": 1}],
        "label": "click",
    }
    tables = {
        "city": {"file": "vocabulary_000.parquet", "size": 5, "oov": 0, "keys": "text", "modulo": None},
        "hex": {"file": "vocabulary_001.parquet", "size": 2, "oov": 1, "keys": "hex", "modulo": 16},
    }
    for file, keys, ids in [
        ("vocabulary_000.parquet", pl.Series(["True", "Rome", "Oslo", "true"]), [1, 2, 3, 4]),
        ("vocabulary_001.parquet", pl.Series([10], dtype=pl.UInt64), [0]),
    ]:
        pl.DataFrame({"key": keys, "id": pl.Series(ids, dtype=pl.Int32)}).write_parquet(tmp_path / file)
    content = {"format": "keras_dlrm preprocessor", "version": 1, "schema": schema, "dense": {}, "vocabularies": tables}
    (tmp_path / "preprocessor.json").write_text(json.dumps(content))
    rows = {"city": ["Oslo", "Lima", None, True], "hex": ["1a", "b", "a", "a"]}
    loaded = Preprocessor.load(tmp_path)
    assert loaded.transform(rows)["sparse"].tolist() == [[3, 0], [0, 1], [-1, 0], [1, 0]]
    loaded.save(tmp_path)
    assert json.loads((tmp_path / "preprocessor.json").read_text())["version"] == artifact.VERSION
    assert not (tmp_path / "vocabulary_000.parquet").exists()
    assert Preprocessor.load(tmp_path).transform(rows)["sparse"].tolist() == [[3, 0], [0, 1], [-1, 0], [1, 0]]


def test_saving_again_leaves_the_same_bytes_and_no_file_of_the_preprocessor_before(tmp_path):
    before = fitted()
    before.save(tmp_path)
    (tmp_path / "schema.json").write_text("not ours")
    was = files(tmp_path)
    before.save(tmp_path)
    assert files(tmp_path) == was
    grown = before.grow(pl.DataFrame({"a": ["w"], "b": ["s"]}))
    grown.save(tmp_path)
    now = files(tmp_path)
    assert len(now) == len(was) and set(was) - set(now) == {n for n in was if n.startswith("vocabulary_000")}
    assert same(Preprocessor.load(tmp_path), grown)


def test_a_save_that_is_cut_short_anywhere_leaves_the_preprocessor_before(tmp_path, monkeypatch):
    before = fitted()
    before.save(tmp_path)
    replace = os.replace
    for after in range(3):
        calls = []

        def cut(source, target, calls=calls, after=after):
            if target.name != MARKER:  # of the folder that is written in
                if len(calls) == after:
                    raise KeyboardInterrupt
                calls.append(target)
            replace(source, target)

        monkeypatch.setattr(os, "replace", cut)
        with pytest.raises(KeyboardInterrupt):
            before.grow(pl.DataFrame({"a": ["w"], "b": ["q"]})).save(tmp_path)
        monkeypatch.setattr(os, "replace", replace)
        assert same(Preprocessor.load(tmp_path), before)


def test_transforms_of_earlier_releases_are_read_by_their_names_then(tmp_path):
    """They were spelled with an s, and so were the identities that models carry."""
    fitted().save(tmp_path)
    path = tmp_path / "preprocessor.json"
    content = json.loads(path.read_text())
    assert content["schema"]["dense"][0]["transform"] == "standardize"
    content["schema"]["dense"][0]["transform"] = "standardise"
    path.write_text(json.dumps(sealed(content)))
    assert same(Preprocessor.load(tmp_path), fitted())
    assert Dense("x", "log1p_standardise") == Dense("x", "log1p_standardize")
    assert Schema.from_yaml("dense: [{name: x, transform: standardise}]") == Schema(dense=[Dense("x", "standardize")])
