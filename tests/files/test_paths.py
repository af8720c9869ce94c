"""Names of files that other files give stay inside their folder."""

import os
from pathlib import Path

import numpy as np
import pytest

from keras_dlrm.files.paths import inside

pytestmark = pytest.mark.neutral


def test_names_inside_are_taken(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "log").symlink_to("real")
    (tmp_path / "real" / "link").symlink_to("train")
    for name in ("a.npy", "train/a.npy", "..a", "a..b/c", "link/a.npy", "./a"):
        assert inside(tmp_path / "log", name, "manifest.json") == tmp_path / "log" / name


def test_names_that_lead_out_are_refused(tmp_path):
    folder = tmp_path / "log"
    (folder / "train").mkdir(parents=True)
    (folder / "out").symlink_to(tmp_path)
    (folder / "file").symlink_to("../secret")
    (tmp_path / "log-of-others").mkdir()
    for name in (
        "../secret", "train/../../secret", "..", ".", "", "/etc/passwd", str(folder / "a.npy"), "out/secret", "file",
        "../log-of-others/a", "a\0b", None, 3, ["a"],
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"manifest.json names the file .*not inside"):
            inside(folder, name, "manifest.json")


def test_what_remembers_a_path_keeps_it_when_the_program_changes_its_folder(tmp_path, monkeypatch):
    from keras_dlrm.checkpoint import Checkpoints
    from keras_dlrm.data.foreign.pieces import NpzArray
    from keras_dlrm.data.packed.packed import FileLog
    from keras_dlrm.data.packed.writer import PackedWriter
    from keras_dlrm.schema.schema import Schema
    from keras_dlrm.serving import ModelConfig
    from keras_dlrm.training.callbacks import Resume

    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    here.mkdir(), elsewhere.mkdir()
    monkeypatch.chdir(here)
    np.savez("plain.npz", x=np.arange(5))
    np.savez_compressed("packed.npz", x=np.arange(5))
    arrays = [NpzArray(Path(name), "x") for name in ("plain.npz", "packed.npz")]
    schema = Schema(dense=["x"])
    with PackedWriter("log", schema) as writer:
        writer.append("train", {"dense": np.ones((2, 1), np.float32)}, [0, 1])
        os.chdir(elsewhere)
    os.chdir(here)
    remembered = [
        Checkpoints("a", 1).directory,
        FileLog(Path("a"), schema, {}).directory,
        ModelConfig("m", Path("a")).base_path,
        Resume("a", 1, 1, []).directory,
    ]
    os.chdir(elsewhere)
    assert remembered == [here / "a"] * 4 and (here / "log" / "manifest.json").is_file()
    for array in arrays:
        np.testing.assert_array_equal(array.take(slice(0, 5)), np.arange(5))
