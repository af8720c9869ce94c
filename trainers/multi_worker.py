"""DLRM on TensorFlow's MultiWorkerMirroredStrategy: tables sharded over the workers, MLPs on each of them.

One command starts all processes on this machine; under a launcher that sets TF_CONFIG, each is started by it instead. The log is a
planted one: step i's batch depends on the seed and i alone.
"""

import os
import signal
import sys
from pathlib import Path

import click

EPILOG = """\b
Examples:
  python trainers/multi_worker.py --processes 2 --steps 200 --global-batch 256
  python trainers/multi_worker.py --processes 4 --plan plan.json --checkpoint run --json
  TF_CONFIG='{…}' python trainers/multi_worker.py --steps 10000
"""
signal.signal(signal.SIGINT, signal.SIG_DFL)  # ends quietly while frameworks are imported; then `run` decides
os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder that has `trainers`

from keras_dlrm.cli.program import run  # noqa: E402
from trainers import hybrid as trainer  # noqa: E402


@click.command(epilog=EPILOG)
@trainer.hybrid_options
def main(**options):
    """Train a sharded model."""
    trainer.run("tensorflow", **options)


if __name__ == "__main__":
    run(main)
