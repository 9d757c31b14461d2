"""Text that came from elsewhere, made fit for the log."""


def legible(text: str) -> str:
    """The text with lone surrogates replaced: they stand for bytes that are no UTF-8, and no record can hold them."""
    return text.encode("utf-8", errors="replace").decode("utf-8")
