"""Training continues: averaged parameters, layers frozen or unfrozen after compile, counters that do not saturate."""

import keras
import numpy as np
import pytest

import keras_dlrm as kd


@pytest.mark.slow
@pytest.mark.parametrize("steps", [None, 2])
def test_averaged_parameters_train_on_after_a_fit_and_after_a_reload(tmp_path, steps):
    schema = kd.Schema(["I1"], [kd.Categorical("C1", 5)])
    x = {"dense": np.linspace(0, 1, 8, dtype="float32")[:, None], "sparse": np.arange(8)[:, None].astype("int32") % 5}
    y = np.arange(8) % 2
    model = kd.models.DLRM(schema, embedding_dim=2, bottom_mlp=[2], top_mlp=[1], seed=0)
    model.compile(keras.optimizers.Adam(0.01, use_ema=True, gradient_accumulation_steps=steps), embedding_optimizer="adagrad")
    model.fit(x, y, batch_size=4, shuffle=False, verbose=0)
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    for each in (model, loaded):
        each.fit(x, y, batch_size=4, shuffle=False, verbose=0)
    np.testing.assert_allclose(loaded.predict(x, verbose=0), model.predict(x, verbose=0), rtol=1e-5)


class Weights(keras.callbacks.Callback):
    """Dense weights after each batch, and while the model is evaluated."""

    def __init__(self):
        super().__init__()
        self.after, self.tested, self.rows = [], [], []

    def dense(self):
        return [np.array(keras.ops.convert_to_numpy(v)) for v in self.model.optimizer.dense._trainable_variables]

    def on_train_batch_end(self, batch, logs=None):
        self.after.append(self.dense())

    def on_test_begin(self, logs=None):
        self.tested.append((self.dense(), self.model.embedding_tables()["C1"]))

    def on_test_end(self, logs=None):
        self.rows.append((self.dense(), self.model.embedding_tables()["C1"]))


@pytest.mark.slow
def test_averages_take_the_place_of_dense_weights_in_an_evaluation(tmp_path):
    model = make_with_averages()
    for round_ in range(2):  # after a reload, too
        seen = Weights()
        fit = {"batch_size": 2, "epochs": 2, "shuffle": False, "verbose": 0, "validation_data": (X, Y)}
        before = [np.array(keras.ops.convert_to_numpy(v)) for v in model.optimizer.dense._model_variables_moving_average]
        model.fit(X, Y, callbacks=[keras.callbacks.SwapEMAWeights(), seen], **fit)
        average = before if round_ else None
        for step, weights in enumerate(seen.after, 1):
            average = weights if average is None else [0.5 * a + 0.5 * w for a, w in zip(average, weights, strict=True)]
            if step % 4 == 0:
                (tested, rows), (ended, same_rows) = seen.tested[step // 4 - 1], seen.rows[step // 4 - 1]
                for a, t, e, w in zip(average, tested, ended, weights, strict=True):
                    np.testing.assert_allclose(t, a, rtol=0, atol=1e-6)
                    np.testing.assert_allclose(e, w, rtol=0, atol=1e-6)
                np.testing.assert_array_equal(rows, same_rows)
        for w, a in zip(seen.dense(), average, strict=True):  # Keras leaves the averages at the end of fit
            np.testing.assert_allclose(w, a, rtol=0, atol=1e-6)
        model.save(tmp_path / "m.keras")
        model = keras.saving.load_model(tmp_path / "m.keras")
    assert model.optimizer.use_ema
    model.compile("sgd")
    assert not model.optimizer.use_ema
    with pytest.raises(ValueError, match="use_ema=False"):
        model.evaluate(X, Y, verbose=0, callbacks=[keras.callbacks.SwapEMAWeights()])


def make_with_averages():
    model = kd.models.DLRM(SCHEMA, embedding_dim=2, bottom_mlp=[2], top_mlp=[1], seed=0)
    model.compile(keras.optimizers.SGD(0.5, use_ema=True, ema_momentum=0.5), embedding_optimizer="sgd")
    assert model.optimizer.use_ema
    return model


SCHEMA = kd.Schema(["I1"], [kd.Categorical("C1", 5)])
X = {"dense": np.linspace(0, 1, 8, dtype="float32")[:, None], "sparse": np.arange(8)[:, None].astype("int32") % 5}
Y = np.arange(8) % 2


def make(**options):
    model = kd.models.DLRM(SCHEMA, embedding_dim=2, bottom_mlp=[2], top_mlp=[1], seed=0)
    model.compile("adagrad", **options)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("before", [False, True])
def test_layers_frozen_or_unfrozen_after_compile_ask_for_another_compile(before):
    for part in ("embeddings", "bottom_mlp"):
        model = make()
        getattr(model, part).trainable = before
        model.compile("adagrad")
        model.fit(X, Y, verbose=0)
        getattr(model, part).trainable = not before
        word = "frozen" if before else "unfrozen"
        for train in (model.fit, model.train_on_batch):
            with pytest.raises(ValueError, match=rf"'{part}/.*' was {word} after compile.* compile again"):
                train(X, Y)
        was = model.embedding_tables()["C1"]
        model.compile("adagrad")
        model.fit(X, Y, verbose=0)
        moved = (model.embedding_tables()["C1"] != was).any()
        assert moved == (part == "bottom_mlp" or not before)


def test_ids_out_of_range_are_counted_exactly_beyond_what_float32_holds():
    wrong = {**X, "sparse": np.full((8, 1), 99, np.int32)}
    model = make(count_out_of_range=True)
    model.fit(wrong, Y, verbose=0)
    counter = model._out_of_range
    for part in [2**30 + 1] * 2**5 + [1] * 3:
        counter.update_state(keras.ops.convert_to_tensor(part, "int32"))
    expected = 8 + 2**5 * (2**30 + 1) + 3
    assert float(model.get_metrics_result()["ids_out_of_range"]) == float(counter.result()) == expected


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e39])
def test_tables_with_numbers_that_are_not_finite_are_refused_and_nothing_is_written(bad):
    model = make()
    before = model.embedding_tables()["C1"]
    rows = np.ones((5, 2), np.float64)
    rows[3, 1] = bad
    with pytest.raises(ValueError, match="table 'C1' has .* in row 3, place 1; rows must be finite"):
        model.set_embedding_tables({"C1": rows})
    np.testing.assert_array_equal(model.embedding_tables()["C1"], before)


def test_a_model_that_was_saved_with_nan_still_loads(tmp_path):
    model = make()
    model.embeddings._write({"C1": np.full((5, 2), np.nan, np.float32)})
    model.save(tmp_path / "m.keras")
    assert np.isnan(keras.saving.load_model(tmp_path / "m.keras").embedding_tables()["C1"]).all()


def test_a_model_that_was_not_compiled_is_not_when_it_is_loaded(tmp_path):
    schema = kd.Schema(dense=["x"], categorical=[kd.Categorical("a", 5)])
    kd.models.DLRM(schema, 2, [2], [1]).save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    assert not loaded.compiled
    loaded.compile("adagrad")
    assert loaded.compiled and loaded.get_compile_config()["count_out_of_range"] is False


@pytest.mark.parametrize("save", [lambda m, path: m.save(path), lambda m, path: keras.saving.save_model(m, path)])
def test_a_whole_model_in_hdf5_is_refused(tmp_path, save):
    for name in ("m.h5", "m.hdf5"):
        for model in (make(), functional()):
            with pytest.raises(ValueError, match=r"save it as \.keras"):
                save(model, tmp_path / name)


def functional():
    inputs = keras.Input((1,), dtype="int32")
    pooled = kd.layers.EmbeddingCollection(kd.Schema(categorical=[kd.Categorical("C1", 5)]), 2, concatenate=True)(inputs)
    model = kd.models.SparseModel(inputs, keras.layers.Dense(1, activation="sigmoid")(pooled))
    model.compile("adagrad", loss="binary_crossentropy")
    return model


def test_weights_in_hdf5_come_back(tmp_path):
    for kind, x in ((make, X), (functional, X["sparse"])):
        model, other = kind(), kind()
        model.train_on_batch(x, Y)
        model.save_weights(tmp_path / "m.weights.h5")
        other.load_weights(tmp_path / "m.weights.h5")
        for a, b in zip(model.get_weights(), other.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_models_name_their_way_of_being_exported(tmp_path):
    for kind, x in ((make, X), (functional, X["sparse"])):
        model = kind()
        for _ in range(2):
            for form in ("tf_saved_model", "onnx"):
                with pytest.raises(ValueError, match=r"kd\.export\.savedmodel"):
                    model.export(tmp_path / "served", format=form)
            model.train_on_batch(x, Y)
    assert not (tmp_path / "served").exists()
