"""TorchRec's weights: the converted models predict what its formulas by hand give, and convert back unchanged."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.torchrec_states import BAG, DENSE, DIM, state_dict
from hypothesis import given, settings
from hypothesis import strategies as st

import keras_dlrm as kd
from keras_dlrm.convert import from_torchrec, to_torchrec
from keras_dlrm.schema.schema import Categorical, Schema


def by_hand(state, dense, bags):
    """TorchRec's formulas in float64. `bags`: pairs of an embedding bag and each row's ids, in TorchRec's order."""
    state = {key: value.astype("float64") for key, value in state.items()}

    def linear(key, x):
        return x @ state[f"{key}.weight"].T + state[f"{key}.bias"]

    x = dense.astype("float64")
    for k in range(2):
        x = np.maximum(linear(f"dense_arch.model._mlp.{k}._linear", x), 0)
    vectors = [x]
    for bag, column in bags:
        table = state[f"{BAG}{bag}.weight"]
        vectors.append(np.stack([sum((table[i] for i in ids), np.zeros(DIM)) for ids in column]))
    if "inter_arch.crossnet.bias.0" in state:
        first = z = np.concatenate(vectors, axis=1)
        k = 0
        while f"inter_arch.crossnet.bias.{k}" in state:
            low = z @ state[f"inter_arch.crossnet.V_kernels.{k}"].T
            z = first * (low @ state[f"inter_arch.crossnet.W_kernels.{k}"].T + state[f"inter_arch.crossnet.bias.{k}"]) + z
            k += 1
    else:
        pairs = [vectors[i] * vectors[j] for i in range(len(vectors)) for j in range(i + 1, len(vectors))]
        z = np.concatenate([x, np.stack([pair.sum(axis=1) for pair in pairs], axis=1)], axis=1)
    for k in range(2):
        z = np.maximum(linear(f"over_arch.model.0._mlp.{k}._linear", z), 0)
    return 1 / (1 + np.exp(-linear("over_arch.model.1", z)))


DENSE_VALUES = np.random.default_rng(1).normal(size=(4, DENSE)).astype("float32")
ONE_HOT = {"a": [[8], [0], [3], [3]], "b": [[4], [1], [0], [2]], "c": [[5], [5], [0], [1]]}
MULTI_HOT = {"a": [[8, 1, 1], [], [3], [0, 2]], "b": [[4], [1], [0], [2]], "c": [[5, 4], [5], [], [1, 0]]}


def packed(model, bags):
    dense = {name: DENSE_VALUES[:, i] for i, name in enumerate(model.schema.dense_names)}
    return model.schema.pack({**dense, **bags})


@pytest.mark.parametrize("crosses", [0, 2])
@pytest.mark.parametrize("bags, hotness", [(ONE_HOT, None), (MULTI_HOT, [3, 1, 2])])
def test_predictions_equal_the_formulas(crosses, bags, hotness):
    state = state_dict(crosses=crosses)
    model = from_torchrec(state, hotness=hotness)
    assert model.schema.categorical_names == ("a", "b", "c") and list(model.embedding_tables()) == ["t_a", "t_b", "t_c"]
    expected = by_hand(state, DENSE_VALUES, [(f"t_{name}", column) for name, column in bags.items()])
    np.testing.assert_allclose(model.predict(packed(model, bags), verbose=0), expected, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("crosses", [0, 1])
def test_columns_that_share_tables_stand_where_torchrec_has_them(crosses):
    """TorchRec has the columns of one table side by side, the schema in any order."""
    state = state_dict(sizes=[("item", 9), ("t_b", 5)], crosses=crosses)
    schema = Schema(
        ["x", "y", "z"], [Categorical("b", 5), Categorical("a", 9, hotness=3, table="item"), Categorical("c", 9, table="item")]
    )
    bags = {**MULTI_HOT, "c": ONE_HOT["c"]}
    with pytest.raises(ValueError, match="features=model.sparse_arch.sparse_feature_names"):
        from_torchrec(state, schema)
    model = from_torchrec(state, schema, features=["a", "c", "b"])
    expected = by_hand(state, DENSE_VALUES, [("item", bags["a"]), ("item", bags["c"]), ("t_b", bags["b"])])
    np.testing.assert_allclose(model.predict(packed(model, bags), verbose=0), expected, rtol=2e-5, atol=1e-6)
    back = to_torchrec(model, features=["a", "c", "b"])
    assert_same({key.replace("bags.b.", "bags.t_b."): value for key, value in back.items()}, state)


def assert_same(back, state):
    assert set(back) == set(state)
    for key, value in state.items():
        np.testing.assert_array_equal(back[key], value)


@pytest.mark.parametrize("crosses", [0, 2])
def test_round_trip_gives_the_same_weights_back(crosses):
    state = state_dict(crosses=crosses)
    assert_same(to_torchrec(from_torchrec(state)), state)
    schema = Schema(["x", "y", "z"], [Categorical("a", 9), Categorical("b", 5), Categorical("c", 6)])
    assert_same(to_torchrec(from_torchrec(state, schema), table_prefix="t_"), state)


@pytest.mark.slow
@given(data=st.data(), vectors=st.integers(2, 5), cross=st.booleans())
@settings(max_examples=10)
def test_any_order_of_the_features_is_the_same_function_and_comes_back(data, vectors, cross):
    names = [f"f{i}" for i in range(vectors - 1)]
    theirs = data.draw(st.permutations(names))
    state = state_dict([(f"t_{name}", 3 + i) for i, name in enumerate(theirs)], vectors, crosses=int(cross))
    sizes = {name: len(state[f"{BAG}t_{name}.weight"]) for name in names}
    schema = Schema(["x", "y", "z"], [Categorical(name, sizes[name]) for name in names])
    model = from_torchrec(state, schema, features=theirs)
    ids = {name: [[i % sizes[name]] for i in range(4)] for name in names}
    expected = by_hand(state, DENSE_VALUES, [(f"t_{name}", ids[name]) for name in theirs])
    np.testing.assert_allclose(model.predict_on_batch(packed(model, ids)), expected, rtol=2e-5, atol=1e-6)
    assert_same(to_torchrec(model, "t_", theirs), state)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: {f"model.{k}": v for k, v in s.items()},
        lambda s: {f"module.model.{k}": v for k, v in s.items()},
        lambda s: {f"_dmp_wrapped_module.module.model.{k}": v for k, v in s.items()},
        lambda s: {k.replace("_arch.", "_arch._orig_mod.") if "sparse" not in k else k: v for k, v in s.items()},
        lambda s: {"epoch": 3, "state_dict": s},
        lambda s: {"model": {f"module.{k}": v for k, v in s.items()}, "optimizer": {}},
        lambda s: {k: v.astype("float64") for k, v in s.items()},
    ],
    ids=["DLRMTrain", "data parallel", "model parallel", "compiled", "checkpoint", "MLPerf", "float64"],
)
def test_every_packaging_of_a_state_dict_is_read(wrap):
    assert_same(to_torchrec(from_torchrec(wrap(state_dict()))), state_dict())


def test_torch_tensors_of_any_precision_are_read():
    torch = pytest.importorskip("torch")
    state = {key: torch.tensor(value).bfloat16() for key, value in state_dict().items()}
    back = to_torchrec(from_torchrec(state))
    for key, value in state.items():
        np.testing.assert_array_equal(back[key], value.float().numpy())


@pytest.mark.slow
def test_sharded_tensors_are_put_together_where_all_shards_are_here(tmp_path):
    """ShardedTensor and DTensor, as DistributedModelParallel and torch.distributed.tensor have them."""
    torch = pytest.importorskip("torch")
    import torch.distributed as dist
    from torch.distributed._shard.sharded_tensor import ShardedTensor, init_from_local_shards
    from torch.distributed._shard.sharded_tensor.shard import Shard
    from torch.distributed.tensor import DeviceMesh, distribute_tensor
    from torch.distributed.tensor import Shard as Placement

    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        state = state_dict()
        whole = {key: torch.tensor(value) for key, value in state.items()}
        key = f"{BAG}t_a.weight"
        halves = [Shard.from_tensor_and_offsets(part.contiguous(), [0, 2 * i], 0)
                  for i, part in enumerate(whole[key].split(2, dim=1))]  # fmt: skip
        column_wise = init_from_local_shards(halves, *whole[key].shape)
        assert isinstance(column_wise, ShardedTensor)
        mesh = DeviceMesh("cpu", [0])
        other = f"{BAG}t_b.weight"
        spread = distribute_tensor(whole[other], mesh, [Placement(0)])
        assert_same(to_torchrec(from_torchrec({**whole, key: column_wise, other: spread})), state)
    finally:
        dist.destroy_process_group()


MULTI_HOT_SIZES = [3, 2, 1, 2, 6, 1, 1, 1, 1, 7, 3, 8, 1, 6, 9, 5, 1, 1, 1, 12, 100, 27, 10, 3, 1, 1]


def test_mlperfs_dlrm_dcnv2_is_such_a_model():
    """Its widths, as its benchmark gives them; tables of 7 rows each."""
    shapes = {f"{BAG}t_cat_{i}.weight": (7, 128) for i in range(26)}
    shapes |= {f"inter_arch.crossnet.W_kernels.{k}": (3456, 512) for k in range(3)}
    shapes |= {f"inter_arch.crossnet.V_kernels.{k}": (512, 3456) for k in range(3)}
    shapes |= {f"inter_arch.crossnet.bias.{k}": (3456,) for k in range(3)}
    widths = [13, 512, 256, 128], [3456, 1024, 1024, 512, 256]
    for part, (first, *rest) in zip(("dense_arch.model._mlp", "over_arch.model.0._mlp"), widths, strict=True):
        for k, width in enumerate(rest):
            shapes |= {f"{part}.{k}._linear.weight": (width, first), f"{part}.{k}._linear.bias": (width,)}
            first = width
    shapes |= {"over_arch.model.1.weight": (1, 256), "over_arch.model.1.bias": (1,)}
    state = {f"model.{key}": np.zeros(shape, "float32") for key, shape in shapes.items()}
    model = from_torchrec(state, hotness=MULTI_HOT_SIZES)
    assert model.schema.width == 214 and model.schema.n_dense == 13
    assert model.schema.categorical_names == tuple(f"cat_{i}" for i in range(26))
    config = model.get_config()
    assert (config["interaction"], config["cross_layers"], config["projection_dim"]) == ("cross", 3, 512)
    assert {key: value.shape for key, value in to_torchrec(model).items()} == shapes
    # As a DistributedModelParallel has them: cat_10 behind cat_1.
    with pytest.raises(ValueError, match="features="):
        from_torchrec(dict(sorted(state.items())))


def test_the_functions_are_public():
    assert kd.convert.from_torchrec is from_torchrec and kd.convert.to_torchrec is to_torchrec
