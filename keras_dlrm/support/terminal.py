"""Result tables and progress bars on a terminal."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TextIO

import numpy as np
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text


def print_table(
    rows: Sequence[Mapping[str, Any]], title: str = "", file: TextIO | None = None, width: int = 10_000
) -> None:
    """Print a table, one line per row: colored on a terminal, plain and `width` columns wide at most elsewhere.

    Columns are the keys of the rows in order of first appearance, `title` is a line above them. A missing value stays
    blank; numbers are aligned at the decimal point, floats with four decimals, whole numbers with thousands separators.
    Columns that a terminal has no room for follow in a table below, after the first column again. `ValueError` where there
    are no rows.
    """
    if not rows:
        raise ValueError("print_table: rows is empty; give at least one mapping of column name to value.")
    console = Console(file=file)
    if not console.is_terminal:
        console = Console(file=file, width=width)
    if title:
        console.print(Text(title, "bold"))
    columns = list(dict.fromkeys(key for row in rows for key in row))
    for i, some in enumerate(_that_fit(rows, columns, console.width)):
        if i:
            console.print()
        console.print(_table(rows, some))


def _that_fit(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], width: int) -> list[list[str]]:
    """Columns of each table, which has the first of all and as many others as its width has room for."""
    # A space on either side of a column, and one between two of them.
    room = {key: 3 + max(cell_len(text) for text in (key, *(cell_text(row.get(key)) for row in rows))) for key in columns}
    first, *others = columns
    tables, left = [[first]], width + 1 - room[first]
    for key in others:
        if room[key] > left and len(tables[-1]) > 1:
            tables.append([first])
            left = width + 1 - room[first]
        tables[-1].append(key)
        left -= room[key]
    return tables


def _table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    for key in columns:
        numeric = all(_is_number(row[key]) for row in rows if row.get(key) is not None)
        # A number is never cut; a text that is wider than the terminal is continued below.
        table.add_column(Text(str(key)), justify="right" if numeric else "left", no_wrap=numeric, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell_text(row.get(key))) for key in columns))
    return table


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def cell_text(value: Any) -> str:
    """A value as tables show it: floats with four decimals, nothing for `None`."""
    if value is None:
        return ""
    if not _is_number(value):
        return str(value)
    return f"{int(value):,}" if isinstance(value, (int, np.integer)) else f"{float(value):,.4f}"


def bar(console: Console, unit: str = "rows") -> Progress:
    """A rich progress bar on a terminal, in one line of 80 columns; silent elsewhere."""
    width = 40 if console.width >= 120 else 8
    columns: list[ProgressColumn] = [SpinnerColumn(), TextColumn("{task.description}"), BarColumn(width), MofNCompleteColumn()]
    columns += [TextColumn(unit)] * bool(unit) + [TimeRemainingColumn(compact=True), TextColumn("{task.fields[note]}")]
    return Progress(*columns, console=console, disable=not console.is_terminal, transient=True)


@contextlib.contextmanager
def row_bar(console: Console, title: str) -> Iterator[Callable[[int, int | None, str], None]]:
    """A bar fed by `(rows_done, rows_total, stage)`, with rows/s and time left."""
    start = time.perf_counter()
    with bar(console) as shown:
        task = shown.add_task(title, total=None, note="")

        def report(done: int, total: int | None, stage: str) -> None:
            rate = done / max(time.perf_counter() - start, 1e-9)
            shown.update(task, completed=done, total=total, description=f"{title}: {stage}", note=f"{rate:,.0f} rows/s")

        yield report
