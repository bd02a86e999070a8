"""What a training run came to: for people as a short table, for programs as JSON."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evaluation.report import EvaluationReport
from system.lines import wrapped
from training.telemetry import TrainingTotals

LABEL_WIDTH = 23  # of the table's first column


@dataclass(frozen=True)
class RunResults:
    """Figures of a finished run.

    Attributes:
        unigram: split -> perplexity of the unigram model.
        after_shallow: validation at the end of the shallow stage; None where no shallow stage ended in the run.
        valid, test: the best model's reports.
        training: what the updates took.
        peak_memory: bytes, by kind ("host", and "device" on a GPU).
        weights: signature of the file of the model that was tested; None where there is none.
    """

    unigram: Mapping[str, float]
    after_shallow: EvaluationReport | None
    valid: EvaluationReport
    test: EvaluationReport
    training: TrainingTotals
    peak_memory: Mapping[str, int]
    weights: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """All of it, for a file."""
        rate = {"tokens_per_second": self.training.tokens_per_second}
        return {
            "unigram_perplexity": dict(self.unigram),
            "shallow_stage": self.after_shallow and self.after_shallow.as_dict(),
            "valid": self.valid.as_dict(),
            "test": self.test.as_dict(),
            "training": dataclasses.asdict(self.training) | rate,
            "peak_memory_bytes": dict(self.peak_memory),
            "weights": self.weights,
        }

    def __str__(self) -> str:
        rows = [
            ("perplexity", f"{'valid':>10} {'test':>10}"),
            ("  unigram model", f"{self.unigram['valid']:10.2f} {self.unigram['test']:10.2f}"),
            ("  after shallow stage", f"{self.after_shallow.perplexity:10.2f}" if self.after_shallow else f"{'-':>10}"),
            ("  final", f"{self.valid.perplexity:10.2f} {self.test.perplexity:10.2f}"),
            ("solver on test", self._solves()),
            (
                "training",
                f"{self.training.updates:,} updates in {self.training.seconds:,.0f} s, "
                f"{self.training.tokens_per_second:,.0f} tokens/s{self._failures()}",
            ),
            ("peak memory", ", ".join(f"{size / 1e9:.2f} GB on the {kind}" for kind, size in self.peak_memory.items())),
        ]
        return "\n".join(wrapped(f"{name:{LABEL_WIDTH}}{text}".rstrip(), LABEL_WIDTH) for name, text in rows)

    def _failures(self) -> str:
        counts = {
            "updates skipped": self.training.skipped_updates,
            "backward solves failed": self.training.failed_backward_solves,
        }
        return "".join(f", {count:,} {what}" for what, count in counts.items() if count)

    def _solves(self) -> str:
        if self.test.shallow is not None:
            return f"none: {self.test.shallow} applications of the cell"
        return self.test.solve.brief()
