"""What is asked before a command goes to Ray: does a cluster answer, and does what is written outlast a job; and what a
Ray of this machine alone changes of the process that starts it."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from .errors import RecipeError, ResourceError
from .storage import is_local, strip_local

_HTTP_2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"


def ray_address() -> str | None:
    """RAY_ADDRESS where it is set; ResourceError at once where nobody listens: Ray itself would try for minutes."""
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        return None
    if address.startswith(("http://", "https://")):
        raise ResourceError(
            f"RAY_ADDRESS={address}: a job server's, which `malmoi submit` goes to; want HEAD:6379 of a cluster, or "
            "unset RAY_ADDRESS to run here"
        )
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return address  # auto, local and the like
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=10) as there:
            web = _is_web(there)
    except (OSError, OverflowError) as error:
        raise ResourceError(
            f"RAY_ADDRESS={address}: no Ray cluster answers ({error}); start it, or unset RAY_ADDRESS to run here"
        ) from error
    if web:
        raise ResourceError(
            f"RAY_ADDRESS={address}: a web server answers, perhaps the dashboard; want the port of the cluster itself, "
            f"by default {host}:6379"
        )
    return address


@contextmanager
def starting() -> Iterator[None]:
    """Start Ray on this machine within. ResourceError where its folder for temporary files has too long a path."""
    try:
        with _same_group():
            yield
    except OSError as error:
        if "AF_UNIX" not in str(error):
            raise
        raise ResourceError(
            f"Ray cannot make its sockets ({error}); name a folder with a short path: RAY_TMPDIR=/tmp"
        ) from error


@contextmanager
def _same_group() -> Iterator[None]:
    """Ray's processes get a group of their own, and this process stays in the one that it is in.

    Where the kernel does not end Ray's processes with this one, as on macOS, Ray starts one more that ends its whole
    group then, and puts this process into it: Ctrl-C would end the `make` or script that the terminal waits for, and
    not this process.
    """
    from ray._private import services, utils

    if utils.detect_fate_sharing_support() or not hasattr(services, "ConsolePopen"):
        yield
        return
    real, move, leader = services.ConsolePopen, os.setpgrp, 0

    def started(*args: Any, **given: Any) -> Any:
        nonlocal leader
        process = real(*args, **given, process_group=leader)
        leader = leader or process.pid
        return process

    services.ConsolePopen, os.setpgrp = started, lambda: None
    try:
        yield
    finally:
        services.ConsolePopen, os.setpgrp = real, move


def _is_web(there: socket.socket) -> bool:
    """Whether what listens speaks HTTP/1, which it says of this beginning of HTTP/2; Ray goes on in that."""
    there.settimeout(2.0)
    with suppress(OSError):
        there.sendall(_HTTP_2)
        return there.recv(5) == b"HTTP/"
    return False


def in_job_folder(path: str) -> bool:
    """Whether an absolute path lies where Ray unpacks what a job ships: a copy on each node, removed with the job."""
    return "/runtime_resources/working_dir_files/" in path + "/"


def check_lasting(output: str) -> None:
    """RecipeError where `output` would be removed with the job."""
    if is_local(output) and in_job_folder(strip_local(output)):
        raise RecipeError(
            f"output={output} lies in the job's working folder, which Ray removes with the job: give an absolute path "
            "or a store (output=s3://bucket/run)"
        )
