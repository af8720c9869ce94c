"""The PyDataset of a split: a shuffle per epoch, exact resumption, and what Keras makes of it."""

import keras
import numpy as np
import pytest

import keras_dlrm.data as data
from keras_dlrm.data.dataset import epoch_order
from keras_dlrm.data.writer import PackedWriter
from keras_dlrm.schema import Schema

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
    """What `Recorder` saw in each step of `model.fit`."""
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
        order = epoch_order(ROWS, seed, epoch).tolist()
        out += [order[i : i + BATCH] for i in range(0, ROWS, BATCH)]
    return out


def test_without_shuffle_batches_are_in_file_order(part):
    dataset = part.dataset(BATCH)
    assert len(dataset) == 6
    assert rows(dataset) == rows(part.batches(BATCH)) == [list(range(i, min(i + 4, ROWS))) for i in range(0, ROWS, 4)]


def test_drop_last_leaves_out_the_partial_batch(part):
    assert rows(part.dataset(BATCH, drop_last=True)) == rows(part.batches(BATCH))[:-1]


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


@pytest.mark.parametrize("start_batch", [1, 4, 5])
@pytest.mark.parametrize("unbuilt", [False, True])
def test_fit_resumes_in_the_middle_of_an_epoch_and_later_epochs_are_whole(part, unbuilt, start_batch):
    dataset = part.dataset(BATCH, shuffle=True, seed=5, start_epoch=2, start_batch=start_batch)
    trace = fit_trace(dataset, unbuilt, initial_epoch=2, epochs=5)
    assert trace == expected_trace(epochs_of(part, 2, 3, 4, seed=5)[start_batch:])


@pytest.mark.parametrize("batch_size", [ROWS, 12])
def test_epochs_of_one_or_two_batches_are_counted_right(part, batch_size):
    trace = fit_trace(part.dataset(batch_size, shuffle=True, seed=5), epochs=3)
    orders = [epoch_order(ROWS, 5, e).tolist() for e in range(3)]
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
    """As TensorFlow's prefetching does where `steps_per_epoch` ends an epoch of Keras within one of ours."""
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
    with pytest.raises(ValueError, match="drop_last=True leaves no batch"):
        part.dataset(24, drop_last=True)
    with pytest.raises(ValueError, match="an epoch has 6 batches.*start_epoch=1, start_batch=0"):
        part.dataset(BATCH, start_batch=6)
    for name in ("seed", "start_epoch", "start_batch"):
        with pytest.raises(ValueError, match=f"{name}=-1"):
            part.dataset(BATCH, **{name: -1})
    with pytest.raises(IndexError):
        part.dataset(BATCH)[6]
