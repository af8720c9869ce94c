"""Folders of checkpoints: which ones go, which stay, and what is not written at all."""

import resource
import shutil

import keras
import numpy as np
import pytest
from helpers.checkpointed import SCHEMA, batches, build, train
from helpers.suite import suite_on

import keras_dlrm as kd
from keras_dlrm.checkpoint.state import Piece
from keras_dlrm.files.marker import MARKER
from keras_dlrm.files.ownership import lock


def test_old_checkpoints_go_and_a_half_written_one_is_none(tmp_path):
    model = build()
    for step in range(1, 5):
        kd.checkpoint.save(model, tmp_path, step=step, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_0000000003", "step_0000000004"]
    (tmp_path / "step_0000000004" / "manifest.json").unlink()
    assert kd.checkpoint.restore(model, tmp_path)["step"] == 3


def test_what_a_killed_run_was_writing_goes_with_the_next_save(tmp_path):
    model = build()
    kd.checkpoint.save(model, tmp_path, step=7)
    (tmp_path / "step_0000000007").rename(tmp_path / ".step_0000000007.partial")
    (tmp_path / ".step_0000000008.partial").mkdir()  # a kill before its marker was written
    kd.checkpoint.save(model, tmp_path, step=10)
    assert [path.name for path in tmp_path.iterdir()] == ["step_0000000010"]


def test_folders_that_are_not_ours_stay(tmp_path):
    model = build()
    kd.checkpoint.save(model, tmp_path, step=1)
    shutil.copytree(tmp_path / "step_0000000001", tmp_path / "step_0000000000")  # a copy of somebody's own
    for name in (".step_0000000007.partial", ".saving", "victim"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis.tex").write_text("mine")
    (tmp_path / ".step_0000000008.partial").symlink_to("victim")
    (tmp_path / "step_0000000001" / "thesis.tex").write_text("mine")
    for step in (2, 3):
        kd.checkpoint.save(model, tmp_path, step=step, keep=1)
    steps = [f"step_000000000{step}" for step in (0, 1, 3)]
    assert sorted(path.name for path in tmp_path.glob("step_*")) == steps
    assert len(list(tmp_path.glob("*/thesis.tex"))) == 5
    (tmp_path / steps[2] / MARKER).unlink()  # of an earlier release, say
    with pytest.raises(OSError, match="step_0000000003 .*is not a checkpoint .*by hand"):
        kd.checkpoint.save(model, tmp_path, step=2)
    assert sorted(path.name for path in tmp_path.glob("step_*")) == steps


def test_two_runs_do_not_save_to_one_folder_at_once(tmp_path):
    model = build()
    kd.checkpoint.save(model, tmp_path, step=1)
    with lock(tmp_path / ".saving", "taken"), pytest.raises(OSError, match="another run is saving to .*a folder of its own"):
        kd.checkpoint.save(model, tmp_path, step=2)
    kd.checkpoint.save(model, tmp_path, step=2)
    assert not (tmp_path / ".saving").exists()


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path):
    model = build()
    kd.checkpoint.save(model, tmp_path, step=1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (512, limits[1]))
    try:
        with pytest.raises(OSError, match="checkpoint: "):
            kd.checkpoint.save(model, tmp_path, step=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == ["step_0000000001"]
    assert kd.checkpoint.restore(model, tmp_path)["step"] == 1


@pytest.mark.slow
def test_a_run_that_went_on_from_an_earlier_step_takes_the_place_of_the_other(tmp_path):
    model = build()
    for step in (2, 4, 6):
        train(model, batches(2))
        kd.checkpoint.save(model, tmp_path, step=step, keep=None, incremental=step == 6)
    assert kd.checkpoint.restore(model, tmp_path, step=2)["step"] == 2
    train(model, list(batches(3))[1:])
    kd.checkpoint.save(model, tmp_path, step=4, keep=None)
    expected = model.embeddings.embedding_tables()
    other = build()
    assert kd.checkpoint.restore(other, tmp_path)["step"] == 4
    for name, table in other.embeddings.embedding_tables().items():
        np.testing.assert_array_equal(table, expected[name])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_0000000002", "step_0000000004"]


def test_what_is_no_folder_of_checkpoints_is_refused(tmp_path):
    model = build()
    (tmp_path / "file").touch()
    (tmp_path / "folder" / "step_0000000001").mkdir(parents=True)
    for name in ("file", "folder"):
        with pytest.raises(ValueError, match="nothing in it has a manifest"):
            kd.checkpoint.restore(model, tmp_path / name)


def test_bad_arguments_of_save_write_nothing(tmp_path):
    model = build()
    with pytest.raises(ValueError, match="step=-1 must be an integer >= 0"):
        kd.checkpoint.save(model, tmp_path, step=-1)
    with pytest.raises(ValueError, match="extra=.* must be what JSON can write"):
        kd.checkpoint.save(model, tmp_path, extra={"loss": np.float32(1)})
    with pytest.raises(ValueError, match="steps=0 must be an integer >= 1"):
        kd.checkpoint.Checkpoints(tmp_path, steps=0)
    plain = kd.models.DLRM(SCHEMA, 8, bottom_mlp=[8, 8], top_mlp=[8, 1])
    plain.predict(next(batches(1))[0], verbose=0)
    with pytest.raises(ValueError, match="is not compiled, and so has no step"):
        kd.checkpoint.save(plain, tmp_path)
    assert not any(tmp_path.iterdir())


def test_a_model_that_is_not_built_is_refused(tmp_path):
    class Own(kd.models.SparseModel):
        def __init__(self):
            super().__init__()
            self.embeddings = kd.layers.EmbeddingCollection(SCHEMA, 4, concatenate=True)
            self.top = keras.layers.Dense(1, activation="sigmoid")

        def call(self, inputs):
            return self.top(self.embeddings(inputs))

    model = Own()
    model.compile("sgd", loss="binary_crossentropy")
    with pytest.raises(ValueError, match="is not built; call it on a batch first"):
        kd.checkpoint.save(model, tmp_path)


@suite_on("torch")
def test_nothing_is_written_any_more_where_a_part_cannot_be_read(tmp_path, monkeypatch):
    model = build()
    read, parts = Piece.read, []

    def failing(piece, start, stop):
        parts.append(piece)
        if len(parts) == 3:
            raise RuntimeError("no longer there")
        return read(piece, start, stop)

    with monkeypatch.context() as patched:
        patched.setattr(Piece, "read", failing)
        with pytest.raises(RuntimeError, match="no longer there"):
            kd.checkpoint.save(model, tmp_path, step=1)
    assert not list(tmp_path.iterdir())
    kd.checkpoint.save(model, tmp_path, step=1)
    assert kd.checkpoint.verify(tmp_path) == [1]
