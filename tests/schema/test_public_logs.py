"""Schemas inferred from tables that look like public click logs: what an engineer would write by hand."""

import numpy as np
import polars as pl
import pytest

import keras_dlrm as kd

pytestmark = pytest.mark.neutral
N = 3000
rng = np.random.default_rng(1)
CLICKS = rng.integers(0, 2, N)


def hexadecimal(kinds, digits=8):
    names = np.array([f"{value:0{digits}x}" for value in rng.integers(0, 16 ** min(digits, 15), kinds)])
    return names[rng.zipf(1.4, N) % kinds]


def ids(kinds, start=1, step=1):
    return start + step * (rng.zipf(1.4, N) % kinds)


def money():
    return rng.exponential(9.0, N).round(2)


def epochs(sort=True):
    seconds = rng.integers(1_400_000_000, 1_400_600_000, N)
    return np.sort(seconds) if sort else seconds


AVAZU = {
    "id": [str(10**19 + 7919 * i) for i in range(N)],
    "click": CLICKS,
    "hour": [f"1410{21 + i * 10 // N:02d}{i * 240 // N % 24:02d}" for i in range(N)],
    "C1": 1001 + rng.integers(0, 7, N),
    "banner_pos": rng.choice([0, 1, 2, 3, 4, 5, 7], N),
    "site_id": hexadecimal(300),
    "site_domain": hexadecimal(200),
    "app_id": hexadecimal(100),
    "device_id": hexadecimal(900),
    "device_ip": hexadecimal(900),
    "device_model": hexadecimal(500),
    "device_type": rng.choice([0, 1, 4, 5], N),
    "device_conn_type": rng.choice([0, 2, 3], N),
    "C14": ids(2000, 375),
    "C15": rng.choice([216, 300, 320], N),
    "C20": np.where(rng.random(N) < 0.5, -1, ids(160, 100_000)),
}
OUTBRAIN = {
    "display_id": ids(400),
    "ad_id": ids(500),
    "clicked": CLICKS,
    "uuid": hexadecimal(900, 14),
    "document_id": ids(300),
    "timestamp": rng.integers(61, 1_295_999_000, N),
    "platform": rng.integers(1, 4, N),
    "geo_location": rng.choice(["US>CA>803", "US>NY>501", "GB", "IN>16"], N),
    "publisher_id": ids(40).astype(float),
}
ATTRIBUTION = {
    "timestamp": np.arange(N),
    "uid": ids(1500),
    "campaign": ids(600, 10_000, 1700),
    "conversion_timestamp": np.where(CLICKS == 1, 99, -1),
    "conversion": CLICKS,
    "attribution": (CLICKS * (rng.random(N) < 0.3)).astype(int),
    "click_pos": rng.zipf(1.5, N) % 40 - 1,
    "cost": money() / 1e4,
    "time_since_last_click": np.where(rng.random(N) < 0.3, -1, rng.integers(0, 10**6, N)),
    "cat1": ids(9, 30_763_035),
    "cat2": ids(40, 5_824_000, 11),
}
TAOBAO = {
    "user": ids(800),
    "time_stamp": epochs(sort=False),
    "adgroup_id": ids(900),
    "pid": rng.choice(["430548_1007", "430539_1007"], N),
    "nonclk": 1 - CLICKS,
    "clk": CLICKS,
    "cate_id": ids(300),
    "campaign_id": ids(500),
    "customer": ids(700),
    "price": money(),
    "brand": np.where(rng.random(N) < 0.2, None, ids(300)),
    "final_gender_code": rng.integers(1, 3, N),
    "age_level": rng.integers(0, 7, N),
    "new_user_class_level": rng.integers(1, 5, N).astype(float),
    "shopping_level": rng.integers(1, 4, N),
}
MOVIELENS = {
    "userId": np.sort(ids(200)),
    "movieId": ids(400),
    "liked": CLICKS,
    "timestamp": epochs(sort=False),
    "title": [f"Toy Story {i} (19{i % 90 + 10})" for i in ids(400)],
    "genres": rng.choice(["Drama", "Action|Drama", "Comedy|War|Drama"], N),
    "year": 1919 + ids(82),
}
AMAZON = {
    "reviewerID": [f"A{i:08d}X" for i in ids(700)],
    "asin": [f"B0{i:06d}" for i in ids(600)],
    "liked": CLICKS,
    "reviewText": [f"I bought this item {i} days ago and it works as it should for my hair" for i in range(N)],
    "summary": [f"nice {i}" for i in range(N)],
    "unixReviewTime": epochs(sort=False),
    "reviewTime": [f"{i % 12 + 1:02d} {i % 28 + 1}, 2013" for i in range(N)],
    "verified": rng.random(N) < 0.8,
    "style": [{"size": "L"}] * N,
    "price": [f"${cents}" for cents in money()],
}
KDD = {
    "Click": CLICKS,
    "Impression": rng.zipf(2.0, N),
    "DisplayURL": rng.choice([str(2**63 + 977 * i) for i in range(90)], N),
    "AdID": ids(900, 3_000_000, 11),
    "AdvertiserID": ids(400),
    "Depth": rng.integers(1, 4, N),
    "Position": rng.integers(1, 4, N),
    "QueryID": ids(1500),
    "KeywordID": ids(600),
    "UserID": ids(1400),
}


@pytest.mark.parametrize("form", ["frame", "csv"])
@pytest.mark.parametrize(
    ("log", "label", "dense", "left_out", "time"),
    [
        (AVAZU, "click", [], ["id", "hour"], "hour"),
        (OUTBRAIN, "clicked", [], ["timestamp"], "timestamp"),
        (
            ATTRIBUTION,
            "conversion",
            ["cost", "time_since_last_click"],
            ["timestamp", "conversion_timestamp"],
            "timestamp",
        ),
        (TAOBAO, "clk", ["price"], ["time_stamp", "nonclk"], "time_stamp"),
        (MOVIELENS, "liked", [], ["timestamp"], "timestamp"),
        (
            AMAZON,
            "liked",
            [],
            ["reviewText", "summary", "unixReviewTime", "reviewTime", "style", "price"],
            "unixReviewTime",
        ),
        (KDD, "Click", ["Impression"], [], None),
    ],
    ids=["avazu", "outbrain", "attribution", "taobao", "movielens", "amazon", "kdd"],
)
def test_a_log_as_published(tmp_path, form, log, label, dense, left_out, time):
    frame = pl.DataFrame({name: list(values) for name, values in log.items()})
    if form == "csv":
        frame.select(pl.exclude(pl.Struct)).write_csv(tmp_path / "log.csv")
        left_out = [name for name in left_out if name != "style"]
    schema = kd.Schema.infer(frame if form == "frame" else tmp_path / "log.csv", label=label)
    sparse = [name for name in log if name not in (*dense, *left_out, label) and (form == "frame" or name != "style")]
    assert [column.name for column in schema.dense if column.of is None] == dense
    assert list(schema.inferred.left_out) == left_out
    assert [column.name for column in schema.categorical if column.of is None] == sparse
    assert schema.inferred.time == time


def test_the_sentences_about_the_rows():
    def warnings(log, label):
        inferred = kd.Schema.infer(log, label=label).inferred
        return " ".join([*inferred.warnings, inferred.cut or ""])

    assert "Rows are in the order of 'hour': cut them with --fractions 0.8 0.1 0.1, as they are." in warnings(
        AVAZU, "click"
    )
    assert "--fractions 0.8 0.1 0.1 --split-by time_stamp." in warnings(TAOBAO, "clk")
    assert "Column 'nonclk' was left out: it gives the label away." in warnings(TAOBAO, "clk")
    untimed = {name: values for name, values in MOVIELENS.items() if name != "timestamp"}
    assert "Rows are sorted by 'userId': cut them with --fractions 0.8 0.1 0.1 --split-by random." in warnings(
        untimed, "liked"
    )
    by_label = {"click": np.sort(CLICKS), "city": rng.choice(["a", "b", "c"], N)}
    assert "Rows are sorted by the label" in warnings(by_label, "click")
    plain = {"click": CLICKS, "x": rng.integers(0, 3000, N)}
    assert "Whole numbers in 'x' are taken as amounts: make them categorical if they are codes." in warnings(
        plain, "click"
    )
