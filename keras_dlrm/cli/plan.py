"""Command `plan`: placement of embedding tables on devices, and its predicted cost."""

import dataclasses
import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from keras_dlrm.cli import options as shared
from keras_dlrm.files.durable import check_replaced, is_png

# Files that may be replaced: an example of a name, and what tells one.
_REPLACED: dict[str, tuple[str, Callable[[bytes], bool]]] = {
    "output": ("plan.json", lambda start: start.startswith(b'{\n "world_size":')),
    "plot": ("scaling.png", is_png),
}
_NOT_SIMULATED = ("world_size", "existing", "output", "even_memory")
_SAMPLED = 3_000_000  # lookups
_UNITS = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


@click.command(epilog="""\b
Examples:
  keras-dlrm plan --data my-log --world-size 8 --embedding-dim 64 --output plan.json
  keras-dlrm plan --schema log.yaml --world-size 8 --constraint C3=row_wise --memory 16GiB --optimizer rowwise_adagrad
  keras-dlrm plan --schema log.yaml --plan plan.json                   what an existing plan costs
  keras-dlrm plan --sample my-log --global-batch 2048                  caches of tables beyond memory, on that log
  keras-dlrm plan --schema log.yaml --simulate 1..4096 --machine h100 --plot scaling.png
""")
@click.option("--schema", type=shared.PathArgument, help="Schema file with vocabulary sizes, .yaml or .json.")
@click.option("--data", type=shared.PathArgument, help="Processed directory, in place of --schema.")
@click.option("--world-size", type=click.IntRange(1), help="Devices.")
@click.option("--embedding-dim", type=click.IntRange(1), default=16)
@click.option("--constraint", "constraints", multiple=True, metavar="TABLE=SHARDING",
              help="replicate, table_wise, row_wise or column_wise. May be repeated.")  # fmt: skip
@click.option("--memory", help="Memory for tables on a device, such as 16GiB; by default 80% of the machine's.")
@click.option("--even-memory", is_flag=True, help="Prefer plans that leave no device more than 5% above the mean share.")
@click.option("--machine", default="a100", help="a100, h100, loopback, … or a .json file.")
@click.option("--link", help="Bytes per second between devices, such as 10GB/s, in place of the machine's.")
@click.option("--global-batch", type=click.IntRange(1), default=65536, help="Rows of a step on all devices.")
@click.option("--optimizer", default="adagrad", help="sgd, adagrad, rowwise_adagrad or adam.")
@click.option("--bottom-mlp", metavar="WIDTHS", help="Such as 512,256,64,16.")
@click.option("--top-mlp", metavar="WIDTHS", default="512,256,1")
@click.option("--dense-parameters", type=click.IntRange(0), help="Dense parameters, instead of --bottom-mlp and --top-mlp.")
@click.option("--half-precision", is_flag=True, help="Activations and exchanged vectors have 2 bytes.")
@click.option("--plan", "existing", type=shared.PathArgument, help="Explain this plan instead of making one.")
@click.option("--output", type=shared.PathArgument, help="Write the plan as JSON.")
@click.option("--simulate", metavar="FROM..TO", help="Predict throughput for so many devices, doubling.")
@click.option("--scaling", type=click.Choice(["weak", "strong"]), default="weak",
              help="With --simulate: the global batch grows with the devices, or does not.")  # fmt: skip
@click.option("--plot", type=shared.PathArgument, help="With --simulate: PNG to draw.")
@click.option("--sample", type=shared.PathArgument,
              help="Processed directory: caches of host tables (kd.HostTables) of several sizes, tried on its training rows.")
@shared.json_option
def command(schema: Path | None, data: Any, as_json: bool, **options: Any) -> None:
    """Place embedding tables on devices, and predict what a training step moves and takes."""
    from keras_dlrm import data as data_package
    from keras_dlrm.schema.schema import Schema
    from keras_dlrm.sharding.plan import ShardingPlan
    from keras_dlrm.sharding.planner.estimate import explain
    from keras_dlrm.sharding.planner.machine import Machine
    from keras_dlrm.sharding.planner.planner import plan_for
    from keras_dlrm.sharding.planner.workload import Workload

    sample = options.pop("sample")
    data = sample if data is None and schema is None else data
    if (schema is None) == (data is None):
        raise ValueError("give the columns by --schema FILE or by --data DIRECTORY, one of them.")
    columns = data_package.open(data).schema if schema is None else Schema.load(schema)
    _check(options, sample)
    machine = Machine.of(options["machine"])
    if options["link"] is not None:
        rate = _bytes("--link", options["link"])
        machine = dataclasses.replace(machine, link_bandwidth=rate, network_bandwidth=rate)
    model = {name: options[name] for name in ("global_batch", "optimizer", "dense_parameters", "half_precision")}
    model["bottom_mlp"] = None if options["bottom_mlp"] is None else _widths("--bottom-mlp", options["bottom_mlp"])
    model["top_mlp"] = _widths("--top-mlp", options["top_mlp"])
    memory = None if options["memory"] is None else _bytes("--memory", options["memory"])
    constraints = _constraints(options["constraints"])
    work = Workload.of(columns, options["embedding_dim"], **model)
    if sample is not None:
        _try_caches(work, data_package.open(sample).split("train"), machine, as_json)
        return
    if options["simulate"] is not None:
        _simulate(work, machine, constraints, memory, options, as_json)
        return
    if options["existing"] is not None:
        path = options["existing"]
        try:
            plan = ShardingPlan.load(path)
        except ValueError:  # it may leave out what the schema says
            shapes = {name: (rows, options["embedding_dim"]) for name, rows in columns.table_sizes.items()}
            plan = ShardingPlan.load(path, shapes, options["world_size"])
        if options["world_size"] not in (None, plan.world_size):
            raise ValueError(f"--world-size {options['world_size']}: {path} is a plan for {plan.world_size}; leave it out.")
        estimate = explain(plan, columns, options["embedding_dim"], machine=machine, **model)
    else:
        plan = plan_for(work, options["world_size"], constraints, machine, memory, options["even_memory"])
        estimate = plan.estimate  # type: ignore[assignment]
    click.echo(str(estimate))
    if options["output"] is not None:
        plan.save(options["output"])
        click.echo(f"\nwrote {options['output']}")
    shared.print_json(as_json, {"plan": plan.to_dict(), "estimate": estimate.to_dict()})


def _try_caches(work: Any, part: Any, machine: Any, as_json: bool) -> None:
    from keras_dlrm.sharding.planner.host_caches import host_caches, table
    from keras_dlrm.support.terminal import print_table

    steps = max(2, _SAMPLED // (work.global_batch * part.schema.width))
    sampled = (batch for batch, *_ in itertools.islice(part.batches(work.global_batch), steps))
    caches = host_caches(work, sampled, machine=machine)
    print_table(table(caches), "Caches of host tables")
    shared.print_json(as_json, {"caches": [dataclasses.asdict(cache) for cache in caches]})


def _check(options: dict[str, Any], sample: Path | None) -> None:
    simulate, existing = options["simulate"], options["existing"]
    if sample is not None:
        names = ("world_size", "existing", "output", "even_memory", "simulate", "plot", "memory")
        others = {"plan" if name == "existing" else name: options[name] for name in names}
        shared.refuse_unused(others, (), "{} is not for --sample")
        return
    if simulate is None and existing is None and options["world_size"] is None:
        raise ValueError("--world-size is missing: for how many devices is the plan?")
    if simulate is None:
        shared.refuse_unused({"plot": options["plot"]}, (), "{} is only for --simulate")
    else:
        others = {"plan" if name == "existing" else name: options[name] for name in _NOT_SIMULATED}
        shared.refuse_unused(others, (), "{} is not for --simulate")
    if existing is not None and (options["constraints"] or options["memory"] or options["even_memory"]):
        raise ValueError("--constraint, --memory and --even-memory are for a new plan, not for --plan; leave them out.")
    for name, replaced in _REPLACED.items():
        path = options[name]
        if path is not None and not path.parent.is_dir():
            raise ValueError(f"--{name} {path}: there is no folder {path.parent}.")
        if path is not None:
            check_replaced(f"--{name}", path, *replaced)


def _simulate(
    work: Any, machine: Any, constraints: dict[str, str], memory: float | None, options: dict[str, Any], as_json: bool
) -> None:
    from keras_dlrm.sharding.planner.simulator import scaling_png, simulate, table
    from keras_dlrm.support.terminal import print_table

    scaling, path = options["scaling"], options["plot"]
    estimates = simulate(work, _sizes(options["simulate"]), machine, scaling, constraints, memory)
    print_table(table(estimates), f"Predicted, {scaling} scaling")
    if path is not None:
        scaling_png(estimates, path, f"{options['machine']}, {scaling} scaling: predicted")
        click.echo(f"wrote {path}")
    shown = {str(size): None if each is None else each.to_dict() for size, each in estimates.items()}
    for each in filter(None, shown.values()):
        for long in ("tables", "held_bytes", "considered"):
            del each[long]
    shared.print_json(as_json, {"scaling": scaling, "devices": shown})


def _bytes(option: str, text: str) -> float:
    match = re.fullmatch(r"([\d.]+) *([kmgt]?i?)b?(/s)?", text.strip().lower())
    try:
        return float(match[1]) * _UNITS[match[2]]  # type: ignore[index]
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{option} {text!r} is not a number of bytes; give one such as 16GiB, 500MB or 1e9.") from None


def _widths(option: str, text: str) -> list[int]:
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise ValueError(f"{option} {text!r} must be widths such as 512,256,1.") from None


def _constraints(texts: tuple[str, ...]) -> dict[str, str]:
    kinds: dict[str, str] = {}
    for text in texts:
        name, equals, kind = text.rpartition("=")
        if not equals or not name:
            raise ValueError(f"--constraint {text!r} must be TABLE=SHARDING, such as C1=row_wise.")
        if name in kinds:
            raise ValueError(f"--constraint names the table {name!r} twice: {kinds[name]} and {kind}.")
        kinds[name] = kind
    return kinds


def _sizes(text: str) -> list[int]:
    match = re.fullmatch(r"(\d+)\.\.(\d+)", text.strip())
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise ValueError(f"--simulate {text!r} must be a range of devices such as 1..4096.")
    low, high = int(match[1]), int(match[2])
    return [*itertools.takewhile(lambda size: size < high, (low << i for i in itertools.count())), high]
