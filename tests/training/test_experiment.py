"""Experiments: what a bad one is told, and files that give back what was saved."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from helpers.experiments import EXPERIMENT

from keras_dlrm.training.experiment import Experiment


@pytest.mark.neutral
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"modle": {}}, "unknown key 'modle'"),
        ({"model": {"type": "GBDT"}}, "GBDT"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"monitor": "accuracy"}, "monitor='accuracy'"),
        ({"lr_factor": 2}, "lr_factor=2"),
        ({"optimizer": 5}, "optimizer=5 must be a name"),
        ({"embedding_optimizer": {"learning_rate": 0.1}}, "embedding_optimizer={'learning_rate': 0.1} must be a name"),
        (
            {"lr_factor": 0.5, "optimizer": {"name": "adam", "learning_rate": {"learning_rate": 0.1}}},
            "lr_factor=0.5 cannot lower optimizer.learning_rate={'learning_rate': 0.1}, which is a schedule",
        ),
        (
            {"lr_factor": 0.5, "embedding_optimizer": {"name": "sgd", "learning_rate": {"learning_rate": 0.1}}},
            "lr_factor=0.5 cannot lower embedding_optimizer.learning_rate",
        ),
    ],
)
def test_a_bad_experiment_names_the_key_and_the_value(change: dict, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        Experiment.from_dict({**EXPERIMENT.to_dict(), **change})


@pytest.mark.neutral
def test_an_experiment_survives_a_file(tmp_path: Path) -> None:
    EXPERIMENT.save(tmp_path / "e.yaml")
    assert Experiment.load(tmp_path / "e.yaml") == EXPERIMENT


@pytest.mark.neutral
@pytest.mark.parametrize(
    ("content", "words"),
    [(b"PAR1\xff\xfe", "not a text file"), (b"model: [", "not valid YAML"), (b"epochs: 0", "epochs=0 must be")],
)
def test_a_bad_file_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "e.yaml").write_bytes(content)
    with pytest.raises(ValueError, match=rf".*e\.yaml: .*{words}"):
        Experiment.load(tmp_path / "e.yaml")


@pytest.mark.neutral
def test_numbers_of_numpy_in_an_experiment_are_written_as_plain_ones(tmp_path: Path) -> None:
    experiment = Experiment(model={"type": "DLRM"}, label_smoothing=np.float32(0.25), mixed_precision=np.bool_(True))
    experiment.save(tmp_path / "experiment.yaml")
    assert Experiment.load(tmp_path / "experiment.yaml") == experiment
