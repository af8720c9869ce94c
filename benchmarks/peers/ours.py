"""keras_dlrm itself as a contestant, DLRM or another model with its top MLP: `model.fit` on a processed log, pipeline included."""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
parser = argparse.ArgumentParser()
parser.add_argument("folder", type=Path)
parser.add_argument("--backend", default="tensorflow")
parser.add_argument("--batch", type=int, default=2048)
parser.add_argument("--dtype", default="float32")
parser.add_argument("--rule", default="rowwise_adagrad")
parser.add_argument("--model", default="DLRM")
options = parser.parse_args()
os.environ["KERAS_BACKEND"] = options.backend

from contest import serve  # noqa: E402
from keras import ops  # noqa: E402
from workload import read  # noqa: E402

import keras_dlrm as kd  # noqa: E402
from keras_dlrm.data.packed.writer import PackedWriter  # noqa: E402


class WideDeepInTwoPasses(kd.models.WideDeep):
    """Wide & Deep with its weights of first order in tables of their own, which are looked up and trained in a second pass."""

    def __init__(self, schema, embedding_dim, **others):  # type: ignore[no-untyped-def]
        super().__init__(schema, embedding_dim, first_order=False, **others)
        self.wide = kd.layers.EmbeddingCollection(schema, 1, name="wide")
        self.wide.build((None, schema.width))

    def logits(self, inputs, training=None):  # type: ignore[no-untyped-def]
        return super().logits(inputs, training) + ops.sum(self.wide(inputs), axis=1)


shape, dense, sparse, label = read(options.folder)
schema = shape.schema()
directory = tempfile.TemporaryDirectory()
with PackedWriter(f"{directory.name}/log", schema) as writer:
    writer.begin("train")
    writer.append("train", {"dense": dense[:], "sparse": sparse[:]}, label[:])
part = kd.data.open(f"{directory.name}/log").split("train")
mlps = {"bottom_mlp": shape.bottom, "top_mlp": shape.top} if options.model == "DLRM" else {"deep_mlp": shape.top[:-1]}
dtype = "float32" if options.dtype == "float32" else "mixed_bfloat16"
kind = WideDeepInTwoPasses if options.model == "WideDeepInTwoPasses" else getattr(kd.models, options.model)
model = kind(schema, shape.dim, **mlps, seed=0, dtype=dtype)
rules = {
    "sgd": lambda: kd.optimizers.SGD(0.1),
    "adagrad": lambda: kd.optimizers.Adagrad(0.01),
    "rowwise_adagrad": lambda: kd.optimizers.RowwiseAdagrad(0.01),
    "adam": lambda: kd.optimizers.Adam(0.001),
}
model.compile(kd.optimizers.SGD(0.1), "binary_crossentropy", embedding_optimizer=rules[options.rule]())
dataset = part.dataset(options.batch)
model.fit(dataset, epochs=1, verbose=0)


def one_epoch() -> int:
    model.fit(dataset, epochs=1, verbose=0)
    return len(dataset)


serve(one_epoch)
print("peak", 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
