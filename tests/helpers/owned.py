"""Outputs of this package in folders, and what a path is, for the tests of what is replaced."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import numpy as np

from keras_dlrm.data.packed.writer import PackedWriter
from keras_dlrm.schema.schema import Schema
from keras_dlrm.training import run
from keras_dlrm.training.experiment import Experiment

SCHEMA = Schema(dense=["x"], label="click")


def packed(output: Path) -> None:
    with PackedWriter(output, SCHEMA, overwrite=True) as writer:
        writer.append("train", {"dense": np.ones((2, 1), "float32")}, np.array([0, 1]))


def trained(output: Path) -> None:
    """Steps of `train` before it trains."""
    run._check_folder(output, False, True)
    run._prepare(Experiment(), {}, output, True)


def seen(path: Path) -> Any:
    """State of a path, with all that is below it."""
    info = path.lstat()
    if stat.S_ISLNK(info.st_mode):
        return "link", os.readlink(path)
    if stat.S_ISDIR(info.st_mode):
        return "folder", info.st_ino
    return (info.st_mode, info.st_ino, path.read_bytes() if stat.S_ISREG(info.st_mode) else None)
