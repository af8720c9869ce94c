"""A click model that learns from a Kafka topic as the messages come.

Needs the environment of tensorflow-io (see docs/streaming.md). Started again with the same arguments, also after a kill,
it resumes from its last commit. SIGTERM and Ctrl-C commit what was read and end it.
"""

import json
import signal
import sys

import click

from keras_dlrm.cli.options import PathArgument, chosen_experiment, training_options
from keras_dlrm.cli.program import run

EPILOG = """\b
Examples:
  python trainers/online.py clicks --servers broker:9092 --preprocessor my-log --output runs/online
  python trainers/online.py clicks --servers broker:9092 --preprocessor my-log --output runs/online --until-end
"""


@click.command(epilog=EPILOG)
@click.argument("topics", nargs=-1, required=True)
@click.option("--servers", required=True, help="host:port of brokers, separated by commas.")
@click.option("--preprocessor", required=True, type=PathArgument, help="Processed data, or what Preprocessor.save wrote.")
@click.option("--output", required=True, type=PathArgument, help="Folder of the commits: model and offsets.")
@click.option("--format", "form", default="json", type=click.Choice(["json", "csv", "example"]), show_default=True)
@click.option("--columns", help="Names of the fields of CSV messages, separated by commas.")
@click.option("--partition", "partitions", type=int, multiple=True, help="Read only these; may be repeated.")
@click.option("--start", default="earliest", type=click.Choice(["earliest", "latest"]), show_default=True)
@click.option("--on-error", default="raise", type=click.Choice(["raise", "skip"]), show_default=True)
@click.option("--max-skipped", type=int, help="Most messages to skip.")
@click.option("--chunk", default=64, show_default=True, help="Batches between two commits.")
@click.option("--max-wait", default=10.0, show_default=True, help="Seconds that a chunk waits to become full.")
@click.option("--until-end", is_flag=True, help="End when all that is there was trained on.")
@training_options
def main(topics, servers, preprocessor, output, form, columns, partitions, start, on_error, max_skipped, chunk,
         max_wait, until_end, **options):  # fmt: skip
    """Train on TOPICS; one JSON line for each commit."""
    import keras

    import keras_dlrm as kd
    from keras_dlrm.training.experiment import Experiment

    experiment = chosen_experiment(Experiment(), **options)
    asked = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: asked.append(True))

    def show(online, part):
        speed = round(part.read / max(online.seconds - show.before, 1e-9))
        line = {"commit": online.commits, "read": online.read, "trained": online.trained, "rows_per_s": speed}
        line |= {"scores": online.scores, "positions": online.positions}
        show.before = online.seconds
        print(json.dumps(line), flush=True)

    show.before = 0.0
    keras.utils.set_random_seed(experiment.seed)
    try:
        fitted = kd.data.Preprocessor.load(preprocessor)
        stream = kd.data.streaming.KafkaStream(
            topics, servers, fitted, format=form, columns=columns.split(",") if columns else None,
            partitions=partitions or None, start=start, on_error=on_error, max_skipped=max_skipped,
        )  # fmt: skip
        with stream:
            kd.data.streaming.train_online(
                lambda: experiment.build(fitted.schema), stream, output, batch_size=experiment.batch_size,
                chunk=chunk, max_wait=max_wait, until_end=until_end, stop=lambda: bool(asked), progress=show,
            )  # fmt: skip
    except (ImportError, OSError, ValueError, RuntimeError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    run(main)
