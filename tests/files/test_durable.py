"""Files that are whole or as they were."""

import os

import pytest

import keras_dlrm as kd
from keras_dlrm.files import durable
from keras_dlrm.training.experiment import Experiment

pytestmark = pytest.mark.neutral
SCHEMA = kd.Schema(dense=["x"], categorical=[kd.Categorical("a", 10)])
SAVED = {
    "schema.yaml": SCHEMA.save,
    "run.yaml": Experiment().save,
    "plan.json": kd.sharding.ShardingPlan(1, {"a": (10, 4)}, {"a": kd.sharding.Placement("replicate")}).save,
}


@pytest.mark.parametrize("name", SAVED)
def test_a_file_is_flushed_before_it_gets_its_name_and_stays_as_it_was_where_that_fails(name, tmp_path, monkeypatch):
    path, flushed = tmp_path / name, []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (flushed.append(os.readlink(f"/proc/self/fd/{file}")), fsync(file)))
    path.write_text("before")
    SAVED[name](path)
    assert [name in flushed[0], flushed[1]] == [True, str(tmp_path)]
    written = path.read_text()

    def full(file):
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        SAVED[name](path)
    assert path.read_text() == written
    assert [each.name for each in tmp_path.iterdir()] == [name]


def test_a_link_stays_and_what_is_no_file_is_refused(tmp_path):
    (tmp_path / "link").symlink_to("file")
    durable.write(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "new"
    os.mkfifo(tmp_path / "pipe")
    for other in (tmp_path / "pipe", tmp_path):
        with pytest.raises(OSError, match="is not a regular file"):
            durable.write(other, "x")
