"""The built-in default: DLRM on a planted log of Criteo's shape, scaled down."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from keras_dlrm import data
from keras_dlrm.training.experiment import Experiment

SCALE = 1e-4
ROWS = {"train": 1_000_000, "valid": 50_000, "test": 100_000}
EXPERIMENT = Experiment(
    model={"type": "DLRM", "embedding_dim": 16, "bottom_mlp": [64, 16], "top_mlp": [128, 64, 1], "init_scale": 0.01},
    # 1,954 steps in two epochs: the rate falls to zero over them.
    optimizer={
        "name": "adam",
        "learning_rate": {"learning_rate": 0.005, "warmup_steps": 50, "decay_start_step": 50, "decay_steps": 1904},
    },
    batch_size=1024,
    epochs=2,
)


def planted_log(directory: Path, console: Console | None = None) -> Any:
    """The planted log, written once.

    Args:
        directory: Where it is or will be.
        console: Where to say so.

    Returns:
        A `ClickLog` whose `best` is what the best possible model reaches.
    """
    if not directory.exists():
        if console is not None:
            console.print(f"writing a planted click log of {sum(ROWS.values()):,} rows to {directory}", highlight=False)
        schema = data.synthetic.criteo_shape(SCALE)
        directory.parent.mkdir(parents=True, exist_ok=True)
        data.synthetic.PlantedClickLog(schema, seed=0).write(directory, rows=ROWS)
    return data.open(directory)
