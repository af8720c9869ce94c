"""Saved and exported models: training goes on with the same losses, and interactions of one's own are kept."""

import importlib
import importlib.util
import zipfile

import h5py
import keras
import numpy as np
import pytest
from helpers.zoo import MODELS, SCHEMA, TABLES, PairSum, cross, data, dlrm

from keras_dlrm.export import onnx, savedmodel
from keras_dlrm.models import DCN, DCNv2, FinalMLP

pytestmark = pytest.mark.usefixtures("quick_exports")

RESUMED = {
    "dlrm dot, dropout and batch norm": lambda: dlrm(dropout=0.3, batch_norm=True, embedding_dropout=0.2),
    "dlrm cross": lambda: dlrm(interaction="cross", cross_layers=1, projection_dim=3, kernel_l2=0.01),
    "dlrm own layer": lambda: dlrm(interaction=PairSum()),
    "dcn": lambda: cross(DCN, dropout=0.3),
    "dcnv2": lambda: cross(DCNv2, structure="parallel", batch_norm=True, embedding_dropout=0.2),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RESUMED)
def test_training_continues_after_loading_with_the_same_losses(name, tmp_path):
    model = RESUMED[name]()
    model.compile(keras.optimizers.Adam(0.05), embedding_optimizer="rowwise_adagrad")
    batch, y = data(rows=8)
    first = [float(model.train_on_batch(batch, y)) for _ in range(2)]
    assert first[0] != first[1]
    model.save(tmp_path / "m.keras")
    with zipfile.ZipFile(tmp_path / "m.keras") as archive:
        archive.extract("model.weights.h5", tmp_path)
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    assert int(loaded.optimizer.iterations) == 2
    predictions = [m.predict_on_batch(batch) for m in (model, loaded)]
    np.testing.assert_array_equal(*predictions)
    for _ in range(2):
        model.reset_metrics()
        loaded.reset_metrics()
        assert float(model.train_on_batch(batch, y)) == float(loaded.train_on_batch(batch, y))
    for a, b in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)

    # Tables and slots are in the file once.
    sizes = []
    with h5py.File(tmp_path / "model.weights.h5") as file:
        file.visititems(lambda _, item: sizes.append(item.size) if isinstance(item, h5py.Dataset) else None)
    dense = sum(int(np.prod(v.shape)) for v in model.trainable_variables) - TABLES
    kept = model.count_params() + 2 * dense + 16
    assert kept <= sum(sizes) <= kept + 40, "some weight is stored twice"


def test_weights_of_the_model_itself_are_saved(tmp_path):
    model = FinalMLP(SCHEMA, embedding_dim=4, deep_mlp=[4], gate_mlp=[3], seed=1)
    for context in model.learned:
        context.assign(keras.ops.ones((1, 4)))  # which no seed gives
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    for context in loaded.learned:
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(context), 1)


def test_weights_of_a_model_without_dropout_load_into_one_with_it(tmp_path):
    model = dlrm()
    model.save_weights(tmp_path / "w.weights.h5")
    other = dlrm(dropout=0.5, seed=9)
    other.load_weights(tmp_path / "w.weights.h5")
    np.testing.assert_array_equal(other.get_weights()[0], model.get_weights()[0])


def test_an_interaction_of_ones_own_is_exported_to_onnx(tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    model = MODELS["dlrm own layer alongside dense"].make()
    batch, _ = data(rows=6)
    session = runtime.InferenceSession(str(onnx(model, tmp_path / "m.onnx")))
    types = {"tensor(float)": "float32", "tensor(int64)": "int64", "tensor(int32)": "int32"}
    feeds = {i.name: batch[i.name].astype(types[i.type]) for i in session.get_inputs()}
    np.testing.assert_allclose(session.run(None, feeds)[0], model.predict(batch, verbose=0), rtol=1e-5)


OWN = """
import keras

@keras.saving.register_keras_serializable("own")
class Mean(keras.layers.Layer):
    def call(self, vectors):
        return keras.ops.mean(vectors, axis=1)
"""


@pytest.mark.slow
def test_an_interaction_of_ones_own_is_exported_to_a_savedmodel(tmp_path, monkeypatch):
    """The export compares the answers itself."""
    (tmp_path / "own_interaction.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    layer = importlib.import_module("own_interaction").Mean()
    assert (savedmodel(dlrm(interaction=layer), tmp_path / "served") / "saved_model.pb").is_file()


def test_a_class_of_the_program_itself_is_refused_by_name_before_a_savedmodel_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(PairSum, "__module__", "__main__")
    with pytest.raises(ValueError, match="PairSum is defined in the program itself"):
        savedmodel(dlrm(interaction=PairSum()), tmp_path / "served")
