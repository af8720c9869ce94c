"""Dropout of ids: unseen ids in a share of the rows in training, and none elsewhere."""

import keras
import numpy as np
import pytest

import keras_dlrm as kd
from keras_dlrm.layers.id_dropout import IdDropout

COLUMNS = [
    kd.Categorical("item", 50, oov=2, oov_rows=3, id_dropout=0.3),
    kd.Categorical("tags", 20, hotness=3, oov=None, id_dropout=0.5),
    kd.Categorical("hash", 30, hashed=True, id_dropout=0.1),
    kd.Categorical("hour", 24),
    kd.Crossed("item_hour", ["item", "hour"], buckets=1000),
]
SCHEMA = kd.Schema(categorical=COLUMNS)
ROWS = 4000


def packed(rows=ROWS):
    random = np.random.default_rng(0)
    tags = np.where(random.random((rows, 3)) < 0.7, random.integers(0, 20, (rows, 3)), -1)
    columns = {"item": random.integers(5, 50, rows), "tags": tags, "hash": random.integers(0, 2**31 - 1, rows)}
    return SCHEMA.pack({**columns, "hour": random.integers(0, 24, rows)})["sparse"].astype(np.int32)


def dropped(layer, ids):
    return keras.ops.convert_to_numpy(layer({"sparse": ids}, training=True)["sparse"])


def test_a_share_of_the_rows_has_unseen_ids_in_training():
    before, after = packed(), dropped(IdDropout(SCHEMA, seed=1), packed())
    item, tags, hashed = before[:, 0] != after[:, 0], (before[:, 1:4] != after[:, 1:4]).any(1), before[:, 4] != after[:, 4]
    tagged = (before[:, 1:4] >= 0).any(1)
    for changed, share in ((item, 0.3), (tags[tagged], 0.5), (hashed, 0.1)):
        assert abs(changed.mean() - share) < 4 * np.sqrt(share * (1 - share) / len(changed))
    assert abs((item & hashed).mean() - 0.03) < 0.012  # columns by themselves
    assert (after[item, 0] == 2 + before[item, 0] % 3).all()  # one of the OOV rows
    assert (after[:, 1:4][tags] == -1).all() and (after[hashed, 4] == -1).all() and (after[:, 5] == before[:, 5]).all()
    crossed = SCHEMA.pack({"item": after[:, 0], "tags": after[:, 1:4], "hash": np.zeros(ROWS, int), "hour": after[:, 5]})["sparse"]
    assert (after[:, 6] == crossed[:, 6]).all() and (after[item, 6] != before[item, 6]).mean() > 0.9


def test_each_step_draws_anew_and_a_seed_draws_the_same():
    ids, first, second = packed(200), IdDropout(SCHEMA, seed=1), IdDropout(SCHEMA, seed=1)
    steps = [dropped(first, ids) for _ in range(2)]
    assert (steps[0] != steps[1]).any()
    for step in steps:
        np.testing.assert_array_equal(dropped(second, ids), step)


def model_of(share):
    columns = [kd.Categorical("item", 50, id_dropout=share), kd.Categorical("genre", 4)]
    return kd.models.DeepFM(kd.Schema(categorical=columns), embedding_dim=4, deep_mlp=[8], seed=0)


@pytest.mark.slow
def test_evaluation_predictions_and_saved_models_know_nothing_of_it(tmp_path):
    plain, model = model_of(0.0), model_of(0.5)
    batch = {"sparse": np.array([[i % 50, i % 4] for i in range(64)], np.int32)}
    np.testing.assert_array_equal(plain.predict(batch, verbose=0), model.predict(batch, verbose=0))
    model.compile(optimizer="sgd", loss="binary_crossentropy")
    labels = np.arange(64) % 2
    model.fit(batch, labels.astype(np.float32), batch_size=64, verbose=0)
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    assert loaded.schema == model.schema
    np.testing.assert_array_equal(loaded.predict(batch, verbose=0), model.predict(batch, verbose=0))
    losses = [float(m.train_on_batch(batch, labels.astype(np.float32))) for m in (model, loaded)]
    assert losses[0] == losses[1]  # the generator goes on where it was


@pytest.mark.slow
def test_the_oov_row_learns_what_an_unknown_item_is_worth():
    batch = {"sparse": np.stack([np.arange(1, 49), np.arange(48) % 4], axis=1).astype(np.int32)}
    labels = (np.arange(48) % 4 == 0).astype(np.float32)
    rows = {}
    for share in (0.0, 0.5):
        model = model_of(share)
        before = model.embedding_tables()["item"][0].copy()
        model.compile(optimizer="adagrad", loss="binary_crossentropy")
        model.fit(batch, labels, batch_size=48, epochs=3, verbose=0)
        rows[share] = np.abs(model.embedding_tables()["item"][0] - before).max()
    assert rows[0.0] == 0.0 < rows[0.5]


def test_shares_that_are_none_are_refused():
    with pytest.raises(ValueError, match=r"Categorical column 'a': id_dropout=1.0 must be a number in \[0, 1\)"):
        kd.Categorical("a", 3, id_dropout=1.0)
    with pytest.raises(ValueError, match=r"Crossed column 'c': id_dropout=0.5 is none of its options"):
        kd.Categorical("c", 9, crossed=("a", "b"), id_dropout=0.5)
    schema = kd.Schema(categorical=[kd.Categorical("a", 3, id_dropout=0.5)])
    with pytest.raises(ValueError, match="'tpu' does not work with id_dropout"):
        kd.models.FM(schema, embedding_dim=4, embedding_options={"tpu": {}})
