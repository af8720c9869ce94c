"""Runs with open vocabularies: from a table to scores on the command line, after a kill at any moment, and on streams."""

import numpy as np
import polars as pl
import pytest
from helpers.killed_runs import train_and_kill
from helpers.suite import suite_on

import keras_dlrm as kd
from keras_dlrm.cli import main
from keras_dlrm.data.packed.filling import joined
from keras_dlrm.data.packed.writer import PackedWriter
from keras_dlrm.data.preprocessor.preprocessor import Preprocessor
from keras_dlrm.data.streaming import Stream, train_online
from keras_dlrm.data.streaming.stream import pack
from keras_dlrm.data.synthetic import Drift, PlantedClickLog
from keras_dlrm.training.experiment import Experiment

SETTINGS = {
    "batch_size": 16, "epochs": 2, "checkpoint_steps": 2, "model.embedding_dim": 4, "model.bottom_mlp": [4],
    "model.top_mlp": [4, 1],
}  # fmt: skip
OPEN = kd.Open(32, admit=2, evict="lfu")


def table_of(rows):
    """A drifting log of raw rows: texts of items, ids of users beyond 32 bits."""
    schema = kd.Schema(["x"], [kd.Categorical("item", 300), kd.Categorical("user", 100)])
    log = PlantedClickLog(schema, seed=0, drift=Drift(rows, generations=5))
    x, y = next(log.batches(rows, 1))
    items = [f"item {i}" for i in x["sparse"][:, 0]]
    return pl.DataFrame({"x": x["dense"][:, 0], "item": items, "user": x["sparse"][:, 1].astype(np.int64) + 2**40, "click": y})


SCHEMA = kd.Schema(["x"], [kd.Categorical("item", open=OPEN), kd.Categorical("user", open=OPEN)], label="click")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "log.parquet"
    table_of(600).write_parquet(path)
    SCHEMA.save(path.with_name("schema.yaml"))
    return path


def slots_of(model):
    return {name: each.slots for name, each in model.embeddings.open.tables.items()}


@suite_on("torch")
def test_a_table_becomes_a_run_that_scores_files_on_the_command_line(table, tmp_path, capsys):
    output, schema = str(tmp_path / "run"), str(table.with_name("schema.yaml"))
    small = ["--epochs", "1", "--set", "model.bottom_mlp=[8,8]", "--set", "model.top_mlp=[8,1]", "--set", "batch_size=32"]
    main(["train", str(table), "--schema", schema, "--output", output, "--tensorboard", *small])
    run = kd.Run(output)
    assert run.result["history"]["open_admitted"][0] > 40 and run.result["history"]["open_occupancy"][0] > 0.5
    assert all(each.evicted for each in slots_of(run.model).values())
    logged = b"".join(path.read_bytes() for path in (tmp_path / "run" / "tensorboard").rglob("events*"))
    assert b"open_evicted" in logged
    main(["predict", output, "--input", str(table), "--output", str(tmp_path / "p.parquet")])
    scored = pl.read_parquet(tmp_path / "p.parquet")["probability"].to_numpy()
    np.testing.assert_array_equal(run.predict(table), scored)
    capsys.readouterr()
    main(["evaluate", output, "--data", str(run.log.directory), "--split", "valid"])
    assert f"{run.result['valid']['auc']:.4f}" in capsys.readouterr().out
    # A processed directory of the same rows, and a file to serve.
    main(["preprocess", "tables", "--train", str(table), "--schema", schema, "--output", str(tmp_path / "log")])
    assert kd.data.open(tmp_path / "log").split("train").arrays()[0]["sparse"].dtype == np.int64
    main(["export", output, "--format", "onnx", "--output", str(tmp_path / "model.onnx")])
    assert (tmp_path / "model.onnx").exists()


@pytest.mark.parametrize("kills", [pytest.param(1, marks=suite_on("torch")), pytest.param(20, marks=pytest.mark.soak)])
def test_a_run_that_is_killed_ends_as_one_that_nothing_stopped(programs, tmp_path, kills):
    packed = kd.Schema(["x"], [kd.Categorical("c", 300), kd.Categorical("h", 100, hotness=2)])
    columns = [kd.Categorical("c", open=OPEN), kd.Categorical("h", hotness=2, open=kd.Open(32, ttl=10))]
    rows = {"train": 240 * kills + 3, "valid": 100, "test": 100}
    planted = PlantedClickLog(packed, seed=0, drift=Drift(240 * kills, generations=5))
    with PackedWriter(tmp_path / "log", kd.Schema(["x"], columns)) as writer:
        for split, count in rows.items():
            writer.begin(split)
            for x, y in planted.batches(256, rows=count, part=split):
                writer.append(split, {**x, "sparse": x["sparse"].astype(np.int64)}, y)
    log = kd.data.open(tmp_path / "log")
    whole = kd.train(log, settings=SETTINGS, output=tmp_path / "whole", verbose=False)
    train_and_kill(programs, log, SETTINGS, tmp_path / "killed", kills)
    ended = kd.train(log, settings=SETTINGS, output=tmp_path / "killed", verbose=False)
    assert ended.result["test"] == whole.result["test"]
    for name in ("loss", "val_auc"):
        assert ended.result["history"][name] == whole.result["history"][name]
    for name, each in slots_of(whole.model).items():
        assert each.evicted
        for key, array in each.state().items():
            np.testing.assert_array_equal(slots_of(ended.model)[name].state()[key], array)


def test_a_run_does_not_average_rows_that_go_to_other_ids():
    model = {"type": "DLRM", "embedding_dim": 4, "bottom_mlp": [4], "top_mlp": [1]}
    with pytest.raises(ValueError, match="averaging=0.9: an average of a row would mix the ids .* Set averaging=0"):
        Experiment(model, averaging=0.9).build(SCHEMA)


class Rows(Stream):
    """Rows of a frame, as they come."""

    def __init__(self, preprocessor, frame):
        super().__init__(preprocessor, "raise", None, 0.01)
        self.frame = frame

    def _start(self):
        self.positions.setdefault("rows", 0)

    def _look(self):
        return self.positions["rows"] < len(self.frame)

    def _take(self, rows):
        at = self.positions["rows"]
        self.positions["rows"] = min(at + rows, len(self.frame))
        return [range(at, self.positions["rows"])] if self._look() or at < len(self.frame) else []

    def _pack(self, pieces):
        parts = [pack(self.preprocessor, self.frame[p.start : p.stop], ["r"] * len(p), p, self.bad) for p in pieces]
        return joined(parts)


@suite_on("torch")
def test_online_training_goes_on_from_its_last_commit(tmp_path):
    frame = table_of(480)
    preprocessor = Preprocessor.fit(SCHEMA, frame[:50])

    def build():
        model = kd.models.DLRM(preprocessor.schema, 4, bottom_mlp=[4], top_mlp=[1], seed=0)
        model.compile("adam", embedding_optimizer="adagrad")
        return model

    options = {"batch_size": 16, "chunk": 5, "until_end": True}
    whole = train_online(build, Rows(preprocessor, frame), tmp_path / "whole", **options)
    for _ in range(8):
        calls = iter([False, True])
        part = train_online(
            build, Rows(preprocessor, frame), tmp_path / "parts", **options, stop=lambda calls=calls: next(calls, True)
        )
    assert part.read == whole.read == 480
    for name, each in slots_of(whole.model).items():
        assert each.evicted
        for key, array in each.state().items():
            np.testing.assert_array_equal(slots_of(part.model)[name].state()[key], array)
    for name, rows in whole.model.embedding_tables().items():
        np.testing.assert_allclose(part.model.embedding_tables()[name], rows, rtol=1e-5, atol=1e-7)
