"""Programs that a test starts: their environment, and what a launcher's processes do, as Linux tells it."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def environment(**variables):
    """This process's environment, with the repository on PYTHONPATH and other variables."""
    return {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ['PYTHONPATH']}", **variables}


def program(pid):
    """Process id of the program that a process is a command for (see preloaded.py), or its own."""
    name = Path(f"/proc/{pid}/comm").read_text().strip()
    return int(name) if name.isdecimal() else pid


def members(process):
    """Process ids of the programs that a program has started."""
    listed = subprocess.run(["pgrep", "-P", str(program(process.pid))], capture_output=True, text=True, check=False)
    return [program(int(pid)) for pid in listed.stdout.split()]


def kill(process):
    """Kill a process, and the program that it is a command for; both have ended then."""
    os.kill(program(process.pid), signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def kill_after_save(process: subprocess.Popen[str], saved: Callable[[], bool], moments: random.Random) -> None:
    """Kill a training, which prints a line when it trains, at a random moment after it has saved."""
    assert process.stdout is not None
    process.stdout.readline()
    while not saved():
        time.sleep(0.02)
    time.sleep(moments.uniform(0.0, 0.6))
    kill(process)
    process.stdout.close()


def stat(pid):
    """The fields of its stat file from the state on."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def runs(pid):
    """Whether it has not ended; a zombie has."""
    try:
        return stat(pid)[0] != "Z"
    except OSError:
        return False
