"""Time of a training step by stage, and the least that the hardware allows: milliseconds, operations and bytes.

    python benchmarks/stages.py
    python benchmarks/stages.py --preset mlperf_dcnv2 --scale 1e-4 --batch 512 --dtype bfloat16 --backend jax
    python benchmarks/stages.py --rows 100000x26 --dim 64 --bottom 256,64 --top 256,1 --hotness 4 --plot stages.png

Each stage is the package's own code, compiled for itself (`staged_step.py`); beside their sum stands the whole step,
called by `train_on_batch` and by `fit`. Operations and bytes come from shapes (`counting.py`), the limits of the machine
are measured (`limits.py`). A stage's share of the limit is the least time that these allow over the time it took.
"""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
from counting import RULES, STAGES, stages
from results import RESULTS, machine, markdown_table, write_section
from stage_profile import WHOLE, Profile
from stages_plot import plot
from workload import Shape, draw_ids


class Numbers(click.ParamType):
    """`512,256,1`, or with repeats `1000x25,5000000`."""

    name = "integers"

    def convert(self, value: Any, parameter: Any, context: Any) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        found: list[int] = []
        for part in value.split(","):
            number, _, times = part.partition("x")
            if not number.isdecimal() or int(number) < 1 or (times and not times.isdecimal()):
                self.fail(f"{value!r} is no list of whole numbers such as 512,256,1 or 1000x25,5000000.")
            found += [int(number)] * int(times or 1)
        return tuple(found)


def measure(shape: Shape, batch: int, dtype: str, rule: str, distribution: str, steps: int, rounds: int) -> Profile:
    """Profile a model on the Keras backend at hand.

    Args:
        shape: The model.
        batch: Rows of a batch.
        dtype: `"float32"` or `"bfloat16"`.
        rule: Optimizer of dense weights and tables.
        distribution: Of ids; see `workload.write`.
        steps: Batches of a round.
        rounds: Times that limits, stages, `train_on_batch` and `fit` take their turn; one more is only for the limits.
    """
    import keras
    from limits import bandwidth, product_rate
    from staged_step import FitTime, StagedStep, input_seconds

    import keras_dlrm as kd
    from keras_dlrm.data.packed.writer import PackedWriter

    schema = shape.schema()
    rng = np.random.default_rng(0)
    ids = draw_ids(rng, shape, batch * steps, distribution)
    starts = np.repeat(np.cumsum([0, *shape.rows[:-1]]), shape.hotness or 1)
    unique = statistics.mean(len(np.unique(ids[i * batch : (i + 1) * batch] + starts)) for i in range(steps))
    limits = []
    found: dict[str, list[float]] = {name: [] for name in (*STAGES, *WHOLE[1:])}
    with tempfile.TemporaryDirectory() as folder:
        with PackedWriter(f"{folder}/log", schema) as writer:
            dense = rng.random((len(ids), shape.n_dense), dtype=np.float32)
            writer.append("train", {"dense": dense, "sparse": ids}, rng.integers(0, 2, len(ids)))
        part = kd.data.open(f"{folder}/log").split("train")
        dataset = part.dataset(batch)
        crossed: dict[str, Any] = {}
        if shape.interaction == "cross":
            crossed = {"cross_layers": shape.cross_layers, "projection_dim": shape.projection_dim}
        model = kd.models.DLRM(
            schema, shape.dim, shape.bottom, shape.top, shape.interaction, **crossed, seed=0,
            dtype="float32" if dtype == "float32" else "mixed_bfloat16",
        )  # fmt: skip
        model.compile(rule, "binary_crossentropy")
        model.train_on_batch(*part.take(slice(0, batch)))
        staged = None
        fit_time = FitTime()
        for round_ in range(rounds + 1):
            click.echo(f"round {round_}/{rounds}" if round_ else "warm-up", err=True)
            limits.append((bandwidth(repeats=3), product_rate(dtype, repeats=3)))
            found["input"].append(input_seconds(dataset))
            for pair in part.batches(batch):
                tensors, label = keras.tree.map_structure(keras.ops.convert_to_tensor, pair)
                staged = staged or StagedStep(model, tensors, label)
                for stage, seconds in staged(tensors, label).items():
                    found[stage].append(seconds)
            for pair in part.batches(batch):
                start = time.perf_counter()
                model.train_on_batch(*pair)
                found["train_on_batch"].append(time.perf_counter() - start)
            model.fit(dataset, epochs=1, verbose=0, callbacks=[fit_time])
            found["fit"].append(fit_time.seconds)
    # One entry a round or one a step; the first round warmed up.
    medians = {name: statistics.median(values[len(values) // (rounds + 1) :]) for name, values in found.items()}
    bytes_per_s, flops_per_s = (max(values) for values in zip(*limits, strict=True))
    return Profile(medians, stages(shape, batch, unique, dtype, rule), bytes_per_s, flops_per_s, unique)


@click.command()
@click.option("--preset", default="criteo_kaggle", show_default=True, help="One of kd.models.PRESETS.")
@click.option("--scale", default=0.01, show_default=True, help="Factor on the preset's rows, in (0, 1].")
@click.option("--rows", type=Numbers(), help="Rows of each table, instead of the preset's.")
@click.option("--dim", type=click.IntRange(1), help="Width of the tables.")
@click.option("--bottom", type=Numbers(), help="Widths of the bottom MLP; the last is --dim.")
@click.option("--top", type=Numbers(), help="Widths of the top MLP; the last is 1.")
@click.option("--hotness", type=Numbers(), help="Ids of an example for each table, or one number for all.")
@click.option("--batch", type=click.IntRange(1), help="Rows of a batch; the preset's if left out.")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), default="float32", show_default=True)
@click.option("--rule", type=click.Choice(list(RULES)), help="Optimizer; the preset's if left out.")
@click.option("--backend", type=click.Choice(["tensorflow", "jax", "torch"]), default="tensorflow", show_default=True)
@click.option("--distribution", type=click.Choice(["zipf", "uniform"]), default="zipf", show_default=True)
@click.option("--steps", type=click.IntRange(3), default=20, show_default=True, help="Batches of a round.")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--plot", "png", type=click.Path(path_type=Path), help="PNG to draw.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")
@click.option("--write", "into_results", is_flag=True, help="Put table and plot into benchmarks/.")
def main(
    preset: str, scale: float, batch: int | None, dtype: str, rule: str | None, backend: str, distribution: str, steps: int,
    rounds: int, png: Path | None, as_json: bool, into_results: bool, **widths: Any,
) -> None:  # fmt: skip
    """Profile a preset, or a shape of your own, by stage."""
    os.environ["KERAS_BACKEND"] = backend
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from keras_dlrm.models.presets import PRESETS
    from keras_dlrm.support.terminal import print_table

    if preset not in PRESETS:
        raise click.UsageError(f"--preset {preset} is unknown; use one of {', '.join(PRESETS)}.")
    try:
        shape = shape_of(PRESETS[preset], scale, **widths)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    batch, rule = batch or PRESETS[preset].batch_size, rule or PRESETS[preset].optimizer
    profile = measure(shape, batch, dtype, rule, distribution, steps, rounds)
    own = any(value is not None for value in widths.values())
    name = f"{'a shape like ' if own else ''}{preset} at scale {scale:g}, batch {batch:,}, {dtype}, {rule}, {backend}"
    note = (
        f"{sum(shape.rows):,} rows × {shape.dim} in {len(shape.rows)} tables; {shape.ids} {distribution} ids an example, "
        f"{profile.unique:,.0f} different ones in a batch; limits: {profile.bytes_per_s / 1e9:.1f} GB/s, "
        f"{profile.flops_per_s / 1e9:.1f} GFLOP/s"
    )
    rows = profile.rows()
    print_table(rows, f"{name}\n{note}")
    if png:
        plot(profile, png, f"{name}\n{note}")
    if into_results:
        path = RESULTS.parent / f"stages_{backend}_{dtype}.png"
        plot(profile, path, f"{name}\n{note}")
        text = f"{machine()}, medians of {rounds} rounds of {steps} steps. {note}."
        plain = [{key: cell.strip() for key, cell in row.items()} for row in rows]
        write_section(f"Stages of a step: {name}", f"{text}\n\n{markdown_table(plain)}\n\n![plot]({path.name})")
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(profile)))


def shape_of(preset: Any, scale: float, rows: Any, dim: Any, bottom: Any, top: Any, hotness: Any) -> Shape:
    """The preset's shape with the command line's values.

    Raises:
        ValueError: values that do not fit each other.
    """
    found, model = preset.schema(scale), preset.model
    hotness = hotness or (preset.hotness if rows is None else (1,))
    rows = rows or tuple(c.vocabulary_size for c in found.categorical)
    hotness = hotness * len(rows) if len(hotness) == 1 else hotness
    dim = dim or (bottom[-1] if bottom else model["embedding_dim"])
    bottom, top = bottom or (*model["bottom_mlp"][:-1], dim), top or tuple(model["top_mlp"])
    if bottom[-1] != dim or top[-1] != 1:
        raise ValueError(
            f"--bottom ends with {bottom[-1]}, which must be --dim {dim}; --top with {top[-1]}: it must be 1."
        )
    if len(hotness) != len(rows):
        raise ValueError(f"--hotness has {len(hotness)} numbers for {len(rows)} tables; give one, or one for each.")
    return Shape(
        rows, dim, len(found.dense), bottom, top, hotness,
        model.get("interaction", "dot"), model.get("cross_layers", 0), model.get("projection_dim"),
    )  # fmt: skip


if __name__ == "__main__":
    main()
