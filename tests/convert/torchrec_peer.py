"""TorchRec's own models, run by an interpreter that has them: `python torchrec_peer.py make|load FOLDER`.

`make` writes, for each case, a state_dict (`CASE.pt`), and inputs and probabilities (`CASE.npz`). `load` reads state_dicts
from `CASE.back.npz` with `strict=True` and writes their probabilities for the same inputs to `CASE.answer.npy`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import torch
from torchrec.models.dlrm import DLRM, DLRM_DCN, DLRM_Projection, DLRMTrain
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

# Three dense columns; tables in this order, each with its rows and its features and their most ids. In "plain" there is one
# feature to a table; "shared" has a table of two, so that TorchRec's order of the features is not that of their names.
TABLES = {
    "plain": {"t_a": (9, {"a": 1}), "t_b": (5, {"b": 1}), "t_c": (6, {"c": 1})},
    "multi": {"t_a": (9, {"a": 4}), "t_b": (5, {"b": 1}), "t_c": (6, {"c": 3})},
    "shared": {"item": (9, {"a": 3, "c": 1}), "t_b": (5, {"b": 1})},
}
DIM, DENSE, ROWS = 4, 3, 50
CASES = {
    "dot": ("plain", "dot"),
    "dot_multi": ("multi", "dot"),
    "dot_shared": ("shared", "dot"),
    "dcn": ("multi", "dcn"),
    "dcn_shared": ("shared", "dcn"),
}


def model(tables: str, kind: str) -> DLRM:
    configs = [
        EmbeddingBagConfig(name=name, embedding_dim=DIM, num_embeddings=rows, feature_names=list(features),
                           pooling=PoolingType.MEAN if name == "t_c" else PoolingType.SUM)
        for name, (rows, features) in TABLES[tables].items()
    ]  # fmt: skip
    arguments = dict(
        embedding_bag_collection=EmbeddingBagCollection(tables=configs),
        dense_in_features=DENSE,
        dense_arch_layer_sizes=[7, DIM],
        over_arch_layer_sizes=[6, 5, 1],
    )
    if kind == "dcn":
        return DLRM_DCN(dcn_num_layers=2, dcn_low_rank_dim=3, **arguments)
    if kind == "projection":
        return DLRM_Projection(
            interaction_branch1_layer_sizes=[8, 2 * DIM], interaction_branch2_layer_sizes=[8, 2 * DIM], **arguments
        )
    return DLRM(**arguments)


def inputs(tables: str, seed: int) -> tuple[np.ndarray, dict[str, list[list[int]]]]:
    draw = np.random.default_rng(seed)
    dense = draw.normal(size=(ROWS, DENSE)).astype("float32")
    bags = {}
    for rows, features in TABLES[tables].values():
        for name, most in features.items():
            counts = draw.integers(0 if most > 1 else 1, most + 1, ROWS)
            bags[name] = [draw.integers(0, rows, n).tolist() for n in counts]
    return dense, bags


def probabilities(net: DLRM, dense: np.ndarray, bags: dict[str, list[list[int]]]) -> np.ndarray:
    lengths = [len(bag) for column in bags.values() for bag in column]
    values = [i for column in bags.values() for bag in column for i in bag]
    ids = KeyedJaggedTensor(
        keys=list(bags), values=torch.tensor(values, dtype=torch.int64), lengths=torch.tensor(lengths, dtype=torch.int32)
    )
    with torch.no_grad():
        return torch.sigmoid(net(torch.tensor(dense), ids)).numpy()


def make(folder: Path) -> None:
    for seed, (case, (tables, kind)) in enumerate(CASES.items()):
        torch.manual_seed(seed)
        net = model(tables, kind)
        with torch.no_grad():
            for value in net.parameters():  # as wide apart as trained ones
                value.copy_(torch.randn_like(value) * 0.6)
        dense, bags = inputs(tables, seed)
        torch.save(net.state_dict(), folder / f"{case}.pt")
        padded = {
            name: np.array([bag + [-1] * (max(map(len, column)) - len(bag)) for bag in column], np.int64)
            for name, column in bags.items()
        }
        np.savez(
            folder / f"{case}.npz", dense=dense, expected=probabilities(net, dense, bags), **padded,
            features=np.array(net.sparse_arch.sparse_feature_names),
        )  # fmt: skip
        if case == "dot_shared":
            state = sharded(net)
            torch.save({"epoch": 1, "model": state}, folder / "sharded.pt")
            # Its tables are drawn again when they are sharded.
            net.load_state_dict({key.removeprefix("model."): value for key, value in state.items()}, strict=True)
            np.save(folder / "sharded.npy", probabilities(net, dense, bags))
    torch.save(model("plain", "projection").state_dict(), folder / "projection.pt")


def sharded(net: DLRM) -> dict[str, torch.Tensor]:
    """Weights under the names that a DistributedModelParallel gives them, in its order."""
    import torch.distributed as dist
    from torchrec.distributed import DistributedModelParallel
    from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
    from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints, Topology

    os.environ |= {"MASTER_ADDR": "127.0.0.1", "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    os.environ.setdefault("MASTER_PORT", "29511")
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    # Tables as a cluster has them, in shards, and not as one process would by itself.
    kinds = {name: ParameterConstraints(sharding_types=["table_wise"]) for name in ("item", "t_b")}
    planner = EmbeddingShardingPlanner(topology=Topology(world_size=1, compute_device="cpu"), constraints=kinds)
    sharders = [EmbeddingBagCollectionSharder()]
    plan = planner.plan(DLRMTrain(net), sharders)
    parallel = DistributedModelParallel(DLRMTrain(net), device=torch.device("cpu"), plan=plan, sharders=sharders)
    state = parallel.state_dict()
    for key, value in state.items():
        print(key, type(value).__name__, tuple(value.size()))
    found = {}
    for key, value in state.items():
        shards = value.local_shards() if hasattr(value, "local_shards") else None
        found[key] = value.detach() if shards is None else torch.cat([shard.tensor for shard in shards])
    return {key: value.clone() for key, value in found.items()}


def load(folder: Path) -> None:
    for seed, (case, (tables, kind)) in enumerate(CASES.items()):
        net = model(tables, kind)
        with np.load(folder / f"{case}.back.npz") as state:
            net.load_state_dict({key: torch.tensor(state[key]) for key in state.files}, strict=True)
        np.save(folder / f"{case}.answer.npy", probabilities(net, *inputs(tables, seed)))


if __name__ == "__main__":
    {"make": make, "load": load}[sys.argv[1]](Path(sys.argv[2]))
