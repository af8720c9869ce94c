"""Commits and the loop, on a stream of a test's own: everywhere, also without tensorflow-io."""

from __future__ import annotations

import importlib.metadata
import json
import os

import keras
import numpy as np
import polars as pl
import pytest

import keras_dlrm as kd
from keras_dlrm.data.packed.filling import joined
from keras_dlrm.data.streaming import Commits, Stream, train_online
from keras_dlrm.data.streaming.stream import pack
from keras_dlrm.files.ownership import identity, mark


class Numbers(Stream):
    """Rows 0 … n-1, held in memory."""

    def __init__(self, preprocessor, n):
        super().__init__(preprocessor, "raise", None, 0.01)
        self.n = n

    def _start(self):
        self.positions.setdefault("numbers", 0)

    def _look(self):
        return self.positions["numbers"] < self.n

    def _take(self, rows):
        at = self.positions["numbers"]
        self.positions["numbers"] = min(at + rows, self.n)
        taken = range(at, self.positions["numbers"])
        return [taken] if taken else []

    def _pack(self, pieces):
        parts = []
        for piece in pieces:
            i = np.array(piece)
            frame = pl.DataFrame({"price": i / 7, "user": i % 8, "city": [f"{x}" for x in i % 3], "click": i % 2})
            parts.append(pack(self.preprocessor, frame, ["n"] * len(i), piece, self.bad))
        return joined(parts)


SCHEMA = kd.Schema(dense=["price"], categorical=[kd.Categorical("user", 8), kd.Categorical("city")], label="click")


def build(preprocessor):
    model = kd.models.DLRM(preprocessor.schema, embedding_dim=4, bottom_mlp=[4], top_mlp=[1], seed=0)
    model.compile(keras.optimizers.Adam(0.01), embedding_optimizer="adagrad", loss="binary_crossentropy")
    return model


@pytest.mark.slow
def test_stopped_and_started_again_it_ends_with_the_same_model(preprocessor, tmp_path):
    options = {"batch_size": 8, "chunk": 2, "until_end": True}
    whole = train_online(lambda: build(preprocessor), Numbers(preprocessor, 100), tmp_path / "whole", **options)
    assert (whole.read, whole.trained, whole.positions) == (100, 100, {"numbers": 100})
    seen = []
    for times in range(9):
        calls = iter([False, True])
        part = train_online(
            lambda: build(preprocessor), Numbers(preprocessor, 100), tmp_path / "parts", **options,
            stop=lambda calls=calls: next(calls, True), progress=lambda online, chunk: seen.append(chunk.read),
        )  # fmt: skip
        assert part.read == min(16 * (times + 1), 100)
    assert sum(seen) == 100 and part.commits == whole.commits
    for one, other in zip(whole.model.variables, part.model.variables, strict=True):
        np.testing.assert_allclose(one.numpy() if hasattr(one, "numpy") else np.asarray(one), np.asarray(other), rtol=1e-5)
    kept = sorted(path.name for path in (tmp_path / "parts").glob("*-*"))
    assert kept == ["commit-00000007", "commit-00000008"]


def test_a_failing_row_leaves_the_last_commit(preprocessor, tmp_path):
    class Broken(Numbers):
        def _pack(self, pieces):
            if self.positions["numbers"] > 32:
                raise ValueError("n, row 40: broken")
            return super()._pack(pieces)

    with pytest.raises(ValueError, match="broken"):
        train_online(lambda: build(preprocessor), Broken(preprocessor, 100), tmp_path, batch_size=8, chunk=2)
    with Commits(tmp_path) as commits:
        assert commits.load()[1]["positions"] == {"numbers": 32}


def test_half_a_commit_is_not_seen(preprocessor, tmp_path):
    train_online(lambda: build(preprocessor), Numbers(preprocessor, 16), tmp_path, batch_size=8, until_end=True)
    left = tmp_path / ".writing-0123456789ab"  # as a killed process leaves it
    left.mkdir()
    os.close(mark(left, identity("workspace", tmp_path / "commit")))
    (left / "state.json").write_text("{")
    for name in ("commit-00000009.bak", "commit-best", "commit-"):  # a user's own copies
        (tmp_path / name).mkdir()
    with Commits(tmp_path) as commits:
        assert commits.number == 2 and commits.load()[1]["positions"] == {"numbers": 16}
        commits.save(*commits.load())
        assert not list(tmp_path.glob(".writing-*"))


def test_two_processes_do_not_share_a_folder(tmp_path):
    with Commits(tmp_path), pytest.raises(RuntimeError, match="another process"):
        Commits(tmp_path)


def test_another_preprocessor_is_refused(preprocessor, tmp_path):
    train_online(lambda: build(preprocessor), Numbers(preprocessor, 16), tmp_path, batch_size=8, until_end=True)
    rows = pl.DataFrame({"price": [1.0, 2.0], "user": [0, 1], "city": ["b", "a"]})
    other = kd.data.Preprocessor.fit(SCHEMA, rows)
    with pytest.raises(ValueError, match="vocabulary of table 'city' differs"):
        train_online(lambda: build(other), Numbers(other, 16), tmp_path, batch_size=8, until_end=True)


def test_a_loss_that_is_not_finite_is_not_committed(preprocessor, tmp_path):
    def diverging():
        model = build(preprocessor)
        model.compile(kd.optimizers.SGD(1e30), loss="mse")
        return model

    with pytest.raises(ValueError, match="Lower the learning rate"):
        train_online(diverging, Numbers(preprocessor, 4000), tmp_path, batch_size=8, chunk=50, until_end=True)
    assert json.loads((tmp_path / "commit-00000001" / "state.json").read_text())["state"]["read"] == 0


def test_outside_the_lane_the_error_says_what_to_install(preprocessor):
    if importlib.metadata.version("tensorflow").startswith("2.16."):
        pytest.skip("this is the lane")
    for make in (
        lambda: kd.data.streaming.KafkaStream("clicks", "127.0.0.1:1", preprocessor),
        lambda: kd.data.streaming.ParquetStream("x.parquet", preprocessor),
    ):
        with pytest.raises(ImportError, match=r"TensorFlow 2\.16\.x only; here is .*requirements-io\.txt"):
            make()
