"""Programs that begin with Keras imported on one backend: one process imports it and forks for each of them.

`preloaded.py SOCKET` is that process. `commands` makes a `python` and a `keras-dlrm` that ask it to run what they are given,
with their arguments, folder, environment, input and output. A signal to end them goes to the program, which ends with them,
and they end as it ends. What names another backend is run by that one's `python`, where there is one, or by the interpreter.
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import types
from contextlib import contextmanager, suppress
from pathlib import Path

# Slow to import, and in no way of a thread, a lock or a device that a fork would lose.
LATE = (
    "keras_dlrm.pipeline.prepare", "keras_dlrm.training.run", "keras_dlrm.training.tuning", "keras_dlrm.scoring",
    "keras_dlrm.retrieval", "keras_dlrm.export.saved_model.savedmodel", "matplotlib.backends.backend_agg", "matplotlib.figure",
)  # fmt: skip

COMMAND = """#!{python} -IS
import ctypes, json, os, signal, socket, sys
if "KERAS_DLRM_LAUNCHER" in os.environ:  # as the program would: end with who launched it, and the program with this
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
named = "" if "--backend" in sys.argv else os.environ.get("KERAS_BACKEND", "tensorflow")
if named != {backend!r}:
    os.execv({others!r}.get(named, {own!r}), {arguments!r} + sys.argv[1:])
with socket.socket(socket.AF_UNIX) as server:
    server.connect({socket!r})
    request = [sys.argv[0], sys.argv[1:], os.getcwd(), dict(os.environ)]
    socket.send_fds(server, [json.dumps(request).encode() + b"\\n"], [0, 1, 2])
    answer = server.makefile()
    pid = int(answer.readline())
    with open("/proc/self/comm", "w") as name:  # for whoever kills the program: this command would end first
        name.write(str(pid))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: os.kill(pid, number))
    code = int(answer.readline())
if code < 0:
    if code != -signal.SIGKILL:
        signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
sys.exit(code)
"""


@contextmanager
def commands(folder, environment, others):
    """Folder with the two commands, while there is a process behind them; `others` are the `python` of other backends."""
    path, bin, own = str(folder / "socket"), folder / "bin", sys.executable
    backend = environment.get("KERAS_BACKEND", "tensorflow")
    bin.mkdir()
    for name, arguments in {"python": [own], "keras-dlrm": [own, "-m", "keras_dlrm.cli"]}.items():
        code = COMMAND.format(python=Path(own).resolve(), own=own, arguments=arguments, socket=path, backend=backend, others=others)
        (bin / name).write_text(code)
        (bin / name).chmod(0o755)
    process = subprocess.Popen([own, __file__, path], stdout=subprocess.PIPE, env=environment)
    try:
        if process.stdout.readline() != b"ready\n":
            raise RuntimeError(f"{__file__} ended with exit code {process.wait()}")
        yield bin
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def run(name, arguments):
    """Run a command as a process of its own would."""
    if name == "keras-dlrm":
        from keras_dlrm.cli import main

        sys.argv = [name, *arguments]
        sys.exit(main())
    if arguments[0] == "-P":  # the folder is not on the path anyway
        arguments = arguments[1:]
    first, *rest = arguments
    if first == "-m":
        sys.argv = arguments[1:]
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif first not in ("-", "-c"):
        sys.argv = arguments
        sys.path.insert(0, str(Path(first).resolve().parent))
        runpy.run_path(first, run_name="__main__")
    else:
        sys.argv = [first, *(rest[1:] if first == "-c" else rest)]
        sys.path.insert(0, "")
        module = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(rest[0] if first == "-c" else sys.stdin.read(), "<string>", "exec"), vars(module))


def end(name, arguments):
    """Run a command and end as the interpreter does, but leave the modules alone: all of their memory would be copied."""
    try:
        run(name, arguments)
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
    except BaseException:  # noqa: BLE001
        sys.excepthook(*sys.exc_info())  # the program's own, if it has one
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def asked_by(connection):
    """Process id of the command at the other end."""
    return struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]


def answer(connection):
    """Fork a program, and tell its process id and its exit code. It is killed or stopped with the command that asked for it."""
    message, files, *_ = socket.recv_fds(connection, 1 << 16, 3)
    while not message.endswith(b"\n"):
        message += connection.recv(1 << 16)
    name, arguments, folder, environment = json.loads(message)
    child = os.fork()
    if not child:
        connection.close()
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        os.chdir(folder)
        sys.executable = str(Path(name).with_name("python"))  # a program that starts others starts them in the same way
        os.environ.clear()
        os.environ.update(environment)
        # Modules that the caller can import, found after those that are here already.
        sys.path += [each for each in environment.get("PYTHONPATH", "").split(os.pathsep) if each and each not in sys.path]
        end(Path(name).name, arguments)
    for file in files:
        os.close(file)
    connection.sendall(f"{child}\n".encode())
    ended, stat = os.pidfd_open(child), Path(f"/proc/{asked_by(connection)}/stat")
    while not (ready := select.select([connection, ended], [], [], 0.2)[0]):
        with suppress(OSError):
            if stat.read_text().rpartition(")")[2].split()[0] == "T":
                os.kill(child, signal.SIGSTOP)
    if ended not in ready:
        os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with suppress(BrokenPipeError):
        connection.sendall(f"{code}\n".encode())
    os._exit(0)


def preload():
    """Import what the programs would import one by one: the commands, and what they load late."""
    import keras  # noqa: F401

    from keras_dlrm.cli import COMMANDS

    for name in (*(f"keras_dlrm.cli.{command}" for command in COMMANDS), *LATE):
        importlib.import_module(name)


def main():
    """Answer until killed."""
    preload()
    del sys.path[0]  # the folder of this file
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # whoever answers is not waited for
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(sys.argv[1])
        server.listen()
        gc.freeze()
        print("ready", flush=True)
        while True:
            connection, _ = server.accept()
            with connection:
                if not os.fork():
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    server.close()
                    answer(connection)


if __name__ == "__main__":
    main()
