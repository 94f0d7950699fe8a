"""Every error minseg raises on purpose: each one sentence, and exit code 2 at the command line."""

from collections.abc import Sequence


class MinsegError(Exception):
    """Base of all errors that minseg raises on purpose."""


class ModelError(MinsegError):
    """A model file is missing, damaged or breaks the rules of its format, or does not segment."""


class UnsupportedModelError(ModelError):
    """A valid model that minseg cannot run.

    ``reasons`` holds one sentence for each node or value in the way: all of them, not the first.
    """

    def __init__(self, model: str, reasons: Sequence[str]):
        self.model = model
        self.reasons = tuple(reasons)
        lines = "".join(f"\n  {reason}" for reason in self.reasons)
        super().__init__(f"{model}: minseg cannot run this model:{lines}")


class InputError(MinsegError):
    """A picture, a feed, an option or another value given by the user is wrong."""


class FetchError(MinsegError):
    """A published file can't be had, or is not what was published; the message names it."""


class ExecutionError(MinsegError):
    """A node failed while the model ran; the message names it."""
