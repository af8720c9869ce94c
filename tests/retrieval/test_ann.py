"""Vectors of an index in FAISS and usearch, with the real libraries where they are installed."""

import numpy as np
import polars as pl
import pytest

from keras_dlrm.retrieval import Index, to_faiss, to_usearch
from keras_dlrm.retrieval.content import Content
from keras_dlrm.retrieval.search import stored
from keras_dlrm.schema.schema import Schema

DRAW = np.random.default_rng(0)
VECTORS, QUERIES = DRAW.normal(size=(500, 16)).astype(np.float32), DRAW.normal(size=(20, 16)).astype(np.float32)


def index_of(ids):
    return Index(Content(pl.Series(ids), stored(VECTORS, "int8"), "int8", {}, Schema(["x"]), [], 1.0, ""))


@pytest.mark.parametrize("ids", [np.arange(500) * 7 + 3, [f"item {i}" for i in range(500)]], ids=["numbers", "texts"])
def test_faiss_finds_the_same_items(ids):
    pytest.importorskip("faiss")
    index = index_of(ids)
    products, keys = to_faiss(index).search(QUERIES, 5)
    rows, scores = index.search(QUERIES, 5)
    np.testing.assert_array_equal(keys, rows * 7 + 3 if isinstance(ids, np.ndarray) else rows)
    np.testing.assert_allclose(products, scores, rtol=1e-4)


@pytest.mark.parametrize("ids", [np.arange(500) * 7 + 3, np.arange(500) - 400], ids=["numbers", "negative numbers"])
def test_usearch_finds_nearly_the_same_items(ids):
    pytest.importorskip("usearch")
    index = index_of(ids)
    matches = to_usearch(index).search(QUERIES, 5)
    rows, _ = index.search(QUERIES, 5)
    expected = rows * 7 + 3 if ids[0] > 0 else rows
    assert np.mean([len(set(ours) & set(theirs)) / 5 for ours, theirs in zip(expected, matches.keys, strict=True)]) >= 0.9


@pytest.mark.parametrize(("name", "module"), [("to_faiss", "faiss"), ("to_usearch", "usearch")])
def test_without_the_library_the_error_says_how_to_install_it(name, module, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=rf"{name} needs {module}, which is not installed: pip install 'keras-dlrm\[ann\]'"):
        {"to_faiss": to_faiss, "to_usearch": to_usearch}[name](index_of(np.arange(500)))
