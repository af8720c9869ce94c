"""DLRM on torch.distributed: tables sharded over processes, MLPs on each of them.

One command starts all processes on this machine; under torchrun, or a launcher that sets its variables, each is started by it
instead. The log is a planted one: step i's batch depends on the seed and i alone.
"""

import os
import signal
import sys
from pathlib import Path

import click

EPILOG = """\b
Examples:
  python trainers/torch_hybrid.py --processes 2 --steps 200 --global-batch 256
  python trainers/torch_hybrid.py --processes 4 --plan plan.json --checkpoint run --json
  torchrun --nproc-per-node 8 --nnodes 2 … trainers/torch_hybrid.py --steps 10000
"""
signal.signal(signal.SIGINT, signal.SIG_DFL)  # ends quietly while frameworks are imported; then `run` decides
os.environ["KERAS_BACKEND"] = "torch"
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder that has `trainers`

from keras_dlrm.cli.program import run  # noqa: E402
from trainers import hybrid as trainer  # noqa: E402


@click.command(epilog=EPILOG)
@trainer.hybrid_options
def main(**options):
    """Train a sharded model."""
    trainer.run("torch", **options)


if __name__ == "__main__":
    run(main)
