"""`python -m malmoi.pipeline` is the command `malmoi`."""

from .cli import script

script()
