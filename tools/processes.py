"""Child processes that never outlive their parent's work, whether it ends, fails or is stopped by Ctrl-C."""

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import IO, Any

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SECONDS_TO_END = 10.0


class StoppedBySignal(BaseException):
    """Raised in the main thread by Ctrl-C or a request to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


@contextmanager
def signals_raise() -> Iterator[None]:
    """Within the block, each signal that asks to stop raises `StoppedBySignal`; so `finally` clauses run."""

    def stop(number: int, _frame: FrameType | None) -> None:
        raise StoppedBySignal(number)

    before = {number: signal.signal(number, stop) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def signals_held() -> Iterator[None]:
    """Within the block, a signal that asks to stop waits for its end."""
    held: list[int] = []
    before = {number: signal.signal(number, lambda number, _frame: held.append(number)) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if held:
            signal.raise_signal(held[0])


def run_to_end(command: Sequence[str], env: Mapping[str, str], output: IO[bytes] | None = None) -> int:
    """Run a command in a process group of its own and return its exit code; when stopped, end the whole group."""
    with started(command, env, output) as process:
        return process.wait()


@contextmanager
def started(
    command: Sequence[str], env: Mapping[str, str], output: IO[bytes] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a command in a process group of its own, which ends with the block; `output` gets all that it prints."""
    process: subprocess.Popen[bytes] | None = None
    streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": output}
    try:
        with signals_held():
            process = subprocess.Popen(command, env=dict(env), start_new_session=True, **streams)
        yield process
    finally:
        if process is not None:
            stop_group(process)


def stop_group(process: subprocess.Popen[Any]) -> None:
    """End a process that was started with `start_new_session`, and its children: first asked, then killed."""
    if process.poll() is not None:
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in STOP_SIGNALS}
    try:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
