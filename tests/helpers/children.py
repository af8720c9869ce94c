"""What a launcher's processes do, as Linux tells it."""

import subprocess
from pathlib import Path


def members(process):
    """Process ids of a process's children."""
    found = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=False)
    return [int(pid) for pid in found.stdout.split()]


def stat(pid):
    """The fields of its stat file from the state on."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def runs(pid):
    """Whether it has not ended; a zombie has."""
    try:
        return stat(pid)[0] != "Z"
    except OSError:
        return False
