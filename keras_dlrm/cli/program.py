"""Run and end of a program of this package: exit codes, one sentence for an error, signals."""

import _thread
import contextlib
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

import click

from keras_dlrm.sharding.processes import PARENT
from keras_dlrm.support.installs import install
from keras_dlrm.support.quiet import lean_imports, quiet_imports

_MOST = 4000  # letters of an error


class Stopped(KeyboardInterrupt):
    """A signal, whose number is the argument, asks this process to end."""


def run(command: click.Command, args: list[str] | None = None, name: str | None = None) -> None:
    """Run a command and end this process, if it does not succeed.

    Exit codes: 0; 2, with one sentence on standard error, for bad input; 128 and the signal's number, when one asked to end,
    as 130 for Ctrl-C and 143 for SIGTERM. What was begun is then removed, or left so that it can be resumed. A second
    signal ends the process at once. `name` is the program's; arguments are those of this process by default.
    """
    with quiet_imports(), lean_imports(), _signals() as told:
        try:
            code = command.main(args=args, prog_name=name, standalone_mode=False, show_default=True)
            sys.stdout.flush()
        except (KeyboardInterrupt, click.Abort) as error:
            cause = error if isinstance(error, KeyboardInterrupt) else error.__cause__
            _end(told[0] if told else signal.SIGINT, cause, whole=args is None)
        except BrokenPipeError:
            with contextlib.suppress(OSError, ValueError):  # nothing more is written to it, also not when this process ends
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(128 + signal.SIGPIPE)
        except click.ClickException as error:
            error.show()
            sys.exit(error.exit_code)
        except (ValueError, TypeError, KeyError, OSError, RuntimeError, ImportError, RecursionError) as error:
            if told:  # it came of being stopped
                _end(told[0], error, whole=args is None)
            text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
            if isinstance(error, ModuleNotFoundError) and (command_line := install(error.name or "")):
                text = f"this needs {str(error.name).partition('.')[0]}, which is not installed: {command_line}."
            text = _in_flags(text, command, sys.argv[1:] if args is None else args)
            click.echo(f"error: {text if len(text) <= _MOST else f'{text[: _MOST // 2]} … {text[-_MOST // 2 :]}'}", err=True)
            sys.exit(2)
    if isinstance(code, int) and not isinstance(code, bool) and code:
        sys.exit(code)


def _in_flags(text: str, command: click.Command, args: list[str]) -> str:
    """An error's text with the command line's options where it names Python's arguments of the same names."""
    for word in args:
        if isinstance(command, click.Group):
            command = command.get_command(click.Context(command), word) or command
    if "experiment file" in text:
        return text  # the file is to be mended, not the command
    for option in command.params:
        if isinstance(option, click.Option) and option.name:
            flag = max(option.opts, key=len)
            name = rf"(?<![\w.\[{{'\"]){option.name}="
            if option.is_flag:
                text = re.sub(rf"{name}True\b", flag, text)
            else:
                text = re.sub(rf"{name}('?)([\w.-]*)\1", rf"{flag} \2", text)
    return re.sub(r"(--[\w-]+) \(\1\)", r"\1", text)


@contextlib.contextmanager
def promise(sentence: str) -> Iterator[None]:
    """While this context is open, a signal that ends the process is answered with a sentence: what is left, and how to continue."""
    try:
        yield
    except KeyboardInterrupt as error:
        error.add_note(sentence)
        raise


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """While this context is open, signals that ask this process to end raise `Stopped`; a second one ends it. Those that came."""
    told: list[int] = []
    lost: list[Stopped] = []

    def stop(number: int, _: Any) -> None:
        if lost:
            raise lost.pop()
        told.append(number)
        if len(told) > 1:
            os._exit(128 + number)
        raise Stopped(number)

    def unraisable(event: Any) -> None:
        # The signal came while Python called a finalizer, or the like, whose errors it does not pass on.
        if isinstance(event.exc_value, Stopped):
            lost.append(event.exc_value)
            threading.Timer(0.1, _thread.interrupt_main, event.exc_value.args).start()
        else:
            hook(event)

    before, hook = {}, sys.unraisablehook
    sys.unraisablehook = unraisable
    with contextlib.suppress(ValueError):  # in another thread than the first, signals are not this one's
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # One that is ignored, as nohup does, stays so.
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                before[number] = signal.signal(number, stop)
    try:
        yield told
    finally:
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(number: int, error: BaseException | None, whole: bool) -> None:
    notes = getattr(error, "__notes__", None) or ["Only what was complete stays."]
    if PARENT not in os.environ:  # else the process that started this one says it
        with contextlib.suppress(OSError):  # the terminal may be gone
            click.echo(f"stopped by {signal.Signals(number).name}. {notes[0]}", err=True)
    if whole:
        # All contexts are closed. Python's own end waits for frameworks' threads, and crashed in one of JAX's.
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
        os._exit(128 + number)
    sys.exit(128 + number)
