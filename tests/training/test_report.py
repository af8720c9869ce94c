"""The picture and the table at the end of a run."""

import io
import struct
import sys
import threading

import numpy as np
import pytest

from keras_dlrm.support.terminal import print_table
from keras_dlrm.training.report import learning_curves_png

pytestmark = pytest.mark.neutral

HISTORY = {
    "auc": [0.70, 0.74, 0.76],
    "val_auc": [0.71, 0.745, 0.74],
    "loss": [0.55, 0.5, 0.48],
    "val_loss": [0.54, 0.51, 0.52],
}


def rows(n=2000):
    rng = np.random.default_rng(0)
    probabilities = rng.beta(1, 4, n)
    return rng.random(n) < probabilities, probabilities


def png_size(path):
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", head[16:])


@pytest.mark.slow
@pytest.mark.parametrize(
    "history",
    [
        HISTORY,
        {key: values[:1] for key, values in HISTORY.items()},
        {"loss": [0.5, 0.4]},
        {"auc": [0.5], "binary_crossentropy": [0.6], "loss": [0.7]},
        {"val_auc": [0.6, float("nan")], "loss": [float("nan")] * 2},
        {"auc": np.linspace(0.6, 0.8, 100), "loss": np.linspace(0.6, 0.5, 100), "lr": [0.1] * 100},
    ],
)
def test_a_legible_png_is_drawn_for_any_number_of_epochs_and_curves(history, tmp_path):
    labels, probabilities = rows()
    path = tmp_path / "run.png"
    learning_curves_png(history, labels, probabilities[:, None], path, "A run")
    width, height = png_size(path)
    assert width >= 1500
    assert height >= 700


@pytest.mark.parametrize("labels", [np.zeros(40), np.ones(40)])
def test_rows_of_one_class_are_drawn_without_an_auc(labels, tmp_path):
    learning_curves_png(HISTORY, labels, np.linspace(0, 1, 40), str(tmp_path / "run.png"), "")
    png_size(tmp_path / "run.png")


def test_constant_and_tiny_predictions_are_drawn(tmp_path):
    learning_curves_png(HISTORY, [0, 0, 1], [0.0, 0.0, 0.0], tmp_path / "run.png", "")
    png_size(tmp_path / "run.png")


def test_drawing_leaves_no_global_figure_and_works_in_a_thread(tmp_path):
    labels, probabilities = rows(300)
    arguments = (HISTORY, labels, probabilities, tmp_path / "run.png", "thread")
    thread = threading.Thread(target=learning_curves_png, args=arguments)
    thread.start()
    thread.join()
    png_size(tmp_path / "run.png")
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []


def test_a_history_without_an_epoch_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"history has the keys \['auc', 'lr'\] and no epoch of AUC or log loss"):
        learning_curves_png({"auc": [], "lr": [0.1]}, [0, 1], [0.1, 0.2], tmp_path / "run.png", "")


def test_probabilities_out_of_range_are_refused(tmp_path):
    with pytest.raises(ValueError, match="apply a sigmoid to logits"):
        learning_curves_png(HISTORY, [0, 1], [-3.0, 2.0], tmp_path / "run.png", "")


def test_numbers_of_a_table_align_and_text_is_taken_literally():
    out = io.StringIO()
    print_table(
        [
            {"model": "[b]DLRM[/b]", "rows": 1234567, "auc": np.float32(0.75), "wide": "x" * 150},
            {"model": "LR", "rows": np.int64(12), "auc": 11.5},
            {"model": "FM", "rows": None, "best": True},
        ],
        "Test [part]",
        file=out,
    )
    lines = [line.rstrip() for line in out.getvalue().splitlines() if line.strip()]
    assert lines[0] == "Test [part]"
    assert lines[1].split() == ["model", "rows", "auc", "wide", "best"]
    assert lines[3].split() == ["[b]DLRM[/b]", "1,234,567", "0.7500", "x" * 150]
    assert lines[4].split() == ["LR", "12", "11.5000"]
    assert lines[5].split() == ["FM", "True"]
    assert lines[3].index("0.7500") + len("0.7500") == lines[4].index("11.5000") + len("11.5000")
    assert "\x1b" not in out.getvalue()


def test_a_table_without_rows_is_refused():
    with pytest.raises(ValueError, match="rows is empty; give at least one mapping"):
        print_table([])
