"""Batches that workers of a `PyDataset` read ahead."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import keras_dlrm as kd
from keras_dlrm.step.checked import CheckedPyDataset

SCHEMA = kd.Schema(dense=["x"], categorical=[kd.Categorical("u", 40)])


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 40

    def __getitem__(self, i):
        x = {"dense": np.full((2, 1), i / 40, "float32"), "sparse": np.full((2, 1), i, "int32")}
        return x, np.full(2, i % 3 / 2, "float32")


class Endless(Batches):
    num_batches = None

    def __getitem__(self, i):
        return super().__getitem__(i % 40)


def dlrm(**options):
    return kd.models.DLRM(SCHEMA, embedding_dim=2, bottom_mlp=[2], top_mlp=[1], seed=0, **options)


class Doubled(keras.layers.Layer):
    """Is built by its first call."""

    def call(self, x):
        return 2 * x[:, 0]


@pytest.mark.parametrize("options", [{}, {"interaction": Doubled()}])
def test_predictions_keep_the_order_of_batches_that_workers_read(options):
    expected = dlrm(**options).predict(Batches(), verbose=0)
    np.testing.assert_array_equal(dlrm(**options).predict(Batches(workers=2), verbose=0), expected)
    assert len(np.unique(expected)) == 40


@pytest.mark.slow
@pytest.mark.parametrize(("data", "steps"), [(Batches, None), (Batches, 10), (Endless, 10)])
def test_a_model_that_is_built_from_the_first_batch_trains_on_those_of_workers_as_without_them(data, steps):
    def trained(**options):
        model = dlrm()
        model.compile(kd.optimizers.RowwiseAdagrad(0.5), loss="binary_crossentropy", metrics=["AUC"])
        history = model.fit(data(**options), epochs=3, steps_per_epoch=steps, shuffle=False, verbose=0).history
        return [*model.get_weights(), np.array(history["loss"])]

    for one, other in zip(trained(), trained(workers=2), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.neutral
@pytest.mark.filterwarnings("ignore:os.fork")
@pytest.mark.parametrize("options", [{"workers": 2}, {"workers": 1, "use_multiprocessing": True}])
def test_shuffled_batches_of_workers_come_once_in_each_pass_after_one_that_was_left_midway(options):
    adapter = CheckedPyDataset(Batches(**options), shuffle=True)
    next(iter(adapter.get_numpy_iterator()))
    orders = [[int(x["sparse"][0, 0]) for x, _ in adapter.get_numpy_iterator()] for _ in range(2)]
    assert orders[0] != orders[1]
    assert [sorted(order) for order in orders] == [[*range(40)]] * 2
