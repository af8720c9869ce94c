"""Deltas under a running server: no request fails, no answer mixes versions, and a broken delta changes nothing."""

import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from helpers.deltas import ROWS, WIDTH, answer, seal, table, write_base, write_delta
from helpers.saved_models import serving

from keras_dlrm.files.checksums import read_json, unsealed
from keras_dlrm.files.deltas import FILE

pytestmark = [pytest.mark.slow, pytest.mark.neutral]

IDS = list(range(0, ROWS, 7))
BODY = {"inputs": {"ids": IDS}}


class Published:
    """A folder of versions, and what its newest one answers."""

    def __init__(self, folder, base):
        folder.mkdir(parents=True)
        self.folder, self.path, self.number, self.rows, self.bias = folder, folder / "1", 1, table(), 0.0
        shutil.copytree(base, self.path)

    def delta(self, seed):
        """Number of the next delta, of a tenth of the rows and of the bias."""
        changes = self._changes(seed)
        self.number, self.rows, self.bias = self.number + 1, self.rows.copy(), float(seed)
        self.rows[list(changes)] = list(changes.values())
        self.path = write_delta(self.folder, self.number, self.path, changes, self.bias)
        return self.number

    def spoiled(self, spoil):
        """Number of a delta that is not right; the next one is of the same base."""
        self.number += 1
        write_delta(self.folder, self.number, self.path, self._changes(self.number), -1.0, spoil)
        return self.number

    def _changes(self, seed):
        rng = np.random.default_rng(seed)
        return {int(row): rng.integers(-50, 50, WIDTH).tolist() for row in rng.choice(ROWS, ROWS // 10, False)}

    @property
    def answers(self):
        return answer(self.rows, self.bias, IDS)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_base(tmp_path_factory.mktemp("base") / "1", table())


@pytest.fixture(scope="module")
def process(base, tmp_path_factory):
    """A server in a process of its own, and its folder; each test leaves it with one version more."""
    published = Published(tmp_path_factory.mktemp("served") / "clicks", base)
    with serving(tmp_path_factory.mktemp("log") / "log", published.folder) as server:
        yield server, published


def asked(server, target="clicks"):
    status, body = server.predict(BODY, target)
    assert status == 200, body
    return np.array(body["outputs"], np.float32)


def available(server, number):
    server.wait_for(lambda: server.states().get(number, ("",))[0] == "AVAILABLE")


def test_clients_get_one_version_or_the_next_and_no_error(process):
    server, published = process
    expected, answers, done = [published.answers], [], threading.Event()

    def client():
        while not done.is_set():
            answers.append(asked(server))

    threads = [threading.Thread(target=client) for _ in range(3)]
    for thread in threads:
        thread.start()
    for seed in range(1, 6):
        number = published.delta(seed)
        expected.append(published.answers)
        available(server, number)
        np.testing.assert_array_equal(asked(server, f"clicks/versions/{number}"), published.answers)
    done.set()
    for thread in threads:
        thread.join()
    assert all(any((got == one).all() for one in expected) for got in answers)
    assert len(answers) > 10
    assert "is unloaded" not in server.log(), "the model stays loaded"
    assert server.predict(BODY, f"clicks/versions/{number - 1}")[0] == 404
    assert f'version_available{{model="clicks",version="{number}"}} 1.0' in server.metrics()


def cut_short(path):
    file = path / "table_0_codes"
    file.write_bytes(file.read_bytes()[:-16])


def cut_manifest_short(path):
    (path / FILE).write_bytes((path / FILE).read_bytes()[:-40])


def of_another_base(path):
    content = unsealed(path / FILE, read_json(path / FILE))
    seal(path, Path(FILE), {**content, "base": {**content["base"], "state": "0" * 64}})


def of_another_schema(path):
    np.savez(path / "weights.npz", **{"weights/0": np.float32(0), "weights/1": np.zeros(3, np.float32)})
    seal(path, Path(FILE), unsealed(path / FILE, read_json(path / FILE)))


def of_wider_rows(path):
    content = unsealed(path / FILE, read_json(path / FILE))
    (table,) = content["tables"]
    (path / "table_0_codes").write_bytes(bytes(8 * WIDTH * table["changed"]))
    seal(path, Path(FILE), {**content, "tables": [{**table, "arrays": {"codes": 8 * WIDTH}}]})


def of_rows_beyond_the_table(path):
    rows = np.fromfile(path / "table_0_rows", np.int64)
    rows[-1] = ROWS
    rows.tofile(path / "table_0_rows")
    seal(path, Path(FILE), unsealed(path / FILE, read_json(path / FILE)))


@pytest.mark.parametrize(
    "spoil, message",
    [
        (cut_short, "table_0_codes is damaged or cut short"),
        (cut_manifest_short, "delta.json is damaged"),
        (of_another_base, "is of another base"),
        (of_another_schema, "it has other variables than the served model"),
        (of_wider_rows, "its rows of table 0 are of another width"),
        (of_rows_beyond_the_table, "cannot be applied"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_delta_that_cannot_be_applied_says_why_and_changes_nothing(process, spoil, message):
    server, published = process
    broken = published.spoiled(spoil)
    server.wait_for(lambda: server.states().get(broken, ("",))[0] == "END")
    error = server.states()[broken][1]
    assert message in error and str(published.folder) not in error, error
    np.testing.assert_array_equal(asked(server), published.answers)
    assert server.log().count(f"version {broken} is broken") == 1
    number = published.delta(broken)  # on the last one that was right
    available(server, number)
    np.testing.assert_array_equal(asked(server), published.answers)


def test_a_server_starts_from_a_version_and_its_deltas_and_goes_back_when_one_is_removed(tmp_path, base, serve):
    published = Published(tmp_path / "clicks", base)
    published.delta(1)
    before, last = published.answers, published.delta(2)
    with serve(published.folder) as server:
        assert server.states() == {last: ("AVAILABLE", "")}
        np.testing.assert_array_equal(asked(server), published.answers)
        shutil.rmtree(published.path)
        available(server, last - 1)
        server.wait_for(lambda: server.states().get(last, ("END",))[0] == "END")
        np.testing.assert_array_equal(asked(server), before)


def test_deltas_of_a_version_that_stays_are_loaded_beside_it(tmp_path, base, serve):
    published = Published(tmp_path / "clicks", base)
    config = tmp_path / "models.config"
    config.write_text(
        f"""model_config_list {{ config {{ name: "clicks" base_path: "{published.folder}" model_platform: "tensorflow"
        model_version_policy {{ latest {{ num_versions: 2 }} }} }} }}"""
    )
    first = published.answers
    with serve(config) as server:
        number = published.delta(1)
        available(server, number)
        np.testing.assert_array_equal(asked(server, "clicks/versions/1"), first)
        np.testing.assert_array_equal(asked(server), published.answers)


@pytest.mark.parametrize("second", ["a version", "a delta"])
def test_a_server_of_several_versions_applies_a_delta_to_the_one_that_gives_way(tmp_path, base, monkeypatch, second):
    from keras_dlrm.serving.versions import served_model

    published = Published(tmp_path / "clicks", base)
    answers = {1: published.answers}
    if second == "a version":
        write_base(published.folder / "2", table(seed=2))
        published.number, answers[2] = 2, answer(table(seed=2), 0.0, IDS)
    else:
        published.delta(1)
        answers[2] = published.answers
    model = served_model.ServedModel(served_model.ModelConfig("clicks", published.folder, latest=2))
    for third in (False, True):
        if third:
            monkeypatch.setattr(served_model, "load_and_warm_up", None)
            published.delta(3)
            answers[3] = published.answers
            shutil.rmtree(published.folder / "1")  # what is served is there without it
            del answers[1]
        model.poll()
        assert sorted(model.available) == sorted(answers)
        for number, expected in answers.items():
            with model.lease(number) as version:
                np.testing.assert_array_equal(version.model.run("serving_default", {"ids": np.array(IDS)})["sum"], expected)
    model.close(10)


def test_a_long_request_does_not_hold_the_others_up(tmp_path, base, serve, monkeypatch):
    from keras_dlrm.serving.versions import served_model

    monkeypatch.setattr(served_model, "_LONGEST_PAUSE", 0.1)
    published = Published(tmp_path / "clicks", base)
    first = published.answers
    with serve(published.folder) as server:
        (model,) = server.models
        with model.lease() as version:  # a request that runs for long
            number = published.delta(1)
            available(server, number)
            np.testing.assert_array_equal(asked(server), published.answers)
            rows = version.model.run("serving_default", {"ids": np.array(IDS)})["sum"]
            np.testing.assert_array_equal(rows, first)


def test_what_fails_half_way_is_undone(tmp_path, base, serve, monkeypatch):
    published = Published(tmp_path / "clicks", base)
    first = published.answers
    with serve(published.folder) as server:
        (model,) = server.models
        with model.lease() as version:
            updates = version.model.updates
        update = updates._update

        def failing(*values):
            update(*values)
            if len(calls) < 1:
                calls.append(1)
                raise MemoryError("no room")

        calls = []
        monkeypatch.setattr(updates, "_update", failing)
        broken = published.spoiled(None)
        server.wait_for(lambda: server.states().get(broken, ("",))[0] == "END")
        np.testing.assert_array_equal(asked(server), first)
        number = published.delta(1)
        available(server, number)
        np.testing.assert_array_equal(asked(server), published.answers)
