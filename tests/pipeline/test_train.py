"""`kd.train`: a table becomes a run, and a run answers for raw rows."""

from __future__ import annotations

import datetime
import shutil
from pathlib import Path
from typing import Any

import keras
import numpy as np
import polars as pl
import pytest
from helpers.suite import suite_on

import keras_dlrm as kd
from keras_dlrm.pipeline.prepare import prepare
from keras_dlrm.training import run as training
from keras_dlrm.training.experiment import Experiment

ROWS = 900
SMALL = {"epochs": 2, "model.bottom_mlp": [8, 8], "model.top_mlp": [8, 1]}


def clicks(rows: int = ROWS) -> pl.DataFrame:
    """A log whose clicks follow from its columns; rows are not in the order of their times."""
    r = np.random.default_rng(0)
    user, price = r.integers(0, 30, rows), r.exponential(9, rows)
    score = r.normal(size=30)[user] - price / 9
    return pl.DataFrame({
        "row": [f"row {i}" for i in range(rows)],
        "when": [datetime.datetime(2024, 1, 1) + datetime.timedelta(minutes=int(m)) for m in r.permutation(rows)],
        "price": [None if i % 50 == 0 else value for i, value in enumerate(price)],
        "user": [f"u{i}" for i in user],
        "device": r.choice(["phone", "desk"], rows),
        "click": (score > r.logistic(size=rows)).astype(np.int8),
    })  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> kd.Run:
    return kd.train(clicks(), "click", settings=SMALL, output=tmp_path_factory.mktemp("runs") / "first", verbose=False)


@suite_on("torch")
def test_columns_are_inferred_and_the_test_part_is_the_latest(run: kd.Run) -> None:
    assert run.log.schema.dense_names == ("price",)
    assert set(run.log.schema.categorical_names) == {"user", "device", "when_hour"}
    assert run.log.manifest["tables"]["split_by"] == "when"
    latest = clicks().sort("when")["click"][-ROWS // 10 :].sum()
    assert run.result["rows"] == {"train": 720, "valid": 90, "test": 90}
    assert int(np.sum(run.log.split("test").labels)) == latest
    assert set(run.result["test"]) >= {"auc", "logloss", "calibration"}
    assert run.experiment.epochs == 2 and run.experiment.reasons == {}


@suite_on("torch")
def test_predictions_are_those_of_the_command_line_whatever_holds_the_rows(run: kd.Run, tmp_path: Path) -> None:
    rows = clicks(60)
    rows.write_parquet(tmp_path / "rows.parquet")
    rows.drop("click").write_csv(tmp_path / "rows.csv")
    files = {"output": tmp_path / "p.parquet", "preprocessor": run.log.directory}
    model = keras.saving.load_model(run.directory / "model.keras", compile=False)
    kd.scoring.predict_files(model, tmp_path / "rows.parquet", **files)
    expected = pl.read_parquet(tmp_path / "p.parquet")["probability"].to_numpy()
    forms: list[Any] = [rows, rows.drop("click").to_dict(as_series=False), rows.lazy(), tmp_path / "rows.parquet"]
    forms += [str(tmp_path / "*.csv"), rows.to_pandas() if _has_pyarrow() else _pandas(rows), Arrow(rows)]
    for form in forms:
        found = run.predict(form)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, expected, str(type(form)))
    assert run.predict(rows[:0]).shape == (0,)
    with pytest.raises(KeyError, match="column 'price' is missing"):
        run.predict(rows.drop("price"))
    with pytest.raises(ValueError, match="row 1, column price"):
        run.predict(rows[:2].with_columns(price=pl.Series(["1", "dear"])))


@suite_on("torch")
@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ({"price": 3.5, "user": 7}, r"column 'price' is 3.5, a float; give a sequence, one entry a row, such as \[3.5\]"),
        ({"price": [3.5], "user": None}, "column 'user' is None, a NoneType; give a sequence"),
        (7, 'of the type int; give a path, a pattern, a frame, or a mapping of columns such as {"price"'),
        (np.zeros((2, 3)), "of the type ndarray; give a path"),
        (pl.Series("price", [1.0]), "of the type Series; give a path"),
    ],
)
def test_rows_that_are_none_are_refused_with_what_to_give(run: kd.Run, rows: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        run.predict({**rows, "device": ["desk"], "when": ["2024-01-01"]} if isinstance(rows, dict) else rows)


@suite_on("torch")
def test_an_argument_that_the_model_lacks_is_told_before_rows_are_read() -> None:
    with pytest.raises(ValueError, match=r"model\.layers is not an argument of Wukong; known are"):
        kd.train("nowhere.parquet", "click", "Wukong", settings={"model.layers": 2})


@suite_on("torch")
def test_a_part_of_one_class_leaves_nothing_that_blocks_another_split(tmp_path: Path) -> None:
    rows = clicks(200).sort("when").with_columns(click=pl.when(pl.int_range(200) < 150).then("click").otherwise(0))
    arguments: dict[str, Any] = {"settings": {"epochs": 1}, "output": tmp_path / "run", "verbose": False}
    with pytest.raises(ValueError, match="all 20 labels of the valid part are 0, so it has no AUC; cut the log so that both"):
        kd.train(rows, "click", "LogisticRegression", **arguments)
    assert list(tmp_path.iterdir()) == []
    again = kd.train(rows, "click", "LogisticRegression", split_by="random", **arguments)
    assert again.result["rows"] == {"train": 160, "valid": 20, "test": 20}
    assert (tmp_path / "run" / "data").is_dir()


class Arrow:
    """A table of another library, which hands it over as Arrow says."""

    def __init__(self, frame: pl.DataFrame) -> None:
        self.frame, self.column_names = frame, frame.columns

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self.frame.__arrow_c_stream__(requested_schema)

    def __getitem__(self, name: str) -> Any:
        return self.frame[name]


def _has_pyarrow() -> bool:
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        return False
    return True


def _pandas(rows: pl.DataFrame) -> Any:
    import pandas as pd

    return pd.DataFrame(rows.to_dict(as_series=False))


@suite_on("torch")
def test_the_same_call_opens_the_run_and_another_one_is_refused(run: kd.Run) -> None:
    before = (run.directory / "result.json").stat().st_mtime_ns
    again = kd.train(clicks(), "click", settings=SMALL, output=run.directory, verbose=False)
    assert again.result == run.result and (run.directory / "result.json").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="made from other inputs or with other settings"):
        kd.train(clicks(ROWS - 1), "click", settings=SMALL, output=run.directory, verbose=False)
    with pytest.raises(ValueError, match="is a run of another experiment: seed is 0 there, 1 now"):
        kd.train(clicks(), "click", settings={**SMALL, "seed": 1}, output=run.directory, verbose=False)


@suite_on("torch")
def test_a_log_that_was_preprocessed_before_the_kill_is_trained_on(tmp_path: Path) -> None:
    log = prepare(clicks(), tmp_path / "run", "click")
    written = (log.directory / "manifest.json").stat().st_mtime_ns
    run = kd.train(clicks(), "click", "LogisticRegression", settings={"epochs": 1}, output=tmp_path / "run", verbose=False)
    assert run.experiment.model["type"] == "LogisticRegression"
    assert (log.directory / "manifest.json").stat().st_mtime_ns == written
    assert kd.verify(run.directory).kind == "run"


@suite_on("torch")
def test_a_run_of_the_command_line_is_one_too(run: kd.Run, tmp_path: Path) -> None:
    folder = tmp_path / "log"
    shutil.copytree(run.log.directory, folder)
    small = Experiment({"type": "DCN", "embedding_dim": 4, "cross_layers": 1, "deep_mlp": [4]}, batch_size=256)
    training.train(small, kd.data.open(folder), tmp_path / "run")
    other = kd.Run(tmp_path / "run")
    assert other.predict(clicks(5)).shape == (5,)
    assert other.log.directory == folder.resolve()
    # The same folder name with other rows, whose ids mean something else.
    shutil.rmtree(folder)
    kd.data.tables.preprocess(kd.Schema.infer(clicks(), "click"), clicks(), output=folder, split={"train": 0.8, "test": 0.2})
    with pytest.raises(ValueError, match="is a run on other data than"):
        _ = kd.Run(tmp_path / "run").log
    shutil.rmtree(folder)
    with pytest.raises(FileNotFoundError, match="which is gone"):
        _ = kd.Run(tmp_path / "run").log
    with pytest.raises(FileNotFoundError, match="is not a run that has ended"):
        kd.Run(tmp_path)


@suite_on("torch")
def test_a_processed_log_is_trained_on_with_an_experiment_of_a_file(run: kd.Run, tmp_path: Path) -> None:
    Experiment({"type": "DLRM", "embedding_dim": 4, "bottom_mlp": [4], "top_mlp": [1]}, batch_size=256).save(tmp_path / "e.yaml")
    again = kd.train(run.log.directory, experiment=tmp_path / "e.yaml", settings={"seed": 3}, output=tmp_path / "b", verbose=False)
    assert again.result["seed"] == 3 and again.log.directory == run.log.directory
    with pytest.raises(ValueError, match="label='click' is for a table"):
        kd.train(run.log, "click")
    with pytest.raises(ValueError, match="either model"):
        kd.train(run.log, model="DCN", experiment=Experiment())


@keras.saving.register_keras_serializable("tests.pipeline")
class Mean(keras.layers.Layer):
    """An interaction of one's own."""

    def call(self, vectors: Any) -> Any:
        return keras.ops.mean(vectors, axis=1)


@suite_on("torch")
def test_an_interaction_of_ones_own_is_a_setting(run: kd.Run, tmp_path: Path) -> None:
    own = kd.train(run.log, settings={**SMALL, "epochs": 1, "model.interaction": Mean()}, output=tmp_path / "own", verbose=False)
    assert isinstance(own.model.interaction, Mean)


@suite_on("torch")
def test_a_run_shows_itself_in_80_columns_and_in_a_notebook(run: kd.Run) -> None:
    lines = repr(run).splitlines()
    assert max(len(line) for line in lines[:-1]) <= 80
    assert "valid" in repr(run) and f"{run.result['test']['auc']:.4f}" in repr(run)
    assert lines[-1] == f"run: {run.directory}"  # it is not below the working folder
    page = run._repr_html_()
    assert f"<td>{run.result['test']['auc']:.4f}</td>" in page
    assert page.count("data:image/svg+xml;base64,") == 3 and len(page) < 80_000
    assert Path(run.report()) == run.directory / "report.html"
    assert run.report()._repr_html_().startswith('<iframe srcdoc="&lt;!DOCTYPE html&gt;')


REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "no label": ({"x": [1.5]}, {}, "give label="),
    "absent label": (clicks(), {"label": "clicked"}, "no column 'clicked'; there are"),
    "equal labels": (clicks().with_columns(click=1), {"label": "click"}, "all labels in 'click' are 1"),
    "no rows": (clicks(0), {"label": "click"}, "has no rows"),
    "missing labels": (clicks().with_columns(click=pl.lit(None, pl.Int8)), {"label": "click"}, "rows have no label; drop"),
    "texts as labels": (clicks().with_columns(click=pl.Series(["a", "b"] * (ROWS // 2))), {"label": "click"}, "1 and the other 0"),
    "five rows": (clicks(5), {"label": "device", "schema": None}, "1 and the other 0"),
    "few rows": (clicks()[:5].with_columns(click=pl.Series([0, 1, 0, 1, 0])), {"label": "click"}, "5 rows are too few"),
    "no column": (clicks().select("row", "click"), {"label": "click"}, "no column that a model can use .row: "),
    "another label": (clicks(), {"label": "device", "schema": kd.Schema(dense=["price"], label="click")}, "is not the schema's"),
    "a column that is not there": (clicks(), {"schema": kd.Schema(dense=["age"], label="click")}, "column 'age' is missing"),
    "no table": (7, {"label": "click"}, "expected a frame or a path, not int"),
    "an unknown setting": (clicks(), {"label": "click", "settings": {"epohcs": 3}}, "unknown key 'epohcs'"),
    "an unknown model": (clicks(), {"label": "click", "model": "GBDT"}, "must be a mapping with a type of"),
    "too few of a part": (clicks(), {"label": "click", "split": {"train": 0.5}}, "add up to 1"),
}


@pytest.mark.neutral
@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_trained_on_is_told_in_a_sentence_and_leaves_nothing(case: str, tmp_path: Path) -> None:
    data, given, said = REFUSED[case]
    with pytest.raises((KeyError, ValueError, TypeError), match=said) as error:
        kd.train(data, output=tmp_path / "run", verbose=False, **given)
    assert "\n" not in str(error.value) and list(tmp_path.iterdir()) == []


@pytest.mark.neutral
def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(FileExistsError, match="has content that is not a run's"):
        kd.train(clicks(), "click", output=tmp_path, verbose=False)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.neutral
def test_an_output_that_is_no_folder_is_refused_before_the_table_is_read(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("mine")
    for output in (tmp_path / "notes", tmp_path / "notes" / "run"):
        with pytest.raises(FileExistsError, match="cannot be a folder, .*notes is a file; give another output"):
            kd.train(clicks(), "click", output=output, verbose=False)
    with pytest.raises(TypeError, match="train: output=5 must be the path of a folder"):
        kd.train(clicks(), "click", output=5, verbose=False)  # type: ignore[arg-type]
    assert (tmp_path / "notes").read_text() == "mine"


@pytest.mark.neutral
def test_what_was_found_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    prepare(clicks(), tmp_path / "run", "click", console=Console(stderr=True))
    told = capsys.readouterr().err
    assert "dense columns: price" in told and "left out row: has 900 values in 900 rows" in told
    assert "rows: 720 train, 90 valid, 90 test, cut by when" in told


@pytest.mark.slow
def test_a_budget_slices_and_groups_are_arguments(tmp_path: Path) -> None:
    run = kd.train(
        clicks(), "click", output=tmp_path / "run", settings={"epochs": 1}, time_budget=60, slice_by=["user"], group_by="user",
        verbose=False,
    )  # fmt: skip
    assert "user" in (run.directory / "report.json").read_text() and run.experiment.time_budget == 60
    with pytest.warns(UserWarning, match="100% of the values of 'user' are unseen; are these rows of the log, and in the form"):
        run.predict(clicks().with_columns(user=pl.lit("nobody")))
    with pytest.raises(TypeError, match=r"slice_by='user' must be a list of columns; give \['user'\]"):
        kd.train(clicks(), "click", output=tmp_path / "other", slice_by="user")
    with pytest.raises(ValueError, match="did you mean 'DLRM'"):
        kd.train(clicks(), "click", model="dlrm", output=tmp_path / "other")
    assert not (tmp_path / "other").exists()
