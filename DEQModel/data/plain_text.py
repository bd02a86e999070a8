"""Tokens as people read them: a plain text, with single blanks between words and a line end for `<eos>`."""

from data.vocabulary import BLANK, EOS, Unit


class PlainText:
    """Writes tokens one after the other.

    Args:
        unit: what a token is; characters stand close together, and `_` is the blank between words.
    """

    def __init__(self, unit: Unit):
        self.unit, self.within_line = unit, False

    def of(self, token: str) -> str:
        """What the next token adds to the text."""
        behind, self.within_line = self.within_line, token != EOS
        if token == EOS:
            return "\n"
        if self.unit == "character":
            return " " if token == BLANK else token
        return f" {token}" if behind else token
