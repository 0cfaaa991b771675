"""Prints the oldest versions that pyproject.toml allows of what the data path needs, as constraints for pip.

Without fsspec: an old one wants old libraries of AWS, which pip searches for during many minutes.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

NEEDED = re.compile(r"([A-Za-z0-9-]+)(?:\[[a-z]+\])?>=([0-9.]+)")


def oldest() -> list[str]:
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text("utf-8"))["project"]
    found = [match.groups() for line in project["dependencies"] if (match := NEEDED.match(line))]
    return [f"{name}=={version}" for name, version in found if name != "fsspec"]


if __name__ == "__main__":
    print(*oldest(), sep="\n")
