"""One model, three backends: the same losses for 50 steps, and files that each of them reads."""

import json
import subprocess
import sys

import numpy as np
import pytest
from helpers.children import environment

# Each backend runs in a process of its own.
pytestmark = [pytest.mark.slow, pytest.mark.neutral]

COMMON = """
import json, sys
from pathlib import Path
import numpy as np
import keras
import keras_dlrm as kd

schema = kd.Schema(dense=["a", "b"], categorical=[
    kd.Categorical("x", 20), kd.Categorical("y", 50, hotness=3, combiner="mean"), kd.Categorical("z", 4, table="w")])

def batch(seed, rows=32):
    rng = np.random.default_rng(seed)
    sparse = np.stack([rng.integers(0, 20, rows), *rng.integers(-1, 50, (3, rows)), rng.integers(0, 4, rows)], 1)
    dense = rng.normal(size=(rows, 2)).astype("float32")
    y = (dense[:, 0] + (sparse[:, 0] % 2) + rng.normal(size=rows) > 0.5).astype("float32")
    return {"dense": dense, "sparse": sparse}, y

def dlrm():
    return kd.models.DLRM(schema, 8, [16, 8], [16, 1], seed=5)

MODELS = {
    "dlrm, adagrad": (dlrm, kd.optimizers.Adagrad(0.05)),
    "dlrm, rowwise adagrad": (dlrm, kd.optimizers.RowwiseAdagrad(0.05)),
    "dcnv2, adam": (lambda: kd.models.DCNv2(schema, 8, 2, [16], "parallel", seed=5), "adam"),
}
"""

TRAIN = (
    COMMON
    + """
out = {}
for name, (make, optimizer) in MODELS.items():
    model = make()
    model.compile(optimizer=optimizer)
    out[name] = []
    for step in range(50):
        model.reset_metrics()
        out[name].append(float(model.train_on_batch(*batch(step))))
folder = Path(sys.argv[1])
if keras.backend.backend() == "jax":
    # Compiled, with dropout, trained: what a user saves.
    model = kd.models.DLRM(schema, 8, [16, 8], [16, 1], dropout=0.2, batch_norm=True, seed=5)
    model.compile(optimizer=keras.optimizers.Adam(0.01), embedding_optimizer="rowwise_adagrad", metrics=["auc"])
    model.fit(*batch(0), batch_size=16, verbose=0)
    model.save(folder / "jax.keras")
    np.save(folder / "jax.npy", model.predict(batch(1)[0], verbose=0))
print(json.dumps(out))
"""
)

LOAD = (
    COMMON
    + """
model = keras.saving.load_model(Path(sys.argv[1]) / "jax.keras")
p = model.predict(batch(1)[0], verbose=0)
loss = model.train_on_batch(*batch(2))
print(json.dumps({"p": p.tolist(), "iterations": int(model.optimizer.iterations), "finite": bool(np.isfinite(loss).all())}))
"""
)


def run(code, backend, folder):
    command = [sys.executable, "-c", code, str(folder)]
    done = subprocess.run(command, env=environment(KERAS_BACKEND=backend), capture_output=True, text=True)
    assert done.returncode == 0, f"{backend}: {done.stderr[-3000:]}"
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("backends")


@pytest.fixture(scope="module")
def trajectories(folder):
    for name in ("jax", "torch"):
        pytest.importorskip(name)
    return {backend: run(TRAIN, backend, folder) for backend in ("tensorflow", "jax", "torch")}


@pytest.mark.parametrize("model", ["dlrm, adagrad", "dlrm, rowwise adagrad", "dcnv2, adam"])
def test_losses_agree_for_50_steps(trajectories, model):
    expected = np.array(trajectories["tensorflow"][model])
    assert expected[-10:].mean() < expected[:5].mean()  # it learns
    for backend in ("jax", "torch"):
        np.testing.assert_allclose(trajectories[backend][model], expected, rtol=1e-4, err_msg=backend)


@pytest.mark.parametrize("backend", ["tensorflow", "torch"])
def test_a_model_saved_under_jax_predicts_the_same_elsewhere_and_trains_on(trajectories, folder, backend):
    found = run(LOAD, backend, folder)
    np.testing.assert_allclose(np.array(found["p"]), np.load(folder / "jax.npy"), atol=1e-6, rtol=0)
    assert found["iterations"] == 3 and found["finite"]
