"""What is held in one memory counts once: Java, on its way to start another program, is there twice for a moment."""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import subprocess
import sys

import pytest

from bench.measure import share_memory

CLONE_VM = 0x100
STACK = 65536

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in {"x86_64", "aarch64"}, reason="asks the kernel of Linux"
)


def test_a_process_in_its_parents_memory_is_known() -> None:
    libc = ctypes.CDLL(None)
    stack = ctypes.create_string_buffer(STACK)
    top = (ctypes.addressof(stack) + STACK) & ~15
    twin = libc.clone(ctypes.cast(libc.pause, ctypes.c_void_p), ctypes.c_void_p(top), CLONE_VM | signal.SIGCHLD, None)
    assert twin > 0
    try:
        assert share_memory(twin, os.getpid())
    finally:
        os.kill(twin, signal.SIGKILL)
        os.waitpid(twin, 0)


def test_another_program_has_a_memory_of_its_own() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert not share_memory(child.pid, os.getpid())
        child.kill()
