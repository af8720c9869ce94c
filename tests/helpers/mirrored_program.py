"""Trains models that are built in a strategy's scope, and writes what it found as JSON; in one process or in several.

`mirrored_program.py FILE CASES`, CASES being JSON: a list of `{"replicas", "kinds", "rule", …}`, without kinds if there is no
plan, or `{"replicas", "refusals": true}`. With TF_CONFIG the replicas are those of all its workers; the first of them writes
the file.
"""

import json
import os
import sys

import keras
import numpy as np
import tensorflow as tf

import keras_dlrm as kd

DIM = 8
SCHEMA = kd.Schema(
    dense=["x", "y"],
    categorical=[
        kd.Categorical("a", 50),
        kd.Categorical("b", 7, hotness=3, combiner="mean"),
        kd.Categorical("c", 31, hotness=2),
        kd.Categorical("d", 31, hotness=2, table="c", combiner="sqrtn"),
        kd.Categorical("e", 5),
    ],
    label="label",
)
SHAPES = {"a": (50, DIM), "b": (7, DIM), "c": (31, DIM), "e": (5, DIM)}


def data(rows=53, seed=0):
    """Ids repeat, and a fifth are padding."""
    rng = np.random.default_rng(seed)
    ids = np.concatenate([rng.integers(0, c.vocabulary_size, (rows, c.hotness)) for c in SCHEMA.categorical], 1)
    ids[rng.random(ids.shape) < 0.2] = -1
    batch = {"dense": rng.normal(size=(rows, 2)).astype("float32"), "sparse": ids}
    return batch, rng.integers(0, 2, rows).astype("float32"), rng.random(rows).astype("float32")


def model_of(case):
    """A compiled model."""
    loss = keras.losses.BinaryCrossentropy(from_logits=False, reduction=case.get("reduction", "sum_over_batch_size"))
    if case.get("tower"):
        model = kd.models.TwoTower(SCHEMA, ["x", "a", "b"], ["y", "c", "d", "e"], DIM, DIM, [16], [16], item_id="e", seed=3)
        catalog = {"dense": np.zeros((5, 2), "float32"), "sparse": np.full((5, SCHEMA.width), -1)}
        catalog["sparse"][:, -1] = np.arange(5)
        loss = kd.losses.InBatchSoftmax(uniform_negatives=4, catalog=catalog)
    else:
        model = kd.models.DLRM(SCHEMA, DIM, bottom_mlp=[16, DIM], top_mlp=[16, 1], seed=3)
    # From 0 on an accumulator would make large steps of gradients that are nothing but rounding.
    options = {"initial_accumulator_value": 0.1} if "Adagrad" in case["rule"] else {}
    rule = getattr(kd.optimizers, case["rule"])(0.05, **options)
    dense = keras.optimizers.Adam(0.01, clipnorm=0.1, weight_decay=0.01) if case.get("clipped") else rule
    model.compile(
        dense,
        loss,
        embedding_optimizer=rule if dense is not rule else None,
        metrics=["auc", kd.metrics.NormalizedEntropy()],
        weighted_metrics=["mse"],
        count_out_of_range=True,
        steps_per_execution=case.get("steps_per_execution", 1),
    )
    return model


def model_in(strategy, case):
    """A model by `model_of`, in the scope of a strategy and with the plan of a case."""
    if strategy is None:
        return model_of(case)
    with strategy.scope():
        if not case.get("kinds"):
            return model_of(case)
        from keras_dlrm.sharding.plan import place

        kinds = case["kinds"] if isinstance(case["kinds"], dict) else dict.fromkeys(SHAPES, case["kinds"])
        with kd.sharding.use(place(strategy.num_replicas_in_sync, SHAPES, kinds)):
            return model_of(case)


def found_by(model, case):
    """Findings of a case's training."""
    (x, y, weight), (xv, yv, _) = data(), data(21, seed=1)
    if case.get("restore"):
        model.predict_on_batch(x)
        kd.checkpoint.restore(model, case["restore"])
    losses = []
    history = model.fit(
        x,
        y,
        sample_weight=weight if case.get("weighted") else None,
        class_weight={0: 0.5, 1: 2.0} if case.get("class_weight") else None,
        batch_size=12,  # and a last batch of 5
        epochs=2,
        shuffle=False,
        validation_data=(xv, yv),
        verbose=0,
        callbacks=[keras.callbacks.LambdaCallback(on_train_batch_end=lambda step, logs: losses.append(float(logs["loss"])))],
    ).history
    found = {"losses": losses, "history": {name: [float(v) for v in values] for name, values in history.items()}}
    found["evaluation"] = model.evaluate(tf.data.Dataset.from_tensor_slices((xv, yv)).batch(8), verbose=0, return_dict=True)
    found["prediction"] = model.predict(x, batch_size=10, verbose=0).reshape(-1).tolist()
    if case.get("on_batch"):
        found["on_batch"] = model.train_on_batch(x, y, weight, return_dict=True)
        found["test_on_batch"] = model.test_on_batch(xv, yv, return_dict=True)
        found["predict_on_batch"] = model.predict_on_batch(xv).reshape(-1).tolist()
    found["tables"] = {name: table.tolist() for name, table in model.embedding_tables().items()}
    if case.get("save"):
        kd.checkpoint.save(model, case["save"])
    copies = [v.value.values for v in model.variables if hasattr(v.value, "values") and not getattr(v, "sharded", False)]
    found["copies_differ"] = sum(any((c.numpy() != each[0].numpy()).any() for c in each) for each in copies)
    return json.loads(json.dumps(found, default=float))


def refusals(strategy):
    """Calls that do not work in a scope, and the message of each."""
    from keras_dlrm.sharding.plan import place

    x, y, _ = data(8)
    sharded = model_in(strategy, {"rule": "Adagrad", "kinds": "row_wise"})
    sharded.train_on_batch(x, y)
    with strategy.scope():
        whole = kd.models.DLRM(SCHEMA, DIM, bottom_mlp=[16, DIM], top_mlp=[16, 1])
    outside = kd.optimizers.Adagrad(0.05)
    metric = keras.metrics.AUC()

    def in_scope(**arguments):
        with strategy.scope():
            whole.compile(**arguments)
            whole.fit(x, y, batch_size=4, verbose=0)

    def accumulated():
        with strategy.scope():
            whole.compile(keras.optimizers.SGD(0.1, gradient_accumulation_steps=2), embedding_optimizer="sgd")

    def planned_outside():
        with kd.sharding.use(place(2, SHAPES, dict.fromkeys(SHAPES, "row_wise"))), strategy.scope():
            model_of({"rule": "SGD"})

    class Whole(keras.utils.PyDataset):
        def __len__(self):
            return 1

        def __getitem__(self, index):
            return x, y

    tries = {
        "called": lambda: sharded(x),
        "called in scope": lambda: in_scope_call(strategy, sharded, x),
        "part": lambda: sharded.fit(kd.sharding.Part(Whole(), 0, 2), verbose=0),
        "divided": lambda: sharded.fit(strategy.experimental_distribute_dataset(tf.data.Dataset.from_tensors((x, y))), verbose=0),
        "eager": lambda: in_scope(run_eagerly=True),
        "optimizer": lambda: in_scope(optimizer=outside),
        "compiled outside": lambda: whole.compile("adagrad"),
        "metric": lambda: in_scope(metrics=[metric]),
        "accumulated": accumulated,
        "planned outside": planned_outside,
        "saved": lambda: sharded.save(os.path.join(os.path.dirname(sys.argv[1]), "sharded.keras")),
    }
    found = {}
    for name, attempt in tries.items():
        try:
            attempt()
            found[name] = ""
        except Exception as error:  # noqa: BLE001
            found[name] = f"{type(error).__name__}: {error}"
    return found


def in_scope_call(strategy, model, x):
    """Call a model as a function."""
    with strategy.scope():
        return model(x)


def main():
    """Run all cases."""
    path, cases = sys.argv[1], json.loads(sys.argv[2])
    workers = "TF_CONFIG" in os.environ
    if not workers:
        device = tf.config.LogicalDeviceConfiguration()
        devices = max(case["replicas"] for case in cases)
        tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], [device] * devices)
    strategy = tf.distribute.MultiWorkerMirroredStrategy() if workers else None
    found = []
    for case in cases:
        mirrored = strategy or tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(case["replicas"])])
        found.append(refusals(mirrored) if case.get("refusals") else found_by(model_in(mirrored, case), case))
    if not workers or strategy.cluster_resolver.task_id == 0:
        with open(path, "w", encoding="utf-8") as file:
            json.dump(found, file)


if __name__ == "__main__":
    main()
