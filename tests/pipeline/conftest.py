"""One Ray for all tests that need it, in a private home, with two CPUs."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from malmoi.pipeline.engine import start_ray
from malmoi.pipeline.recipe import Run


@pytest.fixture(scope="session")
def ray_here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The number of CPUs of a Ray that runs in this process."""
    import ray

    home = os.environ.get("HOME")
    os.environ["HOME"] = str(tmp_path_factory.mktemp("home"))
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    os.environ.pop("RAY_ADDRESS", None)
    yield start_ray(Run(num_cpus=2))
    ray.shutdown()
    if home is not None:
        os.environ["HOME"] = home
