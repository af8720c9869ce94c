"""Preprocessor on disk: `preprocessor.json`, and a Parquet file for each fitted vocabulary."""

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from keras_dlrm.data.preprocessor.csv_dialect import CsvDialect
from keras_dlrm.data.preprocessor.vocabulary import TEXT, Keys, Vocabulary
from keras_dlrm.files.checksums import CHECKSUM, digest, read_json, sealed, unsealed
from keras_dlrm.files.durable import publish, workspace, write
from keras_dlrm.files.paths import inside, utf8_path
from keras_dlrm.schema.schema import Schema

FILE = "preprocessor.json"
FORMAT = "keras_dlrm preprocessor"
VERSION = 3  # 1 had neither checksums nor several OOV rows, 2 no checksum of this file itself, nor booleans in one form
Parts = tuple[Schema, dict[str, Any], dict[str, Vocabulary], CsvDialect | None]


def save(preprocessor: Any, directory: Path) -> None:
    """See `Preprocessor.save`."""
    directory.mkdir(parents=True, exist_ok=True)
    earlier = _vocabularies_of(directory)
    tables = {}
    for i, (name, vocabulary) in enumerate(preprocessor.vocabularies.items()):
        checksum, file = _save_vocabulary(vocabulary, directory, i)
        tables[name] = {
            "file": file,
            "sha256": checksum,
            "size": vocabulary.size,
            "oov": vocabulary.oov,
            "oov_rows": vocabulary.oov_rows,
            "keys": vocabulary.keys.kind,
            "modulo": vocabulary.keys.modulo,
        }
    content = {
        "format": FORMAT,
        "version": VERSION,
        "schema": preprocessor.schema.to_dict(),
        "dense": preprocessor.dense_state,
        "vocabularies": tables,
    }
    if preprocessor.csv is not None:
        content["csv"] = preprocessor.csv.to_dict()
    write(directory / FILE, json.dumps(sealed(content), indent=2, ensure_ascii=False))
    for name in earlier - {entry["file"] for entry in tables.values()}:
        (directory / name).unlink(missing_ok=True)


def _vocabularies_of(directory: Path) -> set[str]:
    """Files of the vocabularies that an earlier save wrote, as its `FILE` names them.

    Raises:
        FileExistsError: that is a file of something else.
    """
    if not (directory / FILE).exists():
        return set()
    try:
        content = json.loads((directory / FILE).read_bytes())
        if content["format"] == FORMAT:
            names = {str(entry["file"]) for entry in content["vocabularies"].values()}
            return {name for name in names if re.fullmatch(r"vocabulary_[0-9a-f._]+parquet", name)}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    raise FileExistsError(f"{directory / FILE} is not a preprocessor of this package, or damaged; give another directory.")


def _save_vocabulary(vocabulary: Vocabulary, directory: Path, number: int) -> tuple[str, str]:
    """Checksum and name of the file. The name has a part of the checksum: no file of an earlier save is written over."""
    with workspace(directory / f"vocabulary_{number:03d}") as folder:
        written = folder / "vocabulary.parquet"
        pl.DataFrame({"key": vocabulary.values, "id": vocabulary.ids}).write_parquet(utf8_path(written))
        checksum = digest(written)
        name = f"vocabulary_{number:03d}.{checksum[:12]}.parquet"
        publish(written, directory / name)
    return checksum, name


def load(directory: Path) -> Parts:
    """Inverse of `save`; see `Preprocessor.load`."""
    path = directory / FILE
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; give a directory that Preprocessor.save or a preprocess wrote.")
    content = read_json(path)
    format, version = content.get("format"), content.get("version")
    if format != FORMAT or version not in (1, 2, VERSION):
        raise ValueError(
            f"{path}: format {format!r}, version {version!r}; this release reads {FORMAT!r}, versions 1 to {VERSION}. "
            "Fit and save it again, or use the release that wrote it."
        )
    if version == VERSION or CHECKSUM in content:
        content = unsealed(path, content)
    try:
        schema, dense_state = Schema.from_dict(content["schema"]), content["dense"]
        vocabularies = {name: _load_vocabulary(path, name, entry) for name, entry in content["vocabularies"].items()}
        csv = CsvDialect.from_dict(content["csv"]) if "csv" in content else None
        if version < VERSION:
            vocabularies = {name: _in_normal_form(vocabulary) for name, vocabulary in vocabularies.items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({type(error).__name__}: {error}); write it again.") from error
    return schema, dense_state, vocabularies, csv


def _load_vocabulary(path: Path, name: str, entry: Mapping[str, Any]) -> Vocabulary:
    file = inside(path.parent, entry["file"], path)
    try:
        checksum = digest(file)
        table = pl.read_parquet(utf8_path(file), glob=False) if checksum == entry.get("sha256", checksum) else None
    except (OSError, pl.exceptions.PolarsError) as error:
        raise ValueError(f"{file}: the vocabulary of table {name!r} cannot be read ({error}); write it again.") from error
    if table is None:
        raise ValueError(
            f"{file}: this is not the vocabulary of table {name!r} that {path.name} was saved with: its SHA-256 is "
            f"{checksum[:12]}…, not {entry['sha256'][:12]}…. The file is damaged or of another preprocessor; copy the "
            "directory again as a whole."
        )
    keys, ids = Keys(entry["keys"], entry["modulo"]), table["id"].to_numpy()
    return Vocabulary(table["key"], ids, entry["size"], entry["oov"], keys, entry.get("oov_rows", 1))


def _in_normal_form(vocabulary: Vocabulary) -> Vocabulary:
    """A vocabulary of an earlier release, which told `True` from `true`: of values that are one now, the first keeps its id."""
    if vocabulary.keys.kind != TEXT:
        return vocabulary
    keys = vocabulary.keys.normalize(vocabulary.values, "a vocabulary").alias("key")
    table = pl.DataFrame({"key": keys, "id": vocabulary.ids}).unique("key", keep="first", maintain_order=True)
    return dataclasses.replace(vocabulary, values=table["key"], ids=table["id"].to_numpy())
