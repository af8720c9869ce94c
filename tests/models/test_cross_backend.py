"""One model, three backends: the same losses for 50 steps, and files that each of them reads."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from helpers.children import environment
from helpers.zoo import KINDS

# Each backend runs in a process of its own.
pytestmark = [pytest.mark.slow, pytest.mark.neutral]

COMMON = """
import json, sys
from pathlib import Path
import numpy as np
import keras
import keras_dlrm as kd

sys.path.insert(0, sys.argv[2])
from helpers.calls import called
from helpers.zoo import MODELS as ZOO, data

schema = kd.Schema(dense=["a", "b"], categorical=[
    kd.Categorical("x", 20), kd.Categorical("y", 50, hotness=3, combiner="mean"), kd.Categorical("z", 4, table="w")])

def batch(seed, rows=32):
    rng = np.random.default_rng(seed)
    sparse = np.stack([rng.integers(0, 20, rows), *rng.integers(-1, 50, (3, rows)), rng.integers(0, 4, rows)], 1)
    dense = rng.normal(size=(rows, 2)).astype("float32")
    y = (dense[:, 0] + (sparse[:, 0] % 2) + rng.normal(size=rows) > 0.5).astype("float32")
    return {"dense": dense, "sparse": sparse}, y

several = kd.Schema(schema.dense, schema.categorical, label=["click", "buy"])

def labels_of(model, x, y):
    # One label; or a second one that follows it, and is missing in some rows.
    if len(model.schema.labels) == 1:
        return x, y
    buy = np.where(x["dense"][:, 1] > 0.5, y, 0)
    return x, np.stack([y, np.where(x["dense"][:, 1] > 1, np.nan, buy)], 1).astype("float32")

def dlrm():
    return kd.models.DLRM(schema, 8, [16, 8], [16, 1], seed=5)

MODELS = {
    "dlrm, adagrad": (dlrm, kd.optimizers.Adagrad(0.05)),
    "dlrm, rowwise adagrad": (dlrm, kd.optimizers.RowwiseAdagrad(0.05)),
    "mmoe, adam": (lambda: kd.models.DLRM(several, 8, [16, 8], [16, 1], seed=5, tasks=kd.tasks.MMoE([4], 2, [8])), "adam"),
    "ple, esmm": (lambda: kd.models.DCNv2(several, 8, 2, [16], seed=5, tasks=kd.tasks.PLE(expert_mlp=[8])), "adam"),
    "dcnv2, adam": (lambda: kd.models.DCNv2(schema, 8, 2, [16], "parallel", seed=5), "adam"),
}
"""

TRAIN = (
    COMMON
    + """
out = {}
for name, (make, optimizer) in MODELS.items():
    model = make()
    model.compile(optimizer=optimizer, **({"loss": kd.losses.ESMM()} if "esmm" in name else {}))
    out[name] = []
    for step in range(50):
        model.reset_metrics()
        out[name].append(float(model.train_on_batch(*labels_of(model, *batch(step)))))
folder = Path(sys.argv[1])
if keras.backend.backend() == "jax":
    # Compiled, with dropout, trained: what a user saves.
    model = kd.models.DLRM(schema, 8, [16, 8], [16, 1], dropout=0.2, batch_norm=True, seed=5)
    model.compile(optimizer=keras.optimizers.Adam(0.01), embedding_optimizer="rowwise_adagrad", metrics=["auc"])
    model.fit(*batch(0), batch_size=16, verbose=0)
    model.save(folder / "jax.keras")
    np.save(folder / "jax.npy", model.predict(batch(1)[0], verbose=0))
    for kind in sys.argv[3:]:
        model = ZOO[kind].make()
        model.save(folder / f"{kind}.keras")
        np.save(folder / f"{kind}.npy", called(model, data(model.schema)[0]))
print(json.dumps(out))
"""
)

LOAD = (
    COMMON
    + """
model = keras.saving.load_model(Path(sys.argv[1]) / "jax.keras")
p = model.predict(batch(1)[0], verbose=0)
loss = model.train_on_batch(*batch(2))
for kind in sys.argv[3:]:
    other = keras.saving.load_model(Path(sys.argv[1]) / f"{kind}.keras")
    got = keras.ops.convert_to_numpy(called(other, data(other.schema)[0]))
    np.testing.assert_allclose(got, np.load(Path(sys.argv[1]) / f"{kind}.npy"), atol=1e-6, rtol=0, err_msg=kind)
print(json.dumps({"p": p.tolist(), "iterations": int(model.optimizer.iterations), "finite": bool(np.isfinite(loss).all())}))
"""
)


SOME = ["dlrm dot", "deep fm", "wukong", "svd++", "dcn", "mmoe in dlrm", "twotower"]


@pytest.mark.parametrize("kinds", [SOME, pytest.param(KINDS, marks=pytest.mark.soak)], ids=["some", "all"])
def test_models_learn_alike_and_a_saved_one_is_loaded_everywhere(kinds, tensorflow_programs, tmp_path):
    for name in ("jax", "torch"):
        pytest.importorskip(name)

    def run(code, backend):
        # Where another backend is named it is the plain interpreter.
        command = [tensorflow_programs / "python", "-c", code, tmp_path, Path(__file__).parents[1], *kinds]
        done = subprocess.run(command, env=environment(KERAS_BACKEND=backend), capture_output=True, text=True)
        assert done.returncode == 0, f"{backend}: {done.stderr[-3000:]}"
        return json.loads(done.stdout.splitlines()[-1])

    tensorflow, *others = [run(TRAIN, backend) for backend in ("tensorflow", "jax", "torch")]
    assert len(tensorflow) == 5
    for model, losses in tensorflow.items():
        assert np.mean(losses[-10:]) < np.mean(losses[:5]), f"{model} does not learn"
        for backend, other in zip(("jax", "torch"), others, strict=True):
            np.testing.assert_allclose(other[model], losses, rtol=1e-4, err_msg=f"{model} on {backend}")
    for backend in ("tensorflow", "torch"):
        loaded = run(LOAD, backend)
        np.testing.assert_allclose(np.array(loaded["p"]), np.load(tmp_path / "jax.npy"), atol=1e-6, rtol=0, err_msg=backend)
        assert loaded["iterations"] == 3 and loaded["finite"], backend
