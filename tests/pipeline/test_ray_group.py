"""Where the kernel does not end Ray's processes with their starter, as on macOS, Ctrl-C still reaches that one."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from malmoi.pipeline.errors import ResourceError
from malmoi.pipeline.ray_place import starting

# As Ray starts its processes: first the one that ends its group when its starter ends, then the others.
STARTS = """
import os, sys
from ray._private import services, utils
from malmoi.pipeline.ray_place import starting
utils.detect_fate_sharing_support = lambda: None
own = os.getpgrp()
before = os.setpgrp, services.ConsolePopen
with starting():
    reaper = services.start_reaper(fate_share=False).process
    other = services.start_ray_process(["sleep", "60"], "other", fate_share=False).process
assert (os.setpgrp, services.ConsolePopen) == before
assert os.getpgrp() == own, "the terminal's Ctrl-C goes to this group"
assert os.getpgid(reaper.pid) == os.getpgid(other.pid) == reaper.pid
print(reaper.pid, other.pid, flush=True)
sys.stdin.read()
"""


def alive(process: int) -> bool:
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.skipif(sys.platform == "win32", reason="process groups")
def test_rays_processes_have_a_group_of_their_own_and_end_with_ours():
    with subprocess.Popen(
        [sys.executable, "-c", STARTS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert os.getpgid(process.pid) == os.getpgrp()
        started = [int(word) for word in process.stdout.readline().split()]
        assert len(started) == 2
        process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 30
    while any(map(alive, started)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(alive, started))


def test_a_folder_with_too_long_a_path_for_sockets(tmp_path):
    """A socket's name has 107 bytes at the most, on macOS 103; TMPDIR of a cluster may be longer by itself."""
    from ray._private.utils import validate_socket_filepath

    path = f"{tmp_path}/{'말' * 40}/ray/session/sockets/plasma_store"
    with pytest.raises(ResourceError, match=r"cannot exceed \d+ bytes.*: RAY_TMPDIR=/tmp$"), starting():
        validate_socket_filepath(path)
    with pytest.raises(OSError, match="another"), starting():
        raise OSError("another")
