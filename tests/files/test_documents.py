"""YAML and JSON that people write: plain values in, one short sentence for anything else."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from keras_dlrm.files.documents import from_json, from_yaml
from keras_dlrm.schema.schema import Schema
from keras_dlrm.sharding.plan import ShardingPlan
from keras_dlrm.sharding.planner.machine import Machine
from keras_dlrm.training.experiment import Experiment

pytestmark = pytest.mark.neutral


def bomb(depth: int) -> str:
    inner = f"{bomb(depth - 1)}{f',*n{depth - 1}' * 9}" if depth else ",".join("x" * 10)
    return f"&n{depth} [{inner}]"


YAML = {
    bomb(8): "references stand for more than 10,000 values",
    "&a {b: *a}": "refers to itself",
    "[" * 60: "nested too deeply",
    "- " * 3000: "nested too deeply",
    "epochs: 1\nepochs: 2": "line 2: the key 'epochs' is there twice",
    "1: x": "the key 1 is not a text",
    "yes: x": "the key yes is not a text",
    "[a]: x": "a key is a list or a mapping",
    "a: 2020-01-01": "'2020-01-01' is taken for a timestamp",
    "a: !!python/object/apply:os.system [x]": "taken for a python/object",
    "a: !!set {b}": "taken for a set",
    "a: !!binary aGk=": "taken for a binary",
    "a: .nan": "line 1: .nan is not a finite number",
    "a: -1e999": "not a finite number",
    "a: " + "9" * 5000: "digits",
    "a: 1\n---\nb: 2": "expected a single document",
    "a: [": "not valid YAML",
    "\0": "unacceptable character",
}
JSON = {
    '{"a": 1, "a": 2}': "the key 'a' is there twice",
    "[NaN]": "NaN is not a number that JSON has",
    "[-Infinity]": "Infinity is not a number",
    "[1e999]": "too large a number",
    "[" * 100_000: "nested too deeply",
    "9" * 5000: "digits",
    "{": "not valid JSON",
}


@pytest.mark.parametrize(("text", "words"), YAML.items(), ids=[text[:20] for text in YAML])
def test_yaml_that_is_no_plain_value_is_refused_in_one_short_sentence(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        from_yaml(text)
    for load, named in ((Schema.load, "log.yaml"), (Experiment.load, "run.yaml")):
        (tmp_path / named).write_text(text)
        with pytest.raises(ValueError, match=rf"{named}: .*") as caught:
            load(tmp_path / named)
        assert words in str(caught.value) and len(str(caught.value)) < 600
    with pytest.raises(ValueError, match="--set"):
        Experiment().override([f"model={text}"])


@pytest.mark.parametrize(("text", "words"), JSON.items(), ids=[text[:20] for text in JSON])
def test_json_that_is_no_plain_value_is_refused_in_one_short_sentence(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        from_json(text)
    path = tmp_path / "it.json"
    path.write_text(text)
    for load in (Schema.load, ShardingPlan.load, Machine.of):
        with pytest.raises(ValueError, match=r"it\.json: ") as caught:
            load(path)  # type: ignore[operator]
        assert words in str(caught.value) and len(str(caught.value)) < 600


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(VALUES)
def test_what_is_written_is_read(value: Any) -> None:
    assert from_json(json.dumps(value)) == value
    text = yaml.safe_dump(value, allow_unicode=True)
    assert from_yaml(text) == yaml.safe_load(text)


def test_references_and_short_numbers_are_taken() -> None:
    text = "base: &base {name: adam, learning_rate: 1e-6}\ntop: {<<: *base, epsilon: 1.5E3}\n"
    assert from_yaml(text)["top"] == {"name": "adam", "learning_rate": 1e-6, "epsilon": 1500.0}
    assert from_yaml("") is None
    assert math.isnan(from_json("[NaN]", finite=False)[0])


@pytest.mark.parametrize("value", ["x" * 10**6, list(range(10**6)), {str(i): i for i in range(10**5)}, [[[["x" * 10**5]]]]])
def test_large_values_are_shown_short(value: Any) -> None:
    for content in (
        {"dense": [{"name": "p", "transform": value}]},
        {"dense": [{"name": "p", "missing": value}]},
        {"dense": [value if isinstance(value, list) else {"name": [value]}]},
        {"categorical": [{"name": "a", "vocabulary_size": value}]},
        {"categorical": [{"name": "a", "combiner": value}]},
        {"dense": ["a"], "label": [value]},
        {"dense": ["a"], "weighted": value},
    ):
        with pytest.raises((TypeError, ValueError)) as caught:
            Schema.from_dict(content)
        assert len(str(caught.value)) < 1000
    for field in ("model", "optimizer", "batch_size", "monitor", "lr_factor", "mixed_precision"):
        if field == "optimizer" and isinstance(value, str):
            continue  # a name, which `build` looks up
        with pytest.raises(ValueError, match="experiment: ") as caught:
            Experiment.from_dict({field: value})
        assert len(str(caught.value)) < 1000
