"""Freed memory goes back to the system."""

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource
from pathlib import Path
from service.allocator import bound_freed_memory

def resident_megabytes():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6

assert bound_freed_memory()
bytearray(20_000_000)  # by itself glibc would from here on keep all smaller blocks in its heap
before = resident_megabytes()
large, small = [], []
for _ in range(50):
    large.append(bytearray(2_000_000))
    small.append(bytearray(5_000))  # lies between the large ones, if those are in the heap
assert resident_megabytes() - before > 90
large.clear()
print(resident_megabytes() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc" or sys.platform != "linux", reason="a setting of glibc")
def test_large_blocks_are_given_back_though_small_ones_lie_between() -> None:
    found = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert float(found.stdout) < 10


ROOM_SCRIPT = """
import resource
import sys
import threading
from service.allocator import bound_freed_memory, make_room_for_layers

def faults():
    return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt

def work():
    if sys.argv[1] == "room":
        make_room_for_layers()
    for _ in range(3):
        before = faults()
        layers = [bytearray(6_000_000) for _ in range(4)]
        found = faults() - before
        layers.clear()
    print(found)

assert bound_freed_memory()
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc" or sys.platform != "linux", reason="a setting of glibc")
def test_a_thread_with_room_gets_the_memory_of_its_last_pass_again() -> None:
    def pages_of_third_pass(name: str) -> int:
        return int(subprocess.run([sys.executable, "-c", ROOM_SCRIPT, name], capture_output=True, text=True, check=True).stdout)

    assert pages_of_third_pass("none") > 1000
    assert pages_of_third_pass("room") < 100
