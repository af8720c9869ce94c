"""Indexes of items: catalogs in every form, exact search against NumPy, filters, groups, damage."""

import os

import keras
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import keras_dlrm as kd
from keras_dlrm.data.packed.writer import PackedWriter
from keras_dlrm.retrieval.content import Content
from keras_dlrm.retrieval.index import DTYPES
from keras_dlrm.retrieval.search import stored

Index = kd.retrieval.Index
SCHEMA = kd.Schema(
    dense=["age", kd.Dense("price")],
    categorical=[
        kd.Categorical("user", 10), kd.Categorical("seen", 50, hotness=3, table="item"), kd.Categorical("item", 50),
        kd.Categorical("tags", 8, hotness=2),
    ],
)  # fmt: skip
# The same on every backend: the weights are drawn by NumPy.
FINGERPRINT = "37d03abe9c1b783e8144b1c636409d14a3edb0df3822da23502d7405aab21084"
ITEMS = {"item": [3, 5, 7, 3], "price": [1.0, 2.0, 3.0, 4.0], "tags": [[1], [], [2, 3], [4]]}


def tower(seed=0, **options):
    sides = {"user": ["age", "user", "seen"], "item": ["price", "item", "tags"]}
    return kd.models.TwoTower(SCHEMA, **{"embedding_dim": 4, "output_dim": 8, "seed": seed, **sides, **options})


def users(n=4):
    draw = np.random.default_rng(3)
    sparse = np.full((n, SCHEMA.width), -1, np.int32)
    sparse[:, 0], sparse[:, 1] = draw.integers(0, 10, n), draw.integers(0, 50, n)
    return {"dense": np.stack([draw.normal(size=n), np.zeros(n)], axis=1).astype(np.float32), "sparse": sparse}


def catalog(n):
    """Packed arrays of n items, in another order than their ids'."""
    draw = np.random.default_rng(5)
    sparse = np.full((n, SCHEMA.width), -1, np.int32)
    sparse[:, 4], sparse[:, 5] = draw.permutation(50)[:n], draw.integers(0, 8, n)
    return {"dense": draw.normal(size=(n, 2)).astype(np.float32), "sparse": sparse}


def of_vectors(vectors, dtype="float32", ids=None, **options):
    vectors = np.asarray(vectors, np.float32)
    ids = pl.Series(np.arange(len(vectors)) if ids is None else ids)
    return Index(Content(ids, stored(vectors, dtype), dtype, {}, SCHEMA, [], 1.0, "", **options))


def best_by_numpy(scores, k):
    """Rows of the k best: a stable order, so that the first of equal ones comes first."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


# -- search ------------------------------------------------------------------------------------------------------------------------

def vectors(*numbers):
    """Vectors of two small integers, as many as one of some numbers: JAX compiles each size anew."""
    vector = st.lists(st.integers(-2, 2), min_size=2, max_size=2)
    return st.sampled_from(numbers).flatmap(lambda n: st.lists(vector, min_size=n, max_size=n))


@given(vectors(1, 7, 40), vectors(1, 5), st.sampled_from([1, 3, 50]), st.sampled_from(DTYPES), st.data())
def test_the_best_are_those_of_numpy_with_ties_in_the_order_of_the_index(items, queries, k, dtype, data):
    hidden = [data.draw(st.lists(st.integers(0, len(items) + 3), max_size=4)) for _ in queries]
    allowed = data.draw(st.none() | st.lists(st.integers(0, len(items) + 3), max_size=20))
    rows, scores = of_vectors(items, dtype).search(np.array(queries, np.float32), k, exclude=hidden, allowed=allowed)
    expected = (np.array(queries) @ np.array(items).T).astype(np.float32)
    for row, ids in zip(expected, hidden, strict=True):
        row[[i for i in range(len(items)) if i in ids or (allowed is not None and i not in allowed)]] = -np.inf
    order = best_by_numpy(expected, k)
    wanted = np.take_along_axis(expected, order, 1)
    order = np.where(wanted == -np.inf, -1, order)
    missing = k - order.shape[1]
    if missing > 0:
        order, wanted = (np.pad(a, [(0, 0), (0, missing)], constant_values=v) for a, v in ((order, -1), (wanted, -np.inf)))
    np.testing.assert_allclose(scores, wanted, atol=0 if dtype != "int8" else 0.05)
    if dtype != "int8":  # whose numbers are rounded, and then no longer equal
        np.testing.assert_array_equal(rows, order)


def test_parts_and_blocks_of_queries_change_nothing(monkeypatch):
    draw = np.random.default_rng(0)
    items, queries = draw.integers(-3, 4, (203, 4)), draw.integers(-3, 4, (13, 4))
    hidden = draw.integers(0, 203, (13, 30))
    whole = of_vectors(items).search(queries, 20, exclude=hidden)
    monkeypatch.setattr("keras_dlrm.retrieval.index._ROWS", 50)
    monkeypatch.setattr("keras_dlrm.retrieval.index._QUERIES", 5)
    for ours, theirs in zip(of_vectors(items).search(queries, 20, exclude=hidden), whole, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("dtype", DTYPES)
def test_stored_vectors_are_as_near_as_their_dtype_says(dtype):
    vectors = np.random.default_rng(0).normal(size=(2000, 16)).astype(np.float32)
    vectors[0] = 0
    index, allowed = of_vectors(vectors, dtype), {"float32": 0, "bfloat16": 2**-8, "int8": 2**-14}[dtype]
    assert np.abs(index.vectors() - vectors).max() <= allowed * np.abs(vectors).max()
    rows, scores = index.search(vectors[:50], 10)
    exact = vectors[:50] @ vectors.T
    np.testing.assert_allclose(scores, np.take_along_axis(exact, rows, 1), atol=0.2 if dtype == "bfloat16" else 2e-3)
    recall = np.mean([len(set(ours) & set(best)) / 10 for ours, best in zip(rows, best_by_numpy(exact, 10), strict=True)])
    assert recall >= {"float32": 1, "bfloat16": 0.97, "int8": 0.99}[dtype]


@pytest.mark.soak
def test_a_million_items_are_searched_as_numpy_does():
    draw = np.random.default_rng(0)
    items, queries = draw.integers(-2, 3, (1_000_000, 64)).astype(np.float32), draw.integers(-2, 3, (8, 64)).astype(np.float32)
    rows, _ = of_vectors(items).search(queries, 100)
    np.testing.assert_array_equal(rows, best_by_numpy(queries @ items.T, 100))  # of whole numbers, so that many are equal
    items, queries = draw.normal(size=items.shape).astype(np.float32), draw.normal(size=queries.shape).astype(np.float32)
    rows, _ = of_vectors(items, "int8").search(queries, 100)
    exact = best_by_numpy(queries @ items.T, 100)
    assert np.mean([len(set(ours) & set(best)) / 100 for ours, best in zip(rows, exact, strict=True)]) >= 0.99


def test_groups_of_near_items_are_balanced_and_find_what_is_near():
    draw = np.random.default_rng(0)
    centers = draw.normal(size=(20, 8))
    vectors = (centers[draw.integers(0, 20, 3000)] + 0.1 * draw.normal(size=(3000, 8))).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    lists = kd.retrieval.lists.make_lists(lambda rows: vectors[rows], 3000, 40)
    members = lists.members[lists.members >= 0]
    assert sorted(members) == list(range(3000)) and lists.members.shape[1] <= 1.3 * 3000 / 40 + 1
    index = of_vectors(vectors, "int8", lists=lists, probes=8)
    exact = best_by_numpy(vectors[:100] @ vectors.T, 10)
    found_by = {}
    for probes in (None, 2, 40):
        rows, _ = index.search(vectors[:100], 10, probes=probes)
        found_by[probes] = np.mean([len(set(ours) & set(best)) / 10 for ours, best in zip(rows, exact, strict=True)])
    assert found_by[2] < found_by[None] and found_by[None] >= 0.95 and found_by[40] >= 0.99
    hidden = np.arange(100)[:, None]
    rows, _ = index.search(vectors[:100], 3, exclude=hidden)
    assert not (rows == hidden).any() and (rows >= 0).all()


def test_a_query_that_is_not_finite_gets_no_item():
    rows, scores = of_vectors([[1, 0], [0, 1]]).search(np.array([[np.nan, 1], [1, 0], [np.inf, 0]]), 1)
    assert rows[:, 0].tolist() == [-1, 0, -1] and scores[:, 0].tolist() == [-np.inf, 1, -np.inf]


# -- catalogs ----------------------------------------------------------------------------------------------------------------------


def test_scores_are_the_models_and_the_fingerprint_is_the_same_on_every_backend():
    model, batch = tower(temperature=0.1), users(3)
    items = catalog(20)
    index = Index.build(model, items, batch_size=7)
    assert Index.build(tower(), items).content.fingerprint == FINGERPRINT
    ids, scores = index.query(batch, 5)
    assert ids.dtype == np.int64
    pairs = {key: np.repeat(array, 20, axis=0) for key, array in batch.items()}
    for key, places in (("dense", [1]), ("sparse", [4, 5, 6])):
        pairs[key][:, places] = np.tile(items[key][:, places], (3, 1))
    logits = keras.ops.convert_to_numpy(model(pairs, return_logits=True)).reshape(3, 20)
    order = best_by_numpy(logits, 5)
    np.testing.assert_array_equal(ids, items["sparse"][order, 4])
    np.testing.assert_allclose(scores, np.take_along_axis(logits, order, 1), rtol=1e-4)


@pytest.fixture(scope="module")
def texts():
    """A model of texts, its preprocessor, and a frame of its log."""
    rows = pl.DataFrame(
        {"user": ["u", "v", "u", "w"], "item": ["a", "b", "c", "a"], "price": [1.0, 2.0, 3.0, 4.0], "label": [0, 1, 0, 1]}
    )
    schema = kd.Schema(dense=[kd.Dense("price", transform="standardize")], categorical=["user", "item"])
    preprocessor = kd.data.Preprocessor.fit(schema, rows)
    return kd.models.TwoTower(preprocessor.schema, ["user"], ["price", "item"], seed=0), preprocessor, rows


def test_a_catalog_has_the_same_index_in_every_form(texts, tmp_path):
    model, preprocessor, rows = texts
    items = rows.select("item", "price")
    items.write_parquet(tmp_path / "items.parquet")
    items.write_csv(tmp_path / "items.csv")
    with PackedWriter(tmp_path / "log", preprocessor.schema, preprocessor) as writer:
        writer.append("train", preprocessor.transform(rows[:2]), [0, 1])
        writer.append("test", preprocessor.transform(rows[2:]), [0, 1])
    log = kd.data.open(tmp_path / "log")
    packed = preprocessor.transform(rows)
    forms = [
        items, items.to_dict(as_series=False), tmp_path / "items.parquet", str(tmp_path / "*.csv"),
        [items[:1], items[1:]], log, tmp_path / "log", packed,
    ]  # fmt: skip
    indexes = [Index.build(model, form, preprocessor=None if form is log else preprocessor) for form in forms]
    indexes.append(Index.build(model, packed, ids=["a", "b", "c", "a"]))
    assert all(index.content.ids.to_list() == ["b", "c", "a"] for index in indexes)  # the last row of each counts
    for index in indexes[1:]:
        np.testing.assert_allclose(index.vectors(), indexes[0].vectors(), atol=1e-6)
    assert Index.build(model, log.split("test")).content.ids.to_list() == [3, 1]  # nobody says what they are called
    ids, _ = indexes[0].query({"dense": np.zeros((1, 1), np.float32), "sparse": np.array([[1, -1]])}, 5)
    assert ids[0].tolist()[3:] == ["", ""] and set(ids[0, :3]) == {"a", "b", "c"}


def test_new_items_keep_their_ids_and_rows_without_one_are_left_out(texts):
    model, preprocessor, rows = texts
    items = pl.DataFrame({"item": ["b", None, "new"], "price": [1.0, 2.0, 3.0]})
    index = Index.build(model, items, preprocessor=preprocessor)
    assert index.content.ids.to_list() == ["b", "new"] and index.skipped == 1
    index = Index.build(model, preprocessor.transform(items.with_columns(user=pl.lit("u"))), preprocessor=preprocessor)
    assert index.content.ids.to_list() == ["b"] and index.skipped == 2


def test_a_long_log_is_read_in_bounded_parts(monkeypatch):
    monkeypatch.setattr("keras_dlrm.retrieval.catalog._HELD", 8)
    items = catalog(50)
    rows = np.random.default_rng(0).integers(0, 50, 200)
    log = {key: array[rows] for key, array in items.items()}
    parts = [{key: array[i : i + 9] for key, array in log.items()} for i in range(0, 200, 9)]
    from keras_dlrm.retrieval.catalog import Items, last_of_each

    own, _ = last_of_each(Items(pl.Series(part["sparse"][:, 4]), part) for part in parts)
    last = sorted({int(item): i for i, item in enumerate(log["sparse"][:, 4])}.values())
    assert own.ids.to_list() == log["sparse"][last, 4].tolist()
    np.testing.assert_array_equal(own.columns["dense"], log["dense"][last])


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda m: Index.build(m, {"item": [], "price": [], "tags": []}), ValueError, "has no item"),
        (lambda m: Index.build(m, {"item": [-1], "price": [1.0], "tags": [[]]}), ValueError, "1 rows, none of them with an id"),
        (lambda m: Index.build(m, {"item": [50], "price": [1.0], "tags": [[]]}), ValueError, "column item: value '50'"),
        (lambda m: Index.build(m, {"price": [1.0]}), KeyError, "'item' is missing"),
        (lambda m: Index.build(m, "nowhere.parquet"), FileNotFoundError, "nowhere.parquet: no such file"),
        (lambda m: Index.build(m, catalog(3), ids=[1, 2]), ValueError, "ids=… has 2 entries for 3 rows"),
        (lambda m: Index.build(m, catalog(3), ids=[1.5, 2.0, 3.0]), TypeError, "must be whole numbers or texts"),
        (lambda m: Index.build(m, ITEMS, ids=[1, 2, 3, 4]), ValueError, "names the rows of packed arrays"),
        (lambda m: Index.build(m, catalog(3), dtype="int4"), ValueError, "dtype='int4' is unknown"),
        (lambda m: Index.build(m, catalog(3), lists=4), ValueError, "lists=4 must be an integer in 1 … 3"),
        (lambda m: Index.build(kd.models.FM(SCHEMA, 4), catalog(3)), TypeError, "expected a kd.models.TwoTower, not FM"),
        (lambda m: Index.build(m, catalog(3)).query(users(2), 0), ValueError, "k=0 must be an integer >= 1"),
        (lambda m: Index.build(m, catalog(3)).query(users(2), 1, exclude=[[1]]), ValueError, "exclude has 1 rows for 2 users"),
        (lambda m: Index.build(m, catalog(3)).query(users(1), 1, exclude=[["a"]]), TypeError, "are whole numbers"),
        (lambda m: Index.build(m, catalog(3)).query(users(1), 1, allowed=["a"]), TypeError, "allowed has 'a'"),
        (lambda m: Index.build(m, catalog(3)).query(users(1), 1, probes=1), ValueError, "for an index with lists"),
        (lambda m: Index.build(m, catalog(3)).query(users(1), 1, exclude=5), TypeError, "exclude=5 must have a list of ids"),
        (lambda m: Index.build(m, catalog(3)).query(users(2), 1, exclude=[9, 3]), TypeError, r"exclude\[0\] is 9"),
        (lambda m: Index.build(m, catalog(3)).query(users(1), 1, exclude={7: [1]}), TypeError, "must have a list of ids"),
        (lambda m: Index.build(m, catalog(3)).query(users(1), 1, allowed=3), TypeError, "allowed=3 must be a list"),
        (lambda m: Index.build(m, catalog(3)).query({}, 1), TypeError, "packed batch of the model's schema, not an empty dict"),
        (lambda m: Index.build(m, catalog(3)).query(np.zeros((1, 5)), 1), TypeError, "not ndarray"),
        (lambda m: Index.build(m, catalog(3)).search(np.zeros((1, 3)), 1), ValueError, r"shape \(1, 3\); give vectors of the"),
        (lambda m: Index.build(m, catalog(3), lists=2, seed=-1), ValueError, "seed=-1 must be an integer >= 0"),
    ],
)
def test_refusals_say_what_is_allowed(make, error, message):
    with pytest.raises(error, match=message):
        make(tower())


def test_an_item_whose_vector_is_not_finite_is_named():
    items = catalog(3)
    items["dense"][1, 1] = np.nan
    with pytest.raises(ValueError, match=f"the vector of item {items['sparse'][1, 4]} is not finite"):
        Index.build(tower(), items)


# -- on disk -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("ids", [None, [f"item {i}\n" for i in range(20)]], ids=["numbers", "texts"])
def test_an_index_is_read_as_it_was_written(dtype, ids, tmp_path):
    model = tower()
    index = Index.build(model, catalog(20), dtype=dtype, ids=ids, lists=4, probes=3)
    index.save(tmp_path / "index")
    again = Index.load(tmp_path / "index", model)
    assert repr(again) == repr(index) and again.content.ids.equals(index.content.ids)
    for ours, theirs in zip(again.query(users(), 5), index.query(users(), 5), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(again.content.columns["sparse"], index.content.columns["sparse"])
    other = Index.build(model, catalog(7))
    other.save(tmp_path / "index")
    assert len(Index.load(tmp_path / "index")) == 7
    assert len(list((tmp_path / "index").iterdir())) == 5


def test_an_index_of_another_model_is_refused(tmp_path):
    model = tower()
    Index.build(model, catalog(5)).save(tmp_path / "index")
    model.compile("sgd", loss="binary_crossentropy")
    model.train_on_batch(users(4), np.ones((4, 1)))
    for other in (model, tower(seed=1), tower(temperature=0.1)):
        with pytest.raises(ValueError, match=r"made by another model, or before this one was trained further \(fingerprint"):
            Index.load(tmp_path / "index", other)
    with pytest.raises(ValueError, match=r"use Index.load\(path, model\)"):
        Index.load(tmp_path / "index").query(users(), 1)


def test_an_index_in_memory_is_refused_once_its_model_has_trained_further():
    model = tower()
    index = Index.build(model, catalog(5))
    expected = index.query(users(), 3)
    model.compile("sgd", loss="binary_crossentropy")  # changes no weight
    for ours, theirs in zip(index.query(users(), 3), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    model.train_on_batch(users(4), np.ones((4, 1)))
    ranker = kd.models.DLRM(SCHEMA, 4, bottom_mlp=[4], top_mlp=[4, 1])
    for ask in (lambda: index.query(users(), 3), lambda: kd.retrieval.recommend(index, ranker, users(), 3, candidates=4)):
        with pytest.raises(ValueError, match="before this one was trained further"):
            ask()


def test_sets_are_lists_of_ids():
    index = Index.build(tower(), catalog(9))
    some = set(index.content.ids.to_list()[:4])
    assert set(index.query(users(1), 4, allowed=some)[0].ravel().tolist()) == some
    assert not some & set(index.query(users(1), 5, exclude=[some])[0].ravel().tolist())


def test_damage_and_other_folders_are_refused(tmp_path):
    index = Index.build(tower(), catalog(5))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"has 'notes.txt'; give a new or empty folder"):
        index.save(tmp_path / "other")
    with pytest.raises(OSError, match="notes.txt/below: not made .*; give a folder in one that can be written to"):
        index.save(tmp_path / "other" / "notes.txt" / "below")
    with pytest.raises(FileNotFoundError, match="does not exist; give the folder of an index"):
        Index.load(tmp_path / "other")
    index.save(tmp_path / "index")
    codes = next((tmp_path / "index").glob("codes.*"))
    data = bytearray(codes.read_bytes())
    data[-1] ^= 1
    codes.write_bytes(data)
    with pytest.raises(ValueError, match=r"codes\.[0-9a-f]+\.npy is damaged"):
        Index.load(tmp_path / "index")
    codes.unlink()
    with pytest.raises(ValueError, match="is missing"):
        Index.load(tmp_path / "index")


@pytest.mark.parametrize("stop", range(9))
def test_a_save_that_is_stopped_leaves_the_old_index_or_the_new_one(stop, tmp_path, monkeypatch):
    Index.build(tower(), catalog(5)).save(tmp_path / "index")
    replace, left = os.replace, stop

    class Stopped(BaseException):
        pass

    def stopping(*places):
        nonlocal left
        left -= 1
        if left < 0:
            raise Stopped
        replace(*places)

    monkeypatch.setattr(os, "replace", stopping)
    new = Index.build(tower(), catalog(9))
    try:
        new.save(tmp_path / "index")
        assert stop
    except Stopped:
        pass
    monkeypatch.setattr(os, "replace", replace)
    assert len(Index.load(tmp_path / "index")) == (9 if left >= 0 else 5)
    new.save(tmp_path / "index")
    assert len(Index.load(tmp_path / "index")) == 9
