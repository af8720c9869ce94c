"""DLRM on JAX: tables sharded over the devices of all processes, MLPs on each of them.

One command starts all processes on this machine; under SLURM, Open MPI or with JAX_COORDINATOR_ADDRESS set, each is started by
the cluster's launcher instead. The log is a planted one: step i's batch depends on the seed and i alone.
"""

import os
import signal
import sys
from pathlib import Path

import click

EPILOG = """\b
Examples:
  python trainers/jax_hybrid.py --processes 2 --steps 200 --global-batch 256
  python trainers/jax_hybrid.py --processes 4 --plan plan.json --checkpoint run --json
  srun -n 8 python trainers/jax_hybrid.py --steps 10000
"""
signal.signal(signal.SIGINT, signal.SIG_DFL)  # ends quietly while frameworks are imported; then `run` decides
os.environ["KERAS_BACKEND"] = "jax"
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder that has `trainers`

from keras_dlrm.cli.program import run  # noqa: E402
from trainers import hybrid as trainer  # noqa: E402


@click.command(epilog=EPILOG)
@trainer.hybrid_options
def main(**options):
    """Train a sharded model."""
    trainer.run("jax", **options)


if __name__ == "__main__":
    run(main)
