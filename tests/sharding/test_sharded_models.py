"""Refusals and messages of a sharded model, in one process, which may well have a plan for one."""

import keras
import numpy as np
import pytest

import keras_dlrm as kd
from keras_dlrm.initializers import StackedTables
from keras_dlrm.models.sparse_model import SparseModel
from keras_dlrm.sharding.active import current
from keras_dlrm.sharding.plan import place

pytestmark = pytest.mark.usefixtures("quick_exports")

SCHEMA = kd.Schema(dense=["x"], categorical=[kd.Categorical("a", 20), kd.Categorical("b", 6, hotness=2)], label="y")
SHAPES = {"a": (20, 4), "b": (6, 4)}


def build(kind="table_wise"):
    with kd.sharding.use(place(1, SHAPES, dict.fromkeys(SHAPES, kind))):
        return kd.models.DLRM(SCHEMA, 4, bottom_mlp=[8, 4], top_mlp=[8, 1], seed=1)


def batch(rows=8):
    rng = np.random.default_rng(0)
    ids = np.stack([rng.integers(0, 20, rows), *rng.integers(0, 6, (2, rows))], 1)
    return {"dense": rng.normal(size=(rows, 1)).astype("float32"), "sparse": ids}, rng.integers(0, 2, rows).astype("float32")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["replicate", "table_wise", "row_wise", "column_wise"])
def test_a_plan_for_one_process_changes_nothing(kind):
    x, y = batch()
    models = [build(kind), kd.models.DLRM(SCHEMA, 4, bottom_mlp=[8, 4], top_mlp=[8, 1], seed=1)]
    for model in models:
        model.compile("adagrad")
        model.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0)
    found, expected = (model.embedding_tables() for model in models)
    for name, table in expected.items():
        np.testing.assert_allclose(found[name], table, rtol=1e-6, atol=1e-7)


def test_a_plan_ends_with_its_block():
    build()
    assert current() is None
    assert kd.models.DLRM(SCHEMA, 4, bottom_mlp=[8, 4], top_mlp=[8, 1]).embeddings.sharded is None


def test_a_plan_for_more_processes_than_there_are_is_refused():
    with pytest.raises(ValueError, match="world_size=3.*1 process runs.*for_world"), kd.sharding.use(place(3, SHAPES, {
        "a": "row_wise", "b": "replicate"
    })):  # fmt: skip
        pass


def test_a_plan_for_other_tables_is_refused():
    plan = place(1, {"a": (20, 4)}, {"a": "row_wise"})
    with kd.sharding.use(plan), pytest.raises(ValueError, match="plan is for other tables: 'b'"):
        kd.models.DLRM(SCHEMA, 4, bottom_mlp=[8, 4], top_mlp=[8, 1])


def test_export_of_a_sharded_model_says_how_to_make_it_whole(tmp_path):
    model = build()
    model.predict_on_batch(batch()[0])
    with pytest.raises(ValueError, match=r"sharded over 1; save a checkpoint"):
        kd.export.savedmodel(model, tmp_path / "served")


def test_row_wise_adagrad_of_a_table_in_columns_is_refused():
    # Two parts on one process: each would have its own accumulator.
    plan = kd.sharding.ShardingPlan(1, SHAPES, {
        "a": kd.sharding.Placement("column_wise", (0, 0)), "b": kd.sharding.Placement("row_wise", (0,))
    })  # fmt: skip
    with kd.sharding.use(plan):
        model = kd.models.DLRM(SCHEMA, 4, bottom_mlp=[8, 4], top_mlp=[8, 1], seed=1)
    with pytest.raises(ValueError, match="one number for a whole row"):
        model.compile("rowwise_adagrad")
        model.fit(*batch(), verbose=0)


@pytest.mark.parametrize(("rows", "processes", "devices"), [(10, 3, 1), (3, 4, 1), (8, 2, 2), (5, 2, 2), (1, 2, 1)])
def test_parts_of_a_batch_are_equally_long_and_together_the_batch(rows, processes, devices):
    x, y = batch(rows)
    parts = [kd.sharding.part_of((x, y), rank, processes, devices) for rank in range(processes)]
    lengths = {len(part[1]) for part in parts}
    assert len(lengths) == 1 and lengths.pop() % devices == 0
    whole = np.concatenate([part[0]["sparse"] for part in parts])
    np.testing.assert_array_equal(whole[:rows], x["sparse"])
    assert (whole[rows:] == -1).all()
    if len(parts[0]) == 3:
        weight = np.concatenate([part[2] for part in parts])
        assert (weight[:rows] == 1).all() and np.isneginf(weight[rows:]).all()
    else:
        assert len(whole) == rows


@pytest.mark.parametrize("width", [1, 3, 8])
@pytest.mark.parametrize(("start", "stop"), [(0, 40), (1, 2), (7, 33), (39, 40)])
def test_rows_that_are_drawn_alone_are_those_of_the_whole_table(width, start, stop):
    initial = StackedTables([5, 40], [0, 1], seed=7)
    whole = initial.draw(np.random.default_rng(0), (45, width))
    np.testing.assert_array_equal(initial.rows_of(1, start, stop, width), whole[5 + start : 5 + stop])


@pytest.mark.slow
def test_weights_of_classes_hold_where_a_part_is_filled_up():
    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            return batch(7)

    part = kd.sharding.Part(Batches())
    part.devices = 4  # eight rows, one of them a filler
    assert len(part[0][1]) == 8
    losses = []
    for model, data in ((build(), part), (kd.models.DLRM(SCHEMA, 4, bottom_mlp=[8, 4], top_mlp=[8, 1], seed=1), Batches())):
        model.compile("adagrad")
        losses.append(model.fit(data, class_weight={0: 2.0, 1: 3.0}, shuffle=False, epochs=2, verbose=0).history["loss"])
    np.testing.assert_allclose(*losses, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("labels", ["numbers", "one-hot"])
def test_metrics_see_whole_rows_where_a_model_has_several_outputs_a_row(labels):
    def model():
        ids = keras.Input((3,), dtype="int32")
        pooled = kd.layers.EmbeddingCollection(SCHEMA, 4, concatenate=True, seed=1)(ids)
        kernel = keras.initializers.GlorotUniform(seed=1)
        found = SparseModel(ids, keras.layers.Dense(3, "softmax", kernel_initializer=kernel)(pooled))
        kind = "sparse_categorical" if labels == "numbers" else "categorical"
        found.compile("adagrad", loss=f"{kind}_crossentropy", metrics=[f"{kind}_accuracy"])
        return found

    with kd.sharding.use(place(1, SHAPES, dict.fromkeys(SHAPES, "row_wise"))):
        sharded = model()
    x = batch(30)[0]["sparse"]
    y = np.random.default_rng(1).integers(0, 3, 30)
    y = y if labels == "numbers" else np.eye(3, dtype="float32")[y]
    found, expected = (one.fit(x, y, batch_size=10, epochs=2, shuffle=False, verbose=0).history for one in (sharded, model()))
    assert found == {name: pytest.approx(values, rel=1e-5) for name, values in expected.items()}
