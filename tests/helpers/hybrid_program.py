"""One process of several: trains, evaluates and predicts with each case's plan, and writes what it found as JSON.

`hybrid_program.py CASES FILE`, CASES being JSON: a list of `{"kinds", "rule", "weighted", "split", "uneven"}`, or with `"model"`
and its `"arguments"` of another model than DLRM, with `"labels"` of several, some of which are missing, and with `"in_batch"`
of a loss within the batch, with `"open"` of an open vocabulary of column a; without kinds tables are whole. Process 0 writes the
file.
"""

import json
import sys

import keras
import numpy as np

import keras_dlrm as kd

DIM = 8
# One size that parts divide, and one that leaves the last of four parts empty: it is compiled again, and trained in uneven cases.
EVEN, UNEVEN = 24, 5


def schema_of(weighted, label="label", opened=None):
    """Uneven vocabularies, one-hot and multi-hot columns of each combiner, two that share a table."""
    columns = [
        kd.Categorical("a", 50) if opened is None else kd.Categorical("a", open=kd.Open(**opened)),
        kd.Categorical("b", 7, hotness=3, combiner="mean"),
        kd.Categorical("c", 31, hotness=2),
        kd.Categorical("d", 31, hotness=2, table="c", combiner="sqrtn"),
        kd.Categorical("e", 5),
    ]
    return kd.Schema(dense=["x", "y"], categorical=columns, label=label, weighted=weighted)


def batches(schema, sizes):
    """The same in every process: ids repeat, and a fifth are padding."""
    rng = np.random.default_rng(0)
    for rows in sizes:
        limits = [(64, 2**36) if c.open else (c.vocabulary_size, 1) for c in schema.categorical]
        drawn = [rng.integers(0, most, (rows, c.hotness)) * by for c, (most, by) in zip(schema.categorical, limits, strict=True)]
        ids = np.concatenate(drawn, 1)
        ids[rng.random(ids.shape) < 0.2] = -1
        batch = {"dense": rng.normal(size=(rows, 2)).astype("float32"), "sparse": ids}
        if schema.weighted:
            batch["weights"] = rng.random(ids.shape).astype("float32")
        labels = rng.integers(0, 2, (rows, len(schema.labels))).astype("float32")
        labels[::3, 1:] = np.nan
        yield batch, labels[:, 0] if labels.shape[1] == 1 else labels


def model_of(schema, case):
    """A compiled model."""
    options = {"embedding_options": {"quotient_remainder": case["split"]}} if case.get("split") else {}
    if "model" in case:
        more = {} if case["model"] == "TwoTower" else {"first_order": True}
        model = getattr(kd.models, case["model"])(schema, embedding_dim=DIM, seed=3, **{**more, **case["arguments"]})
    else:
        options["batch_norm"] = case.get("batch_norm", False)
        model = kd.models.DLRM(schema, DIM, bottom_mlp=[16, DIM], top_mlp=[16, 1], seed=3, **options)
    rule = getattr(kd.optimizers, case["rule"])(0.05, **case.get("options", {}))
    loss = {"loss": in_batch(schema, case["in_batch"])} if "in_batch" in case else {}
    model.compile(rule, metrics=["auc", kd.metrics.NormalizedEntropy()], count_out_of_range=True, **loss)
    return model


def in_batch(schema, options):
    """A loss within the batch, whose catalog has all rows of column `"a"`."""
    if options.get("uniform_negatives"):
        ids = np.full((50, schema.width), -1)
        ids[:, 0] = np.arange(50)
        options = {**options, "catalog": {"dense": np.zeros((50, 2), "float32"), "sparse": ids}}
    return kd.losses.InBatchSoftmax(**options)


def run(case):
    """Findings of a case's training."""
    from keras_dlrm.sharding import collectives as backend
    from keras_dlrm.sharding import everyone
    from keras_dlrm.sharding.meter import meter
    from keras_dlrm.sharding.plan import place

    schema = schema_of(case.get("weighted", False), case.get("labels", "label"), case.get("open"))
    if case.get("kinds") is None:
        model, part, layout = model_of(schema, case), lambda batch: batch, None
    else:
        whole = model_of(schema, {**case, "kinds": None}).embeddings.table_shapes
        kinds = case["kinds"] if isinstance(case["kinds"], dict) else dict.fromkeys(whole, case["kinds"])
        with kd.sharding.use(place(backend.world_size(), whole, kinds)):
            model = model_of(schema, case)
        layout = model.embeddings.store.layout
        n = backend.process_count()
        devices = backend.world_size() // n

        def part(batch):
            return kd.sharding.part_of(batch, backend.process_rank(), n, devices)

    uneven, *data = batches(schema, [UNEVEN, EVEN, EVEN, *([UNEVEN, UNEVEN] if case.get("uneven") else [])])
    model.predict_on_batch(part(uneven)[0])  # builds it
    kept = [v for v in model.non_trainable_variables if "moving" in v.path]
    losses, moved, moving = [], [], []
    for batch in data:
        before = meter.total
        losses.append(float(model.train_on_batch(*part(batch), return_dict=True)["loss"]))
        moved.append(meter.total - before)
        mine = [keras.ops.convert_to_numpy(v) for v in kept]
        moving.append([everyone.arrays(each).tolist() for each in mine])  # of all processes
    # In the first step Keras builds the metrics by a forward pass; on JAX only the first of two alike is counted.
    found = {"losses": losses, "moving": moving, "moved": moved[1] or moved[0]}
    if case.get("uneven"):
        found["evaluation"] = {k: float(v) for k, v in model.test_on_batch(*part(uneven), return_dict=True).items()}
    # Each process predicts its rows; those that fill it up are cut off.
    rows = everyone.arrays(model.predict_on_batch(part(uneven)[0])).reshape(-1, model.n_labels)
    found["prediction"] = rows[:UNEVEN].tolist()
    found["tables"] = {name: table.tolist() for name, table in model.embedding_tables().items()}
    if layout is not None:
        from keras_dlrm.sharding.planner.costs import traffic

        others = sum(int(np.prod(v.shape)) for v in model.trainable_variables) - sum(
            int(np.prod(v.shape)) for v in model.embeddings.tables
        )
        found["predicted"] = traffic(layout.plan.world_size, layout.groups, EVEN, schema.weighted, others).total
    return found


def main():
    """Run all cases."""
    from keras_dlrm.sharding import collectives as backend

    kd.sharding.start()
    found = [run(case) for case in json.loads(sys.argv[1])]
    if backend.process_rank() == 0:
        with open(sys.argv[2], "w", encoding="utf-8") as file:
            json.dump(found, file)
    kd.sharding.stop()


if __name__ == "__main__":
    main()
