"""Summary of a run's result for people: a title, a row for each part and baseline, and how far the best possible model is."""

from collections.abc import Mapping, Sequence
from typing import Any

from keras_dlrm.training.by_label import SCORES, of_label


def summary(result: Mapping[str, Any]) -> tuple[str, list[dict[str, Any]]]:
    """Title and rows of the table of a run's scores; no rows where neither a validation nor a test part was scored.

    Args:
        result: As `result.json` holds it.
    """
    rows = part_rows(result)
    if "best" in result:
        rows.append({"part": "best possible", "rows": result.get("rows", {}).get("test"), **result["best"]})
        rows.append({"part": "distance", **result["distance"]})
    counts = result["parameters"]
    title = (
        f"{result['model']} on {result['backend']}: {counts['tables']:,} table and {counts['dense']:,} dense "
        f"parameters, {result['epochs']} epochs, {result['seconds']:.1f} s, {result['samples_per_s']:,} samples/s"
    )
    return title, rows


def part_rows(result: Mapping[str, Any], parts: Sequence[str] = ("valid", "test")) -> list[dict[str, Any]]:
    """Rows of the scores of some parts and of baselines; of several labels those of each, then their means."""
    rows: list[dict[str, Any]] = []
    for label in result.get("labels", {}):
        rows += _rows(of_label(result, label), f"{label}, ", result, parts)
    return rows + _rows(result, "mean, " if "labels" in result else "", result, parts)


def _rows(result: Mapping[str, Any], prefix: str, whole: Mapping[str, Any], parts: Sequence[str]) -> list[dict[str, Any]]:
    rows = []
    for part in parts:
        if part in result:
            own = {name: value for name, value in result[part].items() if name in SCORES}
            rows.append({"part": prefix + part, "rows": whole.get("rows", {}).get(part), **own})
    for baseline in result.get("baselines", ()):
        scores = {name: value for name, value in baseline.items() if name != "model"}
        rows.append({**scores, "part": prefix + baseline["model"]})
    return rows
