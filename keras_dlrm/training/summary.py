"""Summary of a run's result for people: a title, a row for each part and baseline, and how far the best possible model is."""

from collections.abc import Mapping
from typing import Any


def summary(result: Mapping[str, Any]) -> tuple[str, list[dict[str, Any]]]:
    """Title and rows of the table of a run's scores; no rows where neither a validation nor a test part was scored.

    Args:
        result: As `result.json` holds it.
    """
    rows: list[dict[str, Any]] = []
    for part in ("valid", "test"):
        if part in result:
            rows.append({"part": part, "rows": result.get("rows", {}).get(part), **result[part]})
    for baseline in result.get("baselines", ()):
        scores = {name: value for name, value in baseline.items() if name != "model"}
        rows.append({**scores, "part": baseline["model"]})
    if "best" in result:
        rows.append({"part": "best possible", "rows": result.get("rows", {}).get("test"), **result["best"]})
        rows.append({"part": "distance", **result["distance"]})
    counts = result["parameters"]
    title = (
        f"{result['model']} on {result['backend']}: {counts['tables']:,} table and {counts['dense']:,} dense "
        f"parameters, {result['epochs']} epochs, {result['seconds']:.1f} s, {result['samples_per_s']:,} samples/s"
    )
    return title, rows
