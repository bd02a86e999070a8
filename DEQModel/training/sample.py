"""What the best model of a run writes by itself."""

import dataclasses
import textwrap

from config.flags import CommandLine
from config.settings import Settings
from data.corpus import DATASETS
from data.plain_text import PlainText
from data.vocabulary import EOS, Vocab
from evaluation.trained_model import TrainedModel
from generation.generator import Generator
from generation.sampling import Sampling
from models.protocol import LanguageModel
from runs.saved_model import depth_settings
from system.errors import UserError
from system.lines import WIDTH
from system.out_of_memory import enough_memory

SAMPLING = Sampling(temperature=1.0, top_p=0.9)  # rare words of a small model are mostly wrong


def sample(command: CommandLine, model: LanguageModel, vocab: Vocab, settings: Settings, shallow: int | None) -> str:
    """A text of `settings.sample` words, from the beginning of a line on, under a heading; or why there is none.

    Args:
        command: of the program that has trained it.
        model: trained; it is put into evaluation mode.
        vocab: its words.
        settings: of its run.
        shallow: applications of the cell that it was trained for; None for the equilibrium.
    """
    settings = dataclasses.replace(settings, **depth_settings(shallow, vars(settings)))
    trained = TrainedModel(model.eval(), vocab, DATASETS[settings.dataset], settings, command)
    generator, start = Generator(trained, SAMPLING, settings.seed), [vocab.id_of(EOS)]
    try:
        with enough_memory("a sample", "leave --sample out"):
            words = [vocab.words[draw.word] for draw in generator.draws(start, length=settings.sample)]
    except UserError as error:
        return f"no sample of the model: {error}"
    text = "".join(map(PlainText(trained.rule.unit).of, words))
    lines = [part for line in text.split("\n") for part in textwrap.wrap(line.strip(), WIDTH)]
    return "\n".join(["a sample of the model:", *lines])
