"""The one kind of error that a user can cause and mend."""


class UserError(Exception):
    """A mistake in flags, files or data: one line that names what was wrong, its value and what to do.

    The command-line programs print the message alone, without a traceback, and exit with status 2.
    """
