"""Order of candidates by a second model, with a share of the index's scores."""

import numpy as np
import pytest

import keras_dlrm as kd

SCHEMA = kd.Schema(categorical=[kd.Categorical("user", 30), kd.Categorical("item", 40)])
USERS = SCHEMA.pack({"user": np.arange(7), "item": np.full(7, -1)})


@pytest.fixture(scope="module")
def stages():
    tower = kd.models.TwoTower(SCHEMA, ["user"], ["item"], 8, 8, temperature=0.2, seed=0)
    ranker = kd.models.DLRM(SCHEMA, 8, top_mlp=[8, 1], seed=1)
    ranker.set_embedding_tables({name: table * 20 for name, table in ranker.embedding_tables().items()})
    return kd.retrieval.Index.build(tower, {"item": np.arange(2, 38)}), ranker


@pytest.mark.parametrize("blend", [0.0, 0.25, 1.0, 1e6])
def test_candidates_are_ordered_by_the_logit_and_a_share_of_the_score(stages, blend):
    index, ranker = stages
    items, scores = index.query(USERS, 12)
    pairs = SCHEMA.pack({"user": np.repeat(np.arange(7), 12), "item": items.reshape(-1)})
    p = ranker.predict(pairs, verbose=0).astype(np.float64).reshape(7, 12)
    order = np.argsort(-(np.log(p / (1 - p)) + blend * scores), axis=1, kind="stable")[:, :5]
    ids, probabilities = kd.retrieval.recommend(index, ranker, USERS, 5, candidates=12, blend=blend)
    np.testing.assert_array_equal(ids, np.take_along_axis(items, order, axis=1))
    np.testing.assert_allclose(probabilities, np.take_along_axis(p, order, axis=1), rtol=1e-5)
    if blend == 1e6:
        np.testing.assert_array_equal(ids, items[:, :5])


def test_users_with_fewer_items_have_none_at_the_end_with_any_blend(stages):
    index, ranker = stages
    exclude = [list(range(2, 36)), *[[]] * 6]
    for blend in (0.0, 0.5):
        ids, probabilities = kd.retrieval.recommend(index, ranker, USERS, 5, candidates=40, blend=blend, exclude=exclude)
        assert set(ids[0, :2]) == {36, 37} and ids[0, 2:].tolist() == [-1] * 3 and (ids[1:] >= 0).all()
        assert (probabilities[0] > 0).tolist() == [True, True, False, False, False]


def test_what_is_no_index_or_no_model_is_refused(stages):
    index, ranker = stages
    with pytest.raises(TypeError, match=r"^recommend: index='items' must be a kd.retrieval.Index; use Index.load\(path, model\)"):
        kd.retrieval.recommend("items", ranker, USERS, 5, candidates=12)
    with pytest.raises(TypeError, match=r"^recommend: ranker='dlrm.keras' must be a model of kd.models"):
        kd.retrieval.recommend(index, "dlrm.keras", USERS, 5, candidates=12)
    other = kd.models.FM(kd.Schema(categorical=[kd.Categorical("hour", 24)]), 4)
    with pytest.raises(ValueError, match=r"ranker has the column 'hour'.* columns are some of .*\['user', 'item'\]"):
        kd.retrieval.recommend(index, other, USERS, 5, candidates=12)


@pytest.mark.parametrize("blend", [-0.1, float("nan"), float("inf"), "a"])
def test_blend_that_is_no_weight_is_refused(stages, blend):
    index, ranker = stages
    with pytest.raises(ValueError, match="^recommend: blend=.* must be a number in"):
        kd.retrieval.recommend(index, ranker, USERS, 5, candidates=12, blend=blend)
