"""Checkpoints that are damaged, of another model or of another version: refused, and the model is left alone."""

import dataclasses
import json
import re

import numpy as np
import pytest
from helpers.checkpointed import PLANS, batches, build, train
from helpers.suite import suite_on
from keras import ops

import keras_dlrm as kd
from keras_dlrm.checkpoint.reading import read
from keras_dlrm.checkpoint.state import state_of
from keras_dlrm.files.checksums import sealed
from keras_dlrm.files.marker import MARKER
from keras_dlrm.sharding import everyone


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: build("adam"), 'optimizer.class is "Adagrad" there, "Adam" in the model'),
        (lambda: build(dim=4), "model.config.embedding_dim is 8 there, 4 in the model"),
    ],
)
def test_another_model_is_refused_and_left_alone(other, message, tmp_path):
    model = build()
    train(model, batches(1))
    kd.checkpoint.save(model, tmp_path)
    other = other()
    before = [ops.convert_to_numpy(v) for v in other.weights]
    with pytest.raises(ValueError, match=message):
        kd.checkpoint.restore(other, tmp_path)
    for old, new in zip(before, other.weights, strict=True):
        np.testing.assert_array_equal(old, ops.convert_to_numpy(new))


def embedding_rule(rule):
    model = build()
    model.compile("adam", embedding_optimizer=rule)
    return model


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (kd.optimizers.RowwiseAdagrad, r"slots/accumulator of table 'a/b' has shape \(50, 8\) there, \(50,\) in the model"),
        (kd.optimizers.SGD, r"of table 'a/b' it has slots/accumulator, the model has \['tables'\]"),
    ],
)
def test_a_checkpoint_of_version_1_is_read_and_its_shapes_are_compared(rule, message, tmp_path):
    path = kd.checkpoint.save(embedding_rule(kd.optimizers.Adagrad(0.1)), tmp_path, step=1) / "manifest.json"
    manifest = json.loads(path.read_text())
    for name in ("checksum", "dense_checksum", "identity"):
        del manifest[name]
    for part in manifest["parts"]:
        del part["checksums"]
    path.write_text(json.dumps({**manifest, "version": 1}))
    assert kd.checkpoint.restore(embedding_rule(kd.optimizers.Adagrad(0.1)), tmp_path)["step"] == 1
    assert kd.checkpoint.verify(tmp_path) == [1]
    with pytest.raises(ValueError, match=message):
        kd.checkpoint.restore(embedding_rule(rule(0.1)), tmp_path)
    path.write_text(json.dumps({**manifest, "version": 2}))
    with pytest.raises(ValueError, match="does not match its checksum"):
        kd.checkpoint.restore(embedding_rule(kd.optimizers.Adagrad(0.1)), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("damaged", ["manifest.json", "tables/c.0_31_0_8/c.0.0", "tables/c.0_31_0_8/zarr.json"])
def test_a_damaged_checkpoint_is_no_base_of_the_next_one(damaged, tmp_path):
    model = build()
    path = kd.checkpoint.save(model, tmp_path, step=1) / damaged
    flip(path)
    train(model, batches(1))
    kd.checkpoint.save(model, tmp_path, step=2, incremental=True)
    again = build()
    assert kd.checkpoint.restore(again, tmp_path)["step"] == 2
    assert kd.checkpoint.verify(tmp_path, 2) == [2]


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    "incremental",
    [pytest.param(False, marks=pytest.mark.slow, id="whole"), pytest.param(True, marks=suite_on("torch"), id="incremental")],
)
def test_a_damaged_file_is_refused_and_the_model_left_alone(incremental, tmp_path):
    model = build(plan=PLANS["parts"])
    train(model, batches(2))
    kd.checkpoint.save(model, tmp_path, step=2)
    if incremental:
        train(model, batches(1))
        kd.checkpoint.save(model, tmp_path, step=3, incremental=True)
    other = build()
    before = other.get_weights()
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != MARKER]
    if incremental:
        files = [path for path in files if "step_0000000003" in str(path) or path.name != "dense.npz"]
    assert len(files) > 8
    for path in files:
        kept = path.read_bytes()
        # Without a whole manifest there is no checkpoint: that is told in other words, and elsewhere.
        for damage in (flip,) if path.name == "manifest.json" else (flip, truncate, lambda path: path.unlink()):
            damage(path)
            with pytest.raises(ValueError, match="is damaged"):
                kd.checkpoint.restore(other, tmp_path)
            if damage is flip:
                named = path.parent if path.name.startswith("c.") else path  # a chunk is named by its array
                with pytest.raises(ValueError, match=re.escape(str(named))):
                    kd.checkpoint.verify(tmp_path)
            path.write_bytes(kept)
    for mine, then in zip(other.get_weights(), before, strict=True):
        np.testing.assert_array_equal(mine, then)
    assert kd.checkpoint.restore(other, tmp_path)["step"] == (3 if incremental else 2)
    assert kd.checkpoint.verify(tmp_path) == ([2, 3] if incremental else [2])


@pytest.mark.parametrize(
    ("other", "message"),
    [([1, "damaged"], "process 1 cannot read.*: damaged"), ([None, None], r"different checkpoints.*\[1, None\]")],
)
def test_what_one_process_cannot_read_none_restores(other, message, tmp_path, monkeypatch):
    model = build()
    kd.checkpoint.save(model, tmp_path, step=1)
    train(model, batches(1))
    before = model.get_weights()
    monkeypatch.setattr(everyone, "values", lambda mine: [mine, other])
    with pytest.raises(ValueError, match=message):
        read(dataclasses.replace(state_of(model), shared=True), tmp_path)
    for mine, then in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(mine, then)


def test_a_file_of_a_later_version_is_refused(tmp_path):
    model = build()
    path = kd.checkpoint.save(model, tmp_path) / "manifest.json"
    path.write_text(json.dumps(sealed({**json.loads(path.read_text()), "version": 99})))
    with pytest.raises(ValueError, match="has version 99; this package reads 1 and 2"):
        kd.checkpoint.restore(model, tmp_path)
