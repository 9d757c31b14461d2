"""Text that came from elsewhere, made fit for a line that a person reads: it can forge neither a line nor a colour."""


def one_line(text: str) -> str:
    r"""The text with everything that does not print written as an escape, as ``\n``, ``\x1b`` or ``\u202e``."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
