"""Versions and deltas made by hand, whose answers are known without them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from keras_dlrm.files import deltas
from keras_dlrm.files.checksums import sealed
from keras_dlrm.files.inventory import FORMAT, MANIFEST, VERSION, files_below, inventory

ROWS, WIDTH = 1000, 4


def table(seed: int = 0) -> np.ndarray:
    """Rows of small whole numbers, whose sums are exact."""
    return np.random.default_rng(seed).integers(-50, 50, (ROWS, WIDTH)).astype(np.float32)


def answer(rows: np.ndarray, bias: float, ids: Any) -> np.ndarray:
    """Answers of `serving_default`: the sum of a row, and the bias."""
    return rows[np.asarray(ids)].sum(axis=1) + np.float32(bias)


def seal(folder: Path, name: Path, content: Mapping[str, Any]) -> None:
    """Write a manifest with the checksums of the other files."""
    files = inventory(folder, [file for file in files_below(folder) if file != name.as_posix()])
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(sealed({**content, "files": files})))


def write_base(path: Path, rows: np.ndarray, bias: float = 0.0) -> Path:
    """A version with one table and one weight, called as `kd.export.savedmodel` calls them."""
    import tensorflow as tf

    module = tf.Module()
    module.tables = [{"codes": tf.Variable(rows, shape=[None, WIDTH], name="codes")}]
    module.weights = [tf.Variable(np.float32(bias))]

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.int64, "ids")])
    def serve(ids):
        return {"sum": tf.reduce_sum(tf.gather(module.tables[0]["codes"], ids), axis=1) + module.weights[0]}

    tf.saved_model.save(module, str(path), signatures={"serving_default": serve})
    seal(path, MANIFEST, {"format": FORMAT, "version": VERSION})
    return path


def write_delta(folder: Path, number: int, base: Path, changes: Mapping[int, Any], bias: float = 0.0, spoil: Any = None) -> Path:
    """A delta that gives some rows new values, renamed when it is complete, or spoiled."""
    aside = folder / f".writing-{number}"
    aside.mkdir()
    rows = np.array(sorted(changes), np.int64)
    rows.tofile(aside / deltas.rows_file(0))
    np.array([changes[row] for row in rows], np.float32).tofile(aside / deltas.array_file(0, "codes"))
    np.savez(aside / deltas.WEIGHTS, **{"weights/0": np.float32(bias)})
    content = {
        "format": deltas.FORMAT, "version": deltas.VERSION,
        "base": {"number": int(base.stem), "state": deltas.state_of(base)},
        "tables": [{"rows": ROWS, "changed": len(rows), "arrays": {"codes": 4 * WIDTH}}],
    }  # fmt: skip
    seal(aside, Path(deltas.FILE), content)
    if spoil is not None:
        spoil(aside)
    return aside.rename(folder / f"{number}{deltas.SUFFIX}")
