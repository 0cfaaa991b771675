"""What malmoi raises when a run cannot go on: one line that names the thing, the place and the mend.

Each takes one message, so that it survives being pickled from a worker to the driver. A malformed record
is not an error: it goes to quarantine.
"""

from __future__ import annotations


class MalmoiError(Exception):
    """Everything that malmoi raises on purpose; the command line prints it without a traceback."""


class RecipeError(MalmoiError):
    """The recipe is wrong: unknown key, bad value, a model or an operator that is not there."""


class SourceError(MalmoiError):
    """A source cannot be used: nothing matches, unreadable, unknown format, a column is missing."""


class StorageError(MalmoiError):
    """Writing failed: the disk is full, the folder is read-only, the bucket refuses."""


class ResourceError(MalmoiError):
    """The machine or cluster has too few CPUs or too little memory for the plan."""


class BusyError(MalmoiError):
    """Another run is writing to the same folder."""


class ChangedError(MalmoiError):
    """The recipe or an input file is not what it was when the run was planned."""


class AlarmError(MalmoiError):
    """Deduplication took more of a source or a language than the recipe allows."""


class TornError(MalmoiError):
    """A compressed stream ends too early or is damaged; what came before it was handed out."""
