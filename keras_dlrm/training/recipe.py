"""Defaults that look at the log: an experiment for a click log, with the reason for each value."""

import dataclasses
from typing import Any

import numpy as np

from keras_dlrm.training.experiment import Experiment
from keras_dlrm.training.model_types import DEEP, MODELS

_SMALL = 20_000  # rows
_MANY_ROWS = 100_000
_LARGE = 500_000
_MANY = 64  # vectors
_BATCHES = 200  # of an epoch, about
_STEPS = 1000  # that a run may take at least
_EPOCHS = (30, 250)
_RARE = 100  # rows that an embedding row is looked up in, on average
_ROW_L2 = 0.4  # by the rows that a row is looked up in
_KERNEL_L2 = 10.0  # by the training rows


def recipe(log: Any, model: str = "DLRM") -> Experiment:
    """The experiment that `keras-dlrm train` runs without flags; `experiment.reasons` says why each value is what it is.

    It trains until the validation part stops improving and keeps the averaged weights that are best by AUC and normalized
    entropy together. Sizes and regularization follow from the number of training rows and how often their ids are seen.

    Args:
        log: A `ClickLog` of `kd.data.open`.
        model: Type of the model, as of `Experiment.model`.

    Example:

    >>> import tempfile
    >>> schema = kd.Schema(dense=["x"], categorical=[kd.Categorical("c", 50)])
    >>> log = kd.data.synthetic.PlantedClickLog(schema, seed=0).write(tempfile.mkdtemp() + "/log", {"train": 40_000})
    >>> experiment = recipe(log)
    >>> experiment.batch_size, experiment.reasons["batch_size"]
    (256, '40,000 rows: about 200 batches an epoch, 256 to 4096 rows each')
    """
    schema, rows = log.schema, len(log.split("train"))
    tables = sum(schema.table_sizes.values())
    seen = rows * len(schema.categorical) / tables if tables else float("inf")
    batch = int(np.clip(2 ** round(np.log2(max(rows, 1) / _BATCHES)), 256, 4096))
    validated = bool("valid" in log.splits and len(log.split("valid")))
    epochs = int(np.clip(_STEPS // max(rows // batch, 1), *_EPOCHS)) if validated else _EPOCHS[0]
    known_well = rows >= _SMALL and seen >= _RARE
    # 800,000 rows learned more slowly at the high rate than at half of it (benchmarks/TRIED.md).
    width, rate, factor = (32, 0.01, 0.3) if known_well and rows < _LARGE else (16, 0.005 if known_well else 0.001, 1.0)
    l2 = float(f"{np.clip(_ROW_L2 / seen, 1e-5, 0.1):.1g}")
    known, reasons = _model(model, schema, rows, width, known_well)
    often = f"a table row is looked up {seen:,.0f} times an epoch on average"
    linear = model == "LogisticRegression"
    reasons |= {
        "optimizer": "Adam, which needs no tuning on most logs" if not linear else "each weight is the only one of its value",
        "embedding_optimizer": f"{often}: l2 is {_ROW_L2:g} / that, from 1e-05 to 0.1; "
        f"a small rate for few rows, rare ids, or {_LARGE:,} rows and more",
        "batch_size": f"{rows:,} rows: about {_BATCHES} batches an epoch, 256 to 4096 rows each",
        "epochs": f"an upper bound, {_EPOCHS[0]} or {_STEPS:,} steps, and at most {_EPOCHS[1]}; patience ends the run"
        if validated else "no validation part ends the run sooner",
        "monitor": "AUC minus normalized entropy: ranks and probabilities together",
        "patience": "epochs without a better score",
        "lr_factor": "high rates fall with each epoch without a better score" if factor < 1 else "low rates need not fall",
        "averaging": "averaged weights predict better than the last ones, and their probabilities fit better",
    }
    if validated:
        reasons["calibrate"] = "the validation part was not trained on: its click rate counts, where it differs by more than noise"
    averaging = 0.999
    if any(column.open is not None for column in schema.categorical):
        averaging, reasons["averaging"] = 0.0, "rows of open vocabularies go to other ids, which an average would mix"
    experiment = Experiment(
        model={"type": model, **known},
        optimizer={"name": "adam", "learning_rate": 0.01 if linear else 0.001},
        embedding_optimizer={"name": "adam", "learning_rate": 0.01 if linear else rate, "l2": l2} if tables else None,
        batch_size=batch, epochs=epochs, monitor="both", patience=3, lr_factor=factor, averaging=averaging,
        calibrate=validated,
    )  # fmt: skip
    return dataclasses.replace(experiment, reasons=reasons)


def _model(kind: str, schema: Any, rows: int, width: int, known_well: bool) -> tuple[dict[str, Any], dict[str, str]]:
    """Arguments of a model, and reasons for them; of a model of one's own there are none."""
    if kind not in MODELS or kind == "LogisticRegression":
        return {}, {}
    vectors = len(schema.categorical) + bool(schema.dense) + sum(column.encoding is not None for column in schema.dense)
    options: dict[str, Any] = {"embedding_dim": width}
    reasons = {"model.embedding_dim": f"32 for tables whose rows are looked up often, below {_LARGE:,} rows; else 16"}
    if kind == "DLRM":
        options["bottom_mlp"] = [64, width] if schema.dense else None
        options |= {"top_mlp": [256, 128, 1], "interaction": "cat_dot" if 1 < vectors <= _MANY else "cat"}
        reasons["model.interaction"] = f"up to {_MANY} vectors: the top MLP sees them and their products, else them alone"
    elif kind in DEEP:
        options["deep_mlp"] = [256, 128]
    if kind in ("DCN", "DCNv2", "GDCN"):
        options |= {"cross_layers": 2} | ({"structure": "parallel"} if kind != "DCN" else {})
    if kind == "DCNv2" and known_well:
        options["batch_norm"] = True
        reasons["model.batch_norm"] = "where table rows are looked up often: products of a cross network learn sooner"
    if kind == "DCNv2" and vectors > _MANY:
        options["projection_dim"] = 64
        reasons["model.projection_dim"] = f"more than {_MANY} columns: full matrices would be large"
    if kind in (*DEEP, "DLRM", "DCNv3"):
        options |= {"dropout": 0.5 if rows < _MANY_ROWS else 0.2, "kernel_l2": float(f"{_KERNEL_L2 / max(rows, 1000):.1g}")}
        reasons["model.dropout"] = f"0.5 below {_MANY_ROWS:,} rows, else 0.2"
        reasons["model.kernel_l2"] = f"{_KERNEL_L2:g} / rows"
    options["init_scale"] = 0.01
    reasons["model.init_scale"] = "rows begin near 0: an id that is never seen says nothing"
    if kind != "TwoTower":  # a score of two vectors has no such terms
        options["first_order"] = bool(schema.categorical)
        reasons["model.first_order"] = "what a logistic regression knows of an id is learned at once"
    return options, reasons
