"""The command: what it says, how it starts, how it ends, what it bears."""

import json
import signal
import subprocess
import sys
import threading
import time

import pytest
from click.testing import CliRunner
from helpers.saved_models import ROOT, serving

from keras_dlrm.cli import group, main

pytestmark = pytest.mark.neutral

BODY = {"inputs": {"dense": [[1, 2]], "sparse": [[7, 1, -1]]}}


def waiting(gate):
    """A request that runs until the file is there."""
    return {"signature_name": "wait", "inputs": str(gate)}


@pytest.mark.slow
def test_the_help_and_the_log_say_what_it_is(server):
    text = " ".join(CliRunner().invoke(group, ["serve", "--help"]).output.split())
    assert "stand-in for TensorFlow Serving, for development and tests, not for production" in text
    assert "stand-in for TensorFlow Serving (development and tests only)" in server.log()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either the FOLDER of the versions or --config."),
        (["no-such-folder"], "/no-such-folder; give the folder of the versions"),
        (["{version}"], "is a SavedModel itself; give the folder above it"),
        (["{folder}", "--label", "stable"], "--label 'stable' must be LABEL=VERSION, such as stable=1."),
        (["{folder}", "--name", "a/b"], "error: model name 'a/b' must have no blank, '/' or ':', and not be empty."),
        (["--config", "nowhere.config"], "error: no models.config at nowhere.config."),
        (["--config", "x", "--name", "y"], "--config says these itself."),
        (["{folder}", "--port", "{taken}"], "Give another with --port, 0 for any."),
        (["{folder}", "--port", "0", "--grpc-port", "{taken}"], "Give another with --grpc-port, 0 for any."),
    ],
)
def test_what_it_cannot_serve_is_exit_code_2_and_a_sentence(templates, server, capfd, arguments, message):
    values = {"version": templates[1], "folder": templates[1].parent, "taken": server.rest.split(":")[1]}
    with pytest.raises(SystemExit) as caught:
        main(["serve", *(argument.format(**values) for argument in arguments)])
    assert caught.value.code == 2
    assert message in capfd.readouterr().err


@pytest.mark.slow
def test_sigterm_ends_it_when_the_running_requests_are_answered(tmp_path, publish):
    (tmp_path / "clicks").mkdir()
    publish(tmp_path / "clicks", 1)
    with serving(tmp_path / "log", tmp_path / "clicks") as server:
        found, gate = [], tmp_path / "gate"
        request = threading.Thread(target=lambda: found.append(server.predict(waiting(gate))))
        request.start()
        server.wait_for(lambda: 'in_flight{model="clicks",version="1"} 1.0' in server.metrics())
        server.process.send_signal(signal.SIGTERM)
        server.wait_for(lambda: "stopping" in server.log())
        time.sleep(0.3)
        assert not found and server.process.poll() is None
        with pytest.raises(OSError):
            server.predict(BODY)
        gate.touch()
        request.join()
        assert found == [(200, {"outputs": {"open": True, "gate": str(gate)}})]
        assert server.process.wait(20) == 0
        assert "Traceback" not in server.log()


def test_requests_beyond_the_bound_are_sent_away(tmp_path, serve, publish):
    (tmp_path / "clicks").mkdir()
    publish(tmp_path / "clicks", 1)
    with serve(tmp_path / "clicks", threads=1, queue=1) as server:
        gate, answers = tmp_path / "gate", []
        requests = [threading.Thread(target=lambda: answers.append(server.predict(waiting(gate)))) for _ in range(8)]
        for request in requests:
            request.start()
        server.wait_for(lambda: len(answers) == 6)  # one runs and one waits
        gate.touch()
        for request in requests:
            request.join()
        assert sorted(status for status, _ in answers) == [200] * 2 + [429] * 6
        assert answers[0][1] == {"error": "2 requests are running or waiting already; try again."}
        assert 'status="RESOURCE_EXHAUSTED"} 6.0' in server.metrics()
        assert server.predict(BODY)[0] == 200


def test_the_limit_of_a_request_can_be_set(tmp_path, serve, publish):
    (tmp_path / "clicks").mkdir()
    publish(tmp_path / "clicks", 1)
    with serve(tmp_path / "clicks", max_bytes=2048, name="other") as server:
        assert server.predict(BODY, "other")[0] == 200
        status, answer = server.predict({"inputs": {"dense": [[1, 2]] * 1000, "sparse": [[7, 1, -1]] * 1000}}, "other")
        assert (status, answer["error"]) == (413, "the request is larger than the 2048 bytes allowed.")


def test_without_the_extra_a_sentence_names_it(monkeypatch, capfd):
    monkeypatch.delitem(sys.modules, "keras_dlrm.serving.server", raising=False)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(SystemExit) as caught:
        main(["serve", "."])
    assert caught.value.code == 2
    assert "error: keras-dlrm serve needs uvicorn, which is not installed: pip" in capfd.readouterr().err


def test_importing_the_package_loads_no_server():
    # Under the command's name, which leaves Keras for later, and so is quick.
    code = "import sys; sys.argv = ['keras-dlrm']; import json, keras_dlrm.serving; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120)
    loaded = {name.split(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}
    assert not loaded & {"tensorflow", "starlette", "uvicorn", "tensorflow_serving", "prometheus_client", "orjson"}
