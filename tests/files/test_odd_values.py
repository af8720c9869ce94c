"""Odd values at any place of the files that the command line reads: an error that names the file, or a value that is taken."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import keras_dlrm as kd
from keras_dlrm.sharding.plan import ShardingPlan
from keras_dlrm.sharding.planner.machine import Machine
from keras_dlrm.training.experiment import Experiment

pytestmark = pytest.mark.neutral
SCHEMA = kd.Schema(dense=["x"], categorical=[kd.Categorical("a", 100, hotness=2), kd.Categorical("b", 50)])
SHAPES = {"a": (100, 8), "b": (50, 8)}
MACHINE = {"memory_bytes": 1e9, "flops": 1e12, "memory_bandwidth": 1e10, "link_bandwidth": 1e9, "devices_per_node": 2}
PLAN = kd.sharding.ShardingPlan(
    2, SHAPES, {"a": kd.sharding.Placement("row_wise", (0, 1)), "b": kd.sharding.Placement("table_wise", (1,))}
).to_dict()
FILES: dict[str, tuple[dict[str, Any], Any]] = {
    "plan.json": (PLAN, ShardingPlan.load),
    "part.json": ({"tables": {"a": "row_wise"}, "world_size": 2}, lambda path: ShardingPlan.load(path, SHAPES, 2)),
    "mine.json": (PLAN, lambda path: ShardingPlan.load(path, SHAPES)),
    "machine.json": (MACHINE, Machine.of),
    "schema.json": (SCHEMA.to_dict(), kd.Schema.load),
    "run.yaml": (Experiment(optimizer={"name": "adam", "learning_rate": 0.1}).to_dict(), Experiment.load),
}
ODD = ["1e999", "-1e999", "NaN", "true", "-1", "0", "1.5", "1" + "0" * 400, "123456789012345678901234567890", '"x"', '""', "null",
       "[]", "{}", "[" * 60 + "]" * 60, '[{"a": 1}]']  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        yield from places(each, (*path, key))


@pytest.mark.parametrize("name", FILES)
def test_an_odd_value_anywhere_is_taken_or_named_with_its_file(name: str, tmp_path: Path) -> None:
    content, load = FILES[name]
    path = tmp_path / name
    path.write_text(json.dumps(content))
    load(path)
    refused = 0
    for place in places(content):
        for odd in ODD:
            changed = copy.deepcopy(content)
            target: Any = changed
            for key in place[:-1]:
                target = target[key]
            target[place[-1]] = "ODD"
            path.write_text(json.dumps(changed).replace('"ODD"', odd))
            try:
                load(path)
            except (ValueError, TypeError) as error:
                refused += 1
                assert name in str(error), (place, odd[:20], error)
                assert len(str(error)) < 1000, (place, odd[:20])
            else:
                assert odd not in ("1e999", "-1e999") and (odd != "NaN" or name == "run.yaml"), place  # there it is a name
    assert refused > len(ODD)


@pytest.mark.parametrize("tables", ["{}", "[]", "null", '"a"'])
def test_a_plan_without_tables_is_refused(tables: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(f'{{"world_size": 2, "tables": {tables}}}')
    for shapes in (None, SHAPES):
        with pytest.raises(ValueError, match=r"plan\.json: ShardingPlan: .*it needs|name at least one"):
            ShardingPlan.load(path, shapes)


