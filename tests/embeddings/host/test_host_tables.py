"""Models with host tables: the numbers of the same model in memory, bit for bit, whatever is done with it."""

import os
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers.suite import suite_on

import keras_dlrm as kd
from keras_dlrm.embeddings.table_rows import table_rows
from keras_dlrm.export.tables.stored_tables import StoredTables, untrained_rows
from keras_dlrm.models.not_finite import NotFinite
from keras_dlrm.sharding.stacking import stack_rows

pytestmark = pytest.mark.slow

BATCH, STEPS = 32, 12
SCHEMA = kd.Schema(
    dense=["I1"],
    categorical=[
        kd.Categorical("user", 900), kd.Categorical("tags", 300, hotness=3, combiner="mean"),
        kd.Categorical("last_tags", 300, hotness=2, table="tags"), kd.Categorical("page", 400, hashed=True),
    ],
    label="click",
)  # fmt: skip


def rows(n=BATCH * STEPS, seed=0):
    """The first n of some packed rows with skewed ids, padding, and ids that are out of range."""
    rng, wanted, n = np.random.default_rng(seed), n, 400
    sizes = np.array([900, 300, 300, 300, 300, 300, 10**12])
    ids = (sizes * rng.random((n, 7)) ** 3).astype(np.int64)
    ids[rng.random((n, 7)) < 0.1] = -1
    ids[::50, 0] = 5000
    x = {"dense": rng.normal(size=(n, 1)).astype("float32"), "sparse": ids}
    y = rng.integers(0, 2, n).astype("float32")
    return {name: array[:wanted] for name, array in x.items()}, y[:wanted]


def model(host, rule="adagrad", schema=SCHEMA, **options):
    extra = {} if host is None else {"embedding_options": {"host": host}}
    made = kd.models.DLRM(schema, 4, bottom_mlp=[4], top_mlp=[4, 1], seed=1, **extra, **options)
    made.compile(rule, embedding_optimizer=rule)
    return made


@pytest.fixture
def host(tmp_path):
    return kd.HostTables(tmp_path / "host", device_rows=450)


def fit(made, n=BATCH * STEPS, seed=0, **options):
    x, y = rows(n, seed)
    return made.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0, **options).history


def same(one, other):
    tables, others = one.embedding_tables(), other.embedding_tables()
    for name in tables:
        np.testing.assert_array_equal(tables[name], others[name], err_msg=name)
    for a, b in zip(one.weights[1:], other.weights[1:], strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(a), keras.ops.convert_to_numpy(b))


ON_ONE = [pytest.param(rule, marks=suite_on("torch")) for rule in ("sgd", "rowwise_adagrad", "adam")]


@pytest.mark.parametrize("rule", ["adagrad", *ON_ONE])
def test_losses_and_tables_are_those_of_a_model_in_memory(host, rule):
    memory, spilled = model(None, rule), model(host, rule)
    x, y = rows(100, seed=5)
    assert fit(memory, epochs=2, validation_data=(x, y)) == fit(spilled, epochs=2, validation_data=(x, y))
    same(memory, spilled)
    np.testing.assert_array_equal(memory.predict(x, verbose=0), spilled.predict(x, verbose=0))
    small, labels = {name: array[:20] for name, array in x.items()}, y[:20]
    models = memory, spilled
    assert len({str(m.train_on_batch(small, labels)) for m in models}) == 1
    assert len({str(m.test_on_batch(small, labels)) for m in models}) == 1
    np.testing.assert_array_equal(*(m.predict_on_batch(small) for m in models))
    np.testing.assert_array_equal(*(keras.ops.convert_to_numpy(m(small)) for m in models))
    assert host.folder.is_dir()
    assert list(host.folder.iterdir()) == []


@pytest.mark.parametrize("kind", ["split", "tf.data", "generator"])
def test_data_of_any_kind(host, kind, tmp_path):
    if kind == "split":
        schema = kd.Schema(["I1"], [kd.Categorical("user", 900), kd.Categorical("item", 500)], "click")
        log = kd.data.synthetic.RandomClickLog(schema, seed=0)
        log.write(tmp_path / "log", {"train": BATCH * STEPS})
        part = kd.data.open(tmp_path / "log").split("train")
        data = lambda: part.dataset(BATCH, shuffle=True, seed=1)  # noqa: E731
    else:
        schema, (x, y) = SCHEMA, rows()
        if kind == "tf.data":
            tf = pytest.importorskip("tensorflow")
            data = lambda: tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH)  # noqa: E731
        else:
            cut = [slice(i, i + BATCH) for i in range(0, len(y), BATCH)]
            data = lambda: (({n: a[s] for n, a in x.items()}, y[s]) for s in cut * 3)  # noqa: E731
    steps = {"steps_per_epoch": STEPS} if kind == "generator" else {}
    models = model(None, schema=schema), model(kd.HostTables(host.path, 300), schema=schema)
    losses = [m.fit(data(), epochs=2, verbose=0, shuffle=False, **steps).history["loss"] for m in models]
    assert losses[0] == losses[1]
    same(*models)


def test_a_cache_with_no_room_for_later_batches(tmp_path):
    x, _ = rows()
    stack = model(None).embeddings.stacks[0]
    most = max(len(np.unique(stack_rows(stack, x["sparse"][i : i + BATCH]))) for i in range(0, len(x["sparse"]), BATCH))
    memory, spilled = model(None), model(kd.HostTables(tmp_path, most))
    assert fit(memory) == fit(spilled)
    same(memory, spilled)
    tight = model(kd.HostTables(tmp_path, 20))
    assert tight.host_tables[0].most_examples == 2  # of 7 lookups each
    with pytest.raises(ValueError, match=r"a batch of 32 examples looks up \d+ rows of the tables of width 4, whose cache has 20"):
        fit(tight)


def test_a_restored_checkpoint_continues_to_the_same_numbers(host, tmp_path):
    whole, spilled = model(None), model(host)
    fit(whole), fit(spilled)
    kd.checkpoint.save(spilled, tmp_path / "checkpoints", step=1)
    fit(spilled, seed=1)  # what a killed run did after it
    expected = fit(whole, seed=2)
    for resumed in (model(host), model(None)):
        kd.checkpoint.restore(resumed, tmp_path / "checkpoints")
        assert fit(resumed, seed=2) == expected
        same(resumed, whole)


def test_a_checkpoint_in_training_and_changes_of_it(host, tmp_path):
    spilled, memory = model(host), model(None)
    callback = kd.checkpoint.Checkpoints(tmp_path / "checkpoints", steps=4, whole=2, keep=None)
    assert fit(spilled, callbacks=[callback]) == fit(memory)
    resumed, reference = model(host), model(None)
    kd.checkpoint.restore(resumed, tmp_path / "checkpoints", step=8)
    fit(reference, n=8 * BATCH)
    same(resumed, reference)


def test_a_saved_model_loads_with_its_slots(host, tmp_path):
    spilled, memory = model(host, "adam"), model(None, "adam")
    fit(spilled), fit(memory)
    spilled.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    assert loaded.embeddings.host == host
    same(loaded, memory)
    assert fit(loaded, seed=1) == fit(memory, seed=1)


@suite_on("torch")
def test_exports_and_grown_models_have_all_rows(host):
    spilled, memory = model(host), model(None)
    fit(spilled), fit(memory)
    ids = np.array([3, 1000, -1, 1599])
    for kind in ("float32", "int8"):
        stored = [StoredTables(m, kind).stacks[0] for m in (spilled, memory)]
        for one, other in zip(*(each.parts() for each in stored), strict=True):
            for name in one:
                np.testing.assert_array_equal(one[name], other[name])
        np.testing.assert_array_equal(*(each.dequantized(ids) for each in stored))
    marks = [untrained_rows(m.embeddings) for m in (spilled, memory)]
    for name in marks[0]:
        np.testing.assert_array_equal(marks[0][name], marks[1][name])
    larger = kd.Schema.from_dict(SCHEMA.to_dict())
    columns = [kd.Categorical("user", 950) if c.name == "user" else c for c in larger.categorical]
    larger = kd.Schema(larger.dense, columns, larger.label)
    same(kd.models.grow(spilled, larger), kd.models.grow(memory, larger))


@suite_on("torch")
def test_another_optimizer_keeps_the_rows(host):
    spilled, memory = model(host), model(None)
    for m in (spilled, memory):
        fit(m)
        m.compile("sgd", embedding_optimizer="adam")
    assert fit(spilled, seed=1) == fit(memory, seed=1)
    same(spilled, memory)


@suite_on("torch")
def test_tables_that_are_set(host):
    spilled = model(host)
    fit(spilled)
    before = spilled.embedding_tables()
    spilled.set_embedding_tables({"tags": np.full((300, 4), 2.0)})
    after = spilled.embedding_tables()
    assert (after["tags"] == 2).all()
    np.testing.assert_array_equal(after["user"], before["user"])


def test_tables_that_a_callback_sets_while_batches_are_on_their_way(host):
    """A batch that was announced before has its rows brought anew."""

    class Halved(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 2:
                self.model.embeddings.set_embedding_tables({n: t / 2 for n, t in self.model.embedding_tables().items()})

    models = model(None), model(host)
    losses = [fit(m, epochs=2, callbacks=[Halved()])["loss"] for m in models]
    assert losses[0] == losses[1]
    same(*models)


@suite_on("torch")
def test_a_full_disk_ends_fit_and_loses_nothing(host, monkeypatch):
    spilled, memory = model(host), model(None)
    x, y = rows()
    ended = []
    count = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: ended.append(batch))

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        with pytest.raises(OSError, match=f"HostTables: {host.path} has no room for .* more bytes: .*Nothing is lost: make room"):
            fit(spilled, callbacks=[count])
        with pytest.raises(OSError, match="no room for"):
            spilled.embedding_tables()
    assert 0 < len(ended) < STEPS
    fit(memory, n=len(ended) * BATCH)
    same(spilled, memory)
    left = {name: array[len(ended) * BATCH :] for name, array in x.items()}, y[len(ended) * BATCH :]
    losses = [m.fit(*left, batch_size=BATCH, shuffle=False, verbose=0).history["loss"] for m in (spilled, memory)]
    assert losses[0] == losses[1]
    same(spilled, memory)


@suite_on("torch")
def test_a_file_that_was_cut_short_ends_fit_and_a_checkpoint_goes_on(host, tmp_path):
    spilled, memory = model(host), model(None)
    fit(spilled), fit(memory)
    kd.checkpoint.save(spilled, tmp_path / "checkpoints", step=1)
    file = next(fd for fd in Path("/proc/self/fd").iterdir() if os.path.realpath(fd).startswith(host.path))
    os.truncate(file, 100)
    with pytest.raises(OSError, match="was cut short, to 100 of .* bytes.*restore the last checkpoint into a new model"):
        fit(spilled, seed=1)
    resumed = model(host)
    kd.checkpoint.restore(resumed, tmp_path / "checkpoints")
    assert fit(resumed, seed=1) == fit(memory, seed=1)
    same(resumed, memory)


@suite_on("torch")
def test_only_rows_that_changed_take_disk(host, tmp_path):
    spilled = model(host)
    x, y = rows()
    spilled.evaluate(x, y, verbose=0)
    (stack,) = spilled.embeddings.store.hosts
    assert stack.disk == 0
    kd.checkpoint.save(spilled, tmp_path / "checkpoints", step=0)
    fresh = model(host)
    kd.checkpoint.restore(fresh, tmp_path / "checkpoints")
    assert fresh.embeddings.store.hosts[0].disk == 0


def test_a_row_that_is_not_finite_ends_fit(host):
    spilled = model(host)
    x, y = rows(BATCH)
    spilled.fit(x, y, batch_size=BATCH, verbose=0)
    (stack,) = spilled.embeddings.store.hosts
    assert stack.not_finite() is None
    (table,) = spilled.embeddings.tables
    table.assign(np.full(table.shape, np.nan))
    assert stack.not_finite() >= 0
    with pytest.raises(NotFinite, match="training stopped"):
        spilled.fit(x, y, batch_size=BATCH, verbose=0)


def test_rows_of_a_stack_on_the_host_are_those_of_the_graph():
    layer = kd.layers.EmbeddingCollection(SCHEMA, {"user": 2, "tags": 4, "page": 2}, concatenate=True)
    ids = rows()[0]["sparse"]
    for stack in layer.stacks:
        graph = keras.ops.convert_to_numpy(table_rows(stack, keras.ops.convert_to_tensor(_narrow(ids)[:, stack.take])))
        expected = np.where(graph >= 0, graph + stack.per_position["start"], -1)
        np.testing.assert_array_equal(stack_rows(stack, ids), expected)


def _narrow(ids):
    from keras_dlrm.schema.packing import narrow

    return narrow(SCHEMA.categorical, ids)


def test_tables_of_several_widths_share_the_rows_of_the_cache(host):
    options = {"concatenate": True, "seed": 0, "host": host}
    layer = kd.layers.EmbeddingCollection(SCHEMA, {"user": 2, "tags": 4, "page": 2}, **options)
    layer.build()
    assert [int(table.shape[0]) for table in layer.tables] == [366, 85]
    memory = kd.layers.EmbeddingCollection(SCHEMA, {"user": 2, "tags": 4, "page": 2}, **{**options, "host": None})
    ids = _narrow(rows(20)[0]["sparse"])
    np.testing.assert_array_equal(*(keras.ops.convert_to_numpy(each({"sparse": ids})) for each in (layer, memory)))


def test_what_does_not_go_together(tmp_path):
    host = {"path": str(tmp_path), "device_rows": 100}
    collection = kd.layers.EmbeddingCollection
    with pytest.raises(ValueError, match="device_rows=0"):
        kd.HostTables(tmp_path, 0)
    with pytest.raises(ValueError, match=r"host=\{'path': 'x'\} must be kd.HostTables"):
        collection(SCHEMA, 4, host={"path": "x"})
    with pytest.raises(ValueError, match="host does not work with quotient_remainder"):
        collection(SCHEMA, 4, host=host, quotient_remainder={"collisions": 4})
    with pytest.raises(ValueError, match="host does not work with table_dtype='bfloat16'"):
        collection(SCHEMA, 4, host=host, table_dtype="bfloat16")
    with pytest.raises(ValueError, match="host does not work with id_dropout"):
        collection(kd.Schema(categorical=[kd.Categorical("a", 9, id_dropout=0.1)]), 4, host=host)
    plan = kd.plan(SCHEMA, 1, 4)
    with kd.sharding.use(plan), pytest.raises(ValueError, match="host does not work with a sharding plan"):
        collection(SCHEMA, 4, host=host)
    made = model(host)
    with pytest.raises(ValueError, match="do not work with count_out_of_range=True"):
        made.compile("adagrad", count_out_of_range=True)
    with pytest.raises(ValueError, match="do not work with gradient_accumulation_steps"):
        made.compile(keras.optimizers.Adam(gradient_accumulation_steps=2))


def test_a_stock_model_cannot_train_them(host):
    ids = keras.Input((SCHEMA.width,), dtype="int32")
    pooled = kd.layers.EmbeddingCollection(SCHEMA, 4, concatenate=True, host=host)(ids)
    stock = keras.Model(ids, keras.layers.Dense(1)(pooled))
    stock.compile("sgd", "mse")
    # In its own step, or before that where Keras compiles a look at a batch.
    message = "the steps of kd.models train open vocabularies and host tables|in a compiled function outside of a model's own steps"
    with pytest.raises(RuntimeError, match=message):
        stock.fit(_narrow(rows(8)[0]["sparse"]), np.zeros(8), verbose=0)


def test_weights_of_a_cache_are_not_those_of_a_model(host):
    best = keras.callbacks.EarlyStopping("loss", restore_best_weights=True)
    with pytest.raises(ValueError, match="know of host tables the cache alone; keep the best model as a checkpoint"):
        fit(model(host), callbacks=[best])
