"""What can go wrong, as a small tree: the caller decides by class, the user reads one sentence."""

from __future__ import annotations


class GolfError(Exception):
    """Base of every failure that is explained to the user in one sentence, without a traceback."""


class UserError(GolfError):
    """The input is at fault: the sentence names the file, the field and the remedy. Exit code 2."""


class ConfigError(UserError):
    """A configuration or job file holds an unknown field or a value that cannot work."""


class DataError(UserError):
    """A shard, tokenizer or manifest is missing, damaged, or does not fit the rest."""


class ArtifactError(UserError):
    """A file is not an artifact or checkpoint of this software, or it is damaged."""


class RunError(GolfError):
    """A run could not go on although its input was sound (numerics, time limits, lost workers). Exit code 1."""


class NumericsError(RunError):
    """Training diverged: a loss that is not a number. Another try of the same seed would end in the same way."""


class LostError(RunError):
    """A rank's process, node or connection was lost, or shows no sign of life."""
