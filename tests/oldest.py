"""Prints the oldest versions that pyproject.toml allows of what the data path needs, as constraints for pip."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

NEEDED = re.compile(r"([A-Za-z0-9-]+)(?:\[[a-z]+\])?>=([0-9.]+)")


def oldest() -> list[str]:
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    return ["==".join(NEEDED.match(line).groups()) for line in project["dependencies"] + extras["s3"]]


if __name__ == "__main__":
    print(*oldest(), sep="\n")
