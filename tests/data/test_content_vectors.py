"""Content vectors: elements and codes are the same from every form of a row, and codebooks are a plain residual k-means."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import keras_dlrm as kd
from keras_dlrm.data import tables
from keras_dlrm.data.preprocessor.codebooks import CodebookFit, codebooks, encode, kmeans
from keras_dlrm.data.preprocessor.preprocessor import Preprocessor
from keras_dlrm.schema.vectors import code_ids, level_rows

pytestmark = pytest.mark.neutral

WIDTH, ITEMS, N = 4, 30, 240
VECTORS = np.random.default_rng(0).normal(size=(ITEMS, WIDTH)).astype(np.float32)
ITEM = np.arange(N) * 7 % ITEMS
CODES = kd.SemanticIds("codes", of="v", width=WIDTH, levels=3, codes=4, rows=40)
SCHEMA = kd.Schema(dense=["x", *kd.ContentVector("v", WIDTH)], categorical=[kd.Categorical("item"), CODES], label="click")
ROWS = {"click": [0, 1] * (N // 2), "x": np.arange(N) / N, "item": ITEM, "v": VECTORS[ITEM]}


def residual_codes(state, vectors):
    """Codes by their definition, one vector at a time."""
    out = []
    for vector in vectors.astype(np.float64):
        codes = []
        for centers in codebooks(state, WIDTH):
            codes.append(int(np.argmin([((vector - center) ** 2).sum() for center in centers.astype(np.float64)])))
            vector = vector - centers[codes[-1]]
        out.append(codes)
    return np.array(out)


def test_codes_are_the_nearest_centers_of_what_the_levels_before_leave():
    state = Preprocessor.fit(SCHEMA, ROWS).dense_state["codes"]
    new = np.random.default_rng(1).normal(size=(50, WIDTH))
    assert encode(state, new).tolist() == residual_codes(state, new.astype(np.float32)).tolist()


def test_prefixes_have_rows_of_their_own_and_are_hashed_beyond_them():
    assert level_rows(CODES) == [4, 16, 20]
    codes = np.array([[3, 1, 2], [3, 1, 0], [0, 1, 2]])
    ids = code_ids(CODES, codes)
    assert ids[:, :2].tolist() == [[3, 4 + 13], [3, 4 + 13], [0, 4 + 1]]
    expected = []
    for row in codes.tolist():
        mixed = 0
        for code in row:
            x = (mixed + code) % 2**32
            x = (x ^ (x >> 16)) * 0x7FEB352D % 2**32
            x = (x ^ (x >> 15)) * 0x846CA68B % 2**32
            mixed = x ^ (x >> 16)
        expected.append(20 + mixed % 2**31 % 20)
    assert ids[:, 2].tolist() == expected
    alone = kd.SemanticIds("codes", of="v", width=WIDTH, levels=3, codes=4, prefix=False)
    assert alone.vocabulary_size == 12 and code_ids(alone, codes).tolist() == [[3, 5, 10], [3, 5, 8], [0, 5, 10]]


FORMS = {
    "lists": lambda: VECTORS[ITEM].tolist(),
    "float64": lambda: VECTORS[ITEM].astype(np.float64),
    "Polars lists": lambda: pl.Series(VECTORS[ITEM].tolist()),
    "Polars arrays": lambda: pl.Series(VECTORS[ITEM]),
    "texts": lambda: ["|".join(map(str, row)) for row in VECTORS[ITEM].tolist()],
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_vector_has_the_same_elements_and_codes(form):
    preprocessor = Preprocessor.fit(SCHEMA, ROWS)
    expected, packed = preprocessor.transform(ROWS), preprocessor.transform({**ROWS, "v": FORMS[form]()})
    elements = (VECTORS[ITEM] - VECTORS[ITEM].mean(0, dtype=np.float64)) / VECTORS[ITEM].std(0, dtype=np.float64)
    np.testing.assert_allclose(packed["dense"][:, 1:], elements, atol=1e-5)
    for key in expected:
        assert packed[key].tolist() == expected[key].tolist()
    assert len(np.unique(packed["sparse"][:, 1:], axis=0)) > ITEMS / 2


@pytest.mark.parametrize("ending", ["csv", "parquet", "frame"])
def test_logs_and_predictions_of_files_have_the_codes(tmp_path, ending):
    frame = pl.DataFrame({**ROWS, "v": [None, *VECTORS[ITEM].tolist()[1:]]})
    source = frame if ending == "frame" else tmp_path / f"log.{ending}"
    if ending == "csv":
        frame.with_columns(pl.col("v").cast(pl.List(pl.String)).list.join("|")).write_csv(source)
    elif ending == "parquet":
        frame.write_parquet(source)
    log = tables.preprocess(SCHEMA, source, split={"train": 0.75, "valid": 0.0, "test": 0.25}, output=tmp_path / "log")
    expected = Preprocessor.fit(SCHEMA, frame[:180])
    packed = {name: np.concatenate([batch[name] for batch, _ in log.split("train").batches(100)]) for name in ("dense", "sparse")}
    for name, values in expected.transform(frame[:180]).items():
        assert packed[name].tolist() == values.tolist()
    assert packed["sparse"][0].tolist() == [1, -1, -1, -1] and not packed["dense"][0, 1:].any()  # the row without a vector
    assert log.preprocessor.schema == expected.schema
    monday = tables.preprocess(None, source, preprocessor=log.directory, output=tmp_path / "monday", vocabulary="grown")
    assert next(iter(monday.split("train").batches(180)))[0]["sparse"].tolist() == packed["sparse"].tolist()


def test_codebooks_are_kept_and_tell_models_apart(tmp_path):
    first, second = Preprocessor.fit(SCHEMA, ROWS), Preprocessor.fit(SCHEMA, {**ROWS, "v": -VECTORS[ITEM]})
    assert first.schema.categorical[1].identity != second.schema.categorical[1].identity
    first.save(tmp_path)
    again = Preprocessor.load(tmp_path)
    assert again.schema == first.schema and again.codebooks == first.codebooks
    assert again.transform(ROWS)["sparse"].tolist() == first.transform(ROWS)["sparse"].tolist()
    known = first.codebooks["codes"]
    rows = first.transform({**ROWS, "v": VECTORS[ITEM]})["sparse"][:ITEMS, 1:]
    assert known["vectors"] == ITEMS and not known["sampled"] and 0 < known["error"] < 0.5
    assert known["used"][0] == len(np.unique(rows[:, 0]))
    with pytest.raises(ValueError, match=r"column 'codes' has no codebooks; use Preprocessor.fit"):
        Preprocessor(first.schema, {name: first.dense_state[name] for name in first.schema.dense_names if "[" in name})


@given(st.permutations(range(ITEMS)), st.integers(1, 40))
def test_neither_order_nor_repetition_nor_parts_of_the_rows_matter(order, size):
    whole = CodebookFit(CODES, sample=20)
    whole.update(VECTORS)
    parts, rows = CodebookFit(CODES, sample=20), VECTORS[[*order, *order[:5]]]
    for start in range(0, len(rows), size):
        parts.update(rows[start : start + size])
    assert parts.state() == whole.state() and whole.state()["statistics"]["sampled"]


@given(st.integers(1, 6), st.integers(1, 5), st.integers(0, 99))
def test_k_means_has_as_many_centers_as_there_are_vectors_to_tell_apart(different, codes, seed):
    vectors = np.repeat(np.arange(different, dtype=np.float64)[:, None] * 10, 3, axis=0)
    centers = kmeans(vectors, codes, np.random.default_rng(seed))
    assert len(centers) == min(codes, different)
    if codes >= different:
        assert centers.ravel().tolist() == [10.0 * i for i in range(different)]


def test_missing_and_wrong_vectors():
    preprocessor = Preprocessor.fit(SCHEMA, ROWS)
    rows = {"x": [0.0] * 3, "item": [1] * 3}
    packed = preprocessor.transform({**rows, "v": [None, [], [1.0, float("nan"), 0.0, 0.0]]})
    assert (packed["sparse"][:, 1:] == -1).all() and packed["dense"][2, 1] != 0 and not packed["dense"][:2].any()
    for vector, shown in (([1.0, 2.0], r"\[1.0, 2.0\]"), ([1.0] * 5, r"\[1.0, 1.0, 1.0, 1.0, 1.0\]")):
        with pytest.raises(ValueError, match=rf"row 1, column 'v': value {shown} must be a list of 4 numbers, or empty if missing"):
            preprocessor.transform({**rows, "v": [[0.0] * 4, vector, None]})
    with pytest.raises(ValueError, match=r"row 2, column 'v': value '1\|2\|x\|4' must be a list of 4 numbers"):
        preprocessor.transform({**rows, "v": ["1|2|3|4", "", "1|2|x|4"]})
    with pytest.warns(UserWarning, match="SemanticIds 'codes': the training part has no vector of finite float32 numbers in 'v'"):
        nothing = Preprocessor.fit(SCHEMA, {**ROWS, "v": [None] * N})
    assert nothing.codebooks["codes"]["vectors"] == 0 and nothing.transform(ROWS)["sparse"][0, 1:].tolist() == [0, 4, 20]


def test_schema_files_have_them():
    fitted = Preprocessor.fit(SCHEMA, ROWS).schema
    for schema in (SCHEMA, fitted):
        assert kd.Schema.from_json(schema.to_json()) == schema == kd.Schema.from_yaml(schema.to_yaml())
    short = kd.Schema.from_yaml("dense: [x, {name: v, width: 2, transform: none}]")
    assert short.dense == (kd.Dense("x"), *kd.ContentVector("v", 2, "none"))
    columns = {"x": [0.5], **{f"v[{i}]": [0.1] for i in range(4)}, "item": [3], "codes": [[1, 7, 20]]}
    assert fitted.pack(columns)["sparse"].tolist() == [[3, 1, 7, 20]]


@pytest.mark.parametrize(("make", "message"), [
    (lambda: kd.ContentVector("v", 0), r"ContentVector 'v': width=0 must be an integer >= 1"),
    (lambda: kd.SemanticIds("c", of="v", width=4, levels=0), r"SemanticIds 'c': levels=0 must be an integer >= 1"),
    (lambda: kd.SemanticIds("c", of="v", width=4, prefix="no"), r"SemanticIds 'c': prefix='no' must be True or False"),
    (lambda: kd.SemanticIds("c", of="v", width=4, codes=9, rows=20),
     r"SemanticIds 'c': rows=20 is too few for 3 levels of 9 codes; give at least 27"),
    (lambda: kd.Dense("x", element=3, width=3, of="v"), r"Dense column 'x': element=3 must be an integer in 0 … 2"),
    (lambda: kd.Schema(kd.ContentVector("v", 3), [kd.SemanticIds("c", of="v", width=4)]),
     r"column 'c' is made of 'v', which is a vector of 3 numbers and a vector of 4 numbers; give it one width"),
    (lambda: kd.Schema([*kd.ContentVector("v", 3), "v"]), r"column 'v\[0\]' is made of 'v', which is a column of its own"),
])  # fmt: skip
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
