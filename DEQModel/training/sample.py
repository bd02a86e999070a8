"""What the best model of a run writes by itself."""

import dataclasses
import textwrap

from config.settings import Settings
from data.corpus import DATASETS
from data.vocabulary import EOS, Vocab
from evaluation.trained_model import TrainedModel
from generation.generator import Generator
from generation.sampling import Sampling
from models.protocol import LanguageModel
from runs.saved_model import depth_settings

SAMPLING = Sampling(temperature=1.0, top_p=0.9)  # rare words of a small model are mostly wrong
WIDTH = 110  # columns of a line


def sample(model: LanguageModel, vocab: Vocab, settings: Settings, shallow: int | None) -> str:
    """A text of `settings.sample` words, from the beginning of a line on.

    Args:
        model: trained; it is put into evaluation mode.
        vocab: its words.
        settings: of its run.
        shallow: applications of the cell that it was trained for; None for the equilibrium.
    """
    settings = dataclasses.replace(settings, **depth_settings(shallow, settings.pretrain_steps))
    trained = TrainedModel(model.eval(), vocab, DATASETS[settings.dataset], settings)
    draws = Generator(trained, SAMPLING, settings.seed).draws([vocab.id_of(EOS)], length=settings.sample)
    lines = " ".join(vocab.words[draw.word] for draw in draws).split(EOS)
    return "\n".join(line for text in lines for line in textwrap.wrap(text.strip(), WIDTH))
