"""Ends of a program, and the exit code of each."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from helpers.children import environment

from keras_dlrm.cli.program import promise, run

pytestmark = pytest.mark.neutral
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def ends(action: object, capsys: pytest.CaptureFixture[str]) -> tuple[object, str]:
    """Exit code and standard error of a command."""

    @click.command()
    def command() -> None:
        action()  # type: ignore[operator]

    try:
        run(command, [], "program")
    except SystemExit as error:
        return error.code, capsys.readouterr().err
    return 0, capsys.readouterr().err


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_a_command_with_its_exit_code_and_the_promise(
    number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {each: signal.getsignal(each) for each in SIGNALS}
    left = []

    def work() -> None:
        try:
            with promise("Go on with --resume."):
                signal.raise_signal(number)
        finally:
            left.append("cleaned up")

    code, said = ends(work, capsys)
    assert (code, left) == (128 + number, ["cleaned up"])
    assert said == f"\nstopped by {number.name}. Go on with --resume.\n"
    assert {each: signal.getsignal(each) for each in SIGNALS} == before


def test_an_error_that_comes_of_being_stopped_is_not_told(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt:
            raise RuntimeError("a framework's own words") from None

    assert ends(work, capsys) == (143, "stopped by SIGTERM. Only what was complete stays.\n")


@pytest.mark.slow
def test_a_signal_that_comes_in_a_finalizer_is_not_lost(capsys: pytest.CaptureFixture[str]) -> None:
    class Finalized:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGTERM)

    def work() -> None:
        found = Finalized()
        del found
        time.sleep(10)

    assert ends(work, capsys) == (143, "\nstopped by SIGTERM. Only what was complete stays.\n")


def test_a_signal_that_is_ignored_stays_ignored(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert ends(lambda: signal.raise_signal(signal.SIGHUP), capsys) == (0, "")
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("error", [ValueError("bad"), OSError("bad"), KeyError("bad"), RecursionError("bad")])
def test_an_error_is_one_sentence(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        raise error

    assert ends(work, capsys) == (2, "error: bad\n")


def test_a_long_error_is_cut(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        raise ValueError("x" * 10**6)

    code, said = ends(work, capsys)
    assert code == 2 and len(said) < 5000


PROGRAM = """
import click, sys, time
from keras_dlrm.cli.program import run
@click.command()
@click.argument("name")
@click.argument("kind")
def main(name, kind):
    if kind == "print":
        for i in range(100_000):
            print(i)
        return
    try:
        print("ready", flush=True)
        time.sleep(60)
    finally:
        print("cleaning", flush=True)
        time.sleep(60 if kind == "slow" else 0)
run(main)
"""


@pytest.mark.slow
def test_a_second_signal_ends_at_once_and_a_reader_may_go() -> None:
    command = [sys.executable, "-c", PROGRAM, "keras_dlrm.cli"]  # whose programs import Keras late
    process = subprocess.Popen([*command, "slow"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for said in ("ready\n", "cleaning\n"):
        assert process.stdout.readline() == said
        process.send_signal(signal.SIGINT)
    began = time.monotonic()
    assert process.wait(20) == 130 and time.monotonic() - began < 10
    process.stdout.close()
    process = subprocess.Popen([*command, "print"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(20) in (1, 141)
    process.stderr.close()


@pytest.mark.slow
def test_a_stopped_preprocess_goes_on_and_leaves_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "log.yaml").write_text("label: click\ncategorical: [{name: a}]\n")
    (tmp_path / "log.csv").write_text("a,click\n" + "".join(f"v{i % 9973},{i % 2}\n" for i in range(2_000_000)))
    command = [sys.executable, "-m", "keras_dlrm.cli", "preprocess", "tables", "--schema", "log.yaml", "--train", "log.csv",
               "--output", "out"]  # fmt: skip
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=environment())
    while not (tmp_path / ".out.partial").exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143, said
    assert said.rstrip().endswith("stopped by SIGTERM. The same command resumes where it stopped.")
    assert "Traceback" not in said
    assert {path.name for path in tmp_path.iterdir()} <= {"log.yaml", "log.csv", ".out.partial"}
