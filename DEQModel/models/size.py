"""How large a model is."""

from __future__ import annotations

from dataclasses import dataclass

from models.protocol import LanguageModel


@dataclass(frozen=True)
class Size:
    """Numbers that are trained; those that parts of a model share count once.

    Attributes:
        whole: all of them.
        body: without those of embedding and softmax, whose number is the vocabulary's more than the model's.
    """

    whole: int
    body: int

    @classmethod
    def of(cls, model: LanguageModel) -> Size:
        """Count them."""
        of_words = {id(parameter) for parameter in (*model.embedding_parameters(), *model.head.parameters())}
        body = [parameter for parameter in model.parameters() if id(parameter) not in of_words]
        return cls(sum(p.numel() for p in model.parameters()), sum(p.numel() for p in body))
