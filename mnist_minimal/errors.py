"""The error a user can mend."""


class UserError(Exception):
    """Something the user gave or has is not as it must be.

    The message is one plain line that says what was expected, what was found and what to do next; the commands print it
    without a traceback and end with status 2.
    """


def one_line(error: BaseException) -> str:
    """An exception's message, or its class where it has none, in one line of at most 200 printable characters.

    What a library says of a damaged file may quote any bytes of it.
    """
    text = " ".join(str(error).split())[:200] or type(error).__name__
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)
