"""The reference's mathematics: its recorded training runs, and a float64 reimplementation for what they leave out."""

import keras
import numpy as np
import pytest

from keras_dlrm.convert import from_torch_dlrm, to_torch_dlrm
from keras_dlrm.models import DLRM
from keras_dlrm.optimizers import SGD, Adagrad, RowwiseAdagrad
from keras_dlrm.schema.schema import Categorical, Schema

# -- recorded runs of facebookresearch/dlrm@090956e ----------------------------------------------------------------------------

GOLDEN = {
    "dot_sgd": lambda: SGD(0.1),
    "dot_adagrad": lambda: Adagrad(0.05),
    "dot_rwsadagrad_multihot": lambda: RowwiseAdagrad(0.05),
}


def reference_names(saved, prefix, tables, bottom, top):
    """Arrays of a golden file under the names of a state_dict."""
    out = {f"emb_l.{t}.weight": saved[f"{prefix}emb_{t}"] for t in range(tables)}
    for ours, theirs, layers in (("bot", "bot_l", bottom), ("top", "top_l", top)):
        for k in range(layers):
            out[f"{theirs}.{2 * k}.weight"] = saved[f"{prefix}{ours}_w{k}"]
            if f"{prefix}{ours}_b{k}" in saved:  # the final biases were not recorded
                out[f"{theirs}.{2 * k}.bias"] = saved[f"{prefix}{ours}_b{k}"]
    return out


@pytest.mark.parametrize("name", GOLDEN)
def test_recorded_training_runs_are_followed_step_by_step(shared, name):
    with np.load(shared / "golden" / f"{name}.npz") as file:
        saved = dict(file)
    tables, steps = len(saved["tables"]), len(saved["losses"])
    layers = len(saved["bottom"]) - 1, len(saved["top"]) - 1

    def bags(step, table):
        ids, offsets = saved[f"step{step}_ids_{table}"], saved[f"step{step}_off_{table}"]
        return [part.tolist() for part in np.split(ids, offsets[1:])]

    hotness = [max(len(bag) for s in range(steps) for bag in bags(s, t)) for t in range(tables)]
    assert any(len(set(saved[f"step0_ids_{t}"])) < len(saved[f"step0_ids_{t}"]) for t in range(tables)), "no id repeats"
    model = from_torch_dlrm(reference_names(saved, "", tables, *layers), hotness=hotness)
    model.compile(optimizer=GOLDEN[name]())
    dense_names, names = model.schema.dense_names, model.schema.categorical_names
    for s in range(steps):
        columns = {n: saved[f"step{s}_dense"][:, i] for i, n in enumerate(dense_names)}
        batch = model.schema.pack({**columns, **{n: bags(s, t) for t, n in enumerate(names)}})
        np.testing.assert_allclose(model.predict_on_batch(batch), saved["probs"][s].reshape(-1, 1), rtol=1e-5)
        model.reset_metrics()
        assert float(model.train_on_batch(batch, saved[f"step{s}_y"])) == pytest.approx(
            float(saved["losses"][s]), rel=1e-5
        )
    expected = reference_names(saved, "final_", tables, *layers)
    found = to_torch_dlrm(model)
    assert len(expected) == tables + sum(layers)
    for key, value in expected.items():
        # Relative to the array's largest weight: single ones cross zero.
        assert np.abs(found[key] - value).max() <= 1e-5 * np.abs(value).max(), key


# -- DLRM in NumPy, float64, with its gradients by hand ----------------------------------------------------------------------------


class NumpyDLRM:
    """Forward and backward of the paper's figure; plain dense tables, as simple as possible."""

    def __init__(self, weights, interaction, self_interaction):
        self.weights = {k: v.astype("float64") for k, v in weights.items()}
        self.interaction, self.self_interaction = interaction, self_interaction
        self.accumulators = {}

    def layers(self, part):
        return sum(1 for k in self.weights if k.startswith(part) and k.endswith("weight"))

    def mlp(self, part, x, activate_last):
        trace = []
        count = self.layers(part)
        for k in range(count):
            z = x @ self.weights[f"{part}.{2 * k}.weight"].T + self.weights[f"{part}.{2 * k}.bias"]
            active = activate_last or k < count - 1
            trace.append((x, z, active))
            x = np.maximum(z, 0) if active else z
        return x, trace

    def mlp_backward(self, part, trace, g, grads):
        for k, (x, z, active) in reversed(list(enumerate(trace))):
            g = g * (z > 0) if active else g
            grads[f"{part}.{2 * k}.weight"] = g.T @ x
            grads[f"{part}.{2 * k}.bias"] = g.sum(0)
            g = g @ self.weights[f"{part}.{2 * k}.weight"]
        return g

    def gradients(self, dense, bags, y):
        """bags: one list per table of one list of ids per example. Returns probabilities, loss, gradients."""
        n, count = len(dense), self.layers("emb_l")
        x, bottom = self.mlp("bot_l", dense.astype("float64"), True)
        vectors = [x]
        for t in range(count):
            table = self.weights[f"emb_l.{t}.weight"]
            vectors.append(np.stack([table[bag].sum(0) if bag else np.zeros(table.shape[1]) for bag in bags[t]]))
        stacked = np.stack(vectors, 1)
        extra = 1 if self.self_interaction else 0
        pairs = [(i, j) for i in range(count + 1) for j in range(i + extra)]
        if self.interaction == "dot":
            flat = np.concatenate([x, np.stack([(stacked[:, i] * stacked[:, j]).sum(1) for i, j in pairs], 1)], 1)
        else:
            flat = stacked.reshape(n, -1)
        z, top = self.mlp("top_l", flat, False)
        z = z[:, 0]
        p = 1 / (1 + np.exp(-z))
        loss = np.mean(np.maximum(z, 0) - z * y + np.log1p(np.exp(-np.abs(z))))

        grads = {}
        g = self.mlp_backward("top_l", top, ((p - y) / n)[:, None], grads)
        if self.interaction == "dot":
            to_vectors = np.zeros_like(stacked)
            to_vectors[:, 0] = g[:, : x.shape[1]]
            for (i, j), column in zip(pairs, g[:, x.shape[1] :].T, strict=True):
                to_vectors[:, i] += column[:, None] * stacked[:, j]
                to_vectors[:, j] += column[:, None] * stacked[:, i]
        else:
            to_vectors = g.reshape(stacked.shape)
        self.mlp_backward("bot_l", bottom, to_vectors[:, 0], grads)
        for t in range(count):
            table = np.zeros_like(self.weights[f"emb_l.{t}.weight"])
            for example, bag in enumerate(bags[t]):
                for i in bag:
                    table[i] += to_vectors[example, t + 1]
            grads[f"emb_l.{t}.weight"] = table
        return p, loss, grads

    def update(self, rule, rate, grads):
        for key, g in grads.items():
            if rule == "sgd":
                self.weights[key] -= rate * g
                continue
            square = g * g
            if rule == "rowwise_adagrad" and key.startswith("emb_l"):
                square = square.mean(1, keepdims=True)
            acc = self.accumulators[key] = self.accumulators.get(key, 0.0) + square
            self.weights[key] -= rate * g / (np.sqrt(acc) + 1e-10)


KAGGLE = {"bottom_mlp": [512, 256, 64, 16], "top_mlp": [512, 256, 1]}
SMALL = {"bottom_mlp": [8, 4], "top_mlp": [7, 1]}
OPTIMIZERS = {"sgd": SGD, "adagrad": Adagrad, "rowwise_adagrad": RowwiseAdagrad}
CASES = [
    # interaction, self-interaction, ids per bag, widths, optimizer
    ("dot", True, (1, 1), SMALL, "sgd"),
    ("dot", True, (0, 4), SMALL, "rowwise_adagrad"),
    ("cat", False, (1, 1), SMALL, "adagrad"),
    ("cat", False, (0, 4), SMALL, "sgd"),
    ("dot", False, (0, 4), SMALL, "adagrad"),
    ("dot", False, (1, 1), KAGGLE, "sgd"),
    ("dot", False, (1, 1), KAGGLE, "adagrad"),
    ("dot", False, (0, 3), KAGGLE, "rowwise_adagrad"),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    "interaction, self_interaction, bag_sizes, widths, rule",
    CASES,
    ids=lambda v: "kaggle" if v is KAGGLE else "small" if v is SMALL else str(v),
)
def test_training_equals_numpy_in_float64(interaction, self_interaction, bag_sizes, widths, rule):
    rng = np.random.default_rng(7)
    sizes, dense = [5, 3, 9, 4], 13 if widths is KAGGLE else 3
    low, high = bag_sizes
    schema = Schema(
        [f"I{i}" for i in range(dense)], [Categorical(f"C{t}", n, hotness=max(high, 1)) for t, n in enumerate(sizes)]
    )
    model = DLRM(
        schema, widths["bottom_mlp"][-1], interaction=interaction, self_interaction=self_interaction, seed=3, **widths
    )
    # Adagrad's first step moves every weight by `rate`: in a wide network a large one would saturate the sigmoid,
    # whose gradient of 1 - p float32 cannot tell from 0.
    rate = 0.1 if rule == "sgd" else 0.02 if widths is SMALL else 0.0005
    model.compile(optimizer=OPTIMIZERS[rule](rate))
    oracle = NumpyDLRM(to_torch_dlrm(model), interaction, self_interaction)
    for _ in range(3):
        x = rng.normal(size=(16, dense)).astype("float32")
        bags = [[rng.integers(0, n, rng.integers(low, high + 1)).tolist() for _ in range(16)] for n in sizes]
        y = rng.integers(0, 2, 16).astype("float32")
        columns = {f"I{i}": x[:, i] for i in range(dense)} | {f"C{t}": bag for t, bag in enumerate(bags)}
        p, loss, grads = oracle.gradients(x, bags, y)
        batch = schema.pack(columns)
        np.testing.assert_allclose(model.predict_on_batch(batch)[:, 0], p, rtol=1e-5, atol=1e-6)
        model.reset_metrics()
        assert float(model.train_on_batch(batch, y)) == pytest.approx(loss, rel=1e-5)
        oracle.update(rule, rate, grads)
    for key, value in to_torch_dlrm(model).items():
        expected = oracle.weights[key]
        # Adagrad's first steps are of size `rate` whatever the gradient: where that is rounding, so is the step.
        apart = np.abs(value - expected) > 1e-5 * max(np.abs(expected).max(), rate)
        assert apart.mean() <= (0 if rule == "sgd" else 1e-4), (key, np.abs(value - expected).max())


def test_the_oracles_gradients_are_derivatives():
    """The hand-written backward pass against finite differences of its forward pass."""
    keras.utils.set_random_seed(0)
    schema = Schema(["a", "b"], [Categorical("x", 3, hotness=2), Categorical("y", 2)])
    for interaction, self_interaction in (("dot", True), ("cat", False)):
        model = DLRM(schema, 3, [4, 3], [5, 1], interaction=interaction, self_interaction=self_interaction, seed=1)
        oracle = NumpyDLRM(to_torch_dlrm(model), interaction, self_interaction)
        rng = np.random.default_rng(0)
        x, y, bags = rng.normal(size=(4, 2)), np.array([0, 1, 1, 0]), [[[0, 0], [1], [], [2, 1]], [[1], [1], [0], [1]]]
        _, _, grads = oracle.gradients(x, bags, y)
        for key, g in grads.items():
            place = np.unravel_index(np.abs(g).argmax(), g.shape)
            ends = []
            for h in (1e-6, -1e-6):
                oracle.weights[key][place] += h
                ends.append(oracle.gradients(x, bags, y)[1])
                oracle.weights[key][place] -= h
            assert (ends[0] - ends[1]) / 2e-6 == pytest.approx(g[place], rel=1e-5), key
