"""Result tables and progress bars on a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any, TextIO

import numpy as np
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text


def print_table(rows: Sequence[Mapping[str, Any]], title: str = "", file: TextIO | None = None) -> None:
    """Print a table, one line per row: colored on a terminal, plain and never cut off in a pipe or a file.

    Columns are the keys of the rows in order of first appearance, `title` is a line above them. A missing value stays
    blank; numbers are aligned at the decimal point, floats with four decimals, whole numbers with thousands separators.
    `ValueError` where there are no rows.
    """
    if not rows:
        raise ValueError("print_table: rows is empty; give at least one mapping of column name to value.")
    heading = Text(title, "bold") if title else None
    table = Table(title=heading, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    for key in columns:
        numeric = all(_is_number(row[key]) for row in rows if row.get(key) is not None)
        table.add_column(Text(str(key)), justify="right" if numeric else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(_cell(row.get(key))) for key in columns))
    console = Console(file=file)
    (console if console.is_terminal else Console(file=file, width=10_000)).print(table)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if not _is_number(value):
        return str(value)
    return f"{int(value):,}" if isinstance(value, (int, np.integer)) else f"{float(value):,.4f}"


def bar(console: Console, unit: str = "rows") -> Progress:
    """A rich progress bar on a terminal; silent elsewhere."""
    columns = (
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit),
        TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
    )  # fmt: skip
    return Progress(*columns, console=console, disable=not console.is_terminal, transient=True)
