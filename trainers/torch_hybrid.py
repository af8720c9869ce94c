"""DLRM on torch.distributed: tables sharded over processes, MLPs on each of them.

One command starts all processes on this machine; under torchrun, or a launcher that sets its variables, each is started by it
instead. The log is a planted one: step i's batch depends on the seed and i alone.
"""

import os
import sys

import click

EPILOG = """\b
Examples:
  python trainers/torch_hybrid.py --processes 2 --steps 200 --global-batch 256
  python trainers/torch_hybrid.py --processes 4 --plan plan.json --checkpoint run --json
  torchrun --nproc-per-node 8 --nnodes 2 … trainers/torch_hybrid.py --steps 10000
"""
os.environ["KERAS_BACKEND"] = "torch"

from keras_dlrm.sharding import trainer  # noqa: E402
from keras_dlrm.sharding.launch import is_member, launch  # noqa: E402


@click.command(epilog=EPILOG)
@click.option("--restarts", default=10, show_default=True, help="Of all processes after one is lost, with --checkpoint.")
@trainer.hybrid_options
def main(processes, steps, global_batch, seed, rows, embedding_dim, plan_file, optimizer, learning_rate, checkpoint,
         checkpoint_steps, timeout, as_json, restarts):  # fmt: skip
    """Train a sharded model."""
    if not is_member():
        sys.exit(launch("torch", processes, restarts if checkpoint else 0, timeout))

    import keras_dlrm as kd
    from keras_dlrm.sharding import backend

    kd.sharding.start(2 * timeout)  # the launcher, which knows who hangs, comes first
    schema = trainer.click_schema(rows)
    try:
        plan = trainer.planned(
            plan_file, schema, embedding_dim, backend.world_size(), {"global_batch": global_batch, "optimizer": optimizer}
        )
        with kd.sharding.use(plan):
            model = kd.models.DLRM(schema, embedding_dim, bottom_mlp=[32, embedding_dim], top_mlp=[64, 32, 1], seed=seed)
        model.compile(optimizer, metrics=[trainer.StepLoss()])
        if learning_rate is not None:
            model.optimizer.learning_rate = learning_rate
        log = kd.data.synthetic.PlantedClickLog(schema, seed=seed)
        recorder = trainer.train(model, log, steps, global_batch, checkpoint, checkpoint_steps)
    except ValueError as error:
        trainer.fail(error)
    trainer.report(model, recorder, global_batch, as_json)
    kd.sharding.stop()


if __name__ == "__main__":
    main()
