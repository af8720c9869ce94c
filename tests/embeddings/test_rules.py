"""One suite that every row rule passes, and rules that equal Keras's optimizers."""

from functools import partial

import keras
import numpy as np
import pytest
from helpers import numpy_rules
from keras import ops

from keras_dlrm import backend
from keras_dlrm.embeddings.lookup import Lookup, TableVariable
from keras_dlrm.embeddings.rules.follow import follow
from keras_dlrm.optimizers import SGD, Adagrad, Adam, Hybrid, RowwiseAdagrad
from keras_dlrm.schedules import WarmupHoldDecay

ROWS, D = 7, 3
# A rule of some rate, the same in NumPy, and in NumPy what it does to a dense parameter; a new rule is a line here.
RULES = {
    "sgd": (SGD, numpy_rules.sgd, numpy_rules.sgd),
    "adagrad": (Adagrad, numpy_rules.adagrad, numpy_rules.adagrad),
    "adagrad in root": (
        partial(Adagrad, initial_accumulator_value=0.1, epsilon=1e-7, epsilon_in_root=True),
        *[partial(numpy_rules.adagrad, start=0.1, epsilon=1e-7, in_root=True)] * 2,
    ),
    "rowwise adagrad": (RowwiseAdagrad, numpy_rules.rowwise_adagrad, numpy_rules.adagrad),
    "rowwise adagrad, started": (
        partial(RowwiseAdagrad, initial_accumulator_value=0.3, epsilon=1e-3),
        partial(numpy_rules.rowwise_adagrad, start=0.3, epsilon=1e-3),
        partial(numpy_rules.adagrad, start=0.3, epsilon=1e-3),
    ),
    "adam": (Adam, numpy_rules.adam, numpy_rules.adam),
}
LAZY = {"adam"}  # Of these rows that are not looked up would move in the dense optimizer.
every_rule = pytest.mark.parametrize("name", RULES)
# Steps of (ids, with repeats and padding). Row 0 and the last row are never looked up, rows 2 and 5 repeat.
STEPS = [[2, -1, 5, 2, 1, -1], [5, 5, 5, -1, 3, 2], [1, 2, -1, -1, -1, 4]]
UNTOUCHED = [0, 6]


def gradients(seed=1):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(len(ids), D)).astype("float32") for ids in STEPS]


def reference(rule, table, ids_and_gradients, rate=0.1, l2=0.0):
    """A table after some steps of a NumPy rule, in float64; repeated ids are summed first."""
    table, states = table.astype("float64"), [{} for _ in table]
    for t, (ids, gradient) in enumerate(ids_and_gradients, 1):
        for row in {i for i in ids if i >= 0}:
            g = sum(g for i, g in zip(ids, gradient.astype("float64"), strict=True) if i == row) + l2 * table[row]
            table[row] = rule(table[row], g, states[row], rate(t) if callable(rate) else rate, t)
    return table


def table_variable(seed=0):
    values = np.random.default_rng(seed).normal(size=(ROWS, D)).astype("float32")
    return TableVariable(values, name="tables_3"), values


def step(hybrid, table, ids, gradient):
    """The part of a train step for one lookup: unique ids, summed gradients, rows."""
    unique, inverse = backend.unique(ops.convert_to_tensor(np.array([-1, *ids]), "int32"), ROWS)
    summed = backend.sum_by(ops.convert_to_tensor(gradient), ops.reshape(inverse, (-1,))[1:], unique.shape[0])
    hybrid.apply_rows([], [], [Lookup(table, unique[1:], backend.gather(table, unique[1:]))], [summed[1:]])


def trained(name, rate=0.1, **options):
    table, start = table_variable()
    hybrid = Hybrid(keras.optimizers.SGD(0.1), RULES[name][0](rate, **options))
    hybrid.build([table])
    for ids, gradient in zip(STEPS, gradients(), strict=True):
        step(hybrid, table, ids, gradient)
    return hybrid, table, start


# -- every rule --


@every_rule
@pytest.mark.parametrize("l2", [0.0, 0.05])
def test_rows_follow_the_formula_with_repeated_ids_summed_first(name, l2):
    _, table, start = trained(name, l2=l2)
    expected = reference(RULES[name][1], start, list(zip(STEPS, gradients(), strict=True)), l2=l2)
    np.testing.assert_allclose(ops.convert_to_numpy(table), expected, rtol=1e-5, atol=1e-6)


@every_rule
def test_rows_that_are_not_looked_up_stay_bit_identical(name):
    """Also row 0 and the last row, where padding would land if it were not left out; and l2 does not shrink them."""
    hybrid, table, start = trained(name, l2=0.1)
    np.testing.assert_array_equal(ops.convert_to_numpy(table)[UNTOUCHED], start[UNTOUCHED])
    for slot_name, slot in hybrid.rows.held_slots[0].items():
        initial = hybrid.rows.slots((ROWS, D), True)[slot_name][1]
        np.testing.assert_array_equal(
            ops.convert_to_numpy(slot)[UNTOUCHED], np.full((2, *slot.shape[1:]), initial, "float32")
        )


@every_rule
@pytest.mark.parametrize("ids", [[-1, -1], []], ids=str)
def test_a_batch_without_ids_changes_nothing(name, ids):
    table, start = table_variable()
    hybrid = Hybrid("sgd", RULES[name][0](0.1, l2=0.5))
    hybrid.build([table])
    before = [ops.convert_to_numpy(v).copy() for v in hybrid.rows.held_slots[0].values()]
    step(hybrid, table, ids, np.ones((len(ids), D), "float32"))
    np.testing.assert_array_equal(ops.convert_to_numpy(table), start)
    for slot, old in zip(hybrid.rows.held_slots[0].values(), before, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(slot), old)


@every_rule
def test_rows_equal_the_same_rule_applied_to_the_whole_table(name):
    """Exact for SGD and Adagrad, of either kind. Adam is lazy, so there all rows are looked up at every step."""
    table, _ = table_variable()
    dense, _ = table_variable()
    by_rows, whole = Hybrid("sgd", RULES[name][0](0.1)), Hybrid("sgd", RULES[name][0](0.1))
    by_rows.build([table])
    whole.build([dense])
    for ids, gradient in zip(STEPS, gradients(), strict=True):
        ids = [*ids, *range(ROWS)] if name in LAZY else ids
        gradient = np.concatenate([gradient, np.ones((len(ids) - len(gradient), D), "float32")])
        full = np.zeros((ROWS, D), "float32")
        for i, g in zip(ids, gradient, strict=True):
            if i >= 0:
                full[i] += g
        step(by_rows, table, ids, gradient)
        whole.apply([ops.convert_to_tensor(full)], [dense])
    np.testing.assert_allclose(ops.convert_to_numpy(table), ops.convert_to_numpy(dense), rtol=1e-6, atol=1e-7)


@every_rule
def test_two_lookups_of_one_table_are_one_update(name):
    table, start = table_variable()
    hybrid = Hybrid("sgd", RULES[name][0](0.1))
    hybrid.build([table])
    first, second = np.ones((3, D), "float32"), np.full((2, D), 0.5, "float32")
    ids = ops.convert_to_tensor(np.array([1, 2, 4]), "int32"), ops.convert_to_tensor(np.array([2, 5]), "int32")
    hybrid.apply_rows(
        [], [], [Lookup(table, i, None) for i in ids], [ops.convert_to_tensor(first), ops.convert_to_tensor(second)]
    )
    expected = reference(RULES[name][1], start, [([1, 2, 4, 2, 5], np.concatenate([first, second]))])
    np.testing.assert_allclose(ops.convert_to_numpy(table), expected, rtol=1e-5, atol=1e-6)


@every_rule
def test_schedules_advance_once_a_step(name):
    schedule = WarmupHoldDecay(0.4, warmup_steps=4)
    hybrid, table, start = trained(name, rate=schedule)
    expected = reference(RULES[name][1], start, list(zip(STEPS, gradients(), strict=True)), lambda t: 0.4 * t / 4)
    np.testing.assert_allclose(ops.convert_to_numpy(table), expected, rtol=1e-5, atol=1e-6)
    assert int(hybrid.rows.iterations) == len(STEPS) == int(hybrid.iterations)


@every_rule
def test_a_rule_also_updates_dense_parameters(name):
    """Parameters of any rank, also where no row exists; row-wise Adagrad is Adagrad there."""
    kernel = keras.Variable(np.ones((2, 3), "float32"))
    bias = keras.Variable(np.float32([1, -1]))
    hybrid = Hybrid(RULES[name][0](0.1))
    hybrid.build([kernel, bias])
    g = np.arange(1, 7, dtype="float32").reshape(2, 3) / 5
    for _ in range(2):
        hybrid.apply([ops.convert_to_tensor(g), ops.convert_to_tensor(g[0, :2])], [kernel, bias])
    for variable, gradient in ((kernel, g), (bias, g[0, :2])):
        start = np.ones((2, 3)) if variable is kernel else np.array([1.0, -1.0])
        step = [(range(start.size), gradient.reshape(-1, 1))]  # an element is a row of width one
        elements = reference(RULES[name][2], start.reshape(-1, 1), step * 2).ravel()
        np.testing.assert_allclose(ops.convert_to_numpy(variable).ravel(), elements, rtol=1e-5)


@every_rule
def test_config_round_trip_keeps_the_rule(name):
    for rate in (0.25, WarmupHoldDecay(0.5, 3)):
        rule = RULES[name][0](rate, l2=0.125)
        again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(rule))
        assert type(again) is type(rule) and again.get_config() == rule.get_config()
        for config in (again.get_config(), follow(rule).get_config()):
            assert config["l2"] == 0.125


@every_rule
def test_a_rule_goes_on_from_its_saved_state(name):
    _, table, _ = trained(name)
    again, _ = table_variable()
    store = {}
    for ids, gradient in zip(STEPS, gradients(), strict=True):
        hybrid = Hybrid(keras.optimizers.SGD(0.1), RULES[name][0](0.1))
        hybrid.build([again])
        if store:  # a fresh one at each step
            hybrid.rows.load_own_variables(store)
        step(hybrid, again, ids, gradient)
        store = {}
        hybrid.rows.save_own_variables(store)
    assert int(hybrid.rows.iterations) == len(STEPS)
    np.testing.assert_array_equal(ops.convert_to_numpy(again), ops.convert_to_numpy(table))


@every_rule
def test_bad_numbers_are_refused(name):
    for options, error, words in (
        ({"learning_rate": -0.1}, ValueError, "learning_rate=-0.1"),
        ({"learning_rate": float("nan")}, ValueError, "learning_rate=nan"),
        ({"learning_rate": "fast"}, TypeError, "learning_rate='fast'"),
        ({"l2": -1.0}, ValueError, "l2=-1.0"),
    ):
        with pytest.raises(error, match=words):
            RULES[name][0](**{"learning_rate": 0.1, **options})


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: Adagrad(epsilon=-1.0), "Adagrad: epsilon=-1.0"),
        (lambda: RowwiseAdagrad(initial_accumulator_value=-1.0), "RowwiseAdagrad: initial_accumulator_value"),
        (lambda: Adam(beta_1=1.0), "beta_1=1.0"),
        (lambda: Adam(beta_2=True), "beta_2=True"),
    ],
)
def test_bad_options_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_an_epsilon_of_zero_gives_no_nan():
    table, _ = table_variable()
    hybrid = Hybrid("sgd", Adagrad(0.1, epsilon=0.0))
    hybrid.build([table])
    step(hybrid, table, [1, 2], np.zeros((2, D), "float32"))
    assert np.isfinite(ops.convert_to_numpy(table)).all()


# -- equal to Keras --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "optimizer",
    [lambda: keras.optimizers.SGD(0.1), lambda: keras.optimizers.Adagrad(0.1, 0.2, 1e-3)],
    ids=["sgd", "adagrad"],
)
def test_followers_equal_the_keras_optimizer_on_a_whole_table(optimizer):
    table, start = table_variable()
    dense = keras.Variable(start)
    hybrid, plain = Hybrid(optimizer()), optimizer()
    hybrid.build([table])
    plain.build([dense])
    for ids, gradient in zip(STEPS, gradients(), strict=True):
        full = np.zeros((ROWS, D), "float32")
        for i, g in zip(ids, gradient, strict=True):
            if i >= 0:
                full[i] += g
        step(hybrid, table, ids, gradient)
        plain.apply([ops.convert_to_tensor(full)], [dense])
    np.testing.assert_allclose(ops.convert_to_numpy(table), ops.convert_to_numpy(dense), rtol=1e-5, atol=1e-6)


def test_adam_on_dense_parameters_is_kerass():
    ours, theirs = keras.Variable(np.ones((2, 3), "float32")), keras.Variable(np.ones((2, 3), "float32"))
    rule, plain = Adam(0.1), keras.optimizers.Adam(0.1)
    rule.build([ours])
    plain.build([theirs])
    for g in gradients():
        rule.apply([ops.convert_to_tensor(g[:2])], [ours])
        plain.apply([ops.convert_to_tensor(g[:2])], [theirs])
    np.testing.assert_allclose(ops.convert_to_numpy(ours), ops.convert_to_numpy(theirs), rtol=1e-5)


def test_lazy_adam_leaves_a_row_alone_until_it_is_looked_up_again():
    table, _ = table_variable()
    hybrid = Hybrid("sgd", Adam(0.1))
    hybrid.build([table])
    one = np.ones((1, D), "float32")
    step(hybrid, table, [1], one)
    after_first = ops.convert_to_numpy(table)[1].copy()
    momentum = ops.convert_to_numpy(hybrid.rows.held_slots[0]["momentum"])[1].copy()
    step(hybrid, table, [2], one)
    np.testing.assert_array_equal(ops.convert_to_numpy(table)[1], after_first)
    np.testing.assert_array_equal(ops.convert_to_numpy(hybrid.rows.held_slots[0]["momentum"])[1], momentum)
