"""Explanations: exact where the answer is known, defined where values are missing, and possible for any signature of rows."""

import numpy as np
import pytest
from helpers.saved_models import TABLE

pytestmark = pytest.mark.neutral

ROW = {"dense": [1.5, 2.0], "sparse": [7, 1, 4]}


def explain(server, body, target="clicks/versions/1"):
    status, answer = server.ask(f"/v1/models/{target}:explain", body)
    assert status == 200, answer
    return answer


def changes(answer):
    singles = {feature["name"]: feature["change"] for feature in answer["features"]}
    return singles, {frozenset(pair["features"]): pair["change"] for pair in answer["pairs"]}


def test_changes_are_the_differences_of_the_known_logit(server):
    answer = explain(server, {"instances": [ROW]})
    singles, pairs = changes(answer)
    # price 1.5 alongside its missing value 0.5, alone and in its product with city 7; an id alongside none at all.
    expected = {"price": 0.5 + 2, "age": -0.5, "city": TABLE[7] + 3, "tags": TABLE[1] + TABLE[4]}
    assert singles == pytest.approx(expected, abs=1e-5)
    assert pairs.pop(frozenset({"price", "city"})) == pytest.approx(2, abs=1e-5)
    assert len(pairs) == 5 and max(map(abs, pairs.values())) < answer["resolution"] < 1e-3
    assert answer["logit"] == pytest.approx(np.log(answer["value"] / (1 - answer["value"])), abs=1e-6)
    ordered = [abs(feature["change"]) for feature in answer["features"]]
    assert ordered == sorted(ordered, reverse=True)
    assert answer["pairs"][0]["features"] == ["price", "city"]


def test_a_feature_that_is_missing_already_changes_nothing(server):
    singles, pairs = changes(explain(server, {"instances": [{"dense": [0.5, 0.0], "sparse": [-1, -1, -1]}]}))
    assert set(singles.values()) | set(pairs.values()) == {0.0}


def test_raw_features_are_taken_away_as_nan_and_as_the_empty_text(server):
    row = {"city": "Oslo", "tags": ["a", "b"], "price": 2.0}
    singles, pairs = changes(explain(server, {"signature_name": "raw", "instances": [row]}))
    assert singles == pytest.approx({"city": 3.0, "tags": 2.0, "price": 2.0}, abs=1e-4)
    assert pairs[frozenset({"city", "price"})] == pytest.approx(2.0, abs=1e-4)


def test_the_number_of_pairs_can_be_chosen(server):
    assert explain(server, {"instances": [ROW], "top": 0})["pairs"] == []
    assert len(explain(server, {"instances": [ROW], "top": 2})["pairs"]) == 2


def test_a_signature_without_a_schema_is_explained_by_column(tmp_path, serve, publish):
    (tmp_path / "clicks").mkdir()
    path = publish(tmp_path / "clicks", 1)
    (path / "assets.extra" / "schema.json").unlink()
    with serve(tmp_path / "clicks") as server:
        singles, pairs = changes(explain(server, {"instances": [ROW]}, "clicks"))
    assert set(singles) == {"dense[0]", "dense[1]", "sparse[0]", "sparse[1]", "sparse[2]"}
    # NaN makes no number of this model, so 0 stands for a missing value.
    assert singles["dense[0]"] == pytest.approx(0.75 + 3, abs=1e-4)
    assert pairs[frozenset({"dense[0]", "sparse[0]"})] == pytest.approx(3, abs=1e-4)


def test_a_schema_that_cannot_be_read_is_as_good_as_none(tmp_path, serve, publish):
    (tmp_path / "clicks").mkdir()
    path = publish(tmp_path / "clicks", 1)
    (path / "assets.extra" / "schema.json").write_text("{")
    with serve(tmp_path / "clicks") as server:
        assert "dense[0]" in changes(explain(server, {"instances": [ROW]}, "clicks"))[0]
        assert "cannot be read" in server.log()
