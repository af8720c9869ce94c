"""Arguments, inputs and optimizers that do not fit: each is refused in one sentence."""

import keras
import numpy as np
import pytest
from helpers.zoo import SCHEMA, WITHOUT_DENSE, WITHOUT_SPARSE, PairSum, X, Y, cross, dlrm

from keras_dlrm.models import (
    DCN,
    DLRM,
    FM,
    GDCN,
    DCNv2,
    DCNv3,
    FinalMLP,
    MaskNet,
    MatrixFactorization,
    NeuMF,
    RankMixer,
)
from keras_dlrm.schema.schema import Categorical, Schema


def test_fit_refuses_wrong_types_of_input():
    for x, words in (
        ({**X, "sparse": X["sparse"].astype("float32")}, "ids must be integers"),
        (X["dense"], "packed batch"),
    ):
        model = dlrm()
        model.compile("sgd", metrics=["auc"])
        with pytest.raises(TypeError, match=words):
            model.fit(x, Y, verbose=0)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: DLRM(SCHEMA, 4, [6, 5], [5, 1]), ["bottom_mlp=[6, 5]", "embedding_dim=4"]),
        (lambda: DLRM(SCHEMA, 4, [], [5, 1]), ["bottom_mlp=[]", "nothing"]),
        (lambda: DLRM(SCHEMA, 4, [6, 4], [5, 2]), ["top_mlp=[5, 2]", "1"]),
        (lambda: DLRM(SCHEMA, 4, [6, 4], []), ["top_mlp=[]"]),
        (lambda: DLRM(SCHEMA, 0, [6, 0], [1]), ["embedding_dim=0"]),
        (lambda: DLRM(WITHOUT_DENSE, 4, [6, 4], [1]), ["bottom_mlp=[6, 4]", "no dense"]),
        (lambda: dlrm(interaction="sum"), ["'sum'", "dot"]),
        (lambda: dlrm(interaction=PairSum), ["PairSum", "is unknown", "a Keras layer"]),
        (lambda: dlrm(interaction=PairSum(), cross_layers=2), ["cross_layers=2", "'PairSum'"]),
        (lambda: dlrm(interaction=keras.layers.Reshape((4, 2, 2), name="r")), ["Reshape 'r'", "(2, 4, 2, 2)", "(B, n)"]),
        (lambda: dlrm(interaction=keras.layers.Reshape((5,), name="r")), ["Reshape 'r'", "fails for vectors (B, 4, 4)"]),
        (lambda: dlrm(interaction="cat", self_interaction=True), ["self_interaction", "dot"]),
        (lambda: DLRM(SCHEMA, {"C1": 2, "tags": 4, "C3": 4}, [6, 4], [1], first_order=True), ["first order", "one width"]),
        (lambda: FM(SCHEMA, {"C1": 2, "tags": 4, "C3": 4}), ["FM", "one width"]),
        (lambda: NeuMF(SCHEMA, 4), ["NeuMF: it looks at ['C1', 'tags']", "['I1', 'I2', 'C3'] besides"]),
        (lambda: MatrixFactorization(SCHEMA, 4, user="I1"), ["user='I1'", "sparse column", "['C1', 'tags', 'C3']"]),
        (lambda: MatrixFactorization(WITHOUT_DENSE, 4, user="C1", item="C1"), ["['C1', 'C1']", "one column each"]),
        (lambda: FinalMLP(SCHEMA, 4, contexts=[["C9"], []]), ["'C9'", "not a column"]),
        (lambda: FinalMLP(SCHEMA, 4, contexts=[["C1"]]), ["contexts=", "two lists"]),
        (lambda: FinalMLP(SCHEMA, 4, deep_mlp=[5], heads=2), ["5 numbers a row", "heads=2"]),
        (lambda: RankMixer(SCHEMA, 4, tokens=3, token_dim=7), ["token_dim=7", "multiple of tokens=3"]),
        (lambda: RankMixer(SCHEMA, 4, tokens=21), ["tokens=21", "20"]),
        (lambda: DCNv3(Schema(dense=["a"]), 1), ["ExponentialCross", "even number"]),
        (lambda: GDCN(SCHEMA, 4, projection_dim=2), ["GDCN", "projection_dim=2", "no low rank"]),
        (lambda: MaskNet(SCHEMA, 4, structure="both"), ["MaskNet", "'both'", "parallel"]),
        (lambda: DCN(SCHEMA, "paper", first_order=True), ["first order", "'paper'"]),
        (lambda: dlrm(interaction="cross", cross_layers=0), ["cross_layers=0"]),
        (lambda: dlrm(concat_dense=True), ["concat_dense=True", "'cross'", "'dot'"]),
        (lambda: dlrm(WITHOUT_DENSE, interaction="cross", concat_dense=True), ["concat_dense=True", "dense columns"]),
        (lambda: dlrm(concat_dense=1), ["concat_dense=1", "True or False"]),
        (lambda: dlrm(projection_dim=4), ["projection_dim=4", "'cross'", "'dot'"]),
        (lambda: dlrm(projection_dim=None, interaction="cat"), ["projection_dim=None", "'cross'"]),
        (lambda: dlrm(cross_layers=2), ["cross_layers=2", "'cross'", "'dot'"]),
        (lambda: dlrm(self_interaction="yes"), ["self_interaction='yes'", "True or False"]),
        (lambda: dlrm(WITHOUT_SPARSE), ["two feature vectors", "cat"]),
        (lambda: DLRM(Schema(categorical=[Categorical("a")]), 4), ["'a'", "vocabulary_size"]),
        (lambda: FinalMLP(SCHEMA, contexts=["I1", "C1"]), ["contexts=['I1', 'C1']", "two lists of columns"]),
        (lambda: cross(DCN, cross_layers=0), ["DCN", "cross_layers=0"]),
        (lambda: cross(DCNv2, structure="both"), ["DCNv2", "'both'", "parallel"]),
        (lambda: DCN(SCHEMA, "wide"), ["'wide'", "paper"]),
        (lambda: dlrm().compile("adagrad", embedding_optimizer="fast"), ["'fast'", "rowwise_adagrad"]),
        (lambda: dlrm().compile(keras.optimizers.SGD(momentum=0.9)), ["momentum", "embedding_optimizer"]),
        (lambda: dlrm().compile("bogus"), ["optimizer='bogus'", "adagrad"]),
        (lambda: dlrm()({"dense": X["dense"]}), ["'sparse'", "schema.pack"]),
        (lambda: dlrm()({**X, "weights": np.ones((10, 5), "float32")}), ["'weights'", "weighted=True"]),
        (lambda: dlrm()({**X, "extra": X["dense"]}), ["'extra'", "leave it out"]),
        (lambda: dlrm()({**X, "dense": X["dense"][:, :1]}), ["'dense'", "(B, 2)"]),
        (lambda: dlrm()({**X, "sparse": X["sparse"][:, :3]}), ["'sparse'", "(B, 5)"]),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_in_one_sentence(make, words):
    with pytest.raises(ValueError) as caught:
        make()
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("optimizer", [None, 3])
def test_what_is_no_optimizer_is_refused(optimizer):
    with pytest.raises(TypeError, match=f"optimizer={optimizer}.* use one of|optimizer=None: give"):
        dlrm().compile(optimizer)


def test_a_batch_that_is_no_dict_is_refused():
    with pytest.raises(TypeError, match="packed batch"):
        dlrm()(X["dense"])
