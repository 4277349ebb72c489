"""What can go wrong between the name of a model and the model."""

from __future__ import annotations


class ModelSpecError(ValueError):
    """No model could be made from a spec; the message is one line that says what to do."""


class UnknownModelSpec(ModelSpecError):
    """The spec names no kind of model that is supported."""


class ModelNotFound(ModelSpecError):
    """The spec is well formed, but there is no such model where it was looked for."""


class MissingDependency(ModelSpecError, ImportError):
    """An optional package is needed; the message says which and how to install it."""
