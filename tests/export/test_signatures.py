"""Every signature of an exported model answers as the live model does, from each backend; what is refused."""

import importlib

import numpy as np
import polars as pl
import pytest
from helpers.runtimes import ask
from helpers.suite import suite_on

import keras_dlrm as kd
from keras_dlrm.data.preprocessor.preprocessor import Preprocessor
from keras_dlrm.schema.columns import Dense

pytestmark = pytest.mark.usefixtures("quick_exports")

SCHEMA = kd.Schema(
    dense=[Dense("price", "log1p_standardize"), Dense("age", "quantile", missing=-1.0), "plain"],
    categorical=[
        kd.Categorical("city", oov=1),
        kd.Categorical("tags", hotness=3, combiner="mean", oov_rows=2),
        kd.Categorical("device", 4),
        kd.Categorical("agent", 50, hashed=True),
        kd.Categorical("user id/é", oov=None),
    ],
    label="click",
)
ROWS = pl.DataFrame(
    {
        "price": [0.5, 3.0, None, 1e6, 0.0, 7.0],
        "age": [20.0, 30.0, 31.0, None, 60.0, 61.0],
        "plain": [0.0, -1.0, 2.0, 3.0, 4.0, None],
        "city": ["Rome", "Oslo", "Rome", "a\\b\nc\rd", "", "3.0"],
        "tags": [["x", "y"], ["x"], [], ["z", "x", "y"], ["w"], None],
        "device": [0, 1, 2, 3, 1, -1],
        "agent": ["curl", "77", "7.0", "", "Köln", "9223372036854775808"],
        "user id/é": ["u1", "u2", "u1", "u3", "u4", "u5"],
    }
)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    preprocessor = Preprocessor.fit(SCHEMA, ROWS)
    model = kd.models.DLRM(preprocessor.schema, 8, [16, 8], [16, 1], seed=1)
    path = kd.export.savedmodel(
        model, tmp_path_factory.mktemp("published"), preprocessor, user_columns=["price", "city", "tags"], default="raw",
        metrics={"auc": 0.75},
    )  # fmt: skip
    return model, preprocessor, path


def as_inputs(columns):
    """Columns by the names of their inputs."""
    return {"user_id__" if name == "user id/é" else name: values for name, values in columns.items()}


def raw_request(frame):
    """A frame as a client sends it: NaN and empty texts where a value is missing, lists filled up."""
    request = {}
    for name in SCHEMA.dense_names:
        request[name] = frame[name].fill_null(float("nan")).to_list()
    for column in SCHEMA.categorical:
        values = frame[column.name].to_list()
        if column.hotness > 1:
            request[column.name] = [[*(v or []), *[""] * (column.hotness - len(v or []))] for v in values]
        elif column.name == "device":
            request[column.name] = values
        else:
            request[column.name] = [v or "" for v in values]
    return as_inputs(request)


@suite_on("tensorflow")
def test_raw_columns_go_through_the_preprocessor_inside_the_graph(published):
    model, preprocessor, path = published
    unseen = ROWS.with_columns(pl.lit("Lima").alias("city"), pl.lit("u9").alias("user id/é"))
    for frame in (ROWS, unseen, ROWS.head(1)):
        expected = model.predict(preprocessor.transform(frame), verbose=0)
        for answer in ask(path, [[name, raw_request(frame)] for name in ("raw", "serving_default")]):
            np.testing.assert_allclose(answer["probability"], expected, atol=1e-6)


@suite_on("tensorflow")
def test_rank_scores_candidates_for_one_user(published):
    model, preprocessor, path = published
    request = raw_request(ROWS)
    user = {name: request[name][2:3] for name in ("price", "city", "tags")}
    same = ROWS.with_columns(*(pl.Series(n, [ROWS[n][2]] * len(ROWS), ROWS[n].dtype) for n in user))
    (answer,) = ask(path, [["rank", {**request, **user}]])
    np.testing.assert_allclose(answer["probability"], model.predict(preprocessor.transform(same), verbose=0), atol=1e-6)


@suite_on("tensorflow")
def test_model_columns_and_packed_batches_answer_alike(published):
    model, preprocessor, path = published
    batch = preprocessor.transform(ROWS)
    columns = {name: batch["dense"][:, i].tolist() for i, name in enumerate(SCHEMA.dense_names)}
    for column, start in zip(SCHEMA.categorical, SCHEMA.offsets, strict=True):
        ids = batch["sparse"][:, start : start + column.hotness]
        columns[column.name] = (ids if column.hotness > 1 else ids[:, 0]).tolist()
    packed = {key: values.tolist() for key, values in batch.items()}
    expected = model.predict(batch, verbose=0)
    for answer in ask(path, [["columns", as_inputs(columns)], ["packed", packed]]):
        np.testing.assert_allclose(answer["probability"], expected, atol=1e-6)


@suite_on("tensorflow")
def test_the_manifest_says_what_was_published_and_verifies(published):
    model, _, path = published
    manifest = kd.export.verify(path)
    assert manifest["model"] == {"class": "DLRM", "name": model.name, "parameters": model.count_params()}
    assert manifest["metrics"] == {"auc": 0.75}
    assert manifest["signatures"]["serving_default"] == "raw"
    assert manifest["tables"]["tags"]["width"] == 8
    assert manifest["inputs"]["user id/é"] == "user_id__"
    assert Preprocessor.load(path / "assets.extra" / "preprocessor").schema == model.schema


@pytest.mark.slow
@pytest.mark.neutral
def test_a_damaged_missing_or_added_file_does_not_verify(published, tmp_path):
    import shutil

    path = shutil.copytree(published[2], tmp_path / "1")
    (path / "stray").write_text("x")
    with pytest.raises(ValueError, match="stray is not listed in manifest.json"):
        kd.export.verify(path)
    (path / "stray").unlink()
    data = next(path.glob("variables/*.data*"))
    whole = data.read_bytes()
    data.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ValueError, match=rf"{data.name} is damaged"):
        kd.export.verify(path)
    data.unlink()
    with pytest.raises(ValueError, match=rf"{data.name} is missing"):
        kd.export.verify(path)


@pytest.mark.neutral
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"default": "raw"}, "default='raw' needs the preprocessor"),
        ({"default": "packs"}, "default='packs' is unknown"),
        ({"user_columns": ["nobody"]}, "user_columns names 'nobody'"),
        ({"user_columns": ["a", "b"]}, "names every column"),
        ({"user_columns": "a"}, "must be a list of column names"),
        (
            {"preprocessor": Preprocessor.identity(kd.Schema(categorical=[kd.Categorical("a", 4), kd.Categorical("b", 2)]))},
            "column 'a' has vocabulary_size",
        ),
    ],
)
def test_options_that_do_not_fit_are_refused_before_anything_is_written(tmp_path, options, message):
    schema = kd.Schema(categorical=[kd.Categorical("a", 3), kd.Categorical("b", 2)])
    model = kd.models.DLRM(schema, 2, None, [1], seed=0)
    with pytest.raises((ValueError, TypeError), match=message):
        kd.export.savedmodel(model, tmp_path / "new", **options)
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
@pytest.mark.neutral
@pytest.mark.parametrize(("tables", "prune"), [("int8", None), ("int4", "untrained")])
def test_tables_in_fewer_bytes_answer_as_the_live_model_does_on_them(tmp_path, monkeypatch, tables, prune):
    # As of a large model, only the rows that are asked for are loaded by the check.
    monkeypatch.setattr(importlib.import_module("keras_dlrm.export.saved_model.savedmodel"), "LOADED", 0)
    schema = kd.Schema(dense=["d"], categorical=[kd.Categorical("a", 3000), kd.Categorical("b", 4000, hotness=2, oov=None)])
    model = kd.models.DLRM(schema, 16, [16], [8, 1], seed=0)
    trained = {name: rows + (np.arange(len(rows)) % 4 == 1)[:, None] * 0.5 for name, rows in model.embedding_tables().items()}
    model.set_embedding_tables(trained)
    # The export itself compares every signature with the live model on such tables, within 1e-5.
    path = kd.export.savedmodel(model, tmp_path, tables=tables, prune=prune, warm_up=False)
    stored = sum(file.stat().st_size for file in (path / "variables").iterdir())
    dense = sum(w.size for w in model.get_weights()) - 7000 * 16
    share = (stored - 4 * dense) / (4 * 7000 * 16)
    assert share < (0.32 if tables == "int8" else 0.17)  # a file of some thousand rows has an index of its own
    manifest = kd.export.verify(path)
    assert manifest["tables"]["b"] == {"rows": 4000, "width": 16, "stored_as": tables}
    assert manifest["pruned_rows"] == (0 if prune is None else 3 * 7000 // 4 - 1)
    batch = {"dense": [[0.1]] * 3, "sparse": [[1, 5, 9], [2, 6, -1], [2999, 3999, 4000]]}
    exact = model.predict({k: np.array(v, "float32" if k == "dense" else "int64") for k, v in batch.items()}, verbose=0)
    (answer,) = ask(path, [["packed", batch]])
    np.testing.assert_allclose(answer["probability"], exact, atol=0.02)


MISSING = {"price": None, "plain": None, "tags": [], "city": None}


def ways_to_send(row):
    """A row with missing values, as clients of REST write it: instances, and whole columns."""
    sent = as_inputs({name: value for name, value in row.items() if name not in MISSING})
    for number in (None, "NaN", float("nan")):
        for tags in ([], None, ["", ""]):
            yield {**sent, "price": number, "plain": number, "tags": tags, "city": None if tags is None else ""}
    yield {**sent, "tags": [], "city": ""}


@pytest.mark.slow
@pytest.mark.neutral
def test_missing_values_answer_alike_however_they_are_sent(published):
    pytest.importorskip("tensorflow_serving")
    pytest.importorskip("starlette")
    tf = pytest.importorskip("tensorflow")
    import json

    import requests

    from keras_dlrm.serving import ModelConfig, Server

    model, preprocessor, path = published
    row = {
        "price": 3.0,
        "age": 30.0,
        "plain": 1.0,
        "city": "Rome",
        "tags": ["x"],
        "device": 1,
        "agent": "curl",
        "user id/é": "u1",
    }
    frame = pl.DataFrame([{**row, **MISSING}], {name: ROWS.schema[name] for name in row})
    expected = model.predict(preprocessor.transform(frame), verbose=0)[0, 0]
    full = as_inputs(row)
    with Server([ModelConfig("m", path.parent)], port=0, grpc_port=0) as server:

        def post(method, body):
            answer = requests.post(f"http://127.0.0.1:{server.port}/v1/models/m:{method}", json.dumps(body), timeout=60)
            assert answer.status_code == 200, answer.text
            return answer.json()

        for sent in ways_to_send(row):
            rows = post("predict", {"signature_name": "raw", "instances": [sent, full]})["predictions"]
            columns = {name: [sent.get(name), full[name]] for name in full}
            if "price" not in sent:
                del columns["price"], columns["plain"]
                columns |= {"price": None}
            in_columns = post("predict", {"signature_name": "raw", "inputs": columns})["outputs"]
            assert rows[0] == in_columns[0] == pytest.approx([expected], abs=1e-6)
        unseen = {**full, "city": "Lima", "tags": ["x", "no", "nor"], "user_id__": "u9"}
        post("predict", {"signature_name": "raw", "instances": [unseen, full]})
        metrics = requests.get(f"http://127.0.0.1:{server.port}/metrics", timeout=60).text
        for column, count in (("city", 1), ("tags", 2), ("user id/é", 1), ("device", 0), ("agent", 0)):
            assert f'keras_dlrm_serving_unseen_values_total{{column="{column}",model="m"}} {count}.0' in metrics
        explained = post("explain", {"signature_name": "raw", "instances": [unseen]})["features"]
        assert {f["name"]: f["unseen"] for f in explained if f["unseen"]} == {"city": 1, "tags": 2, "user_id__": 1}
        for features in (row.keys() - MISSING.keys(), row.keys()):
            example = tf.train.Example()
            for name in features:
                kind = {float: "float_list", int: "int64_list", str: "bytes_list"}[
                    type(row[name][0] if name == "tags" else row[name])
                ]
                values = getattr(example.features.feature[name], kind)
                values.SetInParent()
                if name not in MISSING:
                    values.value.append(row[name].encode() if kind == "bytes_list" else row[name])
            with_context = {"signature_name": "regress", "examples": [{}], "context": {}}
            assert post("regress", with_context)["results"]  # every feature may be missing
            answer = ask_examples(path, [example.SerializeToString()])
            np.testing.assert_allclose(answer, expected, atol=1e-6)


def ask_examples(path, examples):
    import tensorflow as tf

    outputs = tf.saved_model.load(str(path)).signatures["regress"](inputs=tf.constant(examples))
    return outputs["outputs"].numpy()


@suite_on("tensorflow")
def test_parts_of_times_are_made_inside_the_graph(tmp_path):
    made = [kd.Categorical("hour", of="at", part="hour"), kd.Categorical("weekday", of="at", part="weekday")]
    schema = kd.Schema([kd.Dense("age", "quantile", of="at", part="days"), "x"], made, label="click")
    rows = {"at": ["2024-01-31T12:30:00", "1706704200000", "", "2023-06-05 07:00+02:00"], "x": [0.0, 1.0, 2.0, 3.0]}
    preprocessor = Preprocessor.fit(schema, rows)
    model = kd.models.DLRM(preprocessor.schema, 8, [16, 8], [16, 1], seed=1)
    path = kd.export.savedmodel(model, tmp_path / "model", preprocessor, default="raw")
    expected = model.predict(preprocessor.transform(rows), verbose=0)
    (answer,) = ask(path, [["serving_default", rows]])
    np.testing.assert_allclose(answer["probability"], expected, atol=1e-6)
    assert len(np.unique(expected.round(6))) > 2
    with pytest.raises(ValueError, match="user_columns names 'hour', which is made of 'at' of each candidate"):
        kd.export.savedmodel(model, tmp_path / "ranked", preprocessor, user_columns=["hour"])


@suite_on("tensorflow")
def test_crosses_are_made_inside_the_graph(tmp_path):
    own = [kd.Categorical("user"), kd.Categorical("ad", 9), kd.Categorical("hour", of="at", part="hour")]
    crosses = [kd.Crossed("user_hour", ["user", "hour"], 100), kd.Crossed("user_ad", ["user", "ad"], 100)]
    rows = {"user": ["Ann", "Bob", "", "Ann"], "ad": [0, 1, 2, 3], "at": ["2024-01-31T12:30:00", "1706704200", "", "2023-06-05"]}
    preprocessor = Preprocessor.fit(kd.Schema(categorical=[*crosses, *own], label="click"), rows)
    model = kd.models.LogisticRegression(preprocessor.schema)
    model.set_weights([np.random.default_rng(0).normal(size=weight.shape) for weight in model.get_weights()])
    path = kd.export.savedmodel(model, tmp_path / "model", preprocessor, default="raw", user_columns=["user"])
    batch = preprocessor.transform(rows)
    candidates = {**rows, "user": ["Bob"]}
    ids = {name: batch["sparse"][:, 2 + i].tolist() for i, name in enumerate(("user", "ad", "hour"))}
    answers = ask(path, [["serving_default", rows], ["columns", ids], ["rank", candidates]])
    for answer, expected in zip(answers, (batch, batch, preprocessor.transform({**rows, "user": ["Bob"] * 4})), strict=True):
        np.testing.assert_allclose(answer["probability"], model.predict(expected, verbose=0), atol=1e-6)
    with pytest.raises(ValueError, match="user_columns names 'user_ad'; the schema has"):
        kd.export.savedmodel(model, tmp_path / "ranked", preprocessor, user_columns=["user_ad"])
