"""Errors that a user can act on.

A message names the thing (task, column, file, option), what was found, what is expected and, where it is not
obvious, what to do. The command line prints it without a traceback and leaves with exit code 2.
"""


class UserError(ValueError):
    """Wrong input: data, config, query or study folder. The message says what to change."""


class StorageError(UserError):
    """A remote storage that still failed when the patience with it was over; later it may answer again."""
