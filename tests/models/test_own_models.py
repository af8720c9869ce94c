"""Subclasses of `ClickModel` as users write them: layers that are built by a call alone, arguments without `_config`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

from keras_dlrm.layers import EmbeddingCollection
from keras_dlrm.models import DCN, DLRM, ClickModel, DCNv2
from keras_dlrm.schema.schema import Categorical, Schema

SCHEMA = Schema(dense=["x"], categorical=[Categorical("a", 9), Categorical("b", 7, hotness=2)])
BATCH = SCHEMA.pack({"x": np.linspace(-1, 1, 8), "a": np.arange(8), "b": np.arange(16).reshape(8, 2) % 7})
LABELS = np.arange(8) % 2


@keras.saving.register_keras_serializable("tests")
class Wide(ClickModel):
    """No layer is built in `__init__`, and nothing says what its arguments are."""

    def __init__(self, schema: Any, width: int = 4, hidden: int = 3, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(schema, seed, **kwargs)
        self.embeddings = EmbeddingCollection(self.schema, width, concatenate=True, seed=self.seed)
        self.hidden, self.out = keras.layers.Dense(hidden, activation="relu"), keras.layers.Dense(1)

    def logits(self, inputs: Any, training: bool | None = None) -> Any:
        return self.out(self.hidden(ops.concatenate([self.pooled(inputs, training), inputs["dense"]], axis=1)))


@keras.saving.register_keras_serializable("tests")
class Scaled(DLRM):
    """DLRM with one argument more."""

    def __init__(self, schema: Any, scale: float = 1.0, **kwargs: Any) -> None:
        super().__init__(schema, **kwargs)
        self.scale = scale

    def logits(self, inputs: Any, training: bool | None = None) -> Any:
        return self.scale * super().logits(inputs, training)


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        lambda: Wide(SCHEMA, 2, hidden=5, seed=1),
        lambda: Scaled(SCHEMA, scale=0.5, embedding_dim=2, bottom_mlp=[2], top_mlp=[1], seed=1),
    ],
    ids=["unbuilt", "subclass of DLRM"],
)
def test_an_own_model_loads_as_it_was_and_trains_on(make: Any, tmp_path: Path) -> None:
    model = make()
    model.compile("adagrad", loss="binary_crossentropy")
    model.fit(BATCH, LABELS, batch_size=4, shuffle=False, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.get_config() == model.get_config()
    np.testing.assert_array_equal(loaded.predict(BATCH, verbose=0), model.predict(BATCH, verbose=0))
    for each in (model, loaded):
        each.fit(BATCH, LABELS, batch_size=4, shuffle=False, verbose=0)
    for ours, its in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, its)


def test_arguments_are_kept_by_name_and_those_of_the_base_once() -> None:
    config = Wide(SCHEMA, hidden=5, name="mine", seed=1).get_config()
    assert config["width"] == 4 and config["hidden"] == 5 and config["name"] == "mine"
    assert set(config) == {"name", "schema", "seed", "dtype", "width", "hidden"}


@pytest.mark.parametrize("kind", [DLRM, DCN, DCNv2])
def test_models_of_the_package_write_all_their_arguments_themselves(kind: Any) -> None:
    model = kind(SCHEMA, 2)
    assert set(model.get_config()) == {"name", "schema", "seed", "dtype", *model._config}


def test_wrong_arguments_are_told_by_init() -> None:
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'schema'"):
        Wide()
    with pytest.raises((TypeError, ValueError), match="depth"):
        Wide(SCHEMA, depth=3)
