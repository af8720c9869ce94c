"""A training step works in memory that the step before it has freed."""

import os
import platform
import resource

import keras
import numpy as np
import pytest

import keras_dlrm as kd

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow" or platform.libc_ver()[0] != "glibc" or "LD_PRELOAD" in os.environ,
    reason="TensorFlow's memory comes from glibc",
)


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 20

    def __getitem__(self, index):
        return {"dense": np.ones((4096, 8), "float32"), "sparse": np.zeros((4096, 1), "int32")}, np.ones(4096, "float32")


def test_a_step_touches_no_new_pages():
    schema = kd.Schema(dense=[f"I{i}" for i in range(8)], categorical=[kd.Categorical("C1", 10)])
    model = kd.models.DLRM(schema, 8, bottom_mlp=[256, 8], top_mlp=[256, 1], seed=0)
    model.compile("sgd")
    model.fit(Batches(workers=0), verbose=0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    model.fit(Batches(workers=0), verbose=0)
    pages = (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 20
    # One layer's output alone is 1,024 pages.
    assert pages < 300
