"""Planted logs that change over time: drift, cold items, and the best that is known for each part."""

import zlib

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from keras_dlrm.data.synthetic import ColdItems, Drift, ItemContent, PlantedClickLog
from keras_dlrm.schema.columns import PADDING
from keras_dlrm.schema.schema import Categorical, Schema

pytestmark = pytest.mark.neutral

SCHEMA = Schema(
    dense=["x", "y"],
    categorical=[
        Categorical("a", 50),
        Categorical("tags", 30, hotness=4),
        Categorical("last", 30, table="tags"),
        Categorical("b", 3),
    ],
)


def collect(log, rows, batch_size=500, part="train"):
    parts = list(log.batches(batch_size, rows=rows, part=part))
    return {k: np.concatenate([p[0][k] for p in parts]) for k in parts[0][0]}, np.concatenate([p[1] for p in parts])


@pytest.mark.parametrize(
    ("settings", "known"),
    [({"seed": 2}, 827929692), ({"seed": 5, "click_rate": 0.1, "target_auc": 0.7, "zipf": 0.8}, 3023117363)],
)
def test_rows_are_those_of_the_first_release(settings, known):
    log, found = PlantedClickLog(SCHEMA, **settings), 0
    for part in ("train", "test"):
        for batch, label in log.batches(3000, rows=9000, part=part):
            for name in sorted(batch):
                found = zlib.crc32(np.ascontiguousarray(batch[name]).tobytes(), found)
            found = zlib.crc32(label.tobytes(), found)
    assert found == known


def test_effects_turn_away_from_the_first_ones_and_keep_their_strength():
    schema = Schema(categorical=[Categorical("a", 50), Categorical("b", 80), Categorical("tags", 30, hotness=4)])
    log = PlantedClickLog(schema, seed=1, drift=Drift(rows=100_000, effects=1.0))
    batch, _ = collect(PlantedClickLog(schema, seed=1), 20_000)
    logits = [np.log(p / (1 - p)) for p in (log.probabilities(batch, at) for at in (0, 50_000, 100_000))]
    first, half, whole = (logit - logit.mean() for logit in logits)
    # Products of pairs, an eighth of the variance, stay.
    assert np.corrcoef(first, half)[0, 1] == pytest.approx(0.74, abs=0.08)
    assert np.corrcoef(first, whole)[0, 1] == pytest.approx(0.12, abs=0.15)
    assert whole.var() / first.var() == pytest.approx(1.0, abs=0.15)


def test_dense_effects_turn_too():
    log = PlantedClickLog(Schema(dense=["x", "y", "z"]), seed=1, drift=Drift(rows=100, effects=1.0))
    batch, _ = collect(log, 5000)
    first, whole = (np.log(p / (1 - p)) for p in (log.probabilities(batch, at) for at in (0, 100)))
    assert abs(np.corrcoef(first, whole)[0, 1]) < 0.5


@pytest.mark.slow
def test_best_of_a_drifting_part_is_what_its_probabilities_reach():
    log = PlantedClickLog(SCHEMA, seed=1, drift=Drift(rows=20_000, effects=0.8), starts={"test": 15_000})
    batch, label = collect(log, 20_000, part="test")
    truth = log.probabilities(batch, log.positions("test", 0, 20_000))
    best = log.best("test", 20_000)
    assert best["drawn_auc"] == pytest.approx(roc_auc_score(label, truth))
    assert abs(best["auc"] - best["drawn_auc"]) < 0.015
    stale = roc_auc_score(label, PlantedClickLog(SCHEMA, seed=1).probabilities(batch))
    assert stale < best["drawn_auc"] - 0.05
    late = log.best("test", 5000, start=15_000)
    assert late["drawn_auc"] == pytest.approx(roc_auc_score(label[15_000:], truth[15_000:]))


def test_popularity_moves_to_other_ids():
    schema = Schema(categorical=[Categorical("c", 200)])
    log = PlantedClickLog(schema, drift=Drift(rows=40_000, popularity=1.0), target_auc=0.6)
    ids = collect(log, 80_000, 8192)[0]["sparse"][:, 0]
    counts = [np.bincount(part, minlength=200) for part in (ids[:4000], ids[38_000:42_000], ids[76_000:])]
    overlaps = [np.minimum(counts[0], c).sum() / 4000 for c in counts]
    assert overlaps[0] == 1.0 and overlaps[1] < 0.6 and overlaps[2] < 0.6
    halfway = np.bincount(ids[18_000:22_000], minlength=200)
    assert np.minimum(halfway, (counts[0] + counts[1]) / 2).sum() / 4000 > 0.85


def test_new_ids_take_the_places_of_old_ones_and_their_effects():
    schema = Schema(categorical=[Categorical("item", 403), Categorical("last", 403, hotness=2, table="item"), Categorical("b", 3)])
    log = PlantedClickLog(schema, seed=1, drift=Drift(rows=40_000, generations=4), starts={"test": 20_000}, zipf=0.5)
    ids = collect(log, 40_000, 8192)[0]["sparse"]
    kept = [set(np.unique(ids[at : at + 4000, :3])) - {PADDING} for at in (0, 10_000, 18_000, 24_000)]
    assert [len(part & kept[0]) > 80 for part in kept] == [True, False, False, False] and ids[:, :3].max() == 399
    # A place changes hands once in each 10,000 rows.
    place, turn = ids[:, 0] % 100, ids[:, 0] // 100
    assert all((np.diff(turn[place == i]) >= 0).sum() >= (place == i).sum() - 2 for i in range(100))
    # Ids of a place are alike, at any time, and the best score stays.
    batch = {"sparse": np.stack([ids[:50, 0], ids[:50, 1], ids[:50, 2], ids[:50, 3]], axis=1)}
    later = {"sparse": np.where(np.arange(4) < 3, (batch["sparse"] % 100) + 200, batch["sparse"])}
    later["sparse"][batch["sparse"] == PADDING] = PADDING
    np.testing.assert_allclose(log.probabilities(batch), log.probabilities(later, 30_000))
    assert abs(log.best("test", 16_000)["auc"] - log.best("train", 16_000)["auc"]) < 0.02


def test_content_is_that_of_the_place():
    schema = Schema(categorical=[Categorical("item", 50)])
    log = PlantedClickLog(schema, drift=Drift(1000, generations=3), content=ItemContent("item", width=4))
    assert log.content.shape == (50, 4) and (log.content[:16] == log.content[16:32]).all()


def test_cold_items_of_the_test_part_are_not_in_the_others():
    log = PlantedClickLog(SCHEMA, seed=3, cold=ColdItems(0.2, parts=["test"]))
    seen = {part: collect(log, 30_000, part=part)[0]["sparse"] for part in ("train", "valid", "test")}
    for columns, size in ((slice(0, 1), 50), (slice(1, 6), 30)):
        ids = {part: set(np.unique(s[:, columns])) - {PADDING} for part, s in seen.items()}
        assert len(ids["test"]) == size and len(ids["train"]) == pytest.approx(0.8 * size, abs=1)
        assert ids["valid"] == ids["train"]


def test_cold_items_arrive_between_the_given_rows():
    log = PlantedClickLog(Schema(categorical=[Categorical("c", 100)]), zipf=0.0, cold=ColdItems(0.5, (5000, 15_000)))
    ids = collect(log, 20_000)[0]["sparse"][:, 0]
    first = np.array([np.argmax(ids == i) for i in range(100)])
    assert len(set(ids[:5000])) == 50
    assert (first < 5000).sum() == 50 and 10 < ((first >= 5000) & (first < 10_000)).sum() < 40
    assert len(set(ids[15_000:])) == 100


@pytest.mark.slow
def test_changing_rows_do_not_depend_on_the_batch_size_and_are_known_when_written(tmp_path):
    def log():
        drift, cold = Drift(9000, effects=0.5, popularity=0.7), ColdItems(0.2, (100, 9000), ("train",))
        return PlantedClickLog(SCHEMA, seed=4, drift=drift, cold=cold, starts={"test": 10_000})

    one, two = collect(log(), 10_000, 10_000), collect(log(), 10_000, 333)
    np.testing.assert_array_equal(one[0]["sparse"], two[0]["sparse"])
    np.testing.assert_array_equal(one[1], two[1])
    written = log().write(tmp_path / "log", {"train": 10_000, "test": 3000})
    np.testing.assert_array_equal(written.split("train").arrays()[0]["sparse"], one[0]["sparse"])
    assert written.best == pytest.approx(log().best("test", 3000))
    assert written.manifest["best_by_split"]["train"] == pytest.approx(log().best("train", 10_000))
    assert written.manifest["planted"]["drift"] == {
        "rows": 9000, "effects": 0.5, "popularity": 0.7, "generations": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Drift(0, effects=1.0), "rows=0"),
        (lambda: Drift(10, effects=1.5), "effects=1.5"),
        (lambda: Drift(10, popularity=-0.1), "popularity=-0.1"),
        (lambda: Drift(10), "nothing changes"),
        (lambda: Drift(10, generations=0), "generations=0"),
        (lambda: ColdItems(0.0, (0, 1)), "share=0.0"),
        (lambda: ColdItems(1.0, (0, 1)), "share=1.0"),
        (lambda: ColdItems(0.1), "give arrive"),
        (lambda: ColdItems(0.1, (5, 2)), "in order"),
        (lambda: ColdItems(0.1, (5,)), "pair"),
        (lambda: PlantedClickLog(SCHEMA, drift=0.5), "drift=0.5 must be a Drift"),
        (lambda: PlantedClickLog(SCHEMA, cold=0.5), "cold=0.5 must be a ColdItems"),
        (lambda: PlantedClickLog(SCHEMA, starts={"test": -1}), "starts\\['test'\\]=-1"),
        (lambda: PlantedClickLog(SCHEMA, seed=-1), "seed=-1"),
        (lambda: PlantedClickLog(SCHEMA).best("test", 0), "rows=0"),
        (lambda: PlantedClickLog(SCHEMA).batches(4, rows=-1), "rows=-1"),
    ],
)
def test_bad_settings_of_time_are_clear_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_parts_of_cold_items_must_be_a_list():
    with pytest.raises(TypeError, match="list of names"):
        ColdItems(0.1, parts="test")


def test_content_tells_its_share_of_the_effects_of_items_also_of_new_ones():
    columns = Schema(categorical=[Categorical("user", 50), Categorical("item", 400)])
    cold = ColdItems(0.25, parts=["test"], tables=["item"])
    log = PlantedClickLog(columns, seed=1, zipf=0.5, target_auc=0.9, cold=cold, content=ItemContent("item", width=6, share=0.75))
    assert log.content.shape == (400, 6) and log.content.dtype == np.float32
    train, test = (next(log.batches(20_000, n_batches=1, part=part))[0]["sparse"] for part in ("train", "test"))
    new = ~np.isin(test[:, 1], train[:, 1])
    assert abs(new.mean() - 0.25) < 0.05 and np.isin(test[:, 0], train[:, 0]).all()  # users are not cold
    # The logit of each item with one user is its effect, and a quadratic function of the four hidden dimensions tells most of it.
    rows = np.stack([np.zeros(400, np.int32), np.arange(400, dtype=np.int32)], axis=1)
    truth = log.probabilities({"sparse": rows})
    effect, popularity = np.log(truth / (1 - truth)), log._popularity.by_id("item", 400)
    hidden = np.linalg.svd(log.content - log.content.mean(0), full_matrices=False)[0][:, :4]
    terms = np.column_stack([np.ones(400), hidden, *[hidden[:, [i]] * hidden[:, i:] for i in range(4)]])
    root = np.sqrt(popularity)
    told = terms @ np.linalg.lstsq(terms * root[:, None], effect * root, rcond=None)[0]
    mean = popularity @ effect
    explained = 1 - popularity @ (effect - told) ** 2 / (popularity @ (effect - mean) ** 2)
    assert 0.65 < explained < 0.85
    again = PlantedClickLog(columns, seed=1, zipf=0.5, target_auc=0.9, content=ItemContent("item", width=6, share=0.75))
    assert (again.content == log.content).all() and PlantedClickLog(columns).content is None


@pytest.mark.parametrize(("make", "message"), [
    (lambda: ItemContent("item", share=1.5), "share=1.5 must lie between 0 and 1"),
    (lambda: ItemContent("item", width=0), "width=0 must be an integer >= 1"),
    (lambda: PlantedClickLog(SCHEMA, content=ItemContent("film")), "column='film' is no sparse column; use one of"),
    (lambda: PlantedClickLog(SCHEMA, content="item"), r"content='item' must be a ItemContent\(…\) or None"),
])  # fmt: skip
def test_content_that_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
