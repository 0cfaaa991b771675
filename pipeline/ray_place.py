"""What is asked before a command goes to Ray: does a cluster answer, and does what is written outlast a job."""

from __future__ import annotations

import os
import socket

from .errors import RecipeError, ResourceError
from .storage import is_local, strip_local


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
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise ResourceError(
            f"RAY_ADDRESS={address}: no Ray cluster answers ({error}); start it, or unset RAY_ADDRESS to run here"
        ) from error
    return address


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
