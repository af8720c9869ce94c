"""Models of one's own on the command line: by import path, by `--import`, and where a module is missing."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.children import environment
from helpers.suite import suite_on

from keras_dlrm.data.synthetic import PlantedClickLog
from keras_dlrm.schema.schema import Categorical, Schema

pytestmark = suite_on("torch")
MODULE = '''
import keras
import keras_dlrm as kd
from keras import ops

@keras.saving.register_keras_serializable("own_of_tests")
class Wide(kd.models.ClickModel):
    def __init__(self, schema, hidden=8, seed=None, **kwargs):
        super().__init__(schema, seed, **kwargs)
        self.embeddings = kd.layers.EmbeddingCollection(self.schema, 4, concatenate=True, seed=self.seed)
        self.hidden, self.out = keras.layers.Dense(hidden, activation="relu"), keras.layers.Dense(1)

    def logits(self, inputs, training=None):
        return self.out(self.hidden(ops.concatenate([self.pooled(inputs, training), inputs["dense"]], axis=1)))
'''

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a module and a log."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "own_of_tests.py").write_text(MODULE)
    schema = Schema(dense=["x"], categorical=[Categorical("a", 30), Categorical("b", 10, hotness=2)])
    PlantedClickLog(schema, seed=1).write(folder / "log", rows={"train": 600, "valid": 200, "test": 300})
    return folder


@pytest.fixture(scope="module")
def command(programs: Path, folder: Path) -> Command:
    """The command as it is installed, each time a program of its own, in the folder, which has a run of the module's model."""

    def command(*arguments: str) -> tuple[int, str, str]:
        program = [programs / "keras-dlrm", *arguments]
        done = subprocess.run(program, cwd=folder, env=environment(), capture_output=True, text=True)
        return done.returncode, done.stdout, done.stderr

    own = ["--model", "own_of_tests:Wide", "--set", "model.hidden=3"]
    code, out, err = command("train", "--data", "log", *own, "--batch-size", "128", "--epochs", "1", "--output", "run")
    assert code == 0, err
    assert "own_of_tests:Wide on" in out
    return command


def test_evaluate_and_predict_take_the_module(command: Command, folder: Path) -> None:
    result = json.loads((folder / "run" / "result.json").read_text())
    code, out, err = command("evaluate", "run/model.keras", "--data", "log", "--import", "own_of_tests", "--json")
    assert code == 0, err
    assert json.loads(out.splitlines()[-1])["auc"] == pytest.approx(result["test"]["auc"], abs=1e-9)
    read = ["--import", "own_of_tests", "--output", "p.csv"]
    code, _, err = command("predict", "run/model.keras", "--data", "log", *read)
    assert code == 0, err
    assert len((folder / "p.csv").read_text().splitlines()) == 301


def test_export_has_its_helper_processes_import_the_module(command: Command, folder: Path) -> None:
    code, _, err = command("export", "run/model.keras", "--import", "own_of_tests", "--output", "served")
    assert code == 0, err
    assert (folder / "served" / "1" / "saved_model.pb").is_file()


def test_compare_takes_an_own_model_alongside_others(command: Command) -> None:
    both = ["--model", "DCN", "--model", "own_of_tests:Wide", "--seeds", "1", "--epochs", "1", "--samples", "20"]
    code, out, err = command("compare", "--data", "log", *both, "--output", "both", "--json")
    assert code == 0, err
    assert [row["model"] for row in json.loads(out.splitlines()[-1])["models"]][:2] == ["DCN", "own_of_tests:Wide"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["evaluate", "run/model.keras", "--data", "log"], "run/model.keras: the class 'Wide' is not known; give the module"),
        (["evaluate", "run/model.keras", "--data", "log", "--import", "own_of_test"], "--import own_of_test: there is no such"),
        (["train", "--data", "log", "--model", "nowhere:Wide"], "no module named 'nowhere'"),
        (["train", "--data", "log", "--model", "own_of_tests:Deep"], "Deep is not in own_of_tests; give a subclass of"),
        (["train", "--data", "log", "--model", "os.path:join"], "join is not a ClickModel; give a subclass of"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else None,
)
def test_what_is_missing_is_told_in_one_sentence(command: Command, arguments: list[str], said: str) -> None:
    code, _, err = command(*arguments)
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert code == 2 and said in line, err
    assert "Traceback" not in err
