"""Weights of the reference: a torch forward pass by hand equals the converted model's prediction."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.peers import run

from keras_dlrm.convert import from_torch_dlrm, to_torch_dlrm
from keras_dlrm.models import DLRM
from keras_dlrm.schema.schema import Categorical, Schema

torch = pytest.importorskip("torch")

SIZES, DIM, DENSE = [9, 5, 6], 4, 3


def state_dict(interaction="dot", self_interaction=False, seed=0):
    """Named and shaped as the reference's model names and shapes its parameters."""
    rng = torch.Generator().manual_seed(seed)
    vectors = len(SIZES) + 1
    pairs = vectors * (vectors + (1 if self_interaction else -1)) // 2
    width = DIM + pairs if interaction == "dot" else vectors * DIM
    out = {f"emb_l.{i}.weight": torch.randn(n, DIM, generator=rng) for i, n in enumerate(SIZES)}
    for part, widths in (("bot_l", [DENSE, 7, DIM]), ("top_l", [width, 6, 1])):
        for k, (n, m) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
            out[f"{part}.{2 * k}.weight"] = torch.randn(m, n, generator=rng) / n**0.5
            out[f"{part}.{2 * k}.bias"] = torch.randn(m, generator=rng)
    return out


def torch_forward(state, dense, bags, interaction, self_interaction):
    """dlrm_s_pytorch.py's forward: Linear and ReLU, EmbeddingBag sums, T Tᵀ with its lower triangle by index lists."""

    def mlp(part, x, last):
        for k in (0, 2):
            x = torch.nn.functional.linear(x, state[f"{part}.{k}.weight"], state[f"{part}.{k}.bias"])
            x = torch.relu(x) if k == 0 else last(x)
        return x

    x = mlp("bot_l", torch.tensor(dense), torch.relu)
    ly = []
    for i, column in enumerate(bags):
        flat = torch.tensor([index for bag in column for index in bag])
        offsets = torch.tensor(np.cumsum([0, *(len(bag) for bag in column)])[:-1])
        ly.append(torch.nn.functional.embedding_bag(flat, state[f"emb_l.{i}.weight"], offsets, mode="sum"))
    if interaction == "cat":
        return mlp("top_l", torch.cat([x, *ly], dim=1), torch.sigmoid)
    stacked = torch.cat([x, *ly], dim=1).view(len(dense), -1, DIM)
    z = torch.bmm(stacked, stacked.transpose(1, 2))
    offset = 1 if self_interaction else 0
    li = torch.tensor([i for i in range(z.shape[1]) for _ in range(i + offset)])
    lj = torch.tensor([j for i in range(z.shape[2]) for j in range(i + offset)])
    return mlp("top_l", torch.cat([x, z[:, li, lj]], dim=1), torch.sigmoid)


DENSE_VALUES = np.random.default_rng(1).normal(size=(4, DENSE)).astype("float32")
ONE_HOT = [[[8], [0], [3], [3]], [[4], [1], [0], [2]], [[5], [5], [0], [1]]]
MULTI_HOT = [[[8, 1, 1], [], [3], [0, 2]], [[4], [1], [0], [2]], [[5, 4], [5], [], [1, 0]]]


def packed(model, bags):
    schema = model.schema
    dense = {name: DENSE_VALUES[:, i] for i, name in enumerate(schema.dense_names)}
    return schema.pack({**dense, **dict(zip(schema.categorical_names, bags, strict=True))})


@pytest.mark.parametrize(
    "interaction, self_interaction, bags, hotness",
    [("dot", False, ONE_HOT, 1), ("dot", True, ONE_HOT, np.int64(1)), ("cat", False, MULTI_HOT, [3, 1, 2])],
)
def test_predictions_equal_torch(interaction, self_interaction, bags, hotness):
    state = state_dict(interaction, self_interaction)
    model = from_torch_dlrm(state, interaction, self_interaction, hotness)
    with torch.no_grad():
        expected = torch_forward(state, DENSE_VALUES, bags, interaction, self_interaction).numpy()
    np.testing.assert_allclose(model.predict(packed(model, bags), verbose=0), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("interaction, self_interaction", [("dot", False), ("dot", True), ("cat", False)])
def test_round_trip_gives_the_same_weights_back(interaction, self_interaction):
    state = state_dict(interaction, self_interaction)
    back = to_torch_dlrm(from_torch_dlrm(state, interaction, self_interaction))
    assert set(back) == set(state)
    for key, value in state.items():
        np.testing.assert_array_equal(back[key], value.numpy())


@pytest.mark.slow
@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: {k: v.numpy() for k, v in s.items()},
        lambda s: {k: v.requires_grad_() for k, v in s.items()},
        lambda s: {k: v.double() for k, v in s.items()},
        lambda s: {f"module.{k}": v for k, v in s.items()},
        lambda s: {k.replace("_l.", "_l.module.") if "emb" not in k else k: v for k, v in s.items()},
        lambda s: {"epoch": 3, "state_dict": s},
    ],
    ids=["arrays", "parameters", "float64", "data parallel", "distributed", "checkpoint"],
)
def test_every_packaging_of_a_state_dict_is_read(wrap):
    state = state_dict()
    back = to_torch_dlrm(from_torch_dlrm(wrap(state)))
    for key, value in state_dict().items():
        np.testing.assert_array_equal(back[key], value.numpy())


def test_weights_of_learned_pooling_are_multiplied_into_their_tables():
    state = {**state_dict(), "v_W_l.1": torch.tensor([1.0, -2.0, 0.5, 0.0, 3.0])}
    tables = from_torch_dlrm(state).embedding_tables()
    np.testing.assert_array_equal(tables["C2"], (state["emb_l.1.weight"] * state["v_W_l.1"][:, None]).numpy())
    np.testing.assert_array_equal(tables["C1"], state["emb_l.0.weight"].numpy())


def compressed(kind):
    """A state_dict as the reference's tricks name and shape it, and the whole tables that it stands for."""
    rng, state, whole = torch.Generator().manual_seed(5), state_dict(), []
    for i, n in enumerate(SIZES):
        if kind == "qr mult" and n == 5:
            whole.append(state[f"emb_l.{i}.weight"])
            continue
        del state[f"emb_l.{i}.weight"]
        if kind == "md":
            narrow, projection = torch.randn(n, 2 if i == 0 else DIM, generator=rng), torch.randn(DIM, 2, generator=rng)
            state[f"emb_l.{i}.embs.weight"] = narrow
            if i == 0:
                state[f"emb_l.{i}.proj.weight"] = projection
            whole.append(narrow @ projection.T if i == 0 else narrow)
            continue
        width = DIM // 2 if kind == "qr concat" else DIM
        q, r = torch.randn(-(-n // 2), width, generator=rng), torch.randn(2, width, generator=rng)
        state[f"emb_l.{i}.weight_q"], state[f"emb_l.{i}.weight_r"] = q, r
        ids = torch.arange(n)
        q, r = q[ids // 2], r[ids % 2]
        whole.append({"qr mult": q * r, "qr add": q + r, "qr concat": torch.cat([q, r], 1)}[kind])
    return state, {**state, **{f"emb_l.{i}.weight": table for i, table in enumerate(whole)}}


@pytest.mark.parametrize("kind", ["qr mult", "qr add", "qr concat", "md"])
def test_split_and_narrow_tables_stay_so_and_predict_what_torch_predicts(kind):
    state, whole = compressed(kind)
    operation = kind.removeprefix("qr ") if kind != "md" else "mult"
    bags = ONE_HOT if kind == "qr mult" else MULTI_HOT
    hot = 1 if kind == "qr mult" else 3
    columns = [Categorical(n, s, hotness=hot, oov=None) for n, s in zip("xyz", SIZES, strict=True)]
    schema = Schema(["a", "b", "c"], columns)
    model = from_torch_dlrm(state, schema=schema, operation=operation)
    with torch.no_grad():
        expected = torch_forward(whole, DENSE_VALUES, bags, "dot", False).numpy()
    np.testing.assert_allclose(model.predict(packed(model, bags), verbose=0), expected, rtol=1e-5, atol=1e-6)
    # Of 5 rows two tables of 3 and 2 save none: that one is made whole.
    split = ["x.quotient", "x.remainder", "y", "z.quotient", "z.remainder"]
    assert list(model.embedding_tables()) == (["x", "y", "z"] if kind == "md" else split)
    back = to_torch_dlrm(model)
    for key in back:
        np.testing.assert_array_equal(back[key], state.get(key, whole.get(key)))
    assert {key for key in state if "emb_l.0" in key} == {key for key in back if "emb_l.0" in key}


def test_a_split_table_without_a_schema_has_as_many_ids_as_it_can_stand_for():
    assert list(from_torch_dlrm(compressed("qr mult")[0]).schema.table_sizes.values()) == [10, 5, 6]


def test_columns_may_be_named_by_a_schema():
    schema = Schema(["a", "b", "c"], [Categorical(n, s, oov=None) for n, s in zip("xyz", SIZES, strict=True)], "click")
    model = from_torch_dlrm(state_dict(), schema=schema)
    assert model.schema == schema
    np.testing.assert_array_equal(model.embedding_tables()["y"], state_dict()["emb_l.1.weight"].numpy())


def changed(**changes):
    state = state_dict()
    for key, value in changes.items():
        key = key.replace("__", ".")
        if value is None:
            del state[key]
        else:
            state[key] = value
    return state


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: from_torch_dlrm(state_dict(), "cross"), ["'cross'", "cat"]),
        (lambda: from_torch_dlrm(state_dict(), hotness=[1, 2]), ["hotness", "2 entries", "3 tables"]),
        (lambda: from_torch_dlrm(state_dict(), self_interaction=True), ["top_l.0.weight", "(6, 10)", "(6, 14)"]),
        (lambda: from_torch_dlrm({}), ["no emb_l"]),
        (lambda: from_torch_dlrm({"emb_l.0.weight": torch.ones(3, 4)}), ["no bot_l"]),
        (lambda: from_torch_dlrm(3), ["int is no state_dict"]),
        (lambda: from_torch_dlrm(changed(v_W_l__1=torch.ones(4))), ["'v_W_l.1'", "(4,)", "(5,)"]),
        (lambda: from_torch_dlrm(changed(top_l__2__weight=torch.ones(2, 6))), ["'top_l.2.weight'", "(2, 6)", "(1, 6)"]),
        (lambda: from_torch_dlrm(changed(emb_l__1__weight=torch.full((5, 4), torch.inf))), ["'C2'", "inf", "finite"]),
        (lambda: from_torch_dlrm(changed(emb_l__1__weight=None)), ["'emb_l.1.weight'", "missing"]),
        (lambda: from_torch_dlrm(changed(emb_l__1__weight=torch.ones(5, 3))), ["'emb_l.1.weight'", "(5, 3)"]),
        (lambda: from_torch_dlrm(changed(emb_l__1__weight=torch.ones(5, 4).to_sparse())), ["emb_l.1.weight", "make it dense"]),
        (lambda: from_torch_dlrm(changed(emb_l__1__weight=torch.ones(5, 4, device="meta"))), ["emb_l.1.weight", "without values"]),
        (lambda: from_torch_dlrm(changed(bot_l__2__bias=None)), ["bot_l.2.bias", "missing"]),
        (lambda: from_torch_dlrm(changed(bot_l__2__bias=torch.ones(3))), ["bot_l.2.bias", "(3,)", "(4,)"]),
        (lambda: from_torch_dlrm(changed(bot_l__2__weight=torch.ones(4, 5))), ["bot_l.2.weight", "(4, 5)", "(4, 7)"]),
        (lambda: from_torch_dlrm(changed(emb_l__0__weight_q=torch.ones(3, 3))), ["'emb_l.0.weight_r'", "missing"]),
        (lambda: from_torch_dlrm(compressed("qr mult")[0], hotness=2), ["'C1' is split", "up to 2 ids", "operation='mult'"]),
        (lambda: from_torch_dlrm(state_dict(), operation="max"), ["operation='max'", "--qr-operation"]),
        (lambda: from_torch_dlrm(changed(emb_l__2__weight=None, emb_l__2__embs__weight=torch.ones(6, 2),
                                         emb_l__2__proj__weight=torch.ones(3, 2))), ["'emb_l.2.proj.weight'", "(3, 2)", "(4, 2)"]),
        (lambda: from_torch_dlrm(changed(emb_l__2__weight=None, emb_l__2__embs__weight=torch.ones(6, 2),
                                         emb_l__2__proj__weight=torch.full((4, 2), torch.nan))), ["proj.weight", "NaN"]),
        (
            lambda: from_torch_dlrm(state_dict(), schema=Schema(["a", "b", "c"], [Categorical("x", 9)])),
            ["schema", "1 table", "3"],
        ),
        (
            lambda: from_torch_dlrm(
                state_dict(), schema=Schema(["a", "b"], [Categorical(n, s) for n, s in zip("xyz", SIZES, strict=True)])
            ),
            ["bot_l.0.weight", "(7, 3)", "(7, 2)"],
        ),
        (
            lambda: from_torch_dlrm(
                state_dict(), schema=Schema(["a", "b", "c"], [Categorical(n, 5) for n in "xyz"])
            ),
            ["'x'", "(9, 4)", "(5, 4)"],
        ),
    ],
)  # fmt: skip
def test_state_dicts_that_do_not_fit_are_refused(make, words):
    with pytest.raises((ValueError, TypeError)) as caught:
        make()
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    "options, columns, words",
    [
        ({"interaction": "cross"}, [Categorical("x", 3)], "cross"),
        ({"batch_norm": True}, [Categorical("x", 3)], "batch norm"),
        ({}, [Categorical("x", 3), Categorical("y", 3, table="x")], "shares tables"),
        ({}, [Categorical("x", 3, hotness=2, combiner="mean")], "'x'.*'mean'"),
        ({"activation": "tanh"}, [Categorical("x", 3)], "activation"),
    ],
)
def test_models_that_the_reference_does_not_have_are_refused(options, columns, words):
    model = DLRM(Schema(["a"], columns), 4, [4], [1], **options)
    with pytest.raises(ValueError, match=words):
        to_torch_dlrm(model)


# -- the reference itself ----------------------------------------------------------------------------------------------

PEER = Path(__file__).parent / "reference_peer.py"
CASES = {name: [3, 1, 2] for name in ("itself", "cat", "pooling", "add", "narrow")} | {name: [1, 1, 1] for name in ("dot", "mult")}


@pytest.fixture(scope="module")
def clone():
    folder = os.environ.get("KERAS_DLRM_REFERENCE")
    if not folder:
        pytest.skip("needs the reference's own code: set KERAS_DLRM_REFERENCE to a clone of facebookresearch/dlrm")
    return folder


@pytest.mark.slow
def test_the_reference_itself_predicts_the_same_before_and_after(clone, tmp_path):
    run(sys.executable, PEER, "make", clone, tmp_path)
    ours = {}
    for case, hotness in CASES.items():
        state = torch.load(tmp_path / f"{case}.pt", weights_only=True)
        columns = [Categorical(f"C{i + 1}", n, hotness=hot) for i, (n, hot) in enumerate(zip(SIZES, hotness, strict=True))]
        operation = "add" if case == "add" else "mult"
        schema = Schema([f"I{i + 1}" for i in range(DENSE)], columns)
        model = from_torch_dlrm(state, "cat" if case == "cat" else "dot", case == "itself", schema=schema, operation=operation)
        with np.load(tmp_path / f"{case}.npz") as file:
            dense = {f"I{i + 1}": file["dense"][:, i] for i in range(DENSE)}
            batch = model.schema.pack({**dense, **{f"C{i}": file[f"C{i}"] for i in (1, 2, 3)}})
            np.testing.assert_allclose(model.predict(batch, verbose=0), file["expected"], rtol=1e-5, atol=1e-6)
        model.compile("adagrad")
        model.fit(batch, np.arange(50) % 2, batch_size=10, verbose=0)
        np.savez(tmp_path / f"{case}.back.npz", **to_torch_dlrm(model))
        ours[case] = model.predict(batch, verbose=0)
    run(sys.executable, PEER, "load", clone, tmp_path)
    for case, answer in ours.items():
        np.testing.assert_allclose(np.load(tmp_path / f"{case}.answer.npy"), answer, rtol=1e-5, atol=1e-6)
