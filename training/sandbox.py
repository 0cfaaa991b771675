"""Run one Python program with little to hold on to. Started as a file of its own, in a process of its own.

What is covered, on Linux for x86-64 and arm64: limits of CPU time, address space, file size and open files; no
network (a network namespace of its own, and sockets refused); no other process is started, signalled or
traced (seccomp); files outside the working folder are not written, and outside Python and its libraries not
read (Landlock); no privileges (user namespace, capabilities dropped). What is not covered: faults of the
kernel, the clock. Elsewhere only the limits hold, and macOS refuses that of address space: who starts this watches
the memory, and how much is written in all.

Nothing of malmoi is imported here: the program has to find a bare Python.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import platform
import resource
import signal
import struct
import sys
import types
from contextlib import suppress
from typing import Any

# System calls by machine (linux/arch/*/syscalls). Refused with EPERM.
_CALLS: dict[str, tuple[int, dict[str, int], tuple[int, ...]]] = {
    "x86_64": (
        0xC000003E,
        {"clone": 56, "clone3": 435, "prlimit64": 302, "fcntl": 72, "capset": 126},
        (
            41, 57, 58, 59, 322,  # socket, fork, vfork, execve, execveat
            62, 200, 234, 129, 297, 424, 434,  # kill, tkill, tgkill, *sigqueueinfo, pidfd_*
            101, 310, 311, 165, 166, 272, 308, 425,  # ptrace, process_vm_*, (u)mount, unshare, setns, io_uring
            248, 249, 250, 298, 321, 323,  # keys, perf_event_open, bpf, userfaultfd
            90, 91, 92, 93, 94, 260, 268, 452,  # chmod, chown and kin: Landlock lets them be
            29, 64, 68, 240,  # shmget, semget, msgget, mq_open: what they make stays when the process has ended
        ),
    ),
    "aarch64": (
        0xC00000B7,
        {"clone": 220, "clone3": 435, "prlimit64": 261, "fcntl": 25, "capset": 91},
        (
            198, 221, 281,
            129, 130, 131, 138, 240, 424, 434,
            117, 270, 271, 40, 39, 97, 268, 425,
            217, 218, 219, 241, 280, 282,
            52, 53, 54, 55, 452,
            194, 190, 186, 180,
        ),
    ),
}  # fmt: skip

_ALLOW, _EPERM, _ENOSYS = 0x7FFF0000, 0x00050001, 0x00050026
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_CLONE_THREAD = 0x10000
# Of fcntl: F_SETOWN, F_SETSIG, F_SETOWN_EX, by which a file sends any signal to any process.
_SIGNALS_BY_FILE = (8, 10, 15)
_NEW_USER, _NEW_NET = 0x10000000, 0x40000000

# Landlock: which file rights each version knows; what reading needs.
_RIGHTS = {1: 0x1FFF, 2: 0x3FFF, 3: 0x7FFF, 4: 0x7FFF, 5: 0xFFFF}
_READ_DIR, _READ_FILE = 0b1101, 0b0101
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446


def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def limit(seconds: float, memory: int, file_bytes: int) -> None:
    """rlimits, soft and hard; what the system refuses to lower stays."""
    cpu = math.ceil(seconds) + 1
    for kind, value in (
        (resource.RLIMIT_CPU, cpu),
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
    ):
        with suppress(ValueError, OSError):
            resource.setrlimit(kind, (value, value))


def _filter(machine: str) -> bytes:
    """The BPF program: instructions of (code, jump if true, jump if false, value)."""
    arch, named, refused = _CALLS[machine]
    allow, refuse, absent = (struct.pack("HBBI", _RETURN, 0, 0, x) for x in (_ALLOW, _EPERM, _ENOSYS))
    lines = [
        struct.pack("HBBI", _LOAD, 0, 0, 4),
        struct.pack("HBBI", _EQUAL, 1, 0, arch),
        refuse,
        struct.pack("HBBI", _LOAD, 0, 0, 0),
        struct.pack("HBBI", _AT_LEAST, 0, 1, 0x40000000),  # the x32 calls of x86-64
        refuse,
    ]
    for number in refused:
        lines += [struct.pack("HBBI", _EQUAL, 0, 1, number), refuse]
    lines += [struct.pack("HBBI", _EQUAL, 0, 1, named["clone3"]), absent]
    for call, test in (("clone", (_ANY_BIT, _CLONE_THREAD)), ("prlimit64", (_EQUAL, 0))):
        lines += [
            struct.pack("HBBI", _EQUAL, 0, 4, named[call]),
            struct.pack("HBBI", _LOAD, 0, 0, 16),  # low half of the first argument
            struct.pack("HBBI", test[0], 0, 1, test[1]),
            allow,
            refuse,
        ]
    lines += [
        struct.pack("HBBI", _EQUAL, 0, 3 + len(_SIGNALS_BY_FILE), named["fcntl"]),
        struct.pack("HBBI", _LOAD, 0, 0, 24),  # low half of the second argument
        *(
            struct.pack("HBBI", _EQUAL, len(_SIGNALS_BY_FILE) - number, 0, command)
            for number, command in enumerate(_SIGNALS_BY_FILE)
        ),
        allow,
        refuse,
    ]
    return b"".join([*lines, allow])


def refuse_calls(libc: Any, machine: str) -> bool:
    """seccomp: the calls of `_CALLS` fail from now on. False where it cannot be had."""
    code = _filter(machine)
    held = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HxxxxxxQ", len(code) // 8, ctypes.addressof(held))
    given = ctypes.create_string_buffer(program, len(program))
    return bool(libc.prctl(22, 2, given, 0, 0) == 0)  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER


def hide_files(libc: Any, writable: str) -> bool:
    """Landlock: only `writable` is written, only it and Python's folders are read. False without it."""
    version = libc.syscall(_LANDLOCK_CREATE, None, 0, 1)
    if version < 1:
        return False
    rights = _RIGHTS[min(version, max(_RIGHTS))]
    handled = ctypes.create_string_buffer(struct.pack("Q", rights), 8)
    ruleset = libc.syscall(_LANDLOCK_CREATE, handled, 8, 0)
    if ruleset < 0:
        return False
    readable = {sys.prefix, sys.base_prefix, sys.exec_prefix, *sys.path, "/usr", "/lib", "/lib64"}
    files = ("/etc/ld.so.cache", "/etc/localtime", "/dev/null", "/dev/urandom", "/dev/zero")
    wanted = [(path, _READ_DIR) for path in sorted(readable) if path not in ("", "/")]
    for path, access in [*wanted, *((path, _READ_FILE) for path in files), (writable, rights)]:
        with suppress(OSError):
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
            allowed = access if os.path.isdir(path) else access & _READ_FILE
            rule = ctypes.create_string_buffer(struct.pack("=Qi", allowed, place), 12)
            libc.syscall(_LANDLOCK_ADD, ruleset, 1, rule, 0)
            os.close(place)
    held = libc.syscall(_LANDLOCK_RESTRICT, ruleset, 0) == 0
    os.close(ruleset)
    return bool(held)


def confine(seconds: float, memory: int, file_bytes: int, writable: str) -> dict[str, str]:
    """Everything that this machine has; says what holds: `network`, `processes`, `files`."""
    root = os.getuid() == 0  # asked now: within a user namespace nobody is
    limit(seconds, memory, file_bytes)
    found = {"network": "open", "processes": "unbounded", "files": "open"}
    machine = platform.machine()
    if sys.platform == "linux":
        libc = _libc()
        libc.prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG: it ends with its parent
        if libc.unshare(_NEW_USER | _NEW_NET) == 0:
            found["network"] = "namespace"
        libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
        if machine in _CALLS:
            nothing = struct.pack("II", 0x20080522, 0), bytes(24)
            libc.syscall(_CALLS[machine][1]["capset"], *nothing)
        if hide_files(libc, writable):
            found["files"] = "landlock"
        if machine in _CALLS and refuse_calls(libc, machine):
            found["processes"] = "seccomp"
            if found["network"] == "open":
                found["network"] = "seccomp"
    if found["processes"] == "unbounded" and not root:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
            found["processes"] = "rlimit"
    return found


def main() -> None:
    """argv: JSON of seconds, memory, file_bytes, result (a file number). stdin: a word that says passed.

    Tells two lines of JSON through `result`: what confines, and {"passed": word} or {"reason": ...}.
    """
    settings = json.loads(sys.argv[1])
    word = sys.stdin.readline().strip()
    with open("program.py", encoding="utf-8") as file:
        program = file.read()
    result = settings["result"]
    sys.argv[1:] = []
    found = confine(settings["seconds"], settings["memory"], settings["file_bytes"], os.getcwd())
    os.write(result, json.dumps(found).encode() + b"\n")
    module = types.ModuleType("program")
    sys.modules["program"] = module
    told: dict[str, str]
    try:
        exec(compile(program, "program.py", "exec"), module.__dict__)
        sys.stdout.flush()
        told = {"passed": word}
    except BaseException as error:  # SystemExit and KeyboardInterrupt are failures too
        told = {"reason": f"{type(error).__name__}: {str(error)[:200]}"}
    os.write(result, json.dumps(told).encode() + b"\n")
    os._exit(0)


if __name__ == "__main__":
    main()
