"""The text that samples continue."""

import sys

from data.text_tokens import STANDARD_INPUT, TextTokens, read_source
from data.vocabulary import EOS, Vocab, VocabularyRule
from generation.settings import GenerateSettings
from system.errors import UserError
from system.progress import is_terminal


def prompt_tokens(settings: GenerateSettings, vocab: Vocab, rule: VocabularyRule) -> tuple[list[int], str]:
    """The ids of a prompt behind the end of a line, as texts begin, and what is to be said of unknown words.

    A line end at its very end, which files have, is none: samples go on in the last line.

    Raises:
        UserError: two prompts, or one that cannot be read.
    """
    tokens = TextTokens.of(*_source(settings), vocab, rule)
    return [vocab.id_of(EOS), *tokens.ids[:-1].tolist()], tokens.unknown_in_words()


def _source(settings: GenerateSettings) -> tuple[bytes, str]:
    if settings.prompt and settings.prompt_file:
        raise UserError(f"--prompt and --prompt_file {settings.prompt_file} are both given: pass one")
    if settings.prompt:
        return settings.prompt.encode(), "--prompt"
    if settings.prompt_file:
        return read_source(settings.prompt_file)
    if sys.stdin is None or is_terminal(sys.stdin):
        return b"", "no prompt"
    return read_source(STANDARD_INPUT)
