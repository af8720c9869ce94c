"""The loss within the batch against NumPy: negatives, probabilities, weights, draws; its gradient against the whole softmax's."""

import keras
import numpy as np
import pytest

import keras_dlrm as kd
from keras_dlrm.losses import InBatchSoftmax
from keras_dlrm.schema.hashing import LARGEST, mix

ITEMS = 9
SCHEMA = kd.Schema(
    categorical=[kd.Categorical("seen", ITEMS, hotness=2, table="item"), kd.Categorical("item", ITEMS), kd.Categorical("user", 6)]
)
CATALOG = {"sparse": np.stack([np.full(ITEMS, -1), np.full(ITEMS, -1), np.arange(ITEMS), np.full(ITEMS, -1)], axis=1)}
COUNTS = np.array([40.0, 0, 3, 5, 1, 9, 20, 2, 7])
EAGER = keras.backend.backend() != "jax"


def model_of(loss, temperature=0.5, rate=0.0, **options):
    options = {"embedding_dim": 4, "output_dim": None, "user_mlp": [], "item_mlp": [], "init_scale": 1.0, "seed": 1, **options}
    model = kd.models.TwoTower(SCHEMA, ["user", "seen"], ["item"], temperature=temperature, **options)
    model.compile(keras.optimizers.SGD(rate), loss=loss, run_eagerly=EAGER)
    return model


def batches(count=3, rows=12, seed=0):
    """Popular items repeat; some rows are negatives alone, some are nothing."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        item = np.minimum(rng.geometric(0.3, (rows, 1)) - 1, ITEMS - 1)
        ids = np.concatenate([rng.integers(-1, ITEMS, (rows, 2)), item, rng.integers(0, 6, (rows, 1))], axis=1)
        label, weight = (rng.random(rows) < 0.8).astype("float32"), rng.integers(0, 3, rows).astype("float32")
        yield {"sparse": ids.astype("int32")}, label, weight


def vectors(model, batch):
    """Vectors of users and of items, in float64."""
    tables = {name: rows.astype("float64") for name, rows in model.embedding_tables().items()}
    seen = np.where(batch["sparse"][:, :2, None] >= 0, tables["item"][batch["sparse"][:, :2]], 0).sum(1)
    sides = [tables["user"][batch["sparse"][:, 3]] + seen, tables["item"][batch["sparse"][:, 2]]]
    return [side / np.linalg.norm(side, axis=1, keepdims=True) for side in sides]


class Gaps:
    """Yi et al. 2019, algorithm 2, item by item."""

    def __init__(self):
        self.step, self.last, self.gap, self.times = 0, {}, {}, {}

    def log_q(self, ids, real):
        self.step += 1
        for item in {int(i) for i, r in zip(ids, real, strict=True) if r}:
            self.times[item] = self.times.get(item, 0) + 1
            rate = max(1 / self.times[item], 0.01)
            since = self.step - self.last.get(item, 0)
            self.gap[item] = (1 - rate) * self.gap.get(item, 0.0) + rate * since
            self.last[item] = self.step
        copies = {int(i): np.sum(real & (ids == i)) for i in ids}
        return {i: np.log(copies[i] / self.gap[i] / real.sum()) for i in copies if copies[i]}


def expected(loss, model, batch, label, weight, gaps):
    """The loss of a batch by its definition."""
    users, items = vectors(model, batch)
    ids, real = batch["sparse"][:, 2], weight > 0
    shares = np.maximum(COUNTS, 1) / np.maximum(COUNTS, 1).sum()
    log_q = gaps.log_q(ids, real)
    log_q = log_q if loss.log_q is not None else dict.fromkeys(ids, 0.0)
    if isinstance(loss.log_q, np.ndarray):
        log_q = dict(enumerate(np.log(shares)))
    drawn = np.zeros(0, int)
    if loss.uniform_negatives:
        start = mix(np.array([gaps.step + model.negatives.seed], np.uint32))
        mixed = mix((start + np.arange(loss.uniform_negatives)).astype(np.uint32)) & np.uint32(LARGEST)
        drawn = (mixed % ITEMS).astype(int)
        table = model.embedding_tables()["item"].astype("float64")
        table /= np.linalg.norm(table, axis=1, keepdims=True)
    queries, total = 0, 0.0
    for i in range(len(ids)):
        if not (real[i] and label[i]):
            continue
        others = [j for j in range(len(ids)) if j != i and real[j] and not (loss.accidental_hits and ids[j] == ids[i])]
        negatives = sorted((users[i] @ items[j] / model.temperature - log_q[ids[j]] for j in others), reverse=True)
        negatives = negatives[: loss.hard_negatives or None]
        constant = np.log(1 / ITEMS) if loss.log_q is not None else 0.0
        negatives += [users[i] @ table[j] / model.temperature - constant for j in drawn if not loss.accidental_hits or j != ids[i]]
        own = users[i] @ items[i] / model.temperature
        if loss.log_q is not None:
            own += np.log(real.sum() - 1 + len(drawn)) if loss.accidental_hits else -log_q[ids[i]]
        queries, total = queries + 1, total + weight[i] * (np.log(np.exp([own, *negatives]).sum()) - own)
    return total / queries


OPTIONS = {
    "streaming": {},
    "counts": {"log_q": COUNTS},
    "none": {"log_q": None},
    "hits are negatives": {"log_q": COUNTS, "accidental_hits": False},
    "hard": {"log_q": COUNTS, "hard_negatives": 3},
    "more hard ones than there are": {"log_q": None, "hard_negatives": 50},
    "uniform": {"uniform_negatives": 5, "catalog": CATALOG},
    "uniform, no probabilities": {"log_q": None, "accidental_hits": False, "uniform_negatives": 5, "catalog": CATALOG},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_losses_equal_numpy(name):
    loss, gaps = InBatchSoftmax(**OPTIONS[name]), Gaps()
    model = model_of(loss)
    for batch, label, weight in batches():
        model.reset_metrics()
        got = model.train_on_batch(batch, label, weight)
        assert float(got) == pytest.approx(expected(loss, model, batch, label, weight, gaps), rel=1e-5)


@pytest.mark.parametrize("name", ["streaming", "counts", "uniform"])
def test_a_loaded_model_evaluates_and_trains_to_the_same_losses(name, tmp_path):
    model = model_of(InBatchSoftmax(**OPTIONS[name]), rate=0.5)
    batch, label, weight = next(batches(1))
    for _ in range(2):
        model.train_on_batch(batch, label, weight)
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    for call in ("test_on_batch", "test_on_batch", "train_on_batch", "test_on_batch"):  # an evaluation counts no step
        for each in (model, loaded):
            each.reset_metrics()
        assert float(getattr(model, call)(batch, label, weight)) == float(getattr(loaded, call)(batch, label, weight))


def test_rows_without_weight_are_neither_queries_nor_negatives():
    batch, label, weight = next(batches(1))
    kept = weight > 0
    whole, part = (model_of(InBatchSoftmax(log_q=COUNTS)) for _ in range(2))
    part_of = {"sparse": batch["sparse"][kept]}
    assert float(whole.train_on_batch(batch, label, weight)) == pytest.approx(
        float(part.train_on_batch(part_of, label[kept], weight[kept])), rel=1e-6
    )


def test_a_batch_without_a_query_or_without_a_negative_costs_nothing():
    for rows, label in ((slice(None), 0.0), (slice(1), 1.0)):
        batch = {"sparse": next(batches(1))[0]["sparse"][rows]}
        model = model_of(InBatchSoftmax(), rate=1.0)
        before = model.embedding_tables()
        assert float(model.train_on_batch(batch, np.full(len(batch["sparse"]), label))) == 0.0
        for name, rows_after in model.embedding_tables().items():
            np.testing.assert_array_equal(rows_after, before[name])


@pytest.mark.parametrize("reduction", ["sum", "mean_with_sample_weight"])
def test_other_reductions_count_queries_as_keras_counts_rows(reduction):
    loss, (batch, label, weight) = InBatchSoftmax(log_q=COUNTS, reduction=reduction), next(batches(1))
    model = model_of(loss)
    query = (label > 0) & (weight > 0)
    factor = query.sum() / (1.0 if reduction == "sum" else weight[query].sum())
    wanted = expected(loss, model, batch, label, weight, Gaps()) * factor
    assert float(model.train_on_batch(batch, label, weight)) == pytest.approx(wanted, rel=1e-5)


def test_the_estimate_of_a_long_log_is_the_share_of_each_item():
    shares = 1 / np.arange(1, ITEMS + 1)
    shares /= shares.sum()
    model, rng = model_of(InBatchSoftmax()), np.random.default_rng(0)
    real, estimates = keras.ops.ones((16,), "bool"), []
    for step in range(80):
        ids = rng.choice(ITEMS, 16, p=shares)
        model.negatives.begin(True)
        log_q = model.negatives.log_q(keras.ops.convert_to_tensor(ids, "int32"), real, True)
        if step >= 20:
            estimates += zip(ids, keras.ops.convert_to_numpy(log_q), strict=True)
    # A sum of 1 / q over draws counts the items.
    counted = np.bincount([i for i, _ in estimates], [np.exp(-q) for _, q in estimates], ITEMS) / len(estimates)
    np.testing.assert_allclose(counted, 1.0, atol=0.25)


@pytest.mark.slow
@pytest.mark.parametrize(("sign", "same"), [(1, True), (-1, False)])
def test_the_gradient_is_the_one_of_the_whole_softmax_in_expectation_and_not_with_the_wrong_sign(sign, same):
    """On a planted log with Zipf's shares of items: to 3 standard errors of the mean over batches."""
    rows, steps, rng = 512, 40, np.random.default_rng(0)
    share = 1 / np.arange(1, ITEMS + 1) ** 1.2
    share /= share.sum()
    # Whose item it is depends on the item.
    joint = share[:, None] * rng.dirichlet(np.ones(6), ITEMS)
    model = model_of(InBatchSoftmax(log_q=1e6 * share**sign / (share**sign).sum()), temperature=0.5, rate=1.0, normalize=False)
    before = model.embedding_tables()
    every = {"sparse": np.concatenate([np.full((ITEMS * 6, 2), -1), np.indices((ITEMS, 6)).reshape(2, -1).T], axis=1)}
    user, item = before["user"].astype("float64"), before["item"].astype("float64")
    p = np.exp(user @ item.T / 0.5)
    p /= p.sum(1, keepdims=True)
    exact = (joint.sum(0)[:, None] * p - joint.T).T @ user / 0.5  # (items, D)
    gradients = []
    for _ in range(steps):
        pairs = rng.choice(ITEMS * 6, rows, p=joint.reshape(-1))
        model.set_embedding_tables(before)
        model.train_on_batch({"sparse": every["sparse"][pairs].astype("int32")}, np.ones(rows, "float32"))
        gradients.append(before["item"] - model.embedding_tables()["item"])
    excess = np.array(gradients) - exact
    errors = np.abs(excess.mean(0)) / (excess.std(0, ddof=1) / np.sqrt(steps))
    assert (errors.max() < 3) == same, errors


def test_ids_are_compared_not_rows_of_a_hashed_table():
    """Two items that share a row are negatives of each other."""
    schema = kd.Schema(categorical=[kd.Categorical("user", 3), kd.Categorical("item", 1, hashed=True)])
    model = kd.models.TwoTower(schema, ["user"], ["item"], 4, 4, seed=0)
    model.compile("sgd", loss=InBatchSoftmax(log_q=None))
    label = np.ones(2, "float32")
    same, other = ({"sparse": np.array([[0, 2**20], [1, last]])} for last in (2**20, 7))
    assert float(model.test_on_batch(same, label)) == 0.0
    assert float(model.test_on_batch(other, label)) > 0.1


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: InBatchSoftmax(log_q="counts"), ["log_q='counts'", "'streaming'"]),
        (lambda: InBatchSoftmax(log_q=[[1, 2]]), ["(1, 2)", "(vocabulary_size,)"]),
        (lambda: InBatchSoftmax(log_q=[1, -2]), ["log_q[1] is -2"]),
        (lambda: InBatchSoftmax(log_q=[0, 0]), ["0 everywhere"]),
        (lambda: InBatchSoftmax(log_q=[0.3, 0.7]), ["reaches 0.7, as probabilities do", "give counts"]),
        (lambda: InBatchSoftmax(log_q=[[1], [1, 2]]), ["log_q is object", "(vocabulary_size,)"]),
        (lambda: InBatchSoftmax(accidental_hits="no"), ["accidental_hits='no'"]),
        (lambda: InBatchSoftmax(hard_negatives=-1), ["hard_negatives=-1"]),
        (lambda: InBatchSoftmax(uniform_negatives=3), ["uniform_negatives=3", "no catalog"]),
        (lambda: InBatchSoftmax(catalog=CATALOG), ["uniform_negatives=0", "of no use"]),
        (lambda: InBatchSoftmax(uniform_negatives=1, catalog={"sparse": np.zeros((0, 3))}), ["(0, 3)", "at least one"]),
        (lambda: model_of(InBatchSoftmax(log_q=[1, 2])), ["2 counts", "'item' has 9 rows"]),
        (lambda: model_of(InBatchSoftmax(uniform_negatives=1, catalog={"sparse": np.full((2, 4), 99)})), ["catalog", "99"]),
        (lambda: kd.models.FM(SCHEMA).compile("sgd", loss=InBatchSoftmax()), ["FM", "TwoTower"]),
    ],
)
def test_what_does_not_fit_is_refused(make, words):
    with pytest.raises(ValueError) as caught:
        make()
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("label", [np.nan, -1.0, 2.0])
def test_labels_that_are_no_clicks_are_refused(label):
    model = model_of(InBatchSoftmax())
    with pytest.raises(ValueError, match="label.*(nan|-1|2)"):
        model.fit(CATALOG, np.full(len(CATALOG["sparse"]), label, np.float32), verbose=0)


def test_a_catalog_that_is_no_batch_is_refused():
    with pytest.raises(TypeError, match="packed batch"):
        InBatchSoftmax(uniform_negatives=1, catalog=[1, 2])


def test_another_loss_forgets_what_the_first_one_kept():
    model = model_of(InBatchSoftmax())
    assert model.negatives is not None and len(model.non_trainable_variables) == 4
    model.compile("sgd")
    batch, label, _ = next(batches(1))
    assert model.negatives is None and model.non_trainable_variables == []
    model.train_on_batch(batch, label)
