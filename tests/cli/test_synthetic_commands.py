"""`keras-dlrm synthesize` and `keras-dlrm twin`, as a user meets them."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from keras_dlrm.cli import group, main
from keras_dlrm.data import open as open_log

pytestmark = pytest.mark.neutral


def run(*args: object) -> tuple[int, str]:
    outcome = CliRunner().invoke(group, [str(a) for a in args], catch_exceptions=False)
    return outcome.exit_code, outcome.output


def last_json(text: str) -> dict:
    return json.loads(text.strip().splitlines()[-1])


@pytest.mark.parametrize(
    "path",
    [
        "synthesize planted",
        "synthesize random",
        "synthesize trace",
        "synthesize multi-hot",
        "twin measure",
        "twin make",
    ],
)
def test_each_has_help_with_examples(path: str) -> None:
    code, text = run(*path.split(), "--help")
    assert code == 0 and f"keras-dlrm {path}" in text.split("Example")[1]


@pytest.mark.slow
def test_a_log_becomes_multi_hot_a_trace_and_a_twin(tmp_path) -> None:
    rows = ["--rows", 3000, 0, 500]
    code, text = run(
        *("synthesize", "planted", *rows, "--output", tmp_path / "log", "--drift-rows", 3000, "--drift-effects", 0.3),
        *("--cold-share", 0.1, "--cold-parts", "test", "--json"),
    )
    assert code == 0 and last_json(text)["rows"] == {"train": 3000, "test": 500}
    assert open_log(tmp_path / "log").manifest["planted"]["starts"] == {"valid": 3000, "test": 3000}
    assert last_json(text)["best"]["test"]["auc"] == open_log(tmp_path / "log").best["auc"]

    code, _ = run("synthesize", "multi-hot", tmp_path / "log", "--hotness", "mlperf-v2", "--output", tmp_path / "bags")
    assert code == 0 and open_log(tmp_path / "bags").schema.width == 214
    code, _ = run(
        "synthesize", "trace", "--like", tmp_path / "log", "--rows", 500, 0, 0, "--output", tmp_path / "trace"
    )
    assert code == 0 and open_log(tmp_path / "trace").schema == open_log(tmp_path / "log").schema
    open_log(tmp_path / "log").schema.save(tmp_path / "schema.yaml")
    code, _ = run("synthesize", "random", "--schema", tmp_path / "schema.yaml", *rows, "--output", tmp_path / "random")
    assert code == 0

    code, text = run("twin", "measure", tmp_path / "log", "--output", tmp_path / "s.json", "--json")
    assert code == 0 and last_json(text)["rows"] == 3000
    code, text = run("twin", "make", tmp_path / "s.json", "--output", tmp_path / "twin", "--json")
    found = last_json(text)
    assert code == 0 and found["rows"] == {"train": 3000, "valid": 300, "test": 300}
    assert found["differences"]["click_rate"] < 0.04
    assert (tmp_path / "twin" / "twin.png").stat().st_size > 30_000
    assert open_log(tmp_path / "twin").split("train").schema == open_log(tmp_path / "log").schema


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["synthesize", "random", "--rows", 0, 0, 0], "at least one row"),
        (["synthesize", "planted", "--drift-effects", 0.5], "need --drift-rows"),
        (["synthesize", "planted", "--cold-parts", "test"], "need --cold-share"),
        (["synthesize", "multi-hot", "LOG", "--hotness", "C1=x"], "NAME=SIZE"),
        (["synthesize", "multi-hot", "nowhere", "--hotness", "3"], "no such directory"),
        (["twin", "measure", "LOG", "--threshold", 5000], "fewer than --threshold 5000"),
        (["twin", "make", "LOG"], "is a folder"),
        (["twin", "make", "nowhere.json"], "nowhere.json"),
        (["twin", "make", "STATISTICS", "--rows", 5, 0, 0], "at least 20 rows"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(arguments, message, tmp_path, capsys) -> None:
    import re

    if {"LOG", "STATISTICS"} & set(arguments):
        run("synthesize", "random", "--rows", 100, 0, 0, "--output", tmp_path / "log")
        run("twin", "measure", tmp_path / "log", "--output", tmp_path / "s.json")
    places = {"LOG": tmp_path / "log", "STATISTICS": tmp_path / "s.json"}
    with pytest.raises(SystemExit) as stopped:
        main([*(str(places.get(a, a)) for a in arguments), "--output", str(tmp_path / "out")])
    assert stopped.value.code == 2 and not (tmp_path / "out").exists()
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: ") and re.search(message, last)
