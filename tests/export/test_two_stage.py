"""Retrieval and recommendation in SavedModels, against the live index and models."""

import contextlib
import re
import subprocess
import time
from importlib.util import find_spec

import keras
import numpy as np
import polars as pl
import pytest
from helpers.browser import choose, open_browser, open_page, until, write
from helpers.children import environment, kill
from helpers.suite import suite_on

import keras_dlrm as kd
from keras_dlrm.export import savedmodel, verify
from keras_dlrm.files.durable import workspace
from keras_dlrm.retrieval import Index, recommend
from keras_dlrm.serving.versions.saved_model import SavedModel, warmup_records

tf = pytest.importorskip("tensorflow")
pytestmark = pytest.mark.usefixtures("quick_exports")

DRAW = np.random.default_rng(0)
ROWS = pl.DataFrame({
    "user": [f"u{i % 7}" for i in range(60)], "item": [f"item {i % 23}" for i in range(60)],
    "age": DRAW.uniform(18, 80, 60).round(),
    "price": DRAW.lognormal(size=60), "genre": [f"g{i % 5}|g{i % 3}" for i in range(60)], "label": DRAW.integers(0, 2, 60),
})  # fmt: skip
PREPROCESSOR = kd.data.Preprocessor.fit(
    kd.Schema(
        dense=[kd.Dense("age", transform="standardize"), kd.Dense("price", transform="log1p")],
        categorical=["user", "item", kd.Categorical("genre", hotness=2)],
    ),
    ROWS,
)
SCHEMA = PREPROCESSOR.schema
# The ranker sees fewer columns, in another order, and a cross of both sides.
COLUMNS = {column.name: column for column in SCHEMA.categorical}
RANKED = SCHEMA.with_columns(
    [SCHEMA.dense[1]], [COLUMNS["item"], COLUMNS["user"], COLUMNS["genre"], kd.Crossed("both", ["user", "item"], 100)]
)


def models():
    tower = kd.models.TwoTower(
        SCHEMA, user=["user", "age"], item=["genre", "item", "price"], item_id="item", embedding_dim=4, output_dim=8, seed=0
    )
    return tower, kd.models.DLRM(RANKED, 4, [4], [4, 1], seed=1)


def asked(rows, exclude):
    """Raw columns of users as inputs."""
    users = ROWS[rows]
    return {
        "user": np.array([text.encode() for text in users["user"]], object), "age": users["age"].to_numpy(),
        "exclude": np.array(exclude, object).reshape(len(users), len(exclude[0]) if exclude else 0),
    }  # fmt: skip


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"dtype": "int8", "lists": 4, "probes": 2}, marks=suite_on("tensorflow")),
        *(pytest.param({"dtype": dtype}, marks=pytest.mark.soak) for dtype in ("float32", "bfloat16", "int8")),
    ],
    ids=str,
)
def test_retrieve_and_recommend_give_what_the_live_index_and_models_give(options, tmp_path):
    tower, ranker = models()
    index = Index.build(tower, ROWS, preprocessor=PREPROCESSOR, **options)
    blend = 0.5 if "lists" in options else 0.0
    path = savedmodel(tower, tmp_path, PREPROCESSOR, index=index, ranker=ranker, k=6, candidates=9, blend=blend)
    assert verify(path)["retrieval"]["items"] == 23 and verify(path)["retrieval"]["ranker"]["class"] == "DLRM"
    if find_spec("tensorflow_serving") is not None:
        warmed = b"".join(warmup_records(path))
        assert b"retrieve" in warmed and b"recommend" in warmed
    served = SavedModel(path)
    assert sorted(served.signatures["recommend"].inputs) == ["age", "exclude", "user"]
    users = PREPROCESSOR.transform(ROWS[:5])
    exclude = [[f"item {i}", "item 3", "no such item", ""] for i in range(5)]
    answers = {
        "retrieve": ("scores", index.query(users, 6, exclude=exclude)),
        "recommend": ("probabilities", recommend(index, ranker, users, 6, candidates=9, blend=blend, exclude=exclude)),
    }
    inputs = asked(slice(0, 5), [[text.encode() for text in ids] for ids in exclude])
    for name, (output, (ids, numbers)) in answers.items():
        answer = served.run(name, inputs)
        np.testing.assert_allclose(answer[output], numbers, rtol=1e-4)
        assert [[value.decode() for value in row] for row in answer["ids"]] == ids.tolist()
        nothing = served.run(name, asked(slice(0, 0), []))
        assert nothing["ids"].shape == nothing[output].shape == (0, 6)
        alone = served.run(name, asked(slice(1, 2), []))
        assert alone["ids"].shape == (1, 6)
        for users_of, rows in ((1, [[b"item 1"], [b"item 2"]]), (2, [[b"item 1"]])):
            wrong = {**asked(slice(0, users_of), []), "exclude": np.array(rows, object)}
            with pytest.raises(Exception, match="exclude has another number of rows than there are users"):
                served.run(name, wrong)
    served.close()


@pytest.fixture(scope="module")
def shop(tmp_path_factory, quick_exports):
    """A server of two stages, the index and the ranker behind it."""
    pytest.importorskip("tensorflow_serving")
    from helpers.saved_models import Running

    from keras_dlrm.serving import ModelConfig, Server

    folder = tmp_path_factory.mktemp("served") / "shop"
    tower, ranker = models()
    index = Index.build(tower, ROWS, preprocessor=PREPROCESSOR)
    savedmodel(tower, folder, PREPROCESSOR, index=index, ranker=ranker, k=3, candidates=5)
    with Server([ModelConfig("shop", folder)], port=0, grpc_port=0) as server:
        yield Running(f"127.0.0.1:{server.port}", f"127.0.0.1:{server.grpc_port}", str), index, ranker


@suite_on("tensorflow")
def test_the_server_answers_over_rest_and_grpc_and_knows_that_the_answer_is_a_list(shop):
    import grpc
    from helpers.saved_models import predict_request
    from tensorflow_serving.apis import prediction_service_pb2_grpc

    running, index, ranker = shop
    users = PREPROCESSOR.transform(ROWS[:2])
    for exclude in ([["item 3"], [""]], [[], []]):
        inputs = {"user": ROWS["user"][:2].to_list(), "age": ROWS["age"][:2].to_list(), "exclude": exclude}
        status, answer = running.ask("/v1/models/shop:predict", {"signature_name": "recommend", "inputs": inputs})
        ids, numbers = recommend(index, ranker, users, 3, candidates=5, exclude=exclude)
        assert status == 200 and answer["outputs"]["ids"] == ids.tolist()
        np.testing.assert_allclose(answer["outputs"]["probabilities"], numbers, rtol=1e-4)
    exclude = [["item 3"], [""]]
    expected = {
        "retrieve": ("scores", index.query(users, 3, exclude=exclude)),
        "recommend": ("probabilities", recommend(index, ranker, users, 3, candidates=5, exclude=exclude)),
    }
    with grpc.insecure_channel(running.grpc) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        for name, (output, (ids, numbers)) in expected.items():
            request = predict_request(asked(slice(0, 2), exclude), name, "shop", user=tf.string, exclude=tf.string)
            outputs = {key: tf.make_ndarray(value) for key, value in stub.Predict(request, timeout=20).outputs.items()}
            assert [[text.decode() for text in row] for row in outputs["ids"]] == ids.tolist()
            np.testing.assert_allclose(outputs[output], numbers, rtol=1e-4)
    signatures = running.ask("/page/models")[1]["models"][0]["versions"][0]["signatures"]
    items = {signature["name"]: signature["items"] for signature in signatures}
    assert (items["raw"], items["retrieve"], items["recommend"]) == (None, "scores", "probabilities")
    fields = next(signature["features"] for signature in signatures if signature["name"] == "recommend")
    assert {field["name"] for field in fields} == {"user", "age", "exclude"}


@pytest.mark.slow
@suite_on("tensorflow")
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")  # Selenium's sockets
def test_the_page_shows_the_list_and_what_raises_each_item(shop):
    running, index, _ = shop
    with open_browser() as browser:
        page = open_page(browser, running)
        choose(page, "signature", "retrieve")
        for name, text in (("user", "u1"), ("age", "30"), ("exclude", "item 3")):
            write(page, name, text)
        page.find_element("id", "go").click()
        rows = until(page, lambda p: p.find_elements("css selector", "#items tr"))
        shown = [[cell.text for cell in row.find_elements("tag name", "td")] for row in rows]
    users = ROWS[:3].with_columns(user=pl.Series(["u1", "", "u1"]), age=pl.Series([30.0, 30.0, None]))
    ids, scores = index.query(PREPROCESSOR.transform(users), 23, exclude=[["item 3"]] * 3)
    assert [row[0] for row in shown] == [f"{i + 1}. {ids[0, i]}" for i in range(3)]
    assert [float(row[1]) for row in shown] == pytest.approx(scores[0, :3], abs=2e-4)
    for (_, _, reason), item, score in zip(shown, ids[0], scores[0], strict=False):
        # An item that leaves the list falls below its last one, by that much at least.
        kept = [item in ids[i, :3] for i in (1, 2)]
        falls = [score - (scores[i, ids[i].tolist().index(item)] if kept[i - 1] else scores[i, 2]) for i in (1, 2)]
        most = int(np.argmax(falls))
        value = ("user = u1", "age = 30")[most]
        if falls[most] <= 0:
            assert reason == ""
            continue
        before, number, after = re.fullmatch(r"(\D+)([\d.]+) by (.+)", reason).groups()
        assert (before, after) == ("+" if kept[most] else "≥ +", value)
        assert float(number) == pytest.approx(falls[most], abs=2e-4)


@pytest.mark.slow
def test_small_catalogs_and_ids_that_are_numbers(tmp_path):
    schema = kd.Schema(categorical=[kd.Categorical("user", 10), kd.Categorical("item", 20)])
    tower = kd.models.TwoTower(schema, user=["user"], item=["item"], embedding_dim=4, output_dim=4, seed=0)
    index = Index.build(tower, {"item": [7, 3, 9]})
    path = savedmodel(tower, tmp_path, index=index, ranker=kd.models.FM(schema, 4, seed=1), k=4, candidates=5, tables="int8")
    served = SavedModel(path)
    inputs = {"user": np.array([1, 2]), "exclude": np.array([[7, -1], [7, 3]])}
    retrieved, recommended = (served.run(name, inputs) for name in ("retrieve", "recommend"))
    lowest = np.finfo(np.float32).min
    for answer, nothing, numbers in ((retrieved, lowest, "scores"), (recommended, 0, "probabilities")):
        assert answer["ids"].dtype == np.int64 and sorted(answer["ids"][0].tolist()) == [-1, -1, 3, 9]
        assert answer["ids"][1].tolist() == [9, -1, -1, -1] and (answer[numbers][1, 1:] == nothing).all()
    served.close()


def test_parts_of_a_large_index_change_nothing(monkeypatch):
    from keras_dlrm.export.saved_model import retrieving

    tower, _ = models()
    index = Index.build(tower, ROWS, preprocessor=PREPROCESSOR, dtype="int8")
    queries, hidden = DRAW.normal(size=(7, 8)).astype(np.float32), DRAW.integers(-1, 23, (7, 4)).astype(np.int32)
    if keras.backend.backend() != "tensorflow":
        pytest.skip("the graph is written where Keras runs on TensorFlow")
    monkeypatch.setattr(retrieving, "_SCORES", 0)
    graph = retrieving.IndexInGraph(index.content)
    rows, scores = index.search(queries, 5, exclude=index.ids.at(hidden))
    best = graph.best(tf.constant(queries), tf.constant(hidden), 5)
    np.testing.assert_array_equal(best.rows, rows)


def test_what_does_not_belong_together_is_refused(tmp_path):
    tower, ranker = models()
    index = Index.build(tower, ROWS, preprocessor=PREPROCESSOR)
    other = models()[0]
    other.set_embedding_tables({"user": np.zeros((SCHEMA.table_sizes["user"], 4), np.float32)})
    many = kd.models.DLRM(kd.Schema(SCHEMA.dense, SCHEMA.categorical, label=["click", "like"]), 4, [4], [1])
    strange = kd.models.FM(kd.Schema(categorical=[kd.Categorical("user", 4), kd.Categorical("hour", 24)]), 4)
    cases = [
        ((other, {"index": index}), r"made by another model, or before this one was trained further"),
        ((tower, {"ranker": ranker}), "ranker=… scores the candidates of an index"),
        ((tower, {"index": index, "ranker": many}), r"the ranker has the labels \['click', 'like'\]"),
        ((tower, {"index": index, "ranker": strange}), "ranker has the column 'hour', which the index's model has not"),
        ((tower, {"index": index, "ranker": ranker, "k": 20, "candidates": 10}), "candidates=10 are fewer than k=20"),
        ((tower, {"index": index, "ranker": ranker, "blend": -1.0}), r"savedmodel: blend=-1.0 must be a number in \[0, inf\)"),
        ((tower, {"index": index, "k": 0}), "k=0 must be an integer >= 1"),
    ]
    for (model, options), message in cases:
        with pytest.raises(ValueError, match=message):
            savedmodel(model, tmp_path, **options)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="loaded without its model"):
        recommend(Index(index.content), ranker, {}, 1)


PUBLISH = """
import sys, time
from pathlib import Path
import keras_dlrm as kd
from keras_dlrm.retrieval import Index
schema = kd.Schema(categorical=[kd.Categorical("user", 50), kd.Categorical("item", 3000)])
tower = kd.models.TwoTower(schema, user=["user"], item=["item"], embedding_dim=32, output_dim=32, seed=0)
index = Index.build(tower, {"item": [*range(3000)]})
print("begins", flush=True)
kd.export.savedmodel(tower, Path(sys.argv[1]), index=index, ranker=kd.models.FM(schema, 4, seed=1), k=4, candidates=50)
time.sleep(60)
"""


@pytest.mark.soak
@suite_on("tensorflow")
@pytest.mark.parametrize("moment", range(20))
def test_a_kill_at_any_moment_leaves_a_version_with_its_index_or_none(moment, programs, tmp_path):
    folder = tmp_path / "shop"
    folder.mkdir()
    process = subprocess.Popen([programs / "python", "-c", PUBLISH, str(folder)], stdout=subprocess.PIPE, env=environment())
    with process:
        assert process.stdout.readline() == b"begins\n"
        time.sleep(0.15 * moment)  # two seconds are enough for all of it
        kill(process)
    for version in folder.glob("[0-9]*"):
        verify(version)
        with contextlib.closing(SavedModel(version)) as served:
            answer = served.run("retrieve", {"user": np.array([7]), "exclude": np.array([[-1]])})
        assert answer["ids"].shape == (1, 4)
    with workspace(folder / "version"):  # as the next one has it
        pass
    assert {path.name for path in folder.iterdir()} <= {"1"}
