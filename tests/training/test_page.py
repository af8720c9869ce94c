"""The report's page: whole, safe and legible HTML."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest
from helpers.browser import open_browser
from hypothesis import given
from hypothesis import strategies as st

from keras_dlrm import metrics
from keras_dlrm.training.charts import Chart, spread, ticks
from keras_dlrm.training.page import page
from keras_dlrm.training.plots import distribution_chart, learning_curves

pytestmark = pytest.mark.neutral

EVIL = "<script>alert(1)</script>"


class Reader(HTMLParser):
    """Checks that tags are closed in order, and collects texts, attributes and tags."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.texts, self.attributes = [], [], [], []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        self.texts.append(text)


def figures(labels, probabilities, **changes):
    plain = {
        name: {key: np.asarray(values, float).tolist() for key, values in points._asdict().items()}
        for name, points in {
            "reliability": metrics.reliability(labels, probabilities), "lift": metrics.lift(labels, probabilities),
            "distribution": metrics.score_distribution(labels, probabilities),
        }.items()
    }  # fmt: skip
    scored = metrics.scores_by_slice(labels, probabilities, np.arange(len(labels)) % 2)
    rows = [{"slice": EVIL, **{k: v for k, v in row.items() if k != "value"}} for row in scored]
    importance = [{"column": EVIL, "auc_drop": 0.1, "auc_spread": None, "logloss_rise": -0.1, "logloss_spread": 0.01}]
    return {
        "part": "test", "parts": {"test": len(labels)}, **plain,
        "importance": {"rows": 10, "of": 1, "shuffles": 3, "columns": importance},
        "slices": [{"column": EVIL, "by": "value", "rows": rows}, {"column": EVIL, "by": "frequency", "rows": rows}],
        "grouped_auc": {"column": EVIL, "groups": 3, "rows": 9, "auc": None}, **changes,
    }  # fmt: skip


def rows(n=500):
    random = np.random.default_rng(0)
    probabilities = random.beta(1, 4, n)
    return random.random(n) < probabilities, probabilities


RESULT = {
    "model": "DLRM", "backend": EVIL, "seed": 0, "parameters": {"tables": 1000, "dense": 20}, "epochs": 3, "best_epoch": 2,
    "seconds": 1.5, "samples_per_s": 1000, "finished": "2024-01-01T10:00:00",
    "history": {"auc": [0.6, 0.7, 0.8], "val_auc": [0.6, 0.65, 0.64], "logloss": [0.6, 0.5, 0.4]},
    "test": {"auc": 0.75, "logloss": 0.5, "ne": 0.9, "calibration": 1.01, "ece": 0.02}, "best": {"auc": 0.8, "logloss": 0.4},
    "baselines": [{"model": EVIL, "auc": 0.7, "logloss": 0.51}],
}  # fmt: skip


def test_the_page_is_well_formed_and_everything_of_the_run_is_on_it():
    reader = Reader(page(RESULT, figures(*rows()), f"DLRM on {EVIL}"))
    text = " ".join(reader.texts)
    for words in ("0.7500", "best possible (test)", "1,000 table and 20 dense", "head has the first 25%", "not defined"):
        assert words in text
    assert reader.tags.count("svg") == 6 and reader.tags.count("table") == 5


def test_names_are_texts_whatever_they_hold():
    reader = Reader(page(RESULT, figures(*rows()), f"DLRM on {EVIL}"))
    assert "script" not in reader.tags and not any(name.startswith("on") for name, _ in reader.attributes)
    assert sum(text.strip() == EVIL for text in reader.texts) >= 6


def test_nothing_is_loaded_from_anywhere():
    html = page(RESULT, figures(*rows()), "DLRM")
    assert not re.search(r"https?:|url\(|@import|src=|href=|<link", html)
    assert "default-src 'none'" in html and "prefers-color-scheme: dark" in html


@pytest.mark.parametrize("history", [
    {}, {"loss": [0.5]}, {"auc": [float("nan"), 0.5], "val_auc": [float("inf"), 0.6]},
    {"loss": [0.3] * 200, "val_loss": [0.3] * 200},
])  # fmt: skip
def test_any_history_is_drawn(history):
    html = page({**RESULT, "history": history}, figures(*rows(60)), "DLRM")
    assert not re.search(r"[\"\s,](nan|inf|-inf)\b", html)
    Reader(html)


def test_a_run_without_importance_slices_and_groups_has_a_page():
    plain = figures(*rows(40), slices=[], importance={"rows": 0, "of": 1, "shuffles": 3, "columns": []})
    del plain["grouped_auc"]
    html = page({"test": RESULT["test"]}, plain, "model.keras")
    assert "Slices" not in html and "Importance" not in html
    Reader(html)


@pytest.mark.parametrize("probabilities", [[0.0, 1.0, 1.0], [0.3, 0.3, 0.3], [1e-9, 1e-9, 2e-9]])
def test_certain_and_constant_predictions_are_drawn(probabilities):
    Reader(page(RESULT, figures([0, 1, 1], probabilities), "DLRM"))
    points = metrics.score_distribution([0, 1, 1], probabilities)._asdict()
    assert len(re.findall(r'class="middle" x=', distribution_chart(points))) >= 2


def test_points_are_placed_between_the_axes():
    chart = Chart((0, 10), (0.0, 1.0), "x", "y")
    assert chart.place(0, 0) == (64, 228) and chart.place(10, 1) == (408, 10) and chart.place(5, 0.5) == (236, 119)


def test_small_rates_keep_their_digits_and_nothing_is_minus_zero():
    random = np.random.default_rng(0)
    probabilities = random.beta(0.5, 900, 20_000)
    html = page(RESULT, figures(random.random(20_000) < probabilities, probabilities), "rare")
    rates = re.findall(r"<td>(0\.0{3,}\d+)</td>", html)
    assert any(len(rate.replace("0", "").replace(".", "")) >= 3 for rate in rates) and "-0.0000" not in html


def test_the_values_of_a_single_epoch_are_written_beside_their_dots():
    charts = learning_curves({"auc": [0.61], "val_auc": [0.57]})
    assert ">0.6100</text>" in charts["AUC"] and ">0.5700</text>" in charts["AUC"]


def test_the_best_epoch_has_a_ring():
    charts = learning_curves(RESULT["history"])
    assert list(charts) == ["AUC", "log loss"] and charts["AUC"].count("ring") == 1 and "ring" not in charts["log loss"]


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_round_inside_and_evenly_spaced(low, width):
    high = low + width
    if not high > low:
        return
    found = ticks(low, high)
    values = [value for value, _ in found]
    room = 1e-6 * max(abs(low), abs(high), width)
    assert 2 <= len(found) <= 7 and all(low - room <= value <= high + room for value in values)
    assert np.allclose(np.diff(values), values[1] - values[0], atol=room)
    assert len({text for _, text in found}) == len(found)


def test_an_axis_has_room_for_its_values():
    assert spread([2.0, float("nan"), 2.0])[0] < 2 < spread([2.0])[1]
    assert spread([]) == (-1e-6, 1e-6)


# Selenium and a browser that goes away leave sockets behind.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_browser_shows_it_in_both_schemes_and_on_a_phone(tmp_path):
    (tmp_path / "report.html").write_text(page(RESULT, figures(*rows()), f"DLRM on {EVIL}"), encoding="utf-8")
    grounds, texts = [], []
    with open_browser() as browser:
        for scheme, width in (("light", 1280), ("dark", 1280), ("dark", 360)):
            scheme = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
            browser.execute_cdp_cmd("Emulation.setEmulatedMedia", scheme)
            size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            browser.get((tmp_path / "report.html").as_uri())
            assert browser.execute_script("return document.documentElement.scrollWidth") <= width  # nothing sticks out
            assert browser.execute_script("return document.querySelectorAll('svg').length") == 6
            assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
            assert browser.get_log("browser") == []
            style = "return getComputedStyle(document.body)"
            grounds.append(browser.execute_script(f"{style}.backgroundColor"))
            texts.append(browser.execute_script(f"{style}.color"))
    bright = [sum(map(int, re.findall(r"\d+", color))) for color in (*grounds, *texts)]
    assert bright[0] > 700 > 100 > bright[1] == bright[2] and bright[3] < 150 and bright[4] > 600
