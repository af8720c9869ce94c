"""Models with open vocabularies, served: ids that have rows, ids that lost theirs and ids never seen are answered as live."""

import numpy as np
import pytest
from helpers import runtimes
from helpers.suite import suite_on

import keras_dlrm as kd
from keras_dlrm.data.preprocessor.preprocessor import Preprocessor
from keras_dlrm.files.deltas import Delta

pytestmark = pytest.mark.usefixtures("quick_exports")
OPEN = kd.Open(64, admit=2)
WIDE = [0, 1, 2**31 - 1, 2**31, 2**40, 2**62, 2**63 - 1]


def trained(schema, batch, label):
    model = kd.models.DeepFM(schema, embedding_dim=4, deep_mlp=[8], seed=0)
    model.compile(embedding_optimizer=kd.optimizers.Adagrad(0.5), optimizer="adagrad")
    model.fit(batch, label, batch_size=50, epochs=2, verbose=0)
    slots = model.embeddings.open.tables["item"].slots
    assert slots.evicted and slots.occupied
    return model


def packed(n=400):
    columns = [
        kd.Categorical("hashed", 9, hashed=True), kd.Categorical("item", open=OPEN), kd.Categorical("plain", 5),
        kd.Categorical("last", hotness=2, table="item", open=OPEN, combiner="mean"),
    ]  # fmt: skip
    schema = kd.Schema(categorical=columns)
    rng = np.random.default_rng(0)
    pool = np.concatenate([WIDE, rng.integers(0, 2**63 - 1, 90)])

    def rows(n, ids):
        return schema.pack({
            "hashed": rng.integers(0, 2**40, n), "item": rng.choice(ids, n), "plain": rng.integers(0, 5, n),
            "last": rng.choice([*ids, -1], (n, 2)),
        })  # fmt: skip

    model = trained(schema, rows(600, pool), rng.integers(0, 2, 600))
    asked = rows(n, [*pool, *rng.integers(0, 2**63 - 1, 30)])
    assert (model.embeddings.open.tables["item"].slots.find(asked["sparse"][:, 1]) == 0).sum() > 40
    return model, asked


@pytest.mark.slow
def test_onnx_runtime_looks_ids_up_as_the_live_model(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    model, asked = packed()
    kd.export.onnx(model, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    np.testing.assert_allclose(session.run(None, asked)[0], model.predict(asked, verbose=0), atol=1e-6)


@suite_on("tensorflow")
def test_the_tf1_loader_looks_ids_up_as_the_live_model(tmp_path):
    pytest.importorskip("tensorflow")
    model, asked = packed()
    for prune in (None, "untrained"):
        path = kd.export.savedmodel(model, tmp_path / "model", prune=prune)
        (answer,) = runtimes.ask(path, [["serving_default", {"sparse": asked["sparse"].tolist()}]])
        np.testing.assert_allclose(answer["probability"], model.predict(asked, verbose=0), atol=1e-6)


@pytest.mark.soak
def test_a_hundred_thousand_rows_are_answered_as_live(tmp_path):
    pytest.importorskip("tensorflow")
    onnxruntime = pytest.importorskip("onnxruntime")
    model, asked = packed(100_000)
    live = model.predict(asked, batch_size=4096, verbose=0)
    kd.export.onnx(model, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    np.testing.assert_allclose(session.run(None, asked)[0], live, atol=1e-6)
    path = kd.export.savedmodel(model, tmp_path / "model")
    (answer,) = runtimes.ask(path, [["serving_default", {"sparse": asked["sparse"].tolist()}]])
    np.testing.assert_allclose(answer["probability"], live, atol=1e-6)


@suite_on("tensorflow")
def test_a_delta_has_the_ids_of_the_rows_of_its_time(tmp_path):
    pytest.importorskip("tensorflow")
    from keras_dlrm.serving.versions.operations import run
    from keras_dlrm.serving.versions.saved_model import SavedModel

    model, asked = packed()
    base = kd.export.savedmodel(model, tmp_path / "model")
    known = model.embeddings.open.tables["item"].slots.identities
    model.fit(asked, np.random.default_rng(1).integers(0, 2, 400), batch_size=50, verbose=0)
    assert (model.embeddings.open.tables["item"].slots.identities != known).any()
    path = kd.export.delta(model, base)
    live = model.predict(asked, verbose=0)
    (answer,) = runtimes.ask(kd.export.apply(path), [["serving_default", {"sparse": asked["sparse"].tolist()}]])
    np.testing.assert_allclose(answer["probability"], live, atol=1e-6)
    served = SavedModel(base)
    served.updates.prepared(Delta(path))()
    applied = run(served, served.signatures["serving_default"], {"sparse": asked["sparse"]})
    np.testing.assert_allclose(applied["probability"], live, atol=1e-6)
    served.close()


@suite_on("tensorflow")
def test_raw_texts_and_numbers_are_ids_of_63_bits(tmp_path):
    pytest.importorskip("tensorflow")
    rng = np.random.default_rng(0)
    pool = [*(f"item {i}" for i in range(60)), *map(str, WIDE)]
    rows = {"item": rng.choice(pool, 600).tolist(), "city": rng.choice(["Oslo", "Rome"], 600).tolist()}
    rows["click"] = rng.integers(0, 2, 600).tolist()
    preprocessor = Preprocessor.fit(kd.Schema(categorical=[kd.Categorical("item", open=OPEN), "city"], label="click"), rows)
    batch = preprocessor.transform(rows)
    assert batch["sparse"].dtype == np.int64 and len(np.unique(batch["sparse"][:, 0])) == len(set(rows["item"]))
    model = trained(preprocessor.schema, batch, np.array(rows["click"]))
    new = {"item": [*pool, "", "never seen", "+17"], "city": ["Oslo"] * (len(pool) + 3)}
    live = kd.scoring.predict_rows(model, new, preprocessor=preprocessor)
    path = kd.export.savedmodel(model, tmp_path / "model", preprocessor=preprocessor, default="raw")
    (answer,) = runtimes.ask(path, [["serving_default", {name: values for name, values in new.items()}]])
    np.testing.assert_allclose(np.array(answer["probability"])[:, 0], live, atol=1e-6)
