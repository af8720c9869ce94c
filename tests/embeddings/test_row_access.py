"""Rows that change right before a step: what hooks see, and what the step makes of it."""

import keras
import numpy as np
import pytest

import keras_dlrm as kd
from keras_dlrm.embeddings.row_access import ROWS, RowAccess, row_code

SCHEMA = kd.Schema(["I1"], [kd.Categorical("C1", 50), kd.Categorical("tags", 9, hotness=2)])


class Hook:
    """Gives all ids of C1 row 40, which it fills in training."""

    def __init__(self):
        self.seen = []

    def __call__(self, ids, rows, training):
        assert ids.shape[1] == 3 and ids.dtype.kind == "i"
        self.seen.append((len(ids), training))
        if training:
            values = rows.read("C1", np.array([40, 41], np.int32))
            rows.write({"C1": (np.array([40], np.int32), {name: np.full_like(v[:1], 0.25) for name, v in values.items()})})
        return np.concatenate([row_code(np.full_like(ids[:, :1], 40)), ids[:, 1:]], axis=1)


def model_with(hook, **options):
    model = kd.models.DLRM(SCHEMA, 4, bottom_mlp=[4], top_mlp=[4, 1], seed=1)
    model.compile("adagrad", **options)
    if hook is not None:
        model.embeddings.before_steps.append(hook)
    return model


def data(n=40):
    rng = np.random.default_rng(0)
    ids = np.concatenate([rng.integers(0, 30, (n, 1)), rng.integers(-1, 9, (n, 2))], axis=1)
    return {"dense": rng.normal(size=(n, 1)).astype("float32"), "sparse": ids}, rng.integers(0, 2, n).astype("float32")


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        return data()


@pytest.mark.slow
@pytest.mark.parametrize("source", ["arrays", "dataset", "on_batch"])
def test_a_hook_sees_every_batch_once_in_training_and_in_evaluation(source):
    hook = Hook()
    model = model_with(hook)
    x, y = data()
    if source == "arrays":
        model.fit(x, y, batch_size=16, epochs=2, verbose=0, validation_data=(x, y), shuffle=False)
        expected = [(16, True), (16, True), (8, True), (16, False), (16, False), (8, False)] * 2
    elif source == "dataset":
        model.fit(Batches(), verbose=0)
        model.predict(Batches(), verbose=0)
        expected = [(40, True)] * 2 + [(40, False)] * 2
    else:
        model.train_on_batch(x, y)
        model.test_on_batch(x, y)
        model.predict_on_batch(x)
        expected = [(40, True), (40, False), (40, False)]
    assert hook.seen == expected


@pytest.mark.slow
def test_a_step_trains_the_rows_and_slots_that_a_hook_wrote():
    hook = Hook()
    model, plain = model_with(hook), model_with(None)
    x, y = data()
    model.train_on_batch(x, y)
    tables = plain.embedding_tables()
    tables["C1"][40] = 0.25
    plain.set_embedding_tables(tables)
    held = RowAccess(plain.embeddings, plain.optimizer)
    held.write({"C1": (np.array([40], np.int32), {"accumulator": np.full((1, 4), 0.25, np.float32)})})
    plain.train_on_batch({**x, "sparse": np.concatenate([np.full((40, 1), 40), x["sparse"][:, 1:]], axis=1)}, y)
    for name, table in plain.embedding_tables().items():
        np.testing.assert_allclose(model.embedding_tables()[name], table, rtol=1e-6, atol=1e-7)
    wanted = held.read("C1", np.array([40], np.int32))
    for name, values in RowAccess(model.embeddings, model.optimizer).read("C1", np.array([40], np.int32)).items():
        np.testing.assert_allclose(values, wanted[name], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("rule", ["adagrad", "rowwise_adagrad", "sgd", "adam"])
def test_rows_and_slots_are_read_as_they_were_written(rule):
    model = model_with(None, embedding_optimizer=rule)
    access = RowAccess(model.embeddings, model.optimizer)
    rng = np.random.default_rng(1)
    rows = rng.permutation(50)[:11].astype(np.int32)
    shapes = {ROWS: (4,), **{name: shape for name, (shape, _) in access.slots("C1").items()}}
    values = {name: rng.random((11, *shape), np.float32) for name, shape in shapes.items()}
    before, tags = model.embedding_tables()["C1"], model.embedding_tables()["tags"]
    access.write({"C1": (rows, values)})
    for name, read in access.read("C1", rows).items():
        np.testing.assert_array_equal(read, values[name])
    after, others = model.embedding_tables()["C1"], np.setdiff1d(np.arange(50), rows)
    np.testing.assert_array_equal(after[others], before[others])
    np.testing.assert_array_equal(model.embedding_tables()["tags"], tags)


def test_an_error_of_a_hook_leaves_the_model_as_it_is():
    def refuse(ids, rows, training):
        rows.write({"C1": (np.array([3], np.int32), {ROWS: np.full((1, 4), 0.5, np.float32)})})
        raise ValueError("the hook refuses")

    model = model_with(refuse)
    with pytest.raises(ValueError, match="the hook refuses"):
        model.fit(*data(), verbose=0)
    assert (model.embedding_tables()["C1"][3] == 0.5).all() and np.isfinite(model.embedding_tables()["tags"]).all()
