"""The error of a bad argument."""


class ArgumentError(ValueError, AssertionError):
    """An argument that does not fit; the message says what it must be and what it is.

    An AssertionError too, because code written for captum catches that.
    """
