"""Two-tower models: sides of a schema, their vectors, what is refused. The suite of all models is in test_models.py."""

import keras
import numpy as np
import pytest
from helpers.zoo import SCHEMA, data

from keras_dlrm.models import TwoTower
from keras_dlrm.schema.schema import Categorical, Schema

USER, ITEM = ["I1", "C1", "tags"], ["C3", "I2"]


def test_a_side_does_not_see_the_columns_of_the_other():
    model = TwoTower(SCHEMA, USER, ITEM, 4, 3, [6], [5], seed=1)
    batch, _ = data(SCHEMA, 6)
    other = {name: values.copy() for name, values in batch.items()}
    other["dense"][:, 1], other["sparse"][:, 4] = np.nan, -1
    user = keras.ops.convert_to_numpy(model.user_vectors(batch))
    np.testing.assert_array_equal(user, keras.ops.convert_to_numpy(model.user_vectors(other)))
    np.testing.assert_allclose(np.linalg.norm(user, axis=1), 1.0, rtol=1e-6)
    other = {name: values.copy() for name, values in batch.items()}
    other["dense"][:, 0], other["sparse"][:, :4] = np.inf, -1
    item = keras.ops.convert_to_numpy(model.item_vectors(batch))
    np.testing.assert_array_equal(item, keras.ops.convert_to_numpy(model.item_vectors(other)))
    logits = keras.ops.convert_to_numpy(model.logits(batch))[:, 0]
    np.testing.assert_allclose((user * item).sum(1) / 0.05, logits, rtol=1e-5, atol=1e-5)


def test_a_side_without_any_id_has_a_vector_and_a_gradient_that_are_finite():
    schema = Schema(categorical=[Categorical("seen", 5, hotness=2, table="item"), Categorical("item", 5)])
    model = TwoTower(schema, ["seen"], ["item"], 4, None, [], [], seed=1)
    model.compile("sgd")
    batch = {"sparse": np.array([[-1, -1, 2], [0, -1, 3]])}
    assert not keras.ops.convert_to_numpy(model.user_vectors(batch))[0].any()
    model.train_on_batch(batch, np.ones(2))
    assert np.isfinite(model.embedding_tables()["item"]).all()


def test_the_id_of_an_item_is_the_first_sparse_column_with_one_id_or_the_one_that_is_named():
    assert TwoTower(SCHEMA, ["C1"], ["I1", "I2", "tags", "C3"], 4).item_id == "C3"
    assert TwoTower(SCHEMA, ["I1", "tags"], ["C1", "I2", "C3"], 4, item_id="C3").item_id == "C3"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"user": ["C1"], "item": ["C3"]}, ["['I1', 'I2', 'tags']", "on no side"]),
        ({"user": [*USER, "C3"], "item": ITEM}, ["'C3'", "in user and in item"]),
        ({"user": [*USER, "C9"], "item": ITEM}, ["'C9'", "not a column"]),
        ({"user": [], "item": [*USER, *ITEM]}, ["user=[]", "at least one"]),
        ({"user": "C1", "item": ITEM}, ["user='C1'", "list"]),
        ({"user": [*USER, "C3"], "item": ["I2"]}, ["item_id=None", "one id a row"]),
        ({"user": ["I1", "C1"], "item": ["tags", *ITEM], "item_id": "tags"}, ["item_id='tags'", "['C3']"]),
        ({"user": USER, "item": ITEM, "temperature": 0.0}, ["temperature=0.0", "above 0"]),
        ({"user": USER, "item": ITEM, "normalize": "yes"}, ["normalize='yes'"]),
        ({"user": USER, "item": ITEM, "output_dim": None}, ["user_mlp=[64]", "output_dim=None"]),
        ({"user": USER, "item": ITEM, "item_mlp": [0]}, ["item_mlp"]),
    ],
)
def test_what_does_not_fit_is_refused(arguments, words):
    with pytest.raises(ValueError) as caught:
        TwoTower(SCHEMA, **arguments)
    for word in words:
        assert word in str(caught.value)
