"""State dicts that do not fit a model, and models that TorchRec does not have: refused with the reason."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.torchrec_states import BAG, DIM, state_dict

from keras_dlrm.convert import from_torchrec, to_torchrec
from keras_dlrm.models import DCN, DLRM
from keras_dlrm.schema.schema import Categorical, Schema


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
