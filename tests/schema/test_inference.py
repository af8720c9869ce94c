"""Schemas inferred from tables as people have them: what an engineer would write by hand, or a sentence about what is missing."""

import datetime as dt

import numpy as np
import pandas as pd
import polars as pl
import pytest
import yaml

import keras_dlrm as kd

pytestmark = pytest.mark.neutral
N = 2000
rng = np.random.default_rng(0)
CLICKS = rng.integers(0, 2, N)


def infer(columns, **options):
    return kd.Schema.infer({"click": CLICKS, **columns}, label="click", **options)


def cities(n=N):
    return rng.choice(["Oslo", "Rome", "Lima", "Bonn"], n)


def kinds(schema):
    """Outcome for each column: a name of a transform, "sparse", or nothing."""
    found = {**{c.name: c.transform for c in schema.dense}, **{c.name: "sparse" for c in schema.categorical}}
    return {c.name: found[c.name] for c in (*schema.dense, *schema.categorical) if c.of is None}


def test_an_ordinary_log():
    schema = infer(
        {
            "user_id": rng.zipf(1.5, N) % 500,
            "price": rng.exponential(9.0, N) ** 3,
            "age": rng.integers(18, 80, N),
            "temperature": rng.normal(10, 8, N),
            "city": cities(),
            "premium": rng.random(N) < 0.3,
            "tags": [list(rng.integers(0, 40, rng.integers(0, 6))) for _ in range(N)],
        }
    )
    assert kinds(schema) == {
        "price": "distinct_quantile", "age": "distinct_quantile", "temperature": "distinct_quantile",
        "user_id": "sparse", "city": "sparse", "premium": "sparse", "tags": "sparse",
    }  # fmt: skip
    tags = next(c for c in schema.categorical if c.name == "tags")
    assert (tags.hotness, tags.combiner, tags.truncate) == (5, "mean", "last")
    assert set(schema.inferred.reasons) == set(schema.column_names)


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("note", [f"the parcel number {i} came on a rainy day and was wet" for i in range(N)], "texts of"),
        ("row_id", np.arange(N) + 10_000_000, "names rows"),
        ("request", [f"{i:08x}-{i * 7:04x}" for i in range(N)], "names rows"),
        ("version", ["1.2"] * N, "is always"),
        ("empty", [None] * N, "has no value"),
        ("blank", [""] * N, "has no value"),
        ("when", [dt.datetime(2024, 1, 1) + dt.timedelta(minutes=i) for i in range(N)], "a time, from 2024-01-01"),
        ("day", [f"2024-01-{1 + i // 100:02d}" for i in range(N)], "a time, from 2024-01-01"),
        ("german", [f"{1 + i // 100:02d}.01.2024" for i in range(N)], "a time"),
        ("timestamp", 1_700_000_000 + np.arange(N) * 60, "a time, from 2023-11-14"),
        ("event_time", (1_700_000_000 + np.arange(N) * 60) * 1000, "a time, from 2023-11-14"),
        ("ds", [20240101 + i // 100 for i in range(N)], "a time, from 2024-01-01"),
        ("hour", [24010100 + i // 100 for i in range(N)], "a time, from 2024-01-01"),
        ("constant_day", [dt.date(2024, 1, 1)] * N, "a time, from 2024-01-01"),
        ("payload", [{"a": 1, "b": "x"}] * N, "records of a, b"),
        ("vector", [[0.5, 1.5]] * N, "such as an embedding"),
        ("nested", [[[1], [2]]] * N, "flatten"),
        ("lag", [dt.timedelta(minutes=int(i)) for i in range(N)], "make it a number or a text"),
        ("broken", [float("nan"), float("inf"), float("-inf"), float("inf")] * (N // 4), "has no finite value"),
        ("clock", [float("inf"), *range(1_700_000_000, 1_700_000_000 + 60 * (N - 1), 60)], "a time, but infinite in 1 rows"),
        ("mostly", ["1.5"] * (N - 3) + ["2.5", "n/a", "3"], "numbers and 'n/a'"),
        ("converted", CLICKS * 3.5, "gives the label away, with AUC 1.000"),
    ],
)
def test_what_is_left_out_and_why(name, values, words):
    schema = infer({name: values, "city": cities()})
    assert kinds(schema) == {"city": "sparse"}
    assert words in schema.inferred.left_out[name]
    assert f"name: {name}" in schema.to_yaml()


def made(schema):
    """Columns that are made of times: names by source."""
    columns = [c for c in (*schema.dense, *schema.categorical) if c.of is not None]
    return {source: [c.name for c in columns if c.of == source] for source in dict.fromkeys(c.of for c in columns)}


def test_columns_are_made_of_times():
    at = [dt.datetime(2024, 1, 1) + dt.timedelta(hours=i) for i in range(N)]
    joined = [str(dt.date(2020, 1, 1) + dt.timedelta(days=i * 7 % 900)) for i in range(N)]
    clicked = [moment if click else None for moment, click in zip(at, CLICKS, strict=True)]
    table = {
        "at": at, "joined": joined, "updated": [1_600_000_000 + 3600 * (i * 7 % 900) for i in range(N)], "clicked": clicked,
        "german": [f"{moment:%d.%m.%Y}" for moment in at], "utc": [f"{moment} UTC" for moment in at], "at_hour": cities(),
    }  # fmt: skip
    schema = infer(table)
    assert made(schema) == {
        "joined": ["joined_days", "joined_weekday"], "updated": ["updated_days", "updated_hour", "updated_weekday"],
        "at": ["at_weekday"],
    }  # fmt: skip
    assert kinds(schema) == {"at_hour": "sparse"} and schema.inferred.time == "at"
    assert "- {name: updated_hour, of: updated, part: hour}  # hour of updated, UTC" in schema.to_yaml()
    assert kd.Schema.from_yaml(schema.to_yaml()) == schema


def test_infinite_values_of_a_dense_column_are_missing_ones_and_its_line_says_so():
    rate = np.where(np.arange(N) % 4 == 0, np.inf, rng.random(N))
    texts = ["inf" if i % 10 == 0 else f"{i % 97}.5" for i in range(N)]
    table = {"rate": rate, "text": texts, "code": np.where(np.arange(N) % 2, np.inf, rng.integers(0, 2, N)), "click": CLICKS}
    schema = kd.Schema.infer(table, label="click")
    assert kinds(schema) == {"rate": "distinct_quantile", "text": "distinct_quantile", "code": "sparse"}
    said = f"numbers with a fraction; infinite in {N // 4} rows, which count as missing"
    assert schema.inferred.reasons["rate"] == said and f"# {said}" in schema.to_yaml()
    assert schema.inferred.reasons["text"].endswith(f"infinite in {N // 10} rows, which count as missing")
    assert schema.inferred.reasons["code"].endswith("which are a value of their own")
    assert np.isfinite(kd.data.Preprocessor.fit(schema, table).transform(table)["dense"]).all()


@pytest.mark.parametrize(
    ("name", "values", "kind"),
    [
        ("user_id", (rng.zipf(1.5, N) % 500).astype(float), "sparse"),
        ("item", rng.integers(2**60, 2**60 + 300, N), "sparse"),
        ("hash", rng.integers(0, 2**63, 100)[rng.integers(0, 100, N)].astype(np.uint64), "sparse"),
        ("zip", [f"0{rng.integers(1000, 1100)}" for _ in range(N)], "sparse"),
        ("weekday", rng.integers(0, 7, N), "sparse"),
        ("code", 5041 + rng.integers(0, 7, N), "sparse"),
        ("cost", 5058 + rng.integers(0, 2, N), "sparse"),
        ("flag", rng.integers(0, 2, N), "sparse"),
        ("C7", rng.integers(0, 3000, N), "sparse"),
        ("I7", rng.integers(0, 3000, N), "distinct_quantile"),
        ("views", rng.zipf(1.7, N), "distinct_quantile"),
        ("balance", rng.integers(-500, 5000, N), "distinct_quantile"),
        ("gain", rng.integers(0, 5000, N), "distinct_quantile"),
        ("answer", ["yes", "no"] * (N // 2), "sparse"),
        ("truth", ["True", "false"] * (N // 2), "sparse"),
        ("amount", [f"{i % 97}.5" for i in range(N)], "distinct_quantile"),
        ("genres", ["a|b", "b", "a|c|b", "c"] * (N // 4), "sparse"),
        ("sparse_price", [None, 1.5, 2.5, None, 7.5] * (N // 5), "distinct_quantile"),
        ("count", rng.zipf(1.7, N), "distinct_quantile"),
        ("count", cities(), "sparse"),
        ("version", [f"{i % 4 + 1}.{i % 10}.{i % 7}" for i in range(N)], "sparse"),
        ("ip", [f"10.{i % 3}.{i % 10}.{i % 7}" for i in range(N)], "sparse"),
        ("phone", [f"555-{i % 30:03d}-0000" for i in range(N)], "sparse"),
        ("spike", [1e9, *rng.normal(0, 1, N - 1)], "distinct_quantile"),
    ],
)
def test_what_a_column_is(name, values, kind):
    assert kinds(infer({name: values, "city": cities()}))[name] == kind


def test_the_yaml_says_why_and_is_read_again():
    schema = infer({"price": rng.normal(size=N), "city": cities(), "row_id": np.arange(N), "day": ["2024-01-01"] * N})
    text = schema.to_yaml()
    assert "- {name: price, transform: distinct_quantile, encoding: piecewise_linear}  # numbers with a fraction" in text
    assert "# Left out:" in text and "{name: row_id}" in text
    assert kd.Schema.from_yaml(text) == schema
    assert yaml.safe_load(text) == schema.to_dict()


@pytest.mark.parametrize("ending", ["parquet", "csv", "tsv", "csv.gz"])
def test_files_and_frames_are_the_same(tmp_path, ending):
    columns = {
        "user_id": rng.integers(0, 90, N),
        "price": rng.normal(size=N).round(3),
        "city": cities(),
        "row_id": range(N),
    }
    frame = pl.DataFrame({"click": CLICKS, **columns})
    path = tmp_path / f"log.{ending}"
    if ending == "parquet":
        frame.write_parquet(path)
    elif ending == "csv.gz":
        frame.write_csv(path, compression="gzip")
    else:
        frame.write_csv(path, separator="\t" if ending == "tsv" else ",")
    expected = kd.Schema.infer(frame, label="click")
    assert kd.Schema.infer(path, label="click") == expected
    assert kd.Schema.infer(str(tmp_path / "log*"), label="click") == expected
    assert kd.Schema.infer(pd.DataFrame(frame.to_dict(as_series=False)), label="click") == expected
    assert kd.Schema.infer(frame.lazy(), label="click") == expected


def test_a_large_table_is_sampled_at_all_of_its_length(tmp_path):
    rows = 450_000
    days = [1] * 300_000 + [2] * (rows - 300_000)
    frame = pl.DataFrame({"click": [0, 1] * (rows // 2), "day": days, "city": ["a", "b", "c"] * (rows // 3)})
    frame.write_parquet(tmp_path / "log.parquet")
    frame.write_csv(tmp_path / "log.csv")
    for data in (frame, tmp_path / "log.parquet", tmp_path / "log.csv"):
        schema = kd.Schema.infer(data, label="click")
        assert kinds(schema) == {"day": "sparse", "city": "sparse"}
        assert "rows." in schema.inferred.warnings[0]


def test_columns_that_folders_name(tmp_path):
    for day, city in ((1, "Oslo"), (2, "Rome"), (3, "__HIVE_DEFAULT_PARTITION__")):
        folder = tmp_path / f"day=2024-01-{day:02d}" / f"city={city}"
        folder.mkdir(parents=True)
        pl.DataFrame({"click": CLICKS[:200], "price": rng.normal(size=200)}).write_parquet(folder / "part.parquet")
    schema = kd.Schema.infer(str(tmp_path / "*" / "*" / "*.parquet"), label="click")
    assert kinds(schema) == {"price": "distinct_quantile", "city": "sparse"}
    assert "33% missing" in schema.inferred.reasons["city"] and schema.inferred.time == "day"


def test_labels_and_weights():
    columns = {"city": cities(100)}
    assert kd.Schema.infer({"y": ["True", "false"] * 50, **columns}, label="y").soft_labels is False
    assert kd.Schema.infer({"y": [0.25, 1.0] * 50, **columns}, label="y").soft_labels is True
    schema = kd.Schema.infer({"y": [0, 1] * 50, "w": [1.0, 2.0] * 50, **columns}, "y", sample_weight="w")
    assert schema.sample_weight == "w" and schema.column_names == ("city",)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([1, 2] * 50, r"holds 1 and 2; make them 0 and 1, as by frame\['y'\] == 2"),
        ([-1.0, 1.0] * 50, r"holds -1 and 1; make them 0 and 1, as by frame\['y'\] == 1"),
        ([1, 2, 3, 4, 5] * 20, r"holds numbers from 1 to 5; say which of them are a click, as by frame\['y'\] >= 3"),
        ([">50K", "<=50K"] * 50, r"holds '<=50K' and '>50K'; make '>50K' 1 and the other 0, as by frame\['y'\] == '>50K'"),
        (["no", "no", "yes", "yes", "yes"] * 20, r"as by frame\['y'\] == 'yes'"),
        (["a", "b", "c", "d"] * 25, "holds texts such as 'a', 'b', 'c'; say which of them are a click"),
        ([1, None] * 50, "50 of 100 rows have no label"),
        ([dt.date(2024, 1, 1)] * 100, "holds Date; make it 0 and 1"),
        ([1], "has one row, which says nothing"),
        ([], "has no rows"),
    ],
)
def test_labels_that_are_none_say_how_to_make_them(labels, words):
    with pytest.raises(ValueError, match=words):
        kd.Schema.infer({"y": labels, "city": cities(len(labels))}, label="y")


def test_a_table_without_a_column_that_can_be_used():
    with pytest.raises(ValueError, match="no column that a model can use .c: is always 1.; write a schema by hand"):
        kd.Schema.infer({"y": [1, 0] * 50, "c": [1] * 100}, label="y")


def test_what_is_no_table(tmp_path):
    with pytest.raises(KeyError, match="no column 'clicked'"):
        infer({"city": cities()}, sample_weight="clicked")
    with pytest.raises(FileNotFoundError, match="no such file"):
        kd.Schema.infer(tmp_path / "log.csv", label="y")
    with pytest.raises(FileNotFoundError, match="no file has such a name"):
        kd.Schema.infer(tmp_path / "log*.csv", label="y")
    (tmp_path / "log.xlsx").write_bytes(b"x")
    with pytest.raises(ValueError, match="no Parquet, CSV or TSV file by its ending"):
        kd.Schema.infer(tmp_path / "log.xlsx", label="y")
    (tmp_path / "log.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match="cannot be read as Parquet"):
        kd.Schema.infer(tmp_path / "log.parquet", label="y")
    with pytest.raises(TypeError, match="expected a frame or a path, not int"):
        kd.Schema.infer(3, label="y")


def logs_of_two(signal):
    """A log whose clicks depend on kind and hour together, by so much, and on each by itself."""
    random = np.random.default_rng(1)
    times = 1_700_000_000 + np.sort(random.integers(0, 40 * 86400, 8000))
    kind, hour = random.integers(0, 4, 8000), times // 3600 % 24
    effects = random.normal(size=(4, 24))
    effects -= effects.mean(0) + effects.mean(1, keepdims=True)
    logits = random.normal(size=4)[kind] + random.normal(size=24)[hour] + signal * effects[kind, hour]
    clicks = (random.random(8000) < 1 / (1 + np.exp(-logits))).astype(int)
    names = np.array(["food", "news", "game", "film"])[kind]
    return {"click": clicks, "kind": names, "same": np.char.upper(names), "place": random.choice(["up", "down"], 8000), "at": times}


def test_crosses_that_tell_more_than_their_columns_are_proposed_as_comments():
    schema = kd.Schema.infer(logs_of_two(0.8), label="click")
    text = schema.to_yaml()
    assert [list(cross.crossed) for cross, _ in schema.inferred.crosses] == [["kind", "at_hour"], ["same", "at_hour"]]
    assert "# - {name: kind_at_hour, vocabulary_size: 512, crossed: [kind, at_hour]}: " in text
    assert kd.Schema.from_yaml(text) == schema and not any(c.crossed for c in schema.categorical)
    entry = next(line for line in text.splitlines() if "kind_at_hour" in line).removeprefix("# ").partition("}")[0] + "}"
    taken = kd.Schema.from_yaml(text.replace("categorical:\n", f"categorical:\n{entry}\n"))
    assert taken.categorical[0] == kd.Crossed("kind_at_hour", ["kind", "at_hour"], 512)


@pytest.mark.parametrize("rows", [8000, 150])
def test_no_crosses_are_proposed_where_nothing_helps(rows):
    columns = {name: values[:rows] for name, values in logs_of_two(0.0).items()}
    assert "Crosses" not in kd.Schema.infer(columns, label="click").to_yaml()


def test_a_list_whose_length_gives_the_label_away_is_left_out():
    clicks = np.arange(2000) % 3 == 0
    frame = pl.DataFrame({"x": np.arange(2000) % 17, "bought": [["a"] if click else [] for click in clicks], "click": clicks})
    schema = kd.Schema.infer(frame, "click")
    assert "bought" not in schema.column_names and "gives the label away" in schema.inferred.left_out["bought"]


def test_seconds_with_a_fraction_under_the_name_of_a_time_order_the_rows():
    when = 1704067200.25 + np.arange(2000) * 60.5
    frame = pl.DataFrame({"ts": when, "amount": when, "x": np.arange(2000) % 17, "click": np.arange(2000) % 3 == 0})
    schema = kd.Schema.infer(frame, "click")
    assert schema.inferred.time == "ts" and "ts" not in schema.column_names and "amount" in schema.column_names


def test_a_code_with_a_letter_in_one_of_many_rows_is_a_category():
    codes = [str(i % 50) for i in range(3000)]
    codes[2500] = "A"
    frame = pl.DataFrame({"code": codes, "price": codes, "x": np.arange(3000) % 17, "click": np.arange(3000) % 3 == 0})
    schema = kd.Schema.infer(frame, "click")
    assert "code" in schema.categorical_names and "if that means missing" in schema.inferred.left_out["price"]


def test_a_column_called_weight_is_an_amount_with_a_warning():
    frame = pl.DataFrame({"weight": np.linspace(1, 2, 500), "item_weight": np.linspace(1, 2, 500), "click": np.arange(500) % 2})
    schema = kd.Schema.infer(frame, "click")
    assert set(schema.dense_names) == {"weight", "item_weight"}
    said = [text for text in schema.inferred.warnings if "sample_weight" in text]
    assert len(said) == 1 and said[0].startswith("Column 'weight' is taken for an amount")
