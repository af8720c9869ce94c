"""Versions come and go under a running server: no request fails, and a broken version replaces nothing."""

import json
import shutil
import threading
import time

import numpy as np
import pytest
from helpers.saved_models import ROOT, predict_request, probability, serving

from keras_dlrm.files.checksums import sealed
from keras_dlrm.files.inventory import FORMAT, MANIFEST, VERSION, files_below, inventory

pytestmark = pytest.mark.neutral

BODY = {"inputs": {"dense": [[1, 2]], "sparse": [[7, 1, -1]]}}
EXPECTED = {bias: float(probability([[1, 2]], [[7, 1, -1]], bias)[0, 0]) for bias in (0, 1)}


def answer(server, target="clicks"):
    status, body = server.predict(BODY, target)
    assert status == 200, body
    return body["outputs"][0][0]


def test_a_new_version_is_taken_up_and_a_deleted_one_gives_way(tmp_path, serve, publish):
    folder = tmp_path / "clicks"
    folder.mkdir()
    publish(folder, 1)
    with serve(folder) as server:
        assert answer(server) == pytest.approx(EXPECTED[0])
        publish(folder, 2, template=2)
        server.wait_for(lambda: server.states() == {2: ("AVAILABLE", ""), 1: ("END", "")})
        assert answer(server) == pytest.approx(EXPECTED[1])
        status, body = server.predict(BODY, "clicks/versions/1")
        assert (status, "no version 1 to serve; available: 2" in body["error"]) == (404, True)
        shutil.rmtree(folder / "2")
        server.wait_for(lambda: server.states()[1] == ("AVAILABLE", ""))
        server.wait_for(lambda: answer(server) == pytest.approx(EXPECTED[0]))
        shutil.rmtree(folder / "1")  # an empty folder ends nothing
        server.wait_for(lambda: "nothing to load" in server.log())
        assert answer(server) == pytest.approx(EXPECTED[0])
        assert server.log().count("nothing to load") == 1


def spoil_nothing_there(path):
    shutil.rmtree(path)
    path.mkdir()


def spoil_truncated(path):
    file = path / "saved_model.pb"
    file.write_bytes(file.read_bytes()[:1000])


def spoil_no_variables(path):
    shutil.rmtree(path / "variables")


def spoil_half_a_shard(path):
    file = next((path / "variables").glob("variables.data*"))
    file.write_bytes(file.read_bytes()[:10])


def spoil_warm_up(path):
    file = path / "assets.extra" / "tf_serving_warmup_requests"
    file.write_bytes(file.read_bytes()[:-3])


def spoil_warm_up_of_another_model(path):
    import tensorflow as tf
    from tensorflow_serving.apis import prediction_log_pb2

    request = predict_request({"dense": np.zeros((1, 5), np.float32)})
    log = prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
    with tf.io.TFRecordWriter(str(path / "assets.extra" / "tf_serving_warmup_requests")) as writer:
        writer.write(log.SerializeToString())


def spoil_a_bit_beside_a_manifest(path):
    files = inventory(path, files_below(path))
    manifest = sealed({"format": FORMAT, "version": VERSION, "files": files})
    (path / MANIFEST).write_text(json.dumps(manifest))
    file = next((path / "variables").glob("*.data-*"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


SPOILED = {
    spoil_nothing_there: "has no saved_model.pb",
    spoil_truncated: "cannot be loaded",
    spoil_no_variables: "cannot be loaded",
    spoil_half_a_shard: "cannot be loaded",
    spoil_a_bit_beside_a_manifest: "is damaged: its SHA-256",
    spoil_warm_up: "is damaged",
    spoil_warm_up_of_another_model: "warm-up request 0 of",
}


@pytest.mark.slow
def test_a_broken_version_never_replaces_a_good_one_and_can_be_mended(tmp_path, serve, publish, templates):
    folder = tmp_path / "clicks"
    folder.mkdir()
    publish(folder, 1)
    with serve(folder) as server:
        for number, (spoil, message) in enumerate(SPOILED.items(), start=2):
            aside = tmp_path / f"aside-{number}"
            shutil.copytree(templates[2], aside)
            spoil(aside)
            aside.rename(folder / str(number))
            server.wait_for(lambda n=number: server.states().get(n, ("", ""))[0] == "END")
            state, error = server.states()[number]
            assert message in error and error.endswith(".") and "\n" not in error, error
            assert server.states()[1] == ("AVAILABLE", "")
            assert answer(server) == pytest.approx(EXPECTED[0])
            assert server.ask("/health/ready")[0] == 200
        assert f"version {number} is broken" in server.log()
        broken = server.log().count("is broken")
        assert broken == len(SPOILED), "each is tried once until its files change"
        # Somebody mends the newest: its files change, and it is tried again.
        shutil.copytree(templates[2], folder / str(number), dirs_exist_ok=True)
        server.wait_for(lambda: server.states()[number] == ("AVAILABLE", ""))
        server.wait_for(lambda: answer(server) == pytest.approx(EXPECTED[1]))


def test_a_copy_that_is_not_atomic_is_served_once_it_is_whole(tmp_path, serve, publish, templates):
    folder = tmp_path / "clicks"
    folder.mkdir()
    publish(folder, 1)
    with serve(folder) as server:
        files = sorted(p for p in templates[2].rglob("*") if p.is_file())
        for file in files:
            target = folder / "2" / file.relative_to(templates[2])
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)
            time.sleep(0.1)
            assert answer(server) in (pytest.approx(EXPECTED[0]), pytest.approx(EXPECTED[1]))
        server.wait_for(lambda: server.states()[2] == ("AVAILABLE", ""))


@pytest.mark.slow
def test_swaps_under_load_fail_no_request(tmp_path, publish):
    from serving_load import closed_loop, grpc_client, rest_client

    folder = tmp_path / "clicks"
    folder.mkdir()
    publish(folder, 1)
    arrays = {"dense": np.array([[1, 2]], np.float32), "sparse": np.array([[7, 1, -1]])}
    loads, done = {}, threading.Event()
    with serving(tmp_path / "log", folder) as server:

        def load(name, make):
            loads[name] = closed_loop(make, clients=2, seconds=120, stop=done)

        threads = [
            threading.Thread(target=load, args=("grpc", grpc_client(server.grpc, "clicks", arrays))),
            threading.Thread(target=load, args=("rest", rest_client(server.rest, "clicks", arrays))),
        ]
        for thread in threads:
            thread.start()
        for number in range(2, 7):
            time.sleep(0.3)
            publish(folder, number, template=1 + number % 2)
            server.wait_for(lambda n=number: server.states().get(n, ("",))[0] == "AVAILABLE")
        done.set()
        for thread in threads:
            thread.join()
        assert {name: load.failures for name, load in loads.items()} == {"grpc": [], "rest": []}
        assert min(len(load.latencies) for load in loads.values()) > 100
        server.wait_for(lambda: server.log().count("is unloaded") == 5)
        assert server.states()[6] == ("AVAILABLE", "")


def test_an_old_version_stays_until_its_requests_are_answered(tmp_path, serve, publish):
    folder = tmp_path / "clicks"
    folder.mkdir()
    publish(folder, 1)
    with serve(folder) as server:
        found, gate = [], tmp_path / "gate"
        body = {"signature_name": "wait", "inputs": str(gate)}
        slow = threading.Thread(target=lambda: found.append(server.predict(body)))
        slow.start()
        server.wait_for(lambda: 'in_flight{model="clicks",version="1"} 1.0' in server.metrics())
        publish(folder, 2, template=2)
        server.wait_for(lambda: server.states().get(2) == ("AVAILABLE", ""))
        assert answer(server) == pytest.approx(EXPECTED[1])
        server.wait_for(lambda: server.states()[1][0] == "UNLOADING")
        assert slow.is_alive() and not found
        gate.touch()
        slow.join()
        assert found == [(200, {"outputs": {"open": True, "gate": str(gate)}})]
        server.wait_for(lambda: server.states()[1][0] == "END")


@pytest.mark.slow
def test_labels_and_pinned_versions_follow_models_config(tmp_path, serve, publish):
    folder = tmp_path / "models" / "clicks"
    folder.mkdir(parents=True)
    publish(folder, 1)
    config = tmp_path / "models" / "models.config"
    shipped = (ROOT / "savedmodel" / "models.config").read_text().replace("/models/", "")

    def write(text):
        aside = config.with_suffix(".new")
        aside.write_text(text)
        aside.rename(config)

    write(shipped)
    with serve(config) as server:
        publish(folder, 2, template=2)
        time.sleep(0.5)
        assert set(server.states()) == {1}, "a version that is not listed does nothing"
        both = shipped.replace("versions: 1 }", "versions: 1 versions: 2 }")
        moved = both.replace('"canary" value: 1', '"canary" value: 2')
        write(moved)
        server.wait_for(lambda: "label 'canary' of model 'clicks' moves to version 2, which is not available" in server.log())
        time.sleep(0.2)
        assert set(server.states()) == {1}, "the whole edit is refused, as TensorFlow Serving does"
        assert server.log().count("not taken over") == 1
        write(both)
        server.wait_for(lambda: server.states().get(2) == ("AVAILABLE", ""))
        assert answer(server, "clicks/labels/canary") == pytest.approx(EXPECTED[0])
        write(moved)
        server.wait_for(lambda: answer(server, "clicks/labels/canary") == pytest.approx(EXPECTED[1]))
        assert answer(server, "clicks/labels/stable") == pytest.approx(EXPECTED[0])
        write("model_config_list {{{")
        server.wait_for(lambda: server.log().count("not taken over") == 2)
        assert answer(server, "clicks/labels/canary") == pytest.approx(EXPECTED[1]), "a broken file changes nothing"
        write(both)
        server.wait_for(lambda: answer(server, "clicks/labels/canary") == pytest.approx(EXPECTED[0]))
        write(both.replace('name: "clicks"', 'name: "again"'))
        server.wait_for(lambda: server.predict(BODY)[0] == 404)
        assert answer(server, "again") == pytest.approx(EXPECTED[1])


def test_a_number_that_no_request_can_name_is_no_version(tmp_path, serve, publish):
    folder = tmp_path / "clicks"
    folder.mkdir()
    publish(folder, 1)
    publish(folder, 10**24, template=2)
    with serve(folder) as server:
        assert server.states() == {1: ("AVAILABLE", "")}
        assert answer(server) == pytest.approx(EXPECTED[0])
        nanoseconds = 1_700_000_000_000_000_000
        publish(folder, nanoseconds, template=2)
        server.wait_for(lambda: server.states().get(nanoseconds) == ("AVAILABLE", ""))
        assert answer(server, f"clicks/versions/{nanoseconds}") == pytest.approx(EXPECTED[1])


def test_a_server_without_a_version_starts_says_so_and_waits_for_one(tmp_path, serve, publish):
    folder = tmp_path / "clicks"
    folder.mkdir()
    with serve(folder) as server:
        status, body = server.ask("/health/ready")
        assert (status, body["error"]) == (503, "a model has no version that could be loaded.")
        assert server.predict(BODY)[0] == 404
        publish(folder, 1)
        server.wait_for(lambda: server.ask("/health/ready")[0] == 200)
        assert answer(server) == pytest.approx(EXPECTED[0])
