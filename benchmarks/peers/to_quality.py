"""One program on its way from raw files to a test AUC: a line of JSON with its seconds by part and its AUC after each epoch.

    python to_quality.py NAME FOLDER '{"columns": …, "target": 0.8, …}'

FOLDER holds train.parquet, valid.parquet and test.parquet. The test part is scored while the clock stands still. The programs
import what they need when they run, each in an environment that has it.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
import numpy as np
from clock import PARTS, Clock, auc, encoded, scaled


def keras_dlrm(folder: Path, options: dict[str, Any], clock: Clock) -> None:
    """This package: what `keras-dlrm preprocess` and `keras-dlrm train` do, best model and checkpoints included."""
    from keras_dlrm.support.quiet import lean_imports

    as_the_command = contextlib.ExitStack()
    with clock.part("import"), lean_imports():
        import keras

        import keras_dlrm as kd
        from keras_dlrm.backend.private_keras import without_tensorflow
        from keras_dlrm.training.callbacks import BestModel, Resume, predictions
        from keras_dlrm.training.experiment import Experiment
        as_the_command.enter_context(without_tensorflow())
    with clock.part("preprocessing"):
        schema = kd.Schema.from_dict(options["schema"])
        log = kd.data.tables.preprocess(schema, **{p: folder / f"{p}.parquet" for p in PARTS}, output=options["work"] + "/log")
    with clock.part("compilation"):
        experiment = Experiment.from_dict(options["experiment"])
        keras.utils.set_random_seed(experiment.seed)
        model = experiment.build(log.schema)

    class Timed(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if "first step" not in clock.parts:
                clock.parts["first step"] = clock.now() - begun

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self.since = clock.now()

    class Scored(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            clock.parts["evaluation"] = clock.parts.get("evaluation", 0.0) + clock.now() - timed.since
            if clock.ended(lambda: predictions(model, log.split("test"), 4096)):
                model.stop_training = True

    part, rules = log.split("train"), (experiment.monitor, experiment.patience, experiment.lr_factor)
    best = BestModel(log.split("valid"), options["work"] + "/model.keras", 4096, *rules)
    batches = -(-len(part) // experiment.batch_size)
    timed, state = Timed(), Resume(options["work"] + "/resume", experiment.checkpoint_steps, batches, [best])
    dataset = part.dataset(experiment.batch_size, shuffle=True, seed=experiment.seed)
    begun = clock.now()
    with clock.part("fit"):
        model.fit(dataset, epochs=experiment.epochs, verbose=0, callbacks=[timed, best, state, Scored()])


def fuxictr(folder: Path, options: dict[str, Any], clock: Clock) -> None:
    """FuxiCTR's preprocessing, loaders and training loop; embeddings side by side into an MLP, as its DLRM with `cat`."""
    with clock.part("import"):
        import logging

        import torch
        from fuxictr.preprocess import FeatureProcessor, build_dataset
        from fuxictr.pytorch.dataloaders import RankDataLoader
        from fuxictr.pytorch.layers import FeatureEmbedding, MLP_Block
        from fuxictr.pytorch.models import BaseModel
        from fuxictr.pytorch.torch_utils import seed_everything

        logging.disable(logging.CRITICAL)
    columns, sizes = options["columns"], options["sizes"]
    with clock.part("preprocessing"):
        numbers = {"dtype": "float", "type": "numeric", "active": True, "fill_na": 0.0}
        kinds = {True: {"type": "categorical"}, False: {"type": "sequence", "feature_encoder": "layers.MaskedAveragePooling()"}}
        features = [{"name": name, **numbers} for name in columns["dense"]]
        for name, hotness in columns["categorical"].items():
            own = {} if hotness == 1 else {"max_len": hotness}
            features.append({"name": name, "dtype": columns["types"][name], "active": True, **kinds[hotness == 1], **own})
        label = {"name": columns["label"], "dtype": "float"}
        processor = FeatureProcessor(features, label, dataset_id="log", data_root=options["work"])
        for part, frame in scaled(folder, columns).items():
            frame.write_parquet(f"{options['work']}/{part}.parquet")
        files = {f"{part}_data": f"{options['work']}/{part}.parquet" for part in PARTS}
        paths = build_dataset(processor, **files, data_format="parquet")
        processor.feature_map.default_emb_dim = sizes["embedding_dim"]
        loading = dict(zip((f"{part}_data" for part in PARTS), paths, strict=True))
        train, valid, test = RankDataLoader(
            processor.feature_map, **loading, batch_size=sizes["batch_size"], shuffle=True, data_format="parquet"
        )

    class Model(BaseModel):  # type: ignore[misc,unused-ignore]
        def __init__(self) -> None:
            fit = {"verbose": 0, "model_root": options["work"], "metrics": ["AUC", "logloss"], "model_id": "model"}
            super().__init__(processor.feature_map, embedding_regularizer=sizes["l2"], net_regularizer=0, **fit)
            width = sizes["embedding_dim"]
            self.dense = list(columns["dense"])
            self.embed = FeatureEmbedding(processor.feature_map, width, not_required_feature_columns=self.dense)
            activations = {"hidden_activations": "ReLU", "dropout_rates": sizes["dropout"]}
            if self.dense:
                self.bottom = MLP_Block(len(self.dense), hidden_units=sizes["bottom"], output_dim=width, **activations)
            inputs = width * (len(columns["categorical"]) + bool(self.dense))
            self.top = MLP_Block(inputs, hidden_units=sizes["top"], output_dim=1, output_activation="sigmoid", **activations)
            self.compile("adam", "binary_crossentropy", sizes["learning_rate"])
            self.reset_parameters()

        def forward(self, inputs: Any) -> Any:
            values = self.get_inputs(inputs)
            vectors = self.embed(values).flatten(1)
            if self.dense:
                dense = torch.stack([values[name].float() for name in self.dense], 1)
                vectors = torch.cat([vectors, self.bottom(dense)], 1)
            return {"y_pred": self.top(vectors)}

        def train_step(self, batch: Any) -> Any:
            with contextlib.nullcontext() if "first step" in clock.parts else clock.part("first step"):
                return super().train_step(batch)

        def eval_step(self) -> None:
            with clock.part("evaluation"):
                super().eval_step()
            if clock.ended(lambda: self.predict(test)):
                self._stop_training = True
            self.train()

    with clock.part("compilation"):
        seed_everything(seed=options["seed"])
        model = Model()
    with clock.part("fit"):
        model.fit(train, epochs=options["epochs"], validation_data=valid)


def deepctr_torch(folder: Path, options: dict[str, Any], clock: Clock) -> None:
    """DeepCTR-Torch's DeepFM (it has no DLRM) on arrays."""
    with clock.part("import"):
        from deepctr_torch.callbacks import Callback
        from deepctr_torch.inputs import DenseFeat, SparseFeat, VarLenSparseFeat
        from deepctr_torch.models import DeepFM
    columns, sizes = options["columns"], options["sizes"]
    with clock.part("preprocessing"):
        parts, rows = encoded(folder, columns)
        features: list[Any] = [DenseFeat(name, 1) for name in columns["dense"]]
        places = []
        for name, hotness in columns["categorical"].items():
            feature = SparseFeat(name, rows[name], sizes["embedding_dim"])
            features.append(feature if hotness == 1 else VarLenSparseFeat(feature, hotness, "mean"))
            begin = places[-1].stop if places else 0
            places.append(slice(begin, begin + hotness))

        def inputs(part: str) -> dict[str, np.ndarray]:
            dense, ids, _ = parts[part]
            values = {name: dense[:, i] for i, name in enumerate(columns["dense"])}
            lists = {name: ids[:, place].squeeze() for name, place in zip(columns["categorical"], places, strict=True)}
            return {**values, **lists}

        valid, test = inputs("valid"), inputs("test")

    class Timed(DeepFM):  # type: ignore[misc,unused-ignore]
        def evaluate(self, x: Any, y: Any, batch_size: int = 256) -> Any:
            with clock.part("evaluation"):
                return super().evaluate(x, y, batch_size)

    class Scored(Callback):  # type: ignore[misc,unused-ignore]
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            if clock.ended(lambda: model.predict(test, sizes["batch_size"])):
                model.stop_training = True
            model.train()

    with clock.part("compilation"):
        model = Timed(features, features, dnn_hidden_units=sizes["top"], dnn_dropout=sizes["dropout"], seed=options["seed"])
        model.compile("adam", "binary_crossentropy", metrics=["auc"])
    fit = {"batch_size": sizes["batch_size"], "epochs": options["epochs"], "verbose": 0, "callbacks": [Scored()]}
    with clock.part("fit"):
        model.fit(inputs("train"), parts["train"][2], validation_data=(valid, parts["valid"][2]), **fit)


def torchrec(folder: Path, options: dict[str, Any], clock: Clock) -> None:
    """TorchRec's DLRM (dot products; a dense column of zeros where the log has none) in a plain loop of PyTorch, Adam."""
    with clock.part("import"):
        import torch
        from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor, PoolingType
        from torchrec.models.dlrm import DLRM, DLRMTrain
    columns, sizes = options["columns"], options["sizes"]
    with clock.part("preprocessing"):
        parts, rows = encoded(folder, columns)
    names, width = list(columns["categorical"]), sizes["embedding_dim"]
    cuts = np.cumsum(list(columns["categorical"].values()))[:-1]
    single = np.array([hotness == 1 for hotness in columns["categorical"].values()])

    def batch_of(part: str, chosen: Any) -> tuple[Any, Any]:
        dense, ids, _ = parts[part]
        blocks = np.split(ids[chosen], cuts, axis=1)
        kept = [np.ones_like(block, bool) if one else block > 0 for block, one in zip(blocks, single, strict=True)]
        values = np.concatenate([block[mask] for block, mask in zip(blocks, kept, strict=True)])
        lengths = np.concatenate([mask.sum(1) for mask in kept])
        sparse = KeyedJaggedTensor(names, torch.from_numpy(values), lengths=torch.from_numpy(lengths))
        numbers = dense[chosen] if columns["dense"] else np.zeros((len(blocks[0]), 1), np.float32)
        return torch.from_numpy(numbers), sparse

    def predict(part: str) -> np.ndarray:
        model.eval()
        size = len(parts[part][2])
        with torch.no_grad():
            scores = [model.model(*batch_of(part, slice(at, at + 4096))).numpy() for at in range(0, size, 4096)]
        model.train()
        return np.concatenate(scores).ravel()

    with clock.part("compilation"):
        torch.manual_seed(options["seed"])
        tables = [
            EmbeddingBagConfig(name=f"t_{name}", feature_names=[name], num_embeddings=rows[name], embedding_dim=width,
                               pooling=PoolingType.MEAN)
            for name in names
        ]  # fmt: skip
        dense_sizes = [*sizes["bottom"], width] if columns["dense"] else [width]
        collection = EmbeddingBagCollection(tables=tables)
        model = DLRMTrain(DLRM(collection, len(columns["dense"]) or 1, dense_sizes, [*sizes["top"], 1]))
        optimizer = torch.optim.Adam(model.parameters(), lr=sizes["learning_rate"])
    random, labels = np.random.default_rng(options["seed"]), parts["train"][2]
    with clock.part("fit"):
        for _ in range(options["epochs"]):
            order = random.permutation(len(labels))
            for at in range(0, len(order), sizes["batch_size"]):
                with contextlib.nullcontext() if "first step" in clock.parts else clock.part("first step"):
                    chosen = order[at : at + sizes["batch_size"]]
                    loss, _ = model(_Batch(*batch_of("train", chosen), torch.from_numpy(labels[chosen])))
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
            with clock.part("evaluation"):
                auc(parts["valid"][2], predict("valid"))
            if clock.ended(lambda: predict("test")):
                break


class _Batch:
    """Attributes that `DLRMTrain` reads of TorchRec's batches."""

    def __init__(self, dense_features: Any, sparse_features: Any, labels: Any) -> None:
        self.dense_features, self.sparse_features, self.labels = dense_features, sparse_features, labels


def lightgbm(folder: Path, options: dict[str, Any], clock: Clock) -> None:
    """LightGBM on ids as categories; an indicator for each value of a list."""
    with clock.part("import"):
        import lightgbm as lgb
    columns = options["columns"]
    with clock.part("preprocessing"):
        parts, rows = encoded(folder, columns)
        cuts = np.cumsum(list(columns["categorical"].values()))[:-1]
        categories: list[int] = []

        def inputs(part: str) -> np.ndarray:
            dense, ids, _ = parts[part]
            blocks: list[np.ndarray] = [dense]
            for block, (name, hotness) in zip(np.split(ids, cuts, axis=1), columns["categorical"].items(), strict=True):
                if hotness == 1 and part == "train":
                    categories.append(sum(each.shape[1] for each in blocks))
                blocks.append(block if hotness == 1 else np.stack([(block == i).any(1) for i in range(1, rows[name])], 1))
            return np.hstack(blocks).astype(np.float64)

        train, valid, test = (inputs(part) for part in PARTS)
    with clock.part("compilation"):
        data = lgb.Dataset(train, parts["train"][2], categorical_feature=categories).construct()
        checked = lgb.Dataset(valid, parts["valid"][2], reference=data)

    def scored(now: Any) -> None:
        if (now.iteration + 1) % 20 == 0 and clock.ended(lambda: now.model.predict(test)):
            raise lgb.callback.EarlyStopException(now.iteration, now.evaluation_result_list)

    leaves = 63 if len(train) > 50_000 else 31
    settings = {"objective": "binary", "metric": "auc", "learning_rate": 0.05, "num_leaves": leaves, "verbose": -1}
    with clock.part("fit"):
        lgb.train(settings, data, 2000, [checked], callbacks=[lgb.early_stopping(50, verbose=False), scored])


PROGRAMS = {program.__name__: program for program in (keras_dlrm, fuxictr, deepctr_torch, torchrec, lightgbm)}

if __name__ == "__main__":
    program_name, log_folder, asked = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
    of_test = np.load(log_folder / "test_labels.npy")
    measured = Clock(asked["start"], of_test, asked["target"], asked["limit"])
    PROGRAMS[program_name](log_folder, asked, measured)
    print(json.dumps({"parts": measured.parts, "points": measured.points, "scoring": measured.scoring}), flush=True)
    os._exit(0)  # Ray's and TensorFlow's threads need not end.
