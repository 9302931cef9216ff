"""The error that a user can fix, and how an error is reported."""

import re

# A message may quote what some library or file said, which may be as long as a book.
MAX_CHARACTERS = 1000


class UserError(ValueError):
    """Something the user gave or has is not as it must be.

    The message is one plain line that says what was expected, what was found and what to do next; the commands print it
    without a traceback and end with status 2.
    """


def plain(text: str, max_characters: int = MAX_CHARACTERS) -> str:
    """A text as one line that is safe to print, to encode and to keep in a CSV.

    White space of any kind becomes a single space; control characters, which a terminal would obey, and halves of
    surrogate pairs, which UTF-8 does not have, are written as escapes. What is too long ends with an ellipsis.
    """
    line = " ".join(text.split())
    line = re.sub(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]", lambda found: ascii(found[0])[1:-1], line)
    return line if len(line) <= max_characters else f"{line[: max_characters - 1]}…"


def one_line(error: BaseException) -> str:
    """An exception's message, or its class where it has none, as `plain` writes it, in at most 200 characters.

    What a library says of a damaged file may quote any bytes of it.
    """
    return plain(str(error), 200) or type(error).__name__
