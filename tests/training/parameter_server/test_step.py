"""The worker's step and the servers' updates, all on this process's device; test_processes.py has real ones."""

from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest
from helpers.suite import in_suite

import keras_dlrm as kd
from keras_dlrm.checkpoint.reading import read
from keras_dlrm.checkpoint.writing import write
from keras_dlrm.embeddings.lookup import is_table
from keras_dlrm.embeddings.whole_tables import stand_in_tables
from keras_dlrm.sharding.plan import place

if keras.backend.backend() != "tensorflow":
    pytest.skip("parameter servers are TensorFlow's", allow_module_level=True)

import tensorflow as tf

from keras_dlrm.parameter_server.placement import for_servers
from keras_dlrm.parameter_server.server import Server
from keras_dlrm.parameter_server.step import WorkerStep, check, check_is_on
from keras_dlrm.parameter_server.tables import ServerTables

DEVICE = "/job:localhost/replica:0/task:0/device:CPU:0"
STEPS = 8


def schema(rows=300, weighted=False):
    columns = [
        kd.Categorical("a", rows),
        kd.Categorical("b", 7, hotness=3, combiner="mean"),
        kd.Categorical("a2", rows, hotness=2, table="a"),
        kd.Categorical("c", 50, hotness=2),
    ]
    return kd.Schema(dense=["x", "z"], categorical=columns, weighted=weighted)


KINDS = {"a": "row_wise", "b": "replicate", "c": "column_wise"}


class Local:
    """A model trained by worker steps, its servers being this process."""

    def __init__(self, build, kinds=KINDS, servers=3):
        with stand_in_tables():
            self.model = build()
        shapes = self.model.embeddings.table_shapes
        plan = for_servers(place(servers, shapes, {name: kinds.get(name, "row_wise") for name in shapes}), servers)
        self.tables = ServerTables(self.model.embeddings, self.model.optimizer.rows, plan, [DEVICE] * servers)
        self.tables.draw()
        self.servers = [Server(k, DEVICE, STEPS, len(self.tables.held)) for k in range(servers)]
        self.step = WorkerStep(self.model, self.tables, self.servers, home=1)

    def train(self, number, batch):
        x, y = batch
        self.step.train(tf.constant(number, tf.int64), {k: tf.constant(v) for k, v in x.items()}, tf.constant(y))

    def table(self, name):
        return np.concatenate([rows for _, rows in self.tables.read(name)])

    def assert_equals(self, model):
        for name, rows in model.embedding_tables().items():
            np.testing.assert_allclose(self.table(name), rows, rtol=0, atol=1e-6)
        dense = [v for v in model.trainable_variables if not is_table(v)]
        for ours, theirs in zip(self.step.dense, dense, strict=True):
            np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=0, atol=1e-6)


def builder(optimizer, rows=None, of=None, **options):
    def build():
        given = of or schema()
        model = kd.models.DLRM(given, embedding_dim=4, bottom_mlp=[8, 4], top_mlp=[8, 1], seed=5, **options)
        model.compile(optimizer(), embedding_optimizer=rows and rows())
        return model

    return build


def batches(of=None, n=STEPS, size=32):
    log = kd.data.synthetic.PlantedClickLog(of or schema(), seed=1)
    return [log.batch(i, size) for i in range(n)]


RULES = {
    "sgd": kd.optimizers.SGD,
    "adagrad": kd.optimizers.Adagrad,
    "rowwise_adagrad": kd.optimizers.RowwiseAdagrad,
    "adam": kd.optimizers.Adam,
    "scheduled": lambda: kd.optimizers.SGD(keras.optimizers.schedules.ExponentialDecay(0.5, 2, 0.5)),
    "l2": lambda: kd.optimizers.Adagrad(0.1, l2=0.1),
}


def assert_learns_what_one_process_does(build, data):
    alone, local = build(), Local(build)
    losses = []
    for i, batch in enumerate(data):
        alone.reset_metrics()
        losses.append(float(alone.train_on_batch(*batch)))
        local.train(i, batch)
    np.testing.assert_allclose(local.step.losses[: len(data)], losses, rtol=0, atol=1e-6)
    local.assert_equals(alone)
    assert [server.applied for server in local.servers] == [len(data)] * 3


@pytest.mark.slow
@pytest.mark.parametrize("rule", in_suite(RULES, "rowwise_adagrad", "scheduled", "l2"))
def test_servers_learn_what_one_process_does(rule):
    assert_learns_what_one_process_does(builder(lambda: keras.optimizers.Adam(1e-2), RULES[rule]), batches())


@pytest.mark.slow
def test_tables_of_several_widths_weights_and_a_row_rule_for_dense_parameters_too():
    of = schema(weighted=True)
    widths = {"a": 4, "b": 2, "c": 4}

    def build():
        model = kd.models.DLRM(of, embedding_dim=widths, bottom_mlp=[8, 4], top_mlp=[8, 1], seed=5)
        model.compile("adagrad")
        return model

    assert_learns_what_one_process_does(build, batches(of))


@pytest.mark.slow
def test_bfloat16_tables_are_rounded_as_in_one_process():
    options = {"embedding_options": {"table_dtype": "bfloat16"}}
    assert_learns_what_one_process_does(builder(lambda: kd.optimizers.SGD(0.5), **options), batches())


class CountTouches(kd.optimizers.RowRule):
    """Adds 1 to each touched row, whatever its gradient."""

    def __init__(self):
        super().__init__(1.0)

    def slots(self, shape, table):
        return {}

    def update(self, rows, gradient, slots, learning_rate, step):
        return rows + 1.0, slots


@pytest.mark.slow
def test_no_update_is_lost_where_workers_write_the_same_rows_at_a_time():
    data, local = batches(size=256), Local(builder(lambda: kd.optimizers.SGD(0.1), CountTouches))
    before = local.table("a")
    with ThreadPoolExecutor(STEPS) as workers:
        list(workers.map(local.train, range(STEPS), data))
    touches = np.zeros(len(before))
    for x, _ in data:
        ids = x["sparse"][:, [0, 4, 5]]
        touches[np.unique(ids[ids >= 0])] += 1
    assert touches.max() == STEPS
    np.testing.assert_allclose(local.table("a") - before, np.repeat(touches[:, None], 4, 1), atol=1e-4)
    assert [server.applied for server in local.servers] == [STEPS] * 3
    assert int(local.model.optimizer.iterations.numpy()) == STEPS


@pytest.mark.slow
def test_a_step_that_is_given_out_twice_is_applied_once():
    data, local = batches(), Local(builder(lambda: kd.optimizers.Adagrad(0.1)))
    for i in range(3):
        local.train(i, data[i])
    before = {name: local.table(name) for name in local.tables.plan.shapes}
    local.train(1, data[1])
    local.train(2, data[7])
    assert all(np.array_equal(local.table(name), rows) for name, rows in before.items())
    assert [server.applied for server in local.servers] == [3, 3, 3]
    assert int(local.model.optimizer.iterations.numpy()) == 3


@pytest.mark.slow
def test_a_step_that_reached_one_server_only_is_applied_on_the_others():
    data, build = batches(), builder(lambda: kd.optimizers.SGD(0.5))
    whole, partly = Local(build), Local(build)
    whole.train(0, data[0])
    partly.servers[2].restore(1)
    partly.train(0, data[0])
    assert [server.applied for server in partly.servers] == [1, 1, 1]
    for parts, full, first in zip(partly.tables.held, whole.tables.held, Local(build).tables.held, strict=True):
        for k in (0, 1):
            np.testing.assert_array_equal(parts[k].rows.numpy(), full[k].rows.numpy())
        np.testing.assert_array_equal(parts[2].rows.numpy(), first[2].rows.numpy())


@pytest.mark.slow
@pytest.mark.parametrize("rule", in_suite(["adagrad", "rowwise_adagrad", "adam"], "adam"))
def test_a_checkpoint_goes_on_in_one_process_and_back_on_other_servers(rule, tmp_path):
    build, data = builder(lambda: keras.optimizers.Adam(1e-2), RULES[rule]), batches()
    alone, servers = build(), Local(build)
    alone.predict_on_batch(data[0][0])
    for i, batch in enumerate(data[:3]):
        alone.train_on_batch(*batch)
        servers.train(i, batch)
    write(servers.tables.state(servers.model), tmp_path, 3, {"losses": [1.0]}, 2, False)
    other = build()
    other.predict_on_batch(data[0][0])
    assert kd.checkpoint.restore(other, tmp_path) == {"step": 3, "extra": {"losses": [1.0]}}
    for batch in data[3:6]:
        alone.train_on_batch(*batch)
        other.train_on_batch(*batch)
    kd.checkpoint.save(other, tmp_path)
    back = Local(build, kinds={"c": "table_wise"}, servers=2)
    assert read(back.tables.state(back.model), tmp_path)["step"] == 6
    for server in back.servers:
        server.restore(6)
    for i, batch in enumerate(data[6:], 6):
        alone.train_on_batch(*batch)
        back.train(i, batch)
    back.assert_equals(alone)


@pytest.mark.slow
def test_only_touched_rows_and_their_slots_move():
    data, local = batches(n=1), Local(builder(lambda: kd.optimizers.Adagrad(0.1)))
    before = local.table("a")
    local.train(0, data[0])
    ids = data[0][0]["sparse"][:, [0, 4, 5]]
    touched = np.unique(ids[ids >= 0])
    moved = np.flatnonzero((local.table("a") != before).any(1))
    assert set(moved) <= set(touched) and len(moved) > 0
    slots = [piece for piece in local.tables.state(local.model).pieces if piece.kind == "slots/accumulator"]
    summed = {p.shard.start + int(i) for p in slots if p.shard.table == "a" for i in np.flatnonzero(p.read(0, p.shard.rows).any(1))}
    assert summed and summed <= set(touched)


def functions(graph):
    definition = graph.as_graph_def(add_shapes=True)
    yield "the step", definition.node
    for function in definition.library.function:
        yield function.signature.name, function.node_def


@pytest.mark.slow
def test_a_steps_work_does_not_depend_on_the_rows_of_the_tables():
    """The same number of rows is asked for, and no operation makes anything of a table's size."""
    asked, sizes = [], []
    for rows in (1_000, 200_000):
        of = schema(rows)
        local = Local(builder(lambda: kd.optimizers.Adam(0.1), of=of), servers=2)
        x, y = batches(schema(1_000), n=1)[0]
        local.train(0, (x, y))
        asked.append([server.asked.tolist() for server in local.servers])
        known = [part.rows.shape[0] for part in local.tables.held[0]]
        shapes = [
            tuple(d.size for d in shape.dim)
            for _, nodes in functions(local.step.train.graph)
            for node in nodes
            for shape in node.attr["_output_shapes"].list.shape
        ]
        sizes.append(sorted(s for s in shapes if s))
        assert not [s for s in shapes if set(s) & set(known)]
    assert np.sum(asked[0]) == np.sum(asked[1]) and sizes[0] == sizes[1]


@pytest.mark.slow
def test_every_update_is_computed_on_the_server_that_has_the_rows():
    local = Local(builder(lambda: kd.optimizers.Adam(0.1)))
    writes = (
        "ResourceScatterUpdate",
        "AssignVariableOp",
        "AssignAddVariableOp",
        "AssignSubVariableOp",
        "ResourceGather",
        "Sqrt",
    )
    found = [node for _, nodes in functions(local.step.train.graph) for node in nodes if node.op in writes]
    assert len(found) > 10
    assert {node.device for node in found if node.op == "Sqrt"} == {DEVICE}


def test_models_that_cannot_be_trained_so_are_refused():
    for option in ({"gradient_accumulation_steps": 2}, {"use_ema": True}):
        with pytest.raises(ValueError, match=next(iter(option))):
            check(builder(lambda option=option: keras.optimizers.SGD(0.1, **option), lambda: kd.optimizers.SGD(0.1))())
    with pytest.raises(TypeError, match="expected a model of kd.models, not Sequential"):
        check(keras.Sequential())
    with pytest.raises(ValueError, match="is not compiled"):
        check(kd.models.DLRM(schema(), embedding_dim=4, bottom_mlp=[4], top_mlp=[1]))
    with pytest.raises(ValueError, match="has no embedding tables"):
        check(
            kd.models.DLRM(kd.Schema(dense=["x", "y"]), embedding_dim=4, bottom_mlp=[4], top_mlp=[1], interaction="cat")
        )


def test_variables_that_lie_elsewhere_are_refused():
    with pytest.raises(ValueError, match="is on .*localhost.*, not on /job:ps"):
        check_is_on(builder(lambda: kd.optimizers.SGD(0.1))(), "/job:ps/replica:0/task:0/device:CPU:0")
