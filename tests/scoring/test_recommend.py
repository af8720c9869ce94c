"""The best items for the users of files, in Python and on the command line."""

import json
import re

import keras
import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner
from helpers.suite import suite_on

import keras_dlrm as kd
from keras_dlrm.cli import group
from keras_dlrm.data.packed.writer import PackedWriter

ROWS = pl.DataFrame({
    "user": [f"u{i % 7}" for i in range(40)], "item": [f"i{i % 11}" for i in range(40)], "price": [float(i) for i in range(40)],
})  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A log, a TwoTower and a ranker, and files of items and users."""
    folder = tmp_path_factory.mktemp("two-stage")
    schema = kd.Schema(dense=["price"], categorical=["user", "item"])
    preprocessor = kd.data.Preprocessor.fit(schema, ROWS)
    with PackedWriter(folder / "log", preprocessor.schema, preprocessor) as writer:
        writer.append("train", preprocessor.transform(ROWS), np.zeros(40))
    sides = {"user": ["user"], "item": ["item", "price"]}
    kd.models.TwoTower(preprocessor.schema, **sides, embedding_dim=4, output_dim=8, seed=0).save(folder / "tower.keras")
    kd.models.FM(preprocessor.schema, 4, seed=1).save(folder / "fm.keras")
    ROWS.select("item", "price").write_csv(folder / "items.csv")
    ROWS[:9].select("user", seen=pl.concat_str("item", pl.lit("|i9|strange"))).write_parquet(folder / "users.parquet")
    return folder


def run(*args):
    outcome = CliRunner().invoke(group, [str(a) for a in args], catch_exceptions=False)
    assert outcome.exit_code == 0
    return json.loads(outcome.output.strip().splitlines()[-1])


@suite_on("torch")
def test_an_index_its_retrieval_and_its_recommendation_from_files(folder, tmp_path):
    tower, log = folder / "tower.keras", ["--preprocessor", folder / "log"]
    made = run("index", tower, "--catalog", folder / "items.csv", *log, "--output", tmp_path / "index", "--dtype", "int8", "--json")
    assert made["items"] == 11 and kd.verify(tmp_path / "index").kind == "index"
    asked = ["--index", tmp_path / "index", "--input", folder / "users.parquet", *log, "--id-column", "user"]
    answers = {}
    for command, more in (("retrieve", []), ("recommend", ["--ranker", folder / "fm.keras", "--candidates", 10])):
        out = tmp_path / f"{command}.parquet"
        more += ["--k", 10, "--exclude-column", "seen", "--batch-size", 4, "--output", out, "--json"]
        done = run(command, tower, *asked, *more)
        answers[command] = pl.read_parquet(out)
        # Of eleven items a user may get those that it has not seen.
        assert done["rows"] == len(answers[command]) == sum(9 if f"i{i % 11}" != "i9" else 10 for i in range(9))
    first = answers["retrieve"]
    assert first.columns == ["user", "rank", "item", "score"] and first["rank"][:9].to_list() == list(range(1, 10))
    model = kd.data.open(folder / "log")
    index = kd.retrieval.Index.load(tmp_path / "index", keras.saving.load_model(tower))
    users = model.preprocessor.transform(ROWS[:9])
    seen = [[f"i{i % 11}", "i9"] for i in range(9)]
    ids, scores = index.query(users, 10, exclude=seen)
    assert first["item"].to_list() == ids[ids != ""].tolist()
    np.testing.assert_allclose(first["score"], scores[ids != ""], rtol=1e-5)
    ranker = keras.saving.load_model(folder / "fm.keras")
    ids, chances = kd.retrieval.recommend(index, ranker, users, 10, candidates=10, exclude=seen)
    second = answers["recommend"]
    assert second.columns[-1] == "probability" and second["item"].to_list() == ids[ids != ""].tolist()
    np.testing.assert_allclose(second["probability"], chances[ids != ""], rtol=1e-4)


def test_columns_of_the_same_name_and_an_index_without_its_model_are_refused(folder, tmp_path):
    tower = keras.saving.load_model(folder / "tower.keras")
    preprocessor = kd.data.open(folder / "log").preprocessor
    index = kd.retrieval.Index.build(tower, ROWS, preprocessor=preprocessor)
    options = {"output": tmp_path / "out.csv", "preprocessor": preprocessor}
    with pytest.raises(ValueError, match="name each id column once, and none as these are"):
        kd.scoring.recommend_files(index, ROWS, id_columns=["item"], **options)
    with pytest.raises(ValueError, match=r"use Index.load\(path, model\)"):
        kd.scoring.recommend_files(kd.retrieval.Index(index.content), ROWS, **options)
    with pytest.raises(KeyError, match="'user' is missing"):
        kd.scoring.recommend_files(index, ROWS.drop("user"), **options)
    assert not (tmp_path / "out.csv").exists()
    assert kd.scoring.recommend_files(index, ROWS, k=50, **options).rows == 40 * 11


def test_texts_of_ids_to_leave_out_may_have_spaces_and_nothing_but_ids(tmp_path):
    schema = kd.Schema(categorical=[kd.Categorical("user", 10), kd.Categorical("item", 20)])
    index = kd.retrieval.Index.build(kd.models.TwoTower(schema, ["user"], ["item"], 4, 4, seed=0), {"item": [3, 5, 7]})
    options = {"preprocessor": None, "k": 3, "exclude_column": "seen", "id_columns": ["seen"]}
    rows = {"user": [1] * 4, "seen": ["3|5", " 3 | 5 ", "3||5|", ""]}
    kd.scoring.recommend_files(index, pl.DataFrame(rows), output=tmp_path / "out.parquet", **options)
    items = pl.read_parquet(tmp_path / "out.parquet")["item"].to_list()
    assert items[:3] == [7, 7, 7] and sorted(items[3:]) == [3, 5, 7]
    for text in ("3, 5", "[3, 5]", "3.0|5", "3|x"):
        with pytest.raises(ValueError, match=f"column 'seen' has '{re.escape(text)}'; the ids of this index are whole numbers"):
            kd.scoring.recommend_files(index, pl.DataFrame({"user": [1], "seen": [text]}), output=tmp_path / "no.csv", **options)
    assert not (tmp_path / "no.csv").exists()
