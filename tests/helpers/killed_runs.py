"""Runs of `kd.train` in processes of their own that are killed at random moments, for the tests of resuming."""

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras

from helpers.children import environment, kill_after_save

_PROGRAM = """
import sys, time
sys.path[:0] = {path!r}
import keras_dlrm as kd
from keras_dlrm.training.callbacks import Resume

end = Resume.on_train_batch_end
def slow(self, batch, logs=None):
    end(self, batch, logs)
    print(batch, flush=True)
    time.sleep(0.05)
Resume.on_train_batch_end = slow
kd.train({log!r}, settings={settings!r}, output={output!r}, verbose=False)
"""


def train_and_kill(programs: Path, log: Any, settings: dict[str, Any], output: Path, kills: int) -> None:
    """Start a run, and go on with it, so many times; kill it each time after it has saved, and before it ends."""
    program = _PROGRAM.format(path=sys.path, log=str(log.directory), settings=settings, output=str(output))
    command, variables = [str(programs / "python"), "-c", program], environment(KERAS_BACKEND=keras.backend.backend())
    moments = random.Random(0)
    for _ in range(kills):
        process = subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, text=True)
        kill_after_save(process, (output / "resume.npz").exists, moments)
    assert not (output / "result.json").exists()
