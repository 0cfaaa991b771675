"""One run at a time in a folder: on a disk, behind S3, after a holder that died, and when two want it at once."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from malmoi.pipeline import lease
from malmoi.pipeline.errors import BusyError
from malmoi.pipeline.lock import only_run
from malmoi.pipeline.storage import Folder

s3fs = pytest.importorskip("s3fs")


@pytest.fixture(scope="module")
def options(s3):
    s3fs.S3FileSystem(**s3).mkdir("locks")
    return s3


@pytest.fixture(params=["s3", "memory", "no flock"])
def folder(request, tmp_path, options, monkeypatch):
    """A folder that cannot be locked by the kernel; beats are quick."""
    monkeypatch.setattr(lease, "BEAT_S", 0.2)
    monkeypatch.setattr(lease, "STALE_S", 1.5)
    monkeypatch.setattr(lease, "SETTLE_S", 0.2)
    if request.param == "s3":
        return Folder(f"s3://locks/{tmp_path.name}", options)
    if request.param == "memory":
        return Folder(f"memory://{tmp_path.name}")

    def refuse(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    return Folder(str(tmp_path / "run"))


def elsewhere(holder):
    """The same holder, as of a machine that this one cannot look into."""
    return replace(holder, host="far", machine="far", run="far")


def test_second_is_refused_and_told_by_whom(folder):
    with (
        only_run(folder),
        pytest.raises(BusyError, match=rf"process {os.getpid()} on .* is running here"),
        only_run(folder),
    ):
        pass
    assert not folder.exists(lease.FILE), "the lock is gone with its holder"
    with only_run(folder) as check:
        check()


def test_a_live_holder_elsewhere_is_waited_for_and_believed(folder):
    """Its clock is an hour behind: it lives because its lock changes."""
    far = elsewhere(lease._me())
    stop = threading.Event()

    def beat():
        number = 0
        while not stop.wait(0.2):
            number += 1
            folder.write_bytes(lease.FILE, replace(far, beat=number, time=time.time() - 3600).to_json())

    folder.write_bytes(lease.FILE, far.to_json())
    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(BusyError, match="on far is running here"), only_run(folder):
            pass
    finally:
        stop.set()
        thread.join()


def test_a_dead_holder_elsewhere_is_taken_over_when_stale(folder):
    folder.write_bytes(lease.FILE, replace(elsewhere(lease._me()), time=time.time() - 3600).to_json())
    begin = time.monotonic()
    with only_run(folder):
        assert time.monotonic() - begin >= 1.5
        assert lease.read(folder).pid == os.getpid()


def test_a_fresh_lock_is_not_waited_for(folder):
    folder.write_bytes(lease.FILE, replace(elsewhere(lease._me()), time=time.time()).to_json())
    begin = time.monotonic()
    with pytest.raises(BusyError), only_run(folder):
        pass
    assert time.monotonic() - begin < 1.0


@pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="seen in /proc; elsewhere as one on another machine"
)
@pytest.mark.parametrize("change", ["gone", "another process with its number"])
def test_a_dead_holder_on_this_machine_is_taken_over_at_once(folder, change):
    me = lease._me()
    gone = replace(me, pid=2**22 + 1) if change == "gone" else replace(me, started="1")
    folder.write_bytes(lease.FILE, replace(gone, time=time.time()).to_json())
    begin = time.monotonic()
    with only_run(folder):
        assert time.monotonic() - begin < 1.2


def ask_until(check, deadline):
    while time.monotonic() < deadline:
        time.sleep(0.05)
        check()


def test_a_lock_that_is_lost_stops_its_holder(folder):
    with only_run(folder) as check:
        check()
        folder.write_bytes(lease.FILE, replace(elsewhere(lease._me()), time=time.time()).to_json())
        with pytest.raises(BusyError, match="on far"):
            ask_until(check, time.monotonic() + 5)
    assert lease.read(folder).run == "far", "another's lock is not removed"


def test_a_lock_that_cannot_be_read(folder):
    folder.write_bytes(lease.FILE, b"{torn")
    with only_run(folder):
        pass


def test_one_of_many_gets_a_stale_lock(folder):
    """All see the same dead holder; at most one goes on, and no two at the same time."""
    folder.write_bytes(lease.FILE, replace(lease._me(), pid=2**22 + 1).to_json())
    inside, most, won = [0], [0], [0]
    start, count = threading.Barrier(4), threading.Lock()

    def enter():
        start.wait()
        try:
            with only_run(folder):
                with count:
                    inside[0] += 1
                    won[0] += 1
                    most[0] = max(most[0], inside[0])
                time.sleep(1.0)
                with count:
                    inside[0] -= 1
        except BusyError:
            pass

    threads = [threading.Thread(target=enter) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert won[0] >= 1
    assert most[0] == 1


def test_a_stale_lock_is_not_removed_once_it_is_another_s(tmp_path):
    folder = Folder(str(tmp_path))
    stale = replace(lease._me(), pid=2**22 + 1)
    now = replace(lease._me(), host="who was quicker")
    folder.write_bytes(lease.FILE, now.to_json())
    assert not lease._cleared(folder, stale)
    assert lease.read(folder) == now
    assert lease._cleared(folder, now)
    assert not lease._cleared(folder, now)
    assert not list(tmp_path.iterdir())
    folder.write_bytes(lease.FILE, b"torn")
    assert lease._cleared(folder, lease.read(folder))


HOLD = textwrap.dedent("""
    import sys, time
    from malmoi.pipeline.lock import only_run
    from malmoi.pipeline.storage import Folder
    with only_run(Folder(sys.argv[1])):
        print("held", flush=True)
        time.sleep(60)
""")


def test_a_killed_process_leaves_no_lock_on_a_disk(tmp_path):
    url = str(tmp_path / "run")
    process = subprocess.Popen([sys.executable, "-c", HOLD, url], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    with pytest.raises(BusyError, match=f"process {process.pid} on"), only_run(Folder(url)):
        pass
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with only_run(Folder(url)):
        pass


def test_of_two_that_write_without_a_condition_the_last_holds(tmp_path, monkeypatch):
    """A store without conditional writes, in the moment between looking and writing."""
    monkeypatch.setattr(lease, "SETTLE_S", 0.2)
    folder = Folder(f"memory://{tmp_path.name}")
    other = replace(elsewhere(lease._me()), time=time.time())
    write = Folder.write_bytes

    def refuse(*_, **__):
        raise NotImplementedError

    def both(self, name, data):
        write(self, name, data)
        write(self, name, other.to_json())

    monkeypatch.setattr(type(lease.file_system(folder.url, {})[0]), "pipe_file", refuse)
    monkeypatch.setattr(Folder, "write_bytes", both)
    with pytest.raises(BusyError, match="on far is running here"), only_run(folder):
        pytest.fail("both hold it")
    assert lease.read(folder) == other
