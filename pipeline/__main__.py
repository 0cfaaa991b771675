"""`python -m malmoi.pipeline` is the command `malmoi`."""

from .cli import main

main()
