"""A trained model with all that its use depends on."""

from dataclasses import dataclass

import torch

from config.settings import Settings
from data.vocabulary import Vocab, VocabularyRule
from models.protocol import LanguageModel


@dataclass(frozen=True)
class TrainedModel:
    """A language model in evaluation mode, on its device, and how to use it.

    Attributes:
        model: with its trained weights.
        vocab: its words.
        rule: by which texts are read for it.
        settings: of its run or its call; they say how deep it goes.
        device: where it is.
    """

    model: LanguageModel
    vocab: Vocab
    rule: VocabularyRule
    settings: Settings
    device: torch.device
