"""Freed memory is kept where the C library can be told to."""

import platform
import subprocess
import sys

import pytest


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_freed_memory_needs_no_new_pages() -> None:
    script = """
import resource, torch
from bench.training.heap import keep_freed
def faults():
    for _ in range(5):
        torch.empty(4_000_000).fill_(1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(50):
        torch.empty(4_000_000).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
assert keep_freed()
faults()  # the heap grows to what is needed
found = faults()
assert found < 1000, found
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
