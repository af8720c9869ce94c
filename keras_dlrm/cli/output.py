"""Output of commands besides their results: a JSON line, skipped rows, unseen values, progress."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from keras_dlrm.data.preprocessor.unseen import Unseen


def print_json(as_json: bool, value: Mapping[str, Any]) -> None:
    """The last line, where it was asked for."""
    if as_json:
        click.echo(json.dumps(value))


def print_skipped(count: int, examples: Iterable[Any]) -> None:
    """Print how many rows were skipped, and some of them."""
    if count:
        click.echo(f"{count:,} rows were skipped, such as:", err=True)
        for row in itertools.islice(examples, 5):
            click.echo(f"  {row}", err=True)


def print_unseen(columns: Sequence[Unseen]) -> None:
    """A table of the columns with unseen values, where there are some, and a warning where they are too many."""
    from keras_dlrm.data.preprocessor import unseen
    from keras_dlrm.support.terminal import print_table

    if rows := unseen.table(columns):
        print_table(rows, "unseen values")
    if said := unseen.warning(columns):
        click.echo(f"warning: {said}", err=True)


@contextmanager
def row_progress(title: str) -> Iterator[Callable[[int, int | None, str], None]]:
    """A progress bar fed by `(rows_done, rows_total, stage)`, with rows/s and time left, on standard error."""
    from rich.console import Console

    from keras_dlrm.support.terminal import bar

    start = time.perf_counter()
    with bar(Console(stderr=True), "rows") as shown:
        task = shown.add_task(title, total=None, note="")

        def report(done: int, total: int | None, stage: str) -> None:
            rate = done / max(time.perf_counter() - start, 1e-9)
            shown.update(task, completed=done, total=total, description=f"{title}: {stage}", note=f"{rate:,.0f} rows/s")

        yield report
