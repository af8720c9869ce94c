"""`keras-dlrm plan`."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from keras_dlrm.cli import group, main
from keras_dlrm.data.synthetic import PlantedClickLog
from keras_dlrm.schema.schema import Categorical, Schema
from keras_dlrm.sharding.plan import ShardingPlan

pytestmark = pytest.mark.neutral


@pytest.fixture
def schema(tmp_path):
    path = tmp_path / "log.yaml"
    Schema(dense=["x"], categorical=[Categorical("a", 5000), Categorical("b-c", 20, hotness=3)]).save(path)
    return path


def run(*args):
    outcome = CliRunner().invoke(group, ["plan", *map(str, args)], catch_exceptions=False)
    assert outcome.exit_code == 0
    return outcome.output


def last(text):
    return json.loads(text.strip().splitlines()[-1])


def test_a_plan_is_printed_written_and_explained_again(schema, tmp_path):
    text = run(
        "--schema", schema, "--world-size", 2, "--constraint", "b-c=row-wise", "--output", tmp_path / "p.json", "--json"
    )
    assert "constraint: row_wise" in text and "examples/s" in text and "bytes sent" in text
    found = last(text)
    plan = ShardingPlan.load(tmp_path / "p.json")
    assert plan.to_dict() == found["plan"] and plan.placements["b-c"].kind == "row_wise"
    again = last(run("--schema", schema, "--plan", tmp_path / "p.json", "--json"))
    assert again["plan"] == found["plan"] and again["estimate"]["seconds"] == found["estimate"]["seconds"]


def test_processed_data_and_a_slower_link_are_taken(tmp_path):
    PlantedClickLog(Schema(categorical=[Categorical("a", 30)]), seed=1).write(tmp_path / "log", rows={"train": 50})
    fast, slow = (
        last(run("--data", tmp_path / "log", "--world-size", 2, "--link", link, "--json"))["estimate"]
        for link in ("100GB/s", "1MB/s")
    )
    assert slow["communication_share"] > fast["communication_share"]


def test_scaling_is_simulated_and_drawn(schema, tmp_path):
    args = ["--simulate", "1..6", "--plot", tmp_path / "s.png", "--machine", "loopback", "--scaling", "strong"]
    found = last(run("--schema", schema, *args, "--json"))
    assert list(found["devices"]) == ["1", "2", "4", "6"]
    assert (tmp_path / "s.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--world-size", "2"], "one of them"),
        (["--schema", "log.yaml"], "--world-size is missing"),
        (["--schema", "log.yaml", "--world-size", "2", "--memory", "much"], "--memory 'much'"),
        (["--schema", "log.yaml", "--world-size", "2", "--memory", "1KiB"], "do not fit"),
        (["--schema", "log.yaml", "--world-size", "2", "--constraint", "a"], "TABLE=SHARDING"),
        (["--schema", "log.yaml", "--world-size", "2", "--constraint", "z=row_wise"], "unknown table 'z'"),
        (["--schema", "log.yaml", "--world-size", "2", "--plot", "x.png"], "--plot is only for --simulate"),
        (["--schema", "log.yaml", "--world-size", "2", "--machine", "abacus"], "'abacus' is unknown"),
        (["--schema", "log.yaml", "--simulate", "8..1"], "range of devices"),
        (["--schema", "log.yaml", "--simulate", "1..2", "--world-size", "2"], "--world-size is not for --simulate"),
        (["--schema", "log.yaml", "--simulate", "1..2", "--even-memory"], "--even-memory is not for --simulate"),
        (["--schema", "log.yaml", "--plan", "p.json", "--even-memory"], "not for --plan"),
        (["--schema", "log.yaml", "--plan", "absent.json"], "absent.json"),
        (["--schema", "log.yaml", "--plan", "log.yaml"], "log.yaml"),
        (["--schema", "log.yaml", "--plan", "p.json", "--memory", "1GB"], "not for --plan"),
        (["--schema", "log.yaml", "--world-size", "2", "--top-mlp", "a,b"], "--top-mlp"),
    ],
)
def test_bad_input_gives_exit_code_2_and_a_sentence(args, words, schema, monkeypatch, capsys):
    monkeypatch.chdir(schema.parent)
    with pytest.raises(SystemExit) as stop:
        main(["plan", *args])
    assert stop.value.code == 2
    assert words in capsys.readouterr().err


def test_planning_starts_no_framework(schema):
    command = [
        sys.executable,
        "-X",
        "importtime",
        "-m",
        "keras_dlrm.cli",
        "plan",
        "--schema",
        schema,
        "--world-size",
        "2",
    ]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    imported = {line.rsplit("|")[-1].strip() for line in done.stderr.splitlines()}
    assert "keras_dlrm.sharding.planner.planner" in imported
    assert not imported & {"keras", "tensorflow", "jax", "torch", "matplotlib"}


def test_caches_of_host_tables_are_tried_on_a_log(tmp_path):
    columns = Schema(dense=["x"], categorical=[Categorical("a", 300), Categorical("b", 20, hotness=3)], label="click")
    PlantedClickLog(columns, seed=0).write(tmp_path / "log", {"train": 400})
    text = run("--sample", tmp_path / "log", "--global-batch", 40, "--embedding-dim", 8, "--json")
    assert "rows moved a step" in text
    caches = last(text)["caches"]
    assert [cache["device_rows"] for cache in caches] == [3, 10, 32, 96, 320]
    assert all(a["hits"] <= b["hits"] for a, b in zip(caches, caches[1:], strict=False))
    with pytest.raises(ValueError, match="--world-size is not for --sample; leave it out"):
        run("--sample", tmp_path / "log", "--world-size", 2)
