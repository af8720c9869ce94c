"""One suite for every adapter of the seam: each function on the backend that runs, against NumPy."""

import keras
import numpy as np
import pytest
from helpers.calls import gradients
from keras import ops

from keras_dlrm import backend

ROWS, D = 7, 3
VALUES = np.random.default_rng(0).normal(size=(ROWS, D)).astype("float32")
JAX = keras.backend.backend() == "jax"
every_dtype = pytest.mark.parametrize("dtype", ["float32", "bfloat16"])


def numpy(tensor):
    return ops.convert_to_numpy(ops.cast(tensor, "float32") if "float" in str(tensor.dtype) else tensor)


def ids_of(*ids, dtype="int32"):
    return ops.convert_to_tensor(np.array(ids, dtype))


def variable_of(dtype="float32"):
    """A variable, and its values as they are stored."""
    variable = keras.Variable(VALUES, dtype=dtype)
    return variable, numpy(variable.value)


# Function of a matrix (n, D) → the same in NumPy; each has a gradient.
INDEX = np.array([[0, 2], [2, 1], [2, 0]], np.int32)
FLAT = np.array([1, 0, 1, 3, 1, 0, 3], np.int32)
COLUMNS = np.array([2, 0, 0, 1, 2], np.int32)
summed = np.zeros((4, D), np.float32)
np.add.at(summed, FLAT, VALUES)
FUNCTIONS = {
    "expand": (lambda x: backend.expand(x, ops.convert_to_tensor(INDEX)), VALUES[INDEX]),
    "expand to nothing": (lambda x: backend.expand(x, ids_of()), VALUES[:0]),
    "sum_by": (lambda x: backend.sum_by(x, ops.convert_to_tensor(FLAT), 4), summed),
    "sum_by of nothing": (lambda x: backend.sum_by(x[:0], ids_of(), 2), np.zeros((2, D), np.float32)),
    "take_columns": (lambda x: backend.take_columns(x, COLUMNS), VALUES[:, COLUMNS]),
    "unfused": (lambda x: backend.unfused(x), VALUES),
    "with_width": (lambda x: backend.with_width(x, D), VALUES),
    "products": (lambda x: backend.products(x, ops.convert_to_tensor(VALUES[:3])), VALUES @ VALUES[:3].T),
    "project": (lambda x: backend.project(x, ops.cast(np.round(VALUES[:3]), x.dtype)), VALUES @ np.round(VALUES[:3])),
    "densify": (lambda x: backend.densify(x), VALUES),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_of_tensors_equal_numpy_with_their_gradients(name):
    function, expected = FUNCTIONS[name]
    np.testing.assert_allclose(numpy(function(ops.convert_to_tensor(VALUES))), expected, rtol=1e-6)
    upstream = np.random.default_rng(1).normal(size=expected.shape).astype("float32")
    direction = np.random.default_rng(2).normal(size=VALUES.shape).astype("float32")
    # They are linear: ⟨gradient, direction⟩ is their value for the direction.
    (gradient,) = gradients(lambda x: ops.sum(ops.multiply(function(x), upstream)), [VALUES])
    moved = numpy(function(ops.convert_to_tensor(direction)))
    np.testing.assert_allclose(np.sum(gradient * direction), np.sum(moved * upstream), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["take_columns", "expand", "sum_by", "unfused", "project"])
def test_functions_of_tensors_keep_bfloat16(name):
    x = ops.cast(ops.convert_to_tensor(np.round(VALUES)), "bfloat16")  # whole numbers: their sums are exact
    result = FUNCTIONS[name][0](x)
    assert keras.backend.standardize_dtype(result.dtype) == "bfloat16"
    np.testing.assert_array_equal(numpy(result), numpy(FUNCTIONS[name][0](ops.convert_to_tensor(np.round(VALUES)))))


@every_dtype
@pytest.mark.parametrize("leading", [(6,), (2, 5), (0,)], ids=str)
def test_a_product_and_its_gradients_have_the_dtype_of_the_factors_and_on_jax_sums_in_float32(dtype, leading):
    # Halves of small numbers and their products are exact in both dtypes; their sums are not in bfloat16.
    draw = np.random.default_rng(0)
    x, kernel, upstream = (draw.integers(-8, 9, s).astype("float32") / 2 for s in ((*leading, 64), (64, 3), (*leading, 3)))
    product = backend.project(ops.cast(x, dtype), ops.cast(kernel, dtype))
    assert keras.backend.standardize_dtype(product.dtype) == dtype and tuple(product.shape) == (*leading, 3)

    def loss(x, kernel):
        product = backend.project(ops.cast(x, dtype), ops.cast(kernel, dtype))
        return ops.sum(ops.multiply(ops.cast(product, "float32"), upstream))

    flat, flat_upstream = x.reshape(-1, 64), upstream.reshape(-1, 3)
    expected = x @ kernel, upstream @ kernel.T, flat.T @ flat_upstream
    for computed, exact in zip((numpy(product), *gradients(loss, [x, kernel])), expected, strict=True):
        rounded = numpy(ops.cast(ops.convert_to_tensor(exact), dtype))
        np.testing.assert_allclose(computed, rounded, rtol=0 if JAX or dtype == "float32" else 2**-7)


@pytest.mark.skipif(not JAX, reason="JAX's products of bfloat16")
def test_a_bfloat16_product_on_a_cpu_reads_bfloat16_and_on_others_is_plain(monkeypatch):
    import jax

    def trained(x, kernel, upstream):
        product, gradient = jax.vjp(lambda kernel: backend.project(x, kernel), kernel)
        return product, gradient(upstream)

    shapes = [jax.ShapeDtypeStruct(shape, "bfloat16") for shape in ((256, 96), (96, 32), (256, 32))]
    program = jax.jit(trained).lower(*shapes).compile().as_text()
    assert "bf16[96,256]" in program and not any(f"f32[{shape}]" in program for shape in ("256,96", "96,256"))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    equations = jax.make_jaxpr(backend.project)(*shapes[:2]).eqns
    assert "custom_vjp" not in str(equations) and equations[-1].outvars[0].aval.dtype == "bfloat16"


def test_a_constant_has_no_gradient():
    np.testing.assert_array_equal(numpy(backend.constant(ops.convert_to_tensor(VALUES))), VALUES)
    (gradient,) = gradients(lambda x: ops.sum(backend.constant(x) + 0 * ops.stop_gradient(x)), [VALUES])
    assert not gradient.any()


@pytest.mark.parametrize("k", [1, 3, 7, 8])
def test_of_equal_scores_the_first_ones_are_the_largest(k):
    scores = np.random.default_rng(0).integers(0, 3, (50, 8)).astype(np.float32)
    scores[7] = -np.inf
    values, places = (numpy(t) for t in backend.top_k(ops.convert_to_tensor(scores), k))
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(values, np.take_along_axis(scores, order, 1))
    some = np.arange(50) != 7  # those of -infinity may come in any order
    np.testing.assert_array_equal(places[some], order[some])


@pytest.mark.parametrize("ids", [[-1], [-1, 5, 2, 5, -1, 0, 2], [-1, 6, 5, 4, 3], [-1, -1, -1]], ids=str)
@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_unique_ids_are_each_there_once_and_give_the_ids_back(ids, dtype):
    if JAX and dtype == "int64":
        pytest.skip("JAX has no 64-bit integers here")
    unique, inverse = (numpy(t) for t in backend.unique(ids_of(*ids, dtype=dtype), ROWS))
    np.testing.assert_array_equal(unique[inverse.reshape(-1)], ids)
    real = unique[unique < ROWS]
    assert real[0] == -1 and sorted(real) == sorted(set(ids))
    assert len(unique) == (len(ids) if JAX else len(real)) and (unique[len(real) :] == ROWS).all()


@every_dtype
@pytest.mark.parametrize("ids", [[4], [6, 0, 6], []], ids=str)
def test_rows_are_gathered_in_the_variables_dtype(dtype, ids):
    variable, values = variable_of(dtype)
    for function in (backend.take, backend.gather):
        rows = function(variable, ids_of(*ids))
        assert keras.backend.standardize_dtype(rows.dtype) == dtype
        np.testing.assert_array_equal(numpy(rows), values[np.array(ids, int)])
    np.testing.assert_array_equal(numpy(backend.take(variable, ops.convert_to_tensor(INDEX))), values[INDEX])


def test_a_taken_row_has_a_gradient_and_a_gathered_one_has_none():
    variable, _ = variable_of()

    def through(function):
        def loss(values):
            with keras.StatelessScope([(variable, values)]):
                return ops.sum(ops.reshape(function(variable, ids_of(5, 1, 5)), (-1,)))

        return gradients(loss, [VALUES])[0]

    expected = np.zeros((ROWS, D))
    expected[5], expected[1] = 2, 1
    if keras.backend.backend() != "tensorflow":  # which gathers from the variable itself, as `fit` of a stock model does
        np.testing.assert_array_equal(through(backend.take), expected)
    assert not through(backend.gather).any()


@every_dtype
@pytest.mark.parametrize("ids", [[4], [6, 0, 3], []], ids=str)
def test_rows_are_scattered_and_no_others_change(dtype, ids):
    variable, values = variable_of(dtype)
    rows = np.arange(len(ids) * D, dtype="float32").reshape(-1, D)
    backend.scatter(variable, ids_of(*ids), ops.cast(ops.convert_to_tensor(rows), dtype))
    values[np.array(ids, int)] = rows
    np.testing.assert_array_equal(numpy(variable.value), values)


def test_a_slot_of_one_number_a_row_is_gathered_and_scattered():
    slot = keras.Variable(np.arange(ROWS, dtype="float32"))
    np.testing.assert_array_equal(numpy(backend.gather(slot, ids_of(6, 2))), [6, 2])
    backend.scatter(slot, ids_of(6, 2), ops.convert_to_tensor(np.float32([1, -1])))
    np.testing.assert_array_equal(numpy(slot.value), [0, 1, -1, 3, 4, 5, 1])


def test_ids_beyond_the_table_are_left_out():
    """By `within`, or, where shapes are static, by `scatter`."""
    variable, values = variable_of()
    ids, rows = backend.within(ids_of(5, ROWS, ROWS), ops.ones((3, D)), ROWS)
    backend.scatter(variable, ids, rows)
    values[5] = 1
    np.testing.assert_array_equal(numpy(variable.value), values)
    assert tuple(rows.shape) == ((3, D) if JAX else (1, D))


@every_dtype
@pytest.mark.parametrize("start, stop", [(0, ROWS), (2, 5), (6, 7), (3, 3)])
def test_rows_are_read_as_float32_copies_and_written_back(dtype, start, stop):
    variable, values = variable_of(dtype)
    rows = backend.read(variable, start, stop)
    assert type(rows) is np.ndarray and rows.dtype == np.float32
    np.testing.assert_array_equal(rows, values[start:stop])
    rows[:] = 3  # a copy
    np.testing.assert_array_equal(numpy(variable.value), values)
    backend.write(variable, start, rows)
    values[start:stop] = 3
    np.testing.assert_array_equal(numpy(variable.value), values)


def test_memory_is_where_the_values_are():
    variable, values = variable_of()
    place = backend.memory(variable)
    if place is None:  # not in this machine's memory
        assert "cpu" not in str(getattr(variable.value, "device", "")).lower()
        return
    import ctypes

    address, size = place
    assert size == values.nbytes
    np.testing.assert_array_equal(np.frombuffer((ctypes.c_char * size).from_address(address), "float32"), values.ravel())


def test_a_sum_of_two_floats_is_in_double_precision():
    parts = ops.convert_to_tensor(np.float32(2**24)), ops.convert_to_tensor(np.float32(1))
    assert float(backend.precise_sum(*parts)) == 2**24 + 1


def test_variables_cannot_be_written_while_keras_traces():
    assert backend.can_write()
    with keras.StatelessScope():
        assert not backend.can_write()


def test_there_are_neither_replicas_nor_a_tpu_here():
    assert backend.replicas() is None and not backend.on_tpu()
    assert isinstance(backend.UNDER_XLA, bool) and isinstance(backend.REPEATS_ARE_WRONG, bool)


def test_every_adapter_has_the_functions_that_the_seam_describes():
    described = {line.split("`")[1].split("(")[0] for line in backend.__doc__.splitlines() if line.startswith("- `")}
    adapter = backend._adapter()
    own = {name for name, value in vars(adapter).items() if getattr(value, "__module__", "") == adapter.__name__}
    plain = {name for name in backend._PLAIN if name.islower()}
    assert {name for name in own if not name.startswith("_")} | plain == described | {"write"}  # alongside `read` in its line
