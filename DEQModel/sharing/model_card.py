"""The model card of an exported model: what it is, what it scores, what it was made with, how to use it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data.measure import bits
from data.vocabulary import VocabularyRule
from evaluation.report import EvaluationReport

USE = """\
```bash
python DEQModel/generate.py FOLDER --prompt "{prompt}"
python DEQModel/score.py FOLDER TEXT.txt
python DEQModel/{program} --eval --restart_dir FOLDER --data FOLDER-WITH-THE-CORPUS
```

The last needs a corpus with the same words. In your own code, in a checkout of the program:

```python
from evaluation.trained_model import TrainedModel

trained = TrainedModel.load("mine.py", run="FOLDER")  # trained.model, trained.vocab, trained.settings
```
"""


@dataclass(frozen=True)
class ModelCard:
    """What a model card tells.

    Attributes:
        name: of the model.
        kind: of the model; program: the script that trains such.
        is_equilibrium: whether it is one, or explicit layers.
        n_parameters: numbers in its weights, tied ones once.
        n_words: V.
        rule: how its texts were read.
        sentence: some of its words, for an example of a prompt.
        model: its settings, as flags.
        has_unknown: whether there is a word for those outside the vocabulary.
        reports: what it scores on valid and test; none of an unfinished run.
        environment: what it was made with.
        files: name -> what it is.
    """

    name: str
    kind: str
    program: str
    is_equilibrium: bool
    n_parameters: int
    n_words: int
    rule: VocabularyRule
    sentence: str
    model: str
    has_unknown: bool
    reports: Sequence[EvaluationReport]
    environment: Mapping[str, Any]
    files: Mapping[str, str]

    def __str__(self) -> str:
        lower = ", in lower case" if self.rule.lower_case else ""
        unit = self.rule.unit
        equilibrium = ": a deep equilibrium model (arXiv 1909.01377)" if self.is_equilibrium else ""
        unknown = "read as `<unk>`" if self.has_unknown else "refused"
        spelled = "It is read as characters, `_` for a blank between words. " if unit == "character" else ""
        parts = [
            f"# {self.name}",
            f"A {self.kind} language model{equilibrium} with {self.n_parameters:,} parameters over {self.n_words:,} "
            f"{unit}s.",
            "## Figures\n\n" + self._figures(),
            "## Use\n\n" + USE.format(prompt=self.sentence, program=self.program),
            f"A text is words with white space between them{lower}; `<eos>` ends every line. "
            f"{spelled}{unit.capitalize()}s that are not in `vocabulary.txt` are {unknown}.",
            f"## Settings\n\n```\n{self.model}\n```\n\nAll of them, those of training too, are in `settings.json`.",
            "## Made with\n\n" + "\n".join(f"- {name}: {value}" for name, value in self.environment.items()),
            "## Files\n\n" + "\n".join(f"- `{name}`: {what}" for name, what in self.files.items()),
        ]
        return "\n\n".join(parts) + "\n"

    def _figures(self) -> str:
        if not self.reports:
            return "There are none of these weights."
        in_bits = "bits a token" if self.rule.unit == "word" else "bits per character"
        rows = [f"| split | perplexity | nats a token | {in_bits} | tokens |", "|---|---|---|---|---|"]
        for report in self.reports:
            figures = f"{report.perplexity:.3f} | {report.loss:.5f} | {bits(report.loss):.5f}"
            rows.append(f"| {report.split} | {figures} | {report.n_tokens:,} |")
        return "\n".join([*rows, "", "```", *map(str, self.reports), "```"])
