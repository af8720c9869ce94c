"""An epoch that is killed at random moments, with batches read ahead and several of them an execution, ends as if it never was.

One backend is killed once in the suite; `make soak` kills each of them twenty times.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from helpers.children import kill_after_save
from helpers.suite import suite_on

from keras_dlrm.data.synthetic import PlantedClickLog
from keras_dlrm.schema.schema import Categorical, Schema
from keras_dlrm.training import callbacks
from keras_dlrm.training.callbacks import Resume

PROGRAM = """
import sys, time
sys.path[:0] = {path!r}
import keras, numpy as np, keras_dlrm as kd
from keras_dlrm.training.callbacks import Resume

class Slow(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        print(batch, flush=True)
        time.sleep(0.05)

data = kd.data.open({data!r})
part = data.split("train")
model = kd.models.DLRM(data.schema, embedding_dim=4, bottom_mlp=[4], top_mlp=[4, 1], seed=1)
model.compile(kd.optimizers.Adagrad(0.1), metrics=["auc"], steps_per_execution={steps})
state = Resume({folder!r} + "/resume", 3, len(part.dataset(8)), [])
state.restore(model, part.take(slice(0, 2)))
callbacks = [state, Slow()] if "--slow" in sys.argv else [state]
dataset = part.dataset(
    8, shuffle=True, seed=7, prefetch=3, start_epoch=state.epoch, start_batch=state.batch
) if state.epoch < 3 else None
logs = {{}}
if dataset is not None:
    logs = model.fit(dataset, initial_epoch=state.epoch, epochs=3, verbose=0, callbacks=callbacks).history
np.savez(
    {folder!r} + "/end.npz", *[keras.ops.convert_to_numpy(v.value) for v in (*model.variables, *model.optimizer.variables)],
    loss=logs.get("loss", [0.0])[-1], auc=logs.get("auc", [0.0])[-1],
)
"""


def start(programs: Path, log: Path, folder: Path, *options: str) -> subprocess.Popen[str]:
    steps = 1 if keras.backend.backend() == "torch" else 2  # all that Keras offers there
    program = PROGRAM.format(path=sys.path, data=str(log), folder=str(folder), steps=steps)
    environment = {**os.environ, "KERAS_BACKEND": keras.backend.backend()}
    command = [str(programs / "python"), "-c", program, *options]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def finish(programs: Path, log: Path, folder: Path) -> int:
    with start(programs, log, folder) as process:
        process.communicate()
    return process.returncode


@pytest.mark.parametrize(
    "kills", [pytest.param(1, marks=suite_on("tensorflow")), pytest.param(20, marks=pytest.mark.soak)]
)
def test_an_epoch_killed_at_random_moments_ends_as_an_uninterrupted_one(programs: Path, tmp_path: Path, kills: int) -> None:
    schema = Schema(["x"], [Categorical("c", 30), Categorical("h", 9, hotness=2)])
    # Enough batches for all kills; the last one has 3 rows.
    rows = 104 * kills + 3
    log = PlantedClickLog(schema, seed=0).write(tmp_path / "log", {"train": rows})
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    assert finish(programs, log.directory, whole) == 0
    moments = random.Random(0)
    for _ in range(kills):
        process = start(programs, log.directory, killed, "--slow")
        kill_after_save(process, lambda: any((killed / "resume").glob("step_*")), moments)
    assert any((killed / "resume").glob("step_*")) and not (killed / "end.npz").exists()
    assert finish(programs, log.directory, killed) == 0
    with np.load(whole / "end.npz") as expected, np.load(killed / "end.npz") as found:
        assert expected.files == found.files and len(found.files) > 5
        for name in expected.files:
            np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


class Model:
    """The parts of a model that `Resume` asks for."""

    trainable_variables: list = []
    non_trainable_variables: list = []
    metrics_variables: list = []

    class optimizer:
        variables: list = []


@pytest.mark.parametrize(("executions", "saved"), [([0, 1, 2, 3, 4], [3]), ([1, 3, 5], [4]), ([2, 5], [3])])
def test_batches_are_counted_not_executions(tmp_path: Path, executions: list[int], saved: list[int]) -> None:
    places = []
    state = Resume(tmp_path / "resume", 3, 5, [])
    state.set_model(Model())
    state._save = lambda epoch, batch: places.append(batch)  # type: ignore[method-assign]
    state.on_epoch_begin(0)
    for end in executions:
        state.on_train_batch_end(end)
    assert places == saved


def test_the_ends_of_short_epochs_are_saved_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, saved = iter([0.0, 0.1, 2.9, 3.2, 3.3, 6.0, 6.4, 6.5]), []
    monkeypatch.setattr(callbacks, "time", SimpleNamespace(monotonic=lambda: next(now)))
    monkeypatch.setattr(callbacks, "write", lambda state, directory, step, *_, **options: saved.append(step))
    monkeypatch.setattr(callbacks, "state_of", lambda model: None)
    for name in ("require_finite", "clear"):
        monkeypatch.setattr(callbacks, name, lambda *_: None)
    state = Resume(tmp_path / "resume", 1000, 10, [])
    state.set_model(Model())
    for epoch in range(5):
        state.on_epoch_begin(epoch)
        state.batch = 10
        state.on_epoch_end(epoch)
    # Asked at 0.0, 2.9, 3.2, 6.0 and 6.4, saved by 0.1, 3.3 and 6.5.
    assert saved == [10, 30, 50] and state.trained == 50
