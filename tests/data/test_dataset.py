"""The PyDataset of a split: a shuffle per epoch, exact resumption, and what Keras makes of it."""

import pickle

import keras
import numpy as np
import pytest

import keras_dlrm as kd
import keras_dlrm.data as data
from keras_dlrm.data.packed.order import ShuffledOrder
from keras_dlrm.data.packed.writer import PackedWriter
from keras_dlrm.data.synthetic import PlantedClickLog
from keras_dlrm.schema.schema import Categorical, Schema

ROWS, BATCH = 23, 4  # six batches, the last one with three rows


@pytest.fixture
def part(tmp_path):
    with PackedWriter(tmp_path / "log", Schema(dense=["x"])) as writer:
        writer.append("train", {"dense": np.arange(ROWS, dtype=np.float32)[:, None]}, np.arange(ROWS) % 2)
        writer.begin("valid")
    return data.open(tmp_path / "log").split("train")


def rows(batches):
    return [batch["dense"][:, 0].astype(int).tolist() for batch, _ in batches]


class Recorder(keras.layers.Layer):
    """Passes its input on and keeps a fingerprint of the rows that each training step saw."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seen = self.add_weight(shape=(64,), initializer="zeros", trainable=False, name="seen")
        self.step = self.add_weight(shape=(), initializer="zeros", trainable=False, name="step")

    def call(self, x, training=False):
        if training:
            ops = keras.ops
            mix = ops.sum(ops.square(x + 1.0))
            here = ops.cast(ops.equal(ops.arange(64, dtype="float32"), self.step), "float32")
            self.seen.assign(self.seen + here * mix)
            self.step.assign(self.step + 1.0)
        return x


def fit_trace(dataset, unbuilt=True, **arguments):
    """Records of `Recorder` in each step of `model.fit`."""
    recorder = Recorder()
    inputs = keras.Input((1,), name="dense")
    model = keras.Model({"dense": inputs}, keras.layers.Dense(1, activation="sigmoid", name="out")(recorder(inputs)))
    model.compile(optimizer="sgd", loss="binary_crossentropy", metrics=["accuracy"] if unbuilt else None)
    model.fit(dataset, verbose=0, **arguments)
    steps = int(keras.ops.convert_to_numpy(recorder.step.value))
    assert int(keras.ops.convert_to_numpy(model.optimizer.iterations.value)) == steps
    return keras.ops.convert_to_numpy(recorder.seen.value)[:steps].astype(int).tolist()


def expected_trace(batches):
    return [sum((r + 1) ** 2 for r in batch) for batch in batches]


def epochs_of(part, *epochs, seed=0):
    out = []
    for epoch in epochs:
        order = ShuffledOrder(ROWS, seed, epoch)[:ROWS].tolist()
        out += [order[i : i + BATCH] for i in range(0, ROWS, BATCH)]
    return out


def test_without_shuffle_batches_are_in_file_order(part):
    dataset = part.dataset(BATCH)
    assert len(dataset) == 6
    assert rows(dataset) == rows(part.batches(BATCH)) == [list(range(i, min(i + 4, ROWS))) for i in range(0, ROWS, 4)]


def test_last_drop_leaves_out_the_partial_batch(part):
    assert rows(part.dataset(BATCH, last="drop")) == rows(part.batches(BATCH))[:-1]


def test_each_epoch_is_a_permutation_that_depends_on_seed_and_epoch_only(part):
    dataset = part.dataset(BATCH, shuffle=True, seed=3)
    first, second = rows(dataset), rows(dataset)
    assert sorted(sum(first, [])) == sorted(sum(second, [])) == list(range(ROWS))
    assert first != second
    assert second == rows(part.dataset(BATCH, shuffle=True, seed=3, start_epoch=1))
    assert first != rows(part.dataset(BATCH, shuffle=True, seed=4))


def test_labels_stay_with_their_rows(part):
    for batch, label in part.dataset(BATCH, shuffle=True):
        np.testing.assert_array_equal(label, batch["dense"][:, 0] % 2)


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("start_epoch", [0, 2])
@pytest.mark.parametrize("start_batch", range(6))
def test_resumed_order_is_the_tail_of_the_uninterrupted_order(part, shuffle, start_epoch, start_batch):
    whole = part.dataset(BATCH, shuffle=shuffle, seed=1)
    uninterrupted = [rows(whole) for _ in range(4)]
    resumed = part.dataset(BATCH, shuffle=shuffle, seed=1, start_epoch=start_epoch, start_batch=start_batch)
    assert len(resumed) == 6 - start_batch
    assert rows(resumed) == uninterrupted[start_epoch][start_batch:]
    assert rows(resumed) == uninterrupted[start_epoch + 1]
    assert len(resumed) == 6


@pytest.mark.parametrize("unbuilt", [False, True])
def test_fit_sees_each_epochs_own_order(part, unbuilt):
    trace = fit_trace(part.dataset(BATCH, shuffle=True, seed=5), unbuilt, epochs=3)
    assert trace == expected_trace(epochs_of(part, 0, 1, 2, seed=5))


@pytest.mark.slow
@pytest.mark.parametrize("start_batch", [1, 4, 5])
@pytest.mark.parametrize("unbuilt", [False, True])
def test_fit_resumes_in_the_middle_of_an_epoch_and_later_epochs_are_whole(part, unbuilt, start_batch):
    dataset = part.dataset(BATCH, shuffle=True, seed=5, start_epoch=2, start_batch=start_batch)
    trace = fit_trace(dataset, unbuilt, initial_epoch=2, epochs=5)
    assert trace == expected_trace(epochs_of(part, 2, 3, 4, seed=5)[start_batch:])


@pytest.mark.parametrize("batch_size", [ROWS, 12])
def test_epochs_of_one_or_two_batches_are_counted_right(part, batch_size):
    trace = fit_trace(part.dataset(batch_size, shuffle=True, seed=5), epochs=3)
    orders = [ShuffledOrder(ROWS, 5, e)[:ROWS].tolist() for e in range(3)]
    assert trace == expected_trace([o[i : i + batch_size] for o in orders for i in range(0, ROWS, batch_size)])


def test_fit_with_validation_data_and_evaluate(part):
    dataset = part.dataset(BATCH, shuffle=True, seed=5)
    trace = fit_trace(dataset, epochs=2, validation_data=part.dataset(7))
    assert trace == expected_trace(epochs_of(part, 0, 1, seed=5))
    assert dataset.epoch == 2


def test_steps_per_epoch_shorter_than_an_epoch_continues_the_same_epoch(part):
    trace = fit_trace(part.dataset(BATCH, shuffle=True, seed=5), epochs=4, steps_per_epoch=3)
    assert trace == expected_trace(epochs_of(part, 0, 1, seed=5))


def test_a_thread_may_read_ahead_while_keras_ends_and_begins_its_epochs(part):
    """TensorFlow's prefetching does so where `steps_per_epoch` ends an epoch of Keras within one of ours."""
    dataset = part.dataset(BATCH, shuffle=True, seed=5)
    dataset.on_epoch_end()  # Keras resets its iterator before the first epoch
    seen = []
    for calls in ("b", "r", "r", "r", "e", "r", "b", "r", "r", "e", "b"):  # begin, read, end
        if calls == "r":
            batch, _ = dataset[99]  # fit(shuffle=True) asks for batches in an order of its own
            seen.append(batch["dense"][:, 0].astype(int).tolist())
        else:
            dataset.on_epoch_begin() if calls == "b" else dataset.on_epoch_end()
    assert seen == epochs_of(part, 0, seed=5)
    assert dataset.epoch == 1


def test_empty_split_and_bad_arguments_are_clear_errors(tmp_path, part):
    empty = data.open(tmp_path / "log").split("valid")
    with pytest.raises(ValueError, match="'valid' has 0 rows"):
        empty.dataset(4)
    with pytest.raises(ValueError, match="last='drop' leaves no batch"):
        part.dataset(24, last="drop")
    with pytest.raises(ValueError, match="an epoch has 6 batches.*start_epoch=1, start_batch=0"):
        part.dataset(BATCH, start_batch=6)
    for name in ("seed", "start_epoch", "start_batch"):
        with pytest.raises(ValueError, match=f"{name}=-1"):
            part.dataset(BATCH, **{name: -1})
    with pytest.raises(IndexError):
        part.dataset(BATCH)[6]


def test_vanished_and_cut_files_while_reading(tmp_path, part):
    label = tmp_path / "log" / "train" / "label.npy"
    content = label.read_bytes()
    with open(label, "r+b") as file:
        file.truncate(len(content) - 4)
    with pytest.raises(ValueError, match=r"label.npy is damaged or cut short \(\d+ bytes; 23 rows need"):
        rows(part.dataset(BATCH, shuffle=True))
    (tmp_path / "log" / "train" / "dense.npy").unlink()  # what is mapped stays readable
    label.write_bytes(content)
    assert len(rows(part.dataset(BATCH))) == 6


def test_padding_fills_the_last_batch_with_rows_without_weight(part):
    batches = list(part.dataset(BATCH, last="pad"))
    assert [len(label) for _, label, _ in batches] == [4] * 6
    assert [weight.tolist() for _, _, weight in batches] == [[1.0] * 4] * 5 + [[1.0, 1.0, 1.0, 0.0]]
    batch, label, _ = batches[-1]
    assert batch["dense"][:, 0].tolist() == [20, 21, 22, 0] and label.tolist() == [0, 1, 0, 0]


@pytest.fixture
def click_log(tmp_path):
    schema = Schema(["x"], [Categorical("c", 7), Categorical("h", 5, hotness=2)])
    return PlantedClickLog(schema, seed=0).write(tmp_path / "clicks", {"train": 37, "valid": 21})


def click_model(schema, loss=None):
    model = kd.models.DLRM(schema, embedding_dim=4, bottom_mlp=[4], top_mlp=[4, 1], seed=1)
    model.compile(
        kd.optimizers.SGD(0.5),
        loss or keras.losses.BinaryCrossentropy(reduction="mean_with_sample_weight"),
        weighted_metrics=[keras.metrics.AUC(name="auc"), keras.metrics.BinaryCrossentropy(name="logloss")],
    )
    return model


@pytest.mark.slow
def test_padded_rows_change_neither_training_nor_scores(click_log):
    """The mean over the rows that count, by batch and by epoch, is what shorter batches give."""
    train, valid = click_log.split("train"), click_log.split("valid")
    found = {}
    for last in ("keep", "pad"):
        model = click_model(click_log.schema)
        options = {"shuffle": True, "seed": 3, "last": last}
        history = model.fit(
            train.dataset(8, **options), validation_data=valid.dataset(8, last=last), epochs=3, verbose=0
        ).history
        found[last] = (history, model.get_weights(), model.evaluate(valid.dataset(16, last=last), verbose=0))
        assert len(model.predict(valid.dataset(8, last=last), verbose=0)) == (21 if last == "keep" else 24)
    for name, values in found["keep"][0].items():
        np.testing.assert_allclose(found["pad"][0][name], values, rtol=1e-5, err_msg=name)
    for kept, padded in zip(found["keep"][1], found["pad"][1], strict=True):
        np.testing.assert_allclose(padded, kept, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["pad"][2], found["keep"][2], rtol=1e-5)


@pytest.mark.parametrize("last", ["drop", "pad"])
def test_workers_together_take_the_gradient_of_the_unsharded_step(click_log, last):
    """With Keras's own mean over the rows of a batch, the workers' mean loss is the unsharded step's."""
    train = click_log.split("train")
    options = {"shuffle": True, "seed": 3, "last": last}
    whole = list(train.dataset(8, **options))
    shards = [list(train.dataset(4, shard=(index, 2), **options)) for index in range(2)]
    assert [len(shard) for shard in shards] == [len(whole)] * 2
    model = click_model(click_log.schema, "binary_crossentropy")
    for step, parts in zip(whole, zip(*shards, strict=True), strict=True):
        losses = [model.test_on_batch(*part, return_dict=True)["loss"] for part in parts if not model.reset_metrics()]
        model.reset_metrics()
        assert np.mean(losses) == pytest.approx(model.test_on_batch(*step, return_dict=True)["loss"], rel=1e-5)
        if last == "drop":
            together = np.concatenate([batch["sparse"] for batch, _ in parts])
            np.testing.assert_array_equal(together, step[0]["sparse"])


@pytest.mark.parametrize("start_batch", [0, 2])
def test_shards_resume_together(part, start_batch):
    options = {"shuffle": True, "seed": 1, "last": "pad", "start_epoch": 1, "start_batch": start_batch}
    shards = [list(part.dataset(3, shard=(index, 3), **options)) for index in range(3)]
    found = [
        sorted(int(x) for batch, _, weight in step for x in batch["dense"][weight > 0, 0])
        for step in zip(*shards, strict=True)
    ]
    order = ShuffledOrder(ROWS, 1, 1)[:ROWS].tolist()
    assert found == [sorted(order[i : i + 9]) for i in range(0, ROWS, 9)][start_batch:]


@pytest.mark.slow
@pytest.mark.parametrize("prefetch", [0, 1, 5])
def test_reading_ahead_changes_nothing(part, prefetch):
    trace = fit_trace(part.dataset(BATCH, shuffle=True, seed=5, prefetch=prefetch), epochs=2)
    assert trace == expected_trace(epochs_of(part, 0, 1, seed=5))


def test_a_fit_that_stops_early_leaves_a_dataset_that_can_be_dropped(part):
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = batch == 1

    trace = fit_trace(part.dataset(BATCH, shuffle=True, seed=5, prefetch=3), epochs=2, callbacks=[Stop()])
    assert trace == expected_trace(epochs_of(part, 0, seed=5)[:2])


def test_an_error_while_reading_ahead_ends_fit(tmp_path, part):
    dataset = part.dataset(BATCH, prefetch=2)
    dataset[0]  # read ahead: batches 1 and 2
    with open(tmp_path / "log" / "train" / "dense.npy", "r+b") as file:
        file.truncate(100)
    error = Exception if keras.backend.backend() == "tensorflow" else ValueError
    with pytest.raises(error, match="dense.npy is damaged or cut short"):
        fit_trace(dataset, epochs=1)


@pytest.mark.parametrize("unbuilt", [False, True])
@pytest.mark.parametrize("last", ["keep", "drop", "pad"])
def test_a_tf_dataset_gives_the_same_epochs(part, unbuilt, last):
    dataset = part.to_tf_dataset(BATCH, shuffle=True, seed=5, last=last, start_epoch=1)
    assert dataset.cardinality() == (5 if last == "drop" else 6)
    assert dataset.element_spec[0]["dense"].shape.as_list() == [None if last == "keep" else 4, 1]
    seen = [tuple(keras.tree.map_structure(lambda t: t.numpy(), element)) for element in dataset]
    for found, expected in zip(seen, part.dataset(BATCH, shuffle=True, seed=5, last=last, start_epoch=1), strict=True):
        keras.tree.map_structure(np.testing.assert_array_equal, found, expected)
    if last == "keep":  # the loop above was epoch 1
        assert fit_trace(dataset, unbuilt, epochs=2, shuffle=False) == expected_trace(epochs_of(part, 2, 3, seed=5))


def test_torch_loads_batches_of_a_dataset(part):
    torch_data = pytest.importorskip("torch.utils.data")
    loader = torch_data.DataLoader(part.dataset(BATCH, shuffle=True, seed=5, start_epoch=2), batch_size=None)
    assert [batch["dense"][:, 0].int().tolist() for batch, _ in loader] == epochs_of(part, 2, seed=5)


def test_a_dataset_travels_to_other_processes_by_the_names_of_its_files(part):
    dataset = part.dataset(BATCH, shuffle=True, seed=5)
    expected = dataset[3][0]["dense"]
    content = pickle.dumps(dataset)
    np.testing.assert_array_equal(pickle.loads(content)[3][0]["dense"], expected)
    with pytest.raises(ValueError, match="prefetch=-1"):
        part.dataset(BATCH, prefetch=-1)
    with pytest.raises(ValueError, match="2 workers leaves no batch"):
        part.dataset(12, last="drop", shard=(0, 2))
