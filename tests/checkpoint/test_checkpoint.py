"""Checkpoints in one process: what comes back, and what is refused. `tests/sharding/test_trainers.py` has several processes."""

import dataclasses
import json
import re
import resource
import shutil

import keras
import numpy as np
import pytest
from helpers.suite import suite_on
from keras import ops

import keras_dlrm as kd
from keras_dlrm.checkpoint.reading import read
from keras_dlrm.checkpoint.state import Piece, state_of
from keras_dlrm.files.checksums import sealed
from keras_dlrm.files.marker import MARKER
from keras_dlrm.files.ownership import lock
from keras_dlrm.sharding import everyone
from keras_dlrm.sharding.plan import ShardingPlan, place

SCHEMA = kd.Schema(
    dense=["x"],
    categorical=[kd.Categorical("a/b", 50), kd.Categorical("tags", 7, hotness=3), kd.Categorical("c", 31)],
    label="y",
)
SHAPES = {"a/b": (50, 8), "tags": (7, 8), "c": (31, 8)}
KINDS = {"a/b": "row_wise", "tags": "column_wise", "c": "table_wise"}


def batches(n):
    rng = np.random.default_rng(5)
    for _ in range(n):
        ids = np.concatenate([rng.integers(0, c.vocabulary_size, (16, c.hotness)) for c in SCHEMA.categorical], 1)
        x = {"dense": rng.normal(size=(16, 1)).astype("float32"), "sparse": ids}
        yield x, rng.integers(0, 2, 16).astype("float32")


def build(optimizer="adagrad", dim=8, plan=None, **options):
    def make():
        return kd.models.DLRM(SCHEMA, dim, bottom_mlp=[8, dim], top_mlp=[8, 1], seed=1, **options)

    if plan is None:
        model = make()
    else:
        with kd.sharding.use(plan):
            model = make()
    model.compile(optimizer)
    model.predict_on_batch(next(batches(1))[0])
    return model


def train(model, data):
    return [float(model.train_on_batch(x, y)) for x, y in data]


# A plan of several parts on one process: all kinds of parts without several processes.
PLANS = {
    "whole": None,
    "parts": ShardingPlan(1, SHAPES, {
        "a/b": kd.sharding.Placement("row_wise", (0, 0, 0)), "tags": kd.sharding.Placement("column_wise", (0, 0)),
        "c": kd.sharding.Placement("row_wise", (0, 0)),
    }),
    "others": ShardingPlan(1, SHAPES, {
        "a/b": kd.sharding.Placement("column_wise", (0, 0, 0, 0)), "tags": kd.sharding.Placement("replicate"),
        "c": kd.sharding.Placement("column_wise", (0, 0)),
    }),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("saved", "restored", "rule"),
    [("parts", "others", "adam"), ("others", "whole", "sgd")]
    + [
        pytest.param(*ends, rule, marks=pytest.mark.soak)
        for ends, rules in {
            ("whole", "whole"): ("sgd", "adagrad", "adam"), ("parts", "others"): ("sgd", "adagrad"),
            ("others", "whole"): ("adagrad", "adam"), ("whole", "parts"): ("sgd", "adagrad", "adam"),
        }.items()
        for rule in rules
    ],
)  # fmt: skip
def test_training_goes_on_as_if_never_ended_however_tables_are_split(saved, restored, rule, tmp_path):
    data = list(batches(8))
    model = build(rule, plan=PLANS[saved])
    train(model, data[:4])
    kd.checkpoint.save(model, tmp_path, extra={"seen": 4})
    expected = train(model, data[4:])
    again = build(rule, plan=PLANS[restored])
    assert kd.checkpoint.restore(again, tmp_path) == {"step": 4, "extra": {"seen": 4}}
    np.testing.assert_allclose(train(again, data[4:]), expected, rtol=1e-6, atol=1e-7)
    for name, table in model.embedding_tables().items():
        np.testing.assert_allclose(again.embedding_tables()[name], table, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_row_wise_slots_come_back(tmp_path):
    data = list(batches(6))
    model = build(kd.optimizers.RowwiseAdagrad(0.05))
    train(model, data[:3])
    kd.checkpoint.save(model, tmp_path)
    expected = train(model, data[3:])
    again = build(kd.optimizers.RowwiseAdagrad(0.05), plan=place(1, SHAPES, dict.fromkeys(SHAPES, "row_wise")))
    kd.checkpoint.restore(again, tmp_path)
    np.testing.assert_allclose(train(again, data[3:]), expected, rtol=1e-6)


def test_without_a_checkpoint_nothing_is_restored(tmp_path):
    assert kd.checkpoint.restore(build(), tmp_path / "none") is None
    with pytest.raises(FileNotFoundError, match=r"no checkpoint of step 3; there are \[\]"):
        kd.checkpoint.restore(build(), tmp_path, step=3)


def test_old_checkpoints_go_and_a_half_written_one_is_none(tmp_path):
    model = build()
    for step in range(1, 5):
        kd.checkpoint.save(model, tmp_path, step=step, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_0000000003", "step_0000000004"]
    (tmp_path / "step_0000000004" / "manifest.json").unlink()
    assert kd.checkpoint.restore(model, tmp_path)["step"] == 3


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


@pytest.mark.slow
@pytest.mark.parametrize("plan", ["whole", "parts"])
def test_an_incremental_checkpoint_has_the_touched_rows_alone(plan, tmp_path):
    data = list(batches(9))
    model = build("adagrad", plan=PLANS[plan])
    train(model, data[:3])
    kd.checkpoint.save(model, tmp_path)
    touched = len(np.unique(np.concatenate([x["sparse"][:, 0] for x, _ in data[3:5]])))
    train(model, data[3:5])
    path = kd.checkpoint.save(model, tmp_path, incremental=True)
    parts = json.loads((path / "manifest.json").read_text())["parts"]
    assert sum(part["changes"] for part in parts if part["kind"] == "tables" and part["table"] == "a/b") == touched
    train(model, data[5:6])
    kd.checkpoint.save(model, tmp_path, incremental=True)
    expected = train(model, data[6:])
    # The whole one that both are changes of has stayed alongside the last two.
    assert sorted(p.name[-1] for p in tmp_path.iterdir()) == ["3", "5", "6"]
    again = build("adagrad", plan=PLANS["others"])
    assert kd.checkpoint.restore(again, tmp_path)["step"] == 6
    np.testing.assert_allclose(train(again, data[6:]), expected, rtol=1e-6, atol=1e-7)
    path = kd.checkpoint.save(again, tmp_path, incremental=True)
    parts = json.loads((path / "manifest.json").read_text())["parts"]
    assert not any("changes" in part for part in parts if part["table"] == "a/b")  # it is split otherwise


@pytest.mark.slow
def test_gradients_that_are_being_accumulated_come_back(tmp_path):
    def make():
        model = build(keras.optimizers.SGD(0.1, gradient_accumulation_steps=3))
        model.make_room(data[0][0])
        return model

    data = list(batches(8))
    model = make()
    train(model, data[:4])  # one update, and a third of the next
    kd.checkpoint.save(model, tmp_path)
    expected = train(model, data[4:])
    again = make()
    kd.checkpoint.restore(again, tmp_path)
    np.testing.assert_allclose(train(again, data[4:]), expected, rtol=1e-6)
    for name, table in model.embedding_tables().items():
        np.testing.assert_allclose(again.embedding_tables()[name], table, rtol=1e-5, atol=1e-7)


@suite_on("torch")
@pytest.mark.parametrize("table", ["x" * 250, "列" * 60], ids=["long", "of many bytes"])
def test_tables_of_long_names_are_saved(table, tmp_path):
    schema = kd.Schema(categorical=[kd.Categorical(f"{i}", 7, table=f"{table}{i}") for i in range(2)])
    model = kd.models.DLRM(schema, 4, top_mlp=[1], seed=0)
    kd.checkpoint.save(model, tmp_path, step=1)
    other = kd.models.DLRM(schema, 4, top_mlp=[1], seed=1)
    kd.checkpoint.restore(other, tmp_path)
    for name, rows in model.embedding_tables().items():
        np.testing.assert_array_equal(other.embedding_tables()[name], rows)
    assert kd.checkpoint.verify(tmp_path) == [1]


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
