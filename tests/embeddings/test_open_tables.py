"""Open vocabularies in models: which rows ids have, when rows start anew, and what continues after a break."""

import dataclasses
import re

import keras
import numpy as np
import pytest
from helpers.dict_slots import DictSlots

import keras_dlrm as kd
from keras_dlrm.data.kernels.id_rows import rows_of_ids
from keras_dlrm.embeddings.row_access import ROWS, RowAccess

pytestmark = pytest.mark.slow

OPEN = kd.Open(32, admit=2, evict="lfu")
SCHEMA = kd.Schema(
    ["I1"],
    [
        kd.Categorical("item", open=OPEN),
        kd.Categorical("last", hotness=2, table="item", open=OPEN, combiner="mean"),
        kd.Categorical("plain", 5),
        kd.Categorical("hashed", 7, hashed=True),
    ],
)
WIDE = [0, 1, 2**31 - 1, 2**31, 2**40, 2**62, 2**63 - 1]


def model_of(schema=SCHEMA, seed=1, host=None, **options):
    model = kd.models.DLRM(schema, 4, bottom_mlp=[4], top_mlp=[4, 1], seed=seed, embedding_options=host and {"host": host})
    model.compile("adagrad", embedding_optimizer=kd.optimizers.RowwiseAdagrad(0.1, initial_accumulator_value=0.5), **options)
    return model


def data(n=96, seed=0):
    rng = np.random.default_rng(seed)
    pool = np.concatenate([WIDE, rng.integers(0, 2**63 - 1, 80)])
    columns = {
        "I1": rng.normal(size=n), "item": rng.choice(pool[:60], n), "last": rng.choice([*pool, -1], (n, 2)),
        "plain": rng.integers(0, 5, n), "hashed": rng.integers(0, 2**40, n),
    }  # fmt: skip
    return SCHEMA.pack(columns), rng.integers(0, 2, n).astype("float32")


def fit(model, x, y, **options):
    return model.fit(x, y, batch_size=16, shuffle=False, verbose=0, **options)


def slots_of(model):
    return model.embeddings.open.tables["item"].slots


def test_ids_have_the_rows_that_dictionaries_give_them_and_new_rows_start_anew():
    model, expected = model_of(), DictSlots(32, evict="lfu", admit=2)
    x, y = data()
    model.predict(x, verbose=0)  # changes nothing
    access = RowAccess(model.embeddings, model.optimizer)
    for start in range(0, 96, 16):
        part = {name: values[start : start + 16] for name, values in x.items()}
        _, moved = expected.assign([int(i) for i in part["sparse"][:, [0, 1, 2]].ravel()])
        model.train_on_batch(part, y[start : start + 16])
    assert dict(zip(range(1, 33), slots_of(model).identities.ravel().tolist(), strict=True)) == {
        slot: expected.id_of.get(slot, -1) for slot in range(1, 33)
    }
    # Rows of the last batch's new ids: one step from their start, which depends on the id alone.
    slots, ids = np.array([m[0] for m in moved], np.int32), np.array([m[2] for m in moved])
    assert len(ids) and slots_of(model).evicted
    values = access.read("item", slots)
    first = rows_of_ids([model.embeddings.seed, 0], ids, 4, (1 / 33) ** 0.5)
    assert (np.abs(values[ROWS] - first) <= 0.1 / 0.5**0.5 * 2).all()
    assert ((values["accumulator"] >= 0.5) & (values["accumulator"] < 0.6)).all()


def test_evaluation_and_prediction_agree_and_insert_nothing():
    model = model_of()
    x, y = data()
    fit(model, x, y, validation_data=data(seed=3))
    before = model.embeddings.open.state()
    assert {name: len(array) for name, array in before.items() if name.endswith("identities")} == {"item/identities": 2}
    unseen = {**x, "sparse": x["sparse"].copy()}
    unseen["sparse"][:8, 0] = 12345
    predicted = model.predict(unseen, batch_size=16, verbose=0)
    model.evaluate(unseen, y, verbose=0)
    for other in (model.predict_on_batch(unseen), keras.ops.convert_to_numpy(model(unseen))):
        np.testing.assert_allclose(other, predicted, atol=1e-6)
    assert all((array == before[name]).all() for name, array in model.embeddings.open.state().items())


def test_logs_have_what_became_of_ids():
    model = model_of(count_out_of_range=True)
    x, y = data()
    history = fit(model, x, y, epochs=2, validation_data=(x, y)).history
    slots = slots_of(model)
    assert sum(history["open_admitted"]) == slots.admitted and sum(history["open_evicted"]) == slots.evicted > 0
    assert history["open_occupancy"][-1] == slots.occupied / 32 and sum(history["open_collisions"]) == slots.collisions > 0
    assert history["ids_out_of_range"] == [0, 0] and not any(name.startswith("val_open") for name in history)


@pytest.mark.parametrize("how", ["checkpoint", "file"])
def test_a_run_that_continues_is_the_run_that_never_stopped(how, tmp_path):
    (x, y), (x2, y2) = data(), data(seed=5)
    whole = model_of()
    fit(whole, x, y)
    if how == "checkpoint":
        kd.checkpoint.save(whole, tmp_path, 6)
        resumed = model_of(seed=9)
        resumed.embeddings.seed = resumed.embeddings.open.seed = whole.embeddings.seed  # what rows of new ids are drawn from
        kd.checkpoint.restore(resumed, tmp_path)
    else:
        whole.save(tmp_path / "m.keras")
        resumed = keras.saving.load_model(tmp_path / "m.keras")
    for model in (whole, resumed):
        fit(model, x2, y2)
    for name, array in whole.embeddings.open.state().items():
        np.testing.assert_array_equal(array, resumed.embeddings.open.state()[name])
    np.testing.assert_array_equal(resumed.embedding_tables()["item"], whole.embedding_tables()["item"])


def test_a_checkpoint_of_another_map_is_refused(tmp_path):
    kd.checkpoint.save(model_of(), tmp_path, 1)
    other = SCHEMA.replace_categorical(**{n: {"open": dataclasses.replace(OPEN, admit=1)} for n in ("item", "last")})
    with pytest.raises(ValueError, match="is of another model or optimizer: .*admit"):
        kd.checkpoint.restore(model_of(other), tmp_path)


def test_weights_of_the_best_epoch_come_back_with_the_ids_of_their_rows():
    x, y = data()
    model, answers = model_of(), []

    class FirstIsBest(keras.callbacks.EarlyStopping):
        def get_monitor_value(self, logs):
            answers.append(self.model.predict(x, verbose=0))
            return len(answers)

    fit(model, x, y, epochs=3, callbacks=[FirstIsBest("loss", mode="min", patience=2, restore_best_weights=True)])
    assert (answers[2] != answers[0]).any()
    np.testing.assert_array_equal(model.predict(x, verbose=0), answers[0])
    with pytest.raises(ValueError, match="weight list of length"):
        model.set_weights(model.get_weights()[1:])


def test_the_rows_of_a_frozen_layer_keep_their_ids():
    model = model_of()
    fit(model, *data())
    model.embeddings.trainable = False
    model.compile("adagrad")
    known, tables = slots_of(model).identities, model.embedding_tables()
    fit(model, *data(seed=1))
    np.testing.assert_array_equal(slots_of(model).identities, known)
    np.testing.assert_array_equal(model.embedding_tables()["item"], tables["item"])


def test_a_stock_model_cannot_train_them():
    ids = keras.Input((SCHEMA.width,), dtype="int32")
    pooled = kd.layers.EmbeddingCollection(SCHEMA, 4, concatenate=True)(ids)
    stock = keras.Model(ids, keras.layers.Dense(1)(pooled))
    stock.compile("sgd", "mse")
    with pytest.raises(RuntimeError, match="the steps of kd.models train open vocabularies and host tables"):
        stock.fit(np.zeros((8, SCHEMA.width), np.int32), np.zeros(8), verbose=0)


def test_a_grown_model_keeps_the_rows_of_ids():
    model = model_of()
    x, y = data()
    fit(model, x, y)
    larger = kd.models.grow(model, SCHEMA.replace_categorical(plain={"vocabulary_size": 9}))
    np.testing.assert_allclose(larger.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-6)


def test_a_time_to_live_goes_by_the_clock(monkeypatch):
    clock = [1_000_000.0]
    monkeypatch.setattr("time.time", lambda: clock[0])
    schema = kd.Schema(categorical=[kd.Categorical("item", open=kd.Open(16, ttl="1h")), kd.Categorical("plain", 3)])
    model = kd.models.FM(schema, 2)
    model.compile("sgd")
    batch, label = {"sparse": np.array([[7, 0]])}, np.array([1.0])
    model.train_on_batch(batch, label)
    clock[0] += 3599
    model.train_on_batch(batch, label)
    slots = slots_of(model)
    assert slots.evicted == 0
    clock[0] -= 5000  # counts as the latest time
    model.train_on_batch(batch, label)
    clock[0] += 5000 + 3601
    model.train_on_batch(batch, label)
    assert (slots.evicted, slots.admitted) == (1, 2)


def test_dropped_ids_train_the_row_of_ids_without_one():
    schema = SCHEMA.replace_categorical(item={"id_dropout": 0.99})
    model = model_of(schema)
    x, y = data()
    before = model.embedding_tables()["item"][0].copy()
    fit(model, x, y)
    assert (model.embedding_tables()["item"][0] != before).any()


def test_what_does_not_go_with_an_open_vocabulary():
    with pytest.raises(ValueError, match=re.escape("'item': oov=3 does not go with open=…; leave it out.")):
        kd.Categorical("item", open=OPEN, oov=3)
    with pytest.raises(ValueError, match="vocabulary_size=7 does not go with open=…, which has 33 rows; leave it out."):
        kd.Categorical("item", 7, open=OPEN)
    with pytest.raises(TypeError, match=r"open=32 must be kd.Open\(rows=…\)"):
        kd.Categorical("item", open=32)
    with pytest.raises(ValueError, match="Open: ttl='7 days' must be a number of batches, or a time such as '7d'"):
        kd.Open(32, ttl="7 days")
    with pytest.raises(ValueError, match="share table 'item' but give open"):
        kd.Schema(categorical=[kd.Categorical("item", open=OPEN), kd.Categorical("b", table="item", open=kd.Open(32))])
    with pytest.raises(ValueError, match="gradient_accumulation_steps would add gradients to rows that have another id"):
        model = kd.models.DLRM(SCHEMA, 4, bottom_mlp=[4], top_mlp=[4, 1])
        model.compile(keras.optimizers.SGD(0.1, gradient_accumulation_steps=2))
        fit(model, *data())
    with pytest.raises(ValueError, match="table 'item' of the open column 'item' is split by quotient_remainder"):
        kd.layers.EmbeddingCollection(SCHEMA, 4, quotient_remainder={"collisions": 2, "threshold": 20})


def test_where_an_open_vocabulary_does_not_train(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="host does not work with an open vocabulary, whose rows start anew; give its table"):
        model_of(host=kd.HostTables(str(tmp_path), 16))
    with monkeypatch.context() as patched:
        patched.setattr(kd.backend, "replicas", lambda: "two of them")
        with pytest.raises(ValueError, match="not train in the scope of a strategy with replicas; shard its table with a plan"):
            model_of()
    if keras.backend.backend() == "jax":
        with (
            kd.sharding.use(kd.plan(SCHEMA, 1, 4, machine="loopback")),
            pytest.raises(ValueError, match="a plan does not shard the tables of open vocabularies on JAX"),
        ):
            model_of()
    if keras.backend.backend() == "tensorflow":
        from keras_dlrm.parameter_server.step import check

        with pytest.raises(ValueError, match="workers train at the same time in none; train in one process or with sharded"):
            check(model_of())
    pair = kd.Schema(categorical=[kd.Categorical("user", 5), kd.Categorical("item", open=OPEN)])
    tower = kd.models.TwoTower(pair, user=["user"], item=["item"], output_dim=4)
    catalog = pair.pack({"user": [-1, -1], "item": [2**40, 7]})
    with pytest.raises(ValueError, match="uniform_negatives are drawn within a step, where ids of open vocabularies, as of 'item'"):
        tower.compile("adagrad", loss=kd.losses.InBatchSoftmax(uniform_negatives=2, catalog=catalog))


def test_schemas_round_trip():
    assert kd.Schema.from_json(SCHEMA.to_json()) == SCHEMA == kd.Schema.from_yaml(SCHEMA.to_yaml())
    assert SCHEMA.to_dict()["categorical"][0] == {"name": "item", "open": {"rows": 32, "admit": 2, "evict": "lfu"}}
