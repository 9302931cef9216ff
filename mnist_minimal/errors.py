"""The error a user can mend."""


class UserError(Exception):
    """Something the user gave or has is not as it must be.

    The message is one plain line that says what was expected, what was found and what to do next; the commands print it
    without a traceback and end with status 2.
    """
