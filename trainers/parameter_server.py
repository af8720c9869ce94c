"""DLRM on TensorFlow's parameter servers: tables sharded over servers, asynchronous workers.

One command starts all processes on this machine. Where a cluster's launcher has set TF_CONFIG, each process takes its role
(chief, worker or ps) from it. The log is a planted one: step i's batch depends on the seed and i alone.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import click

EPILOG = """\b
Examples:
  python trainers/parameter_server.py --processes 2 --steps 200 --global-batch 256
  python trainers/parameter_server.py --processes 4 --servers 2 --plan plan.json --checkpoint run --json
  python trainers/parameter_server.py --in-flight 1 --steps 50        # what one process would learn
"""
signal.signal(signal.SIGINT, signal.SIG_DFL)  # ends quietly while frameworks are imported; then `run` decides
os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder that has `trainers`

from keras_dlrm.cli.options import PathArgument  # noqa: E402
from keras_dlrm.cli.program import run  # noqa: E402
from trainers.hybrid import moments  # noqa: E402
from trainers.options import sharded_options  # noqa: E402
from trainers.planted import ClickLog, click_schema  # noqa: E402


@click.command(epilog=EPILOG)
@sharded_options(
    processes="Workers.",
    plan="Sharding plan; ranks are servers.  [default: large tables by rows]",
    optimizer="Of the dense parameters.",
    restarts="Of all processes after a server or the chief is lost.",
    timeout="Seconds without a sign of life after which a process is ended.",
)
@click.option("--servers", default=2, show_default=True, type=click.IntRange(1), help="Parameter servers.")
@click.option("--embedding-optimizer", help="Row rule of the tables; follows --optimizer if omitted.")
@click.option("--in-flight", type=click.IntRange(1),
              help="Steps under way at a time; 1 is synchronous.  [default: 2 a worker]")  # fmt: skip
@click.option("--evaluation-steps", type=click.IntRange(1), help="Steps between evaluations alongside training.")
@click.option("--export", type=PathArgument, help="Folder to export a SavedModel to at the end.")
def main(processes, servers, steps, global_batch, seed, rows, embedding_dim, plan_file, optimizer, embedding_optimizer,
         learning_rate, in_flight, checkpoint, checkpoint_steps, restarts, timeout, evaluation_steps, export, as_json):  # fmt: skip
    """Train on parameter servers."""
    from keras_dlrm import parameter_server as ps

    role = ps.task()
    if role is None:
        sys.exit(ps.launch([sys.executable, *sys.argv], processes, servers, restarts, timeout=timeout))
    if role[0] != "chief":
        ps.serve()

    import keras_dlrm as kd
    from keras_dlrm.sharding.plan import ShardingPlan

    schema = click_schema(rows)
    log = ClickLog(rows, seed)

    def build():
        model = kd.models.DLRM(schema, embedding_dim, bottom_mlp=[32, embedding_dim], top_mlp=[64, 32, 1], seed=seed)
        model.compile(optimizer, embedding_optimizer=embedding_optimizer)
        if learning_rate is not None:
            model.optimizer.learning_rate = learning_rate
        return model

    try:
        shapes = {name: (rows, embedding_dim) for name, rows in schema.table_sizes.items()}
        plan = None if plan_file is None else ShardingPlan.load(plan_file, shapes, servers)
        training = ps.ParameterServerTraining(build, steps, plan, checkpoint)
        start = time.perf_counter()
        losses = training.fit(
            lambda step: log.batch(step, global_batch), in_flight, checkpoint_steps,
            lambda: [log.batch(i, 1024, "valid") for i in range(4)], evaluation_steps or steps + 1,
        )  # fmt: skip
        seconds = time.perf_counter() - start
        if export is not None:
            kd.export.savedmodel(training.model(), export)
        trained = steps - training.resumed
        sent = training.bytes_sent()
        memory = training.peak_memory()
        described = {}
        for name, (rows, width) in training.plan.shapes.items():
            total, squares = moments(part for _, part in training.tables.read(name))
            described[name] = {"rows": rows, "width": width, "sum": total, "sumsq": squares}
        result = {
            "losses": losses.tolist(), "steps": training.applied, "resumed": training.resumed, "processes": list(sent),
            "bytes_per_step": [n / max(trained, 1) for n in sent.values()],
            "peak_rss_bytes": [memory[name] for name in sent],
            "samples_per_s": trained * global_batch / seconds, "evaluations": training.evaluations,
            "tables": described,
        }  # fmt: skip
    except ps.ServerLostError as error:
        print(error, file=sys.stderr, flush=True)
        os._exit(ps.SERVER_LOST)  # at once: TensorFlow's threads still wait for the server
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        os._exit(2)
    if as_json:
        print(json.dumps(result), flush=True)
    else:
        loss, speed = float(losses[-10:].mean()) if steps else float("nan"), result["samples_per_s"]
        print(f"{result['steps']} steps, loss {loss:.4f}, {speed:,.0f} examples a second; {training.evaluations}", flush=True)
    os._exit(0)  # TensorFlow would wait for processes that never end by themselves


if __name__ == "__main__":
    run(main)
