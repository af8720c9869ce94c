"""Options that the trainers of sharded models share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from keras_dlrm.cli.options import POSITIVE, PathArgument, together

_COUNT = click.IntRange(1)


def sharded_options(processes: str, plan: str, optimizer: str, restarts: str, timeout: str) -> Callable[..., Any]:
    """The log, the model, its training and its checkpoints; the arguments say what differs from trainer to trainer.

    Args:
        processes: What `--processes` counts.
        plan: What `--plan` is, and its default.
        optimizer: Which parameters `--optimizer` is for.
        restarts: When `--restarts` holds.
        timeout: What happens after `--timeout`.
    """
    return together(
        click.option("--processes", default=2, show_default=True, type=_COUNT, help=processes),
        click.option("--steps", default=100, show_default=True, type=click.IntRange(0), help="Training steps in all."),
        click.option("--global-batch", default=256, show_default=True, type=_COUNT, help="Examples of a step, of all processes."),
        click.option("--seed", default=0, show_default=True, help="Of the log and of the initial weights."),
        click.option("--rows", default=10_000, show_default=True, type=click.IntRange(2), help="Rows of the largest table."),
        click.option("--embedding-dim", default=16, show_default=True, type=_COUNT, help="Width of the tables."),
        click.option("--plan", "plan_file", type=PathArgument, help=plan),
        click.option("--optimizer", default="adagrad", show_default=True, help=optimizer),
        click.option("--learning-rate", type=POSITIVE, help="The optimizer's own by default."),
        click.option("--checkpoint", type=PathArgument, help="Folder of checkpoints; a run resumes from the last one."),
        click.option("--checkpoint-steps", default=100, show_default=True, type=_COUNT, help="Steps between checkpoints."),
        click.option("--timeout", default=300.0, show_default=True, type=POSITIVE, help=timeout),
        click.option("--restarts", default=10, show_default=True, type=click.IntRange(0), help=restarts),
        click.option("--json", "as_json", is_flag=True, help="End with one JSON object on stdout."),
    )
