"""The report of a run as one HTML file: it loads nothing, and follows the light or dark scheme of the reader."""

import base64
import os
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from keras_dlrm.files.paths import as_typed
from keras_dlrm.training import plots
from keras_dlrm.training.by_label import of_label

_SCORES = {"auc": "AUC", "logloss": "log loss", "ne": "NE", "calibration": "calibration", "ece": "ECE"}
_RESULT = {"name": "", "rows": "rows", **_SCORES}
_SLICE = {"slice": "", "rows": "rows", "auc": "AUC", "auc_error": "±", "logloss": "log loss", "ne": "NE",
          "calibration": "calibration", "click_rate": "click rate", "predicted": "predicted"}  # fmt: skip
_BAND = {"slice": "", "values": "ids", "exposures": "exposures", **{k: v for k, v in _SLICE.items() if k != "slice"}}
_LIFT = {"decile": "decile", "reached": "rows so far", "predicted": "predicted", "observed": "click rate", "lift": "lift",
         "gain": "clicks so far"}  # fmt: skip
_IMPORTANCE = {"column": "", "bar": "", "auc_drop": "drop of AUC", "auc_spread": "±", "logloss_rise": "rise of log loss",
               "logloss_spread": "±"}  # fmt: skip
_SHARES = ("reached", "gain")  # shown as percentages
_RATES = ("click_rate", "predicted", "observed")  # small ones with three digits

Row = Mapping[str, Any]


def page(result: Mapping[str, Any], figures: Mapping[str, Any], title: str) -> str:
    """A report as HTML.

    Args:
        result: As `result.json` holds it: `history`, scores of the parts, and perhaps `baselines`, a list of rows
            `{"model": name, "auc": …, "logloss": …, …}`, a `verdict` on them, and what else `train` returns.
        figures: As `analyze` returns them; of several labels `{"labels": {name: figures}}`, and the result has `labels`, too.
        title: Heading of the page.

    Returns:
        The text of the file.
    """
    facts = hint(" · ".join(f"<span>{fact}</span>" for fact in _facts(result)))
    sections = [f"<header><h1>{escape(title)}</h1>{facts}</header>"]
    labels = figures.get("labels", {})
    for label, own in labels.items():
        sections += [f"<h1>{escape(label)}</h1>", *_sections(of_label(result, label), own)]
    sections += [] if labels else _sections(result, figures)
    # Of a run; other pages have no such files.
    sections.append(hint("All figures are in <code>report.json</code> and <code>result.json</code> beside this file."))
    return document(title, sections if "history" in result else sections[:-1])


def _sections(result: Mapping[str, Any], figures: Mapping[str, Any]) -> list[str]:
    """All of a page, or what it has of one of several labels."""
    return [
        "<h2>Result</h2>", _result(result, figures),
        "<h2>Charts</h2>", _charts(result, figures), _lift(figures["lift"]),
        _importance(figures["importance"]), _slices(figures["slices"]),
    ]  # fmt: skip


def document(title: str, sections: Iterable[str]) -> str:
    """A whole HTML file of sections, which are HTML."""
    style = _style()
    # Whatever a name holds: nothing is loaded and no program runs.
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    head = (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{style}</style>"
    )
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>{chr(10).join(filter(None, sections))}</body></html>\n'


def picture(svg: str, name: str) -> str:
    """A chart of `plots` as an image for any page: it brings its style and its ground."""
    style = f"<style>{_style()} :root {{ background: var(--ground); }}</style>"
    whole = svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1).replace(">", f">{style}", 1)
    source = f"data:image/svg+xml;base64,{base64.b64encode(whole.encode()).decode()}"
    return f'<img alt="{escape(name)}" src="{source}" style="width:18em;max-width:100%;display:inline-block">'


def _style() -> str:
    return resources.files("keras_dlrm.training").joinpath("page.css").read_text(encoding="utf-8")


def hint(html: str) -> str:
    """A paragraph of explanation."""
    return f'<p class="hint">{html}</p>'


def _facts(result: Mapping[str, Any]) -> Iterable[str]:
    if "backend" in result:
        yield f"{escape(str(result['backend']))}, seed {result['seed']}"
    if "parameters" in result:
        yield f"{result['parameters']['tables']:,} table and {result['parameters']['dense']:,} dense parameters"
    if "epochs" in result:
        yield f"{result['epochs']} epochs, best: {result['best_epoch']}" if result["epochs"] > 1 else "1 epoch"
        yield f"{result['seconds']:,.1f} s, {result['samples_per_s']:,} rows/s"
    for name, shift in result.get("shifts", {}).items():
        yield f"logits of {escape(name)} shifted by {shift:+.3f} to the click rate of the validation part"
    if result.get("ended_by") == "time budget":
        yield "ended by its time budget"
    if "finished" in result:
        yield escape(result["finished"].replace("T", " "))


def _result(result: Mapping[str, Any], figures: Mapping[str, Any]) -> str:
    part = figures["part"]
    rows = [
        {"name": name, "rows": figures["parts"].get(name), **result[name], "main": name == part}
        for name in ("train", "valid", "test") if name in result
    ]  # fmt: skip
    rows += [{"name": baseline["model"], **baseline} for baseline in result.get("baselines", ())]
    if "best" in result:
        rows.append({"name": f"best possible ({part})", **result["best"]})
    text = table(rows, _RESULT)
    if "verdict" in result:
        text += f"<p>{escape(result['verdict'])}</p>"
    if "grouped_auc" in figures:
        grouped = figures["grouped_auc"]
        value = "not defined: no group has both a click and a non-click" if grouped["auc"] is None else f"{grouped['auc']:.4f}"
        what = f"{grouped['groups']:,} groups, {grouped['rows']:,} rows with a known value"
        text += f"<p>AUC within each value of <b>{escape(grouped['column'])}</b> ({part}): <b>{value}</b> ({what}).</p>"
    notes = (
        "NE is the log loss over that of the mean click rate: below 1 is better than a constant. "
        "Calibration is predicted clicks over clicks: 1 is right on average. ECE is the mean distance of prediction and click "
        "rate over ten bins."
    )
    return text + hint(notes)


def _charts(result: Mapping[str, Any], figures: Mapping[str, Any]) -> str:
    part = escape(figures["part"])
    keys = '<span class="key train"><span>train</span></span> <span class="key valid"><span>valid</span></span>'
    curves = plots.learning_curves(result.get("history", {}))
    charts = [(f"{name[0].upper()}{name[1:]} by epoch", keys, svg) for name, svg in curves.items()]
    classes = '<span class="key clicks"><span>clicks</span></span> <span class="key others"><span>non-clicks</span></span>'
    charts += [
        ("Reliability", f"{part}; dashed: calibrated; bars: 95% intervals",
         plots.reliability_chart(figures["reliability"])),
        ("Predictions", f"{part} &ensp; {classes}", plots.distribution_chart(figures["distribution"])),
        ("Gains", f"{part}; dashed: a random order", plots.gains_chart(figures["lift"])),
        ("Lift", f"{part}; dashed: the click rate of all rows", plots.lift_chart(figures["lift"])),
    ]  # fmt: skip
    drawn = (f"<figure><figcaption>{name}<small>{note}</small></figcaption>{svg}</figure>" for name, note, svg in charts)
    return f'<div class="charts">{"".join(drawn)}</div>'


def _lift(lift: Mapping[str, Sequence[float]]) -> str:
    rows = [{"decile": i + 1, **{name: values[i] for name, values in lift.items()}} for i in range(len(lift["reached"]))]
    note = "Rows by descending prediction in ten bins. Lift is the click rate of a bin over that of all rows."
    return f"<h2>Lift by decile</h2>{hint(note)}{table(rows, _LIFT)}"


def _importance(importance: Mapping[str, Any]) -> str:
    columns = importance["columns"]
    if not columns:
        return ""
    largest = max(*(entry["auc_drop"] for entry in columns), 1e-12)
    rows = [{**entry, "bar": max(entry["auc_drop"], 0) / largest} for entry in columns]
    some = len(columns) < importance["of"]
    note = (
        f"What the model loses when a column is shuffled among {importance['rows']:,} rows: mean and standard deviation of "
        f"{importance['shuffles']} shuffles. Columns that tell the same share their importance."
        + (f" Of {importance['of']:,} columns only the {len(columns)} that tell most by themselves were shuffled." if some else "")
    )
    return f"<h2>Importance of columns</h2>{hint(note)}{table(rows, _IMPORTANCE)}"


def _slices(tables: Sequence[Mapping[str, Any]]) -> str:
    if not tables:
        return ""
    notes = (
        "Frequency: ids in the order of their exposures in the training part; the head has the first 25% of all exposures, the "
        "torso the next 50%, the tail the rest; unseen ids have none. Exposures: how often an id occurs in the training part; age: "
        "in which quarter of its rows it came first. A row with several values counts in the slice of each. "
        "± is half of the 95% interval of the AUC; slices of few rows differ by chance."
    )
    parts = [f"<h2>Slices</h2>{hint(notes)}"]
    for each in tables:
        by = "" if each["by"] == "value" else f" by {each['by']}"
        parts.append(f"<h3>{escape(each['column'])}{by}</h3>{table(each['rows'], _SLICE if not by else _BAND)}")
    return "".join(parts)


def table(rows: Sequence[Row], columns: Mapping[str, str]) -> str:
    """A table of those columns that some row has a value in; the first one names the rows."""
    first, *others = columns
    shown = [name for name in others if any(row.get(name) is not None for row in rows)]
    head = "".join(f'<th scope="col">{escape(columns[name])}</th>' for name in (first, *shown))
    lines = []
    for row in rows:
        cells = "".join(_cell(name, row.get(name)) for name in shown)
        mark = ' class="main"' if row.get("main") else ""
        lines.append(f'<tr{mark}><th scope="row">{escape(str(row[first]))}</th>{cells}</tr>')
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def _cell(name: str, value: Any) -> str:
    if name == "bar":
        return f'<td class="meter"><span style="width:{100 * value:.1f}%"></span></td>'
    if value is None:
        return "<td>–</td>"
    if isinstance(value, float):
        if name in _SHARES:
            return f"<td>{100 * value:.1f}%</td>"
        # No minus before what rounds to 0.
        return f"<td>{value:#.3g}</td>" if name in _RATES and 0 < value < 0.01 else f"<td>{round(value, 4) + 0.0:,.4f}</td>"
    return f"<td>{value:,}</td>" if isinstance(value, int) else f"<td>{escape(str(value))}</td>"


class Report(os.PathLike[str]):
    """Path of a page, which a notebook shows."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __fspath__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return as_typed(self.path)

    def _repr_html_(self) -> str:
        page = escape(self.path.read_text(encoding="utf-8"))
        return f'<iframe srcdoc="{page}" style="width:100%;height:40em;border:0"></iframe>'
