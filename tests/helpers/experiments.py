"""A small experiment that uses most of what there is, for the tests of runs."""

from __future__ import annotations

from keras_dlrm.training.experiment import Experiment

EXPERIMENT = Experiment(
    model={
        "type": "DLRM",
        "embedding_dim": 4,
        "bottom_mlp": [8, 4],
        "top_mlp": [8, 1],
        "dropout": 0.3,
        "batch_norm": True,
    },
    optimizer={"name": "adam", "learning_rate": 0.01},
    embedding_optimizer={"name": "rowwise_adagrad", "learning_rate": 0.05},
    batch_size=64,
    epochs=3,
    patience=0,
    lr_factor=0.5,
    checkpoint_steps=2,
)
