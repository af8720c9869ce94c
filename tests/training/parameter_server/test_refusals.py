"""Models that are not trained on parameter servers."""

import keras
import numpy as np
import pytest

import keras_dlrm as kd

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="parameter servers are TensorFlow's")


def test_a_loss_within_the_batch_is_refused_with_what_to_use():
    from keras_dlrm.parameter_server.step import check

    schema = kd.Schema(categorical=[kd.Categorical("user", 3), kd.Categorical("item", 4)])
    model = kd.models.TwoTower(schema, ["user"], ["item"], 4, 4)
    model.compile("sgd", loss=kd.losses.InBatchSoftmax(log_q=np.ones(4)))
    with pytest.raises(ValueError, match="those of one worker alone; take a binary cross-entropy, or sharded tables"):
        check(model)
    model.compile("sgd")
    check(model)
