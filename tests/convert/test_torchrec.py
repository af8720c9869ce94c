"""TorchRec's weights: its formulas by hand, and its own models, predict what the converted ones predict."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.peers import interpreter, run
from hypothesis import given, settings
from hypothesis import strategies as st

import keras_dlrm as kd
from keras_dlrm.convert import from_torchrec, to_torchrec
from keras_dlrm.models import DCN, DLRM
from keras_dlrm.schema.schema import Categorical, Schema

BAG = "sparse_arch.embedding_bag_collection.embedding_bags."
DIM, DENSE = 4, 3
PEER = Path(__file__).parent / "torchrec_peer.py"


def state_dict(sizes=(("t_a", 9), ("t_b", 5), ("t_c", 6)), vectors=4, crosses=0, seed=0):
    """Named and shaped as TorchRec names and shapes its parameters."""
    draw = np.random.default_rng(seed)
    width = vectors * DIM if crosses else DIM + vectors * (vectors - 1) // 2
    shapes = {f"{BAG}{name}.weight": (rows, DIM) for name, rows in sizes}
    for k in range(crosses):
        shapes |= {f"inter_arch.crossnet.W_kernels.{k}": (width, 3), f"inter_arch.crossnet.V_kernels.{k}": (3, width)}
        shapes[f"inter_arch.crossnet.bias.{k}"] = (width,)
    linears = [("dense_arch.model._mlp.0._linear", (7, DENSE)), ("dense_arch.model._mlp.1._linear", (DIM, 7)),
               ("over_arch.model.0._mlp.0._linear", (6, width)), ("over_arch.model.0._mlp.1._linear", (5, 6)),
               ("over_arch.model.1", (1, 5))]  # fmt: skip
    for key, shape in linears:
        shapes |= {f"{key}.weight": shape, f"{key}.bias": shape[:1]}
    return {key: (draw.normal(size=shape) / shape[-1] ** 0.5).astype("float32") for key, shape in shapes.items()}


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


class HalfHere:
    """A tensor of which another process has a part, as far as a state_dict shows it."""

    def __init__(self, torch, rows):
        self._torch, self._rows = torch, rows

    def metadata(self):
        return type("Metadata", (), {"size": (self._rows, DIM)})

    def local_shards(self):
        return [type("Shard", (), {"tensor": self._torch.zeros(self._rows // 2, DIM)})]


def test_shards_that_are_elsewhere_are_an_error():
    torch = pytest.importorskip("torch")
    with pytest.raises(ValueError, match="t_a.weight' is in shards: 16 of its 32 numbers are in this process. Gather"):
        from_torchrec({**state_dict(), f"{BAG}t_a.weight": HalfHere(torch, 8)})


def changed(removed=(), crosses=0, **changes):
    state = state_dict(crosses=crosses)
    for key in removed:
        del state[key]
    return {**state, **{key.replace("__", "."): value for key, value in changes.items()}}


def schema_of(*columns, dense=3):
    return Schema([f"x{i}" for i in range(dense)], [Categorical(name, rows) for name, rows in columns])


ABC = (("a", 9), ("b", 5), ("c", 6))
FIRST_OVER = "over_arch.model.0._mlp.0._linear.weight"


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: from_torchrec({}), ["no sparse_arch.embedding_bag_collection", "is this a TorchRec"]),
        (lambda: from_torchrec([1]), ["list is no state_dict"]),
        (lambda: from_torchrec({3: np.ones(3)}), ["a key is 3"]),
        (lambda: from_torchrec(state_dict(), schema_of(*ABC), hotness=2), ["hotness=2", "schema"]),
        (lambda: from_torchrec(state_dict(), hotness=[1, 2]), ["2 entries", "3 tables"]),
        (lambda: from_torchrec(state_dict(), schema_of(*ABC[:2])),
         ["no table for", "t_c.weight' (6, 4)", "['a', 'b']"]),
        (lambda: from_torchrec(state_dict(), schema_of(*ABC, ("d", 3))), ["table 'd' is missing", "'t_a'", "table=…"]),
        (lambda: from_torchrec(state_dict(), schema_of(("a", 8), *ABC[1:])),
         ["t_a.weight'", "(9, 4)", "'a'", "(8, 4)"]),
        (lambda: from_torchrec(state_dict(), schema_of(*ABC, dense=2)), ["_mlp.0._linear.weight", "(7, 3)", "(7, 2)"]),
        (lambda: from_torchrec(state_dict(), schema_of(*ABC[::-1])),
         ["['t_a', 't_b', 't_c']", "['c', 'b', 'a']", "features="]),
        (lambda: from_torchrec(state_dict(), features=["a", "b"]), ["features=['a', 'b']", "each of the tables"]),
        (lambda: from_torchrec(state_dict(), schema_of(*ABC), features=["a", "b", "b"]), ["features", "'c'"]),
        (lambda: from_torchrec(state_dict([("t_0", 3), ("t_10", 3), ("t_2", 3)])),
         ["not an order of columns", "features="]),
        (lambda: from_torchrec(dict(sorted(state_dict().items()))), ["sorted by name", "features="]),
        (lambda: from_torchrec(dict(sorted(state_dict().items())), schema_of(*ABC)), ["sorted by name", "features="]),
        (lambda: from_torchrec(state_dict(vectors=5)),
         [f"{FIRST_OVER}' has shape (6, 14)", "3 sparse columns of width 4 needs (6, 10)"]),
        (lambda: from_torchrec(state_dict(vectors=3, crosses=1)), ["crossnet.V_kernels.0'", "(3, 12)", "(3, 16)"]),
        (lambda: from_torchrec(changed([FIRST_OVER])),
         [f"{FIRST_OVER!r} is missing", "It has 'over_arch.model.0._mlp.0._linear.bias'"]),
        (lambda: from_torchrec(changed(["over_arch.model.1.bias"])), ["'over_arch.model.1.bias' is missing"]),
        (lambda: from_torchrec(changed(["inter_arch.crossnet.W_kernels.0"], 1)), ["W_kernels.0' is missing"]),
        (lambda: from_torchrec(changed([k for k in state_dict() if "dense" in k])),
         ["dense_arch.model._mlp.0._linear.weight' is missing"]),
        (lambda: from_torchrec(changed(over_arch__model__1__weight=np.ones((2, 5), "f"))),
         ["over_arch.model.1.weight'", "(2, 5)", "(1, 5)"]),
        (lambda: from_torchrec(changed(over_arch__model__1__weight=np.ones(5, "f"))), ["(5,)", "2 dimensions"]),
        (lambda: from_torchrec(changed(task__weight=np.ones((2, 5)))),
         ["unknown key 'task.weight' of shape (2, 5)", "Leave it out"]),
        (lambda: from_torchrec(changed(model__over_arch__model__1__weight=np.ones(1))),
         ["'over_arch.model.1.weight' and", "give one model"]),
        (lambda: from_torchrec(changed(inter_arch__crossnet__kernels__0=np.ones((16, 16)))), ["LowRankCrossNet"]),
        (lambda: from_torchrec(changed(**{f"{BAG}t_b.weight": np.ones((5, 4), "uint8")})),
         ["t_b.weight' holds uint8", "quantized"]),
        (lambda: from_torchrec(changed(**{f"{BAG}t_b.weight": np.ones((5, 3), "f")})),
         ["t_b.weight'", "(5, 3)", "(5, 4)"]),
        (lambda: from_torchrec(changed(over_arch__model__1__bias=np.array([np.nan], "f"))),
         ["over_arch.model.1.bias has nan at (0,)", "finite"]),
    ],
)  # fmt: skip
def test_state_dicts_that_do_not_fit_are_refused(make, words):
    with pytest.raises((ValueError, TypeError)) as caught:
        make()
    for word in words:
        assert word in str(caught.value)


X = Categorical("x", 3)


@pytest.mark.parametrize(
    "columns, options, words",
    [
        ([X], {"interaction": "cat"}, "no interaction 'cat'"),
        ([X], {"interaction": "cross", "projection_dim": None}, "low rank.*projection_dim=None"),
        ([X], {"interaction": "cross", "concat_dense": True}, "concat_dense=True"),
        ([X], {"first_order": True}, "first_order=True"),
        ([X], {"batch_norm": True}, "batch norm"),
        ([X], {"activation": "gelu"}, "activation 'gelu'"),
        ([X], {"top_mlp": [1]}, "two layers or more"),
        ([Categorical("x", 3, hotness=2, combiner="sqrtn")], {}, "'x' pools by 'sqrtn'"),
        ([Categorical("x", 3, hashed=True)], {}, "'x' is hashed"),
        ([Categorical("x.y", 3)], {}, "'x.y' has a dot"),
        ([X, Categorical("y", 4)], {"embedding_dim": {"x": 4, "y": 2}}, "mixed dimensions"),
        ([Categorical("x", 500)], {"embedding_options": {"quotient_remainder": {"collisions": 4}}}, "quotient"),
    ],
)
def test_models_that_torchrec_does_not_have_are_refused(columns, options, words):
    model = DLRM(Schema(["a"], columns), **{"embedding_dim": 4, "bottom_mlp": [4], "top_mlp": [3, 1], **options})
    with pytest.raises(ValueError, match=words):
        to_torchrec(model)


def test_self_interaction_pooling_and_other_models_are_refused():
    with pytest.raises(ValueError, match="self_interaction"):
        to_torchrec(DLRM(Schema(["a"], [X]), 4, [4], [3, 1], self_interaction=True))
    both = [Categorical("x", 3, hotness=2, combiner="mean"), Categorical("y", 3, hotness=2, table="x")]
    with pytest.raises(ValueError, match="table 'x' pool differently"):
        to_torchrec(DLRM(Schema(["a"], both), 4, [4], [3, 1]))
    with pytest.raises(ValueError, match="dense and sparse"):
        to_torchrec(DLRM(Schema(categorical=[X, Categorical("y", 3)]), 4, top_mlp=[3, 1]))
    with pytest.raises(TypeError, match="DCN is no DLRM"):
        to_torchrec(DCN(Schema(["a"], [X]), 4, deep_mlp=[4]))


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


# -- the real TorchRec -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def torchrec_python():
    return interpreter("KERAS_DLRM_TORCHREC_PYTHON", "torchrec", "requirements-torchrec.txt")


@pytest.fixture(scope="module")
def made(torchrec_python, tmp_path_factory):
    folder = tmp_path_factory.mktemp("torchrec")
    (folder / "sharded.txt").write_text(run(torchrec_python, PEER, "make", folder))
    return folder


COLUMNS = {
    "plain": [Categorical("a", 9, table="t_a"), Categorical("b", 5, table="t_b"), Categorical("c", 6, table="t_c")],
    "multi": [Categorical("a", 9, 4, table="t_a"), Categorical("b", 5, table="t_b"), Categorical("c", 6, 3, "mean", "t_c")],
    "shared": [Categorical("a", 9, 3, table="item"), Categorical("b", 5, table="t_b"), Categorical("c", 9, table="item")],
}  # fmt: skip
CASES = {"dot": "plain", "dot_multi": "multi", "dot_shared": "shared", "dcn": "multi", "dcn_shared": "shared"}


def case(folder, name, state=None):
    """The model converted from a case, its batch, TorchRec's answer and order of the features."""
    from keras_dlrm.export import torch_file

    schema = Schema(["x0", "x1", "x2"], COLUMNS[CASES[name]])
    state = torch_file.load(folder / f"{name}.pt") if state is None else state
    with np.load(folder / f"{name}.npz") as file:
        features = file["features"].tolist()
        model = from_torchrec(state, schema, features=features)
        dense = {f"x{i}": file["dense"][:, i] for i in range(DENSE)}
        batch = schema.pack({**dense, **{column: file[column] for column in features}})
        return model, batch, file["expected"], features


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_predictions_equal_those_of_the_real_torchrec(made, name):
    pytest.importorskip("torch")
    model, batch, expected, _ = case(made, name)
    assert np.ptp(expected) > 0.05
    np.testing.assert_allclose(model.predict(batch, verbose=0), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_model_parallel_checkpoint_of_the_real_torchrec_is_read(made):
    torch = pytest.importorskip("torch")
    assert "ShardedTensor" in (made / "sharded.txt").read_text()
    state = torch.load(made / "sharded.pt", weights_only=True)
    model, batch, _, _ = case(made, "dot_shared", state)
    expected = np.load(made / "sharded.npy")
    np.testing.assert_allclose(model.predict(batch, verbose=0), expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="the keys are sorted by name, as a DistributedModelParallel has them"):
        from_torchrec(state)


@pytest.mark.slow
def test_a_projection_model_of_the_real_torchrec_is_refused(made):
    torch = pytest.importorskip("torch")
    with pytest.raises(ValueError, match="interaction_branch1.* is of a DLRM_Projection"):
        from_torchrec(torch.load(made / "projection.pt", weights_only=True))


@pytest.mark.slow
def test_the_real_torchrec_loads_what_is_written_and_predicts_the_same(made, torchrec_python, tmp_path):
    """Weights that were not TorchRec's before: a model of ours, some steps trained."""
    pytest.importorskip("torch")
    ours = {}
    for name in CASES:
        model, batch, _, features = case(made, name)
        model.compile("adagrad")
        model.fit(batch, np.arange(len(batch["dense"])) % 2, batch_size=10, epochs=1, verbose=0)
        np.savez(tmp_path / f"{name}.back.npz", **to_torchrec(model, features=features))
        ours[name] = model.predict(batch, verbose=0)
        other = case(made, name)[2]
        assert np.abs(ours[name] - other).max() > 1e-4
    run(torchrec_python, PEER, "load", tmp_path)
    for name, answer in ours.items():
        np.testing.assert_allclose(np.load(tmp_path / f"{name}.answer.npy"), answer, rtol=1e-5, atol=1e-6)


def test_the_functions_are_public():
    assert kd.convert.from_torchrec is from_torchrec and kd.convert.to_torchrec is to_torchrec
