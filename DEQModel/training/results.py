"""What a training run came to: for people as a short table, for programs as JSON."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from data.measure import figures
from evaluation.report import EvaluationReport
from system.lines import wrapped
from training.telemetry import TrainingTotals

LABEL_WIDTH = 23  # of the table's first column


@dataclass(frozen=True)
class RunResults:
    """Figures of a finished run.

    Attributes:
        unigram: split -> mean nll of the unigram model, nats per token.
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
        unigram = {split: figures(loss, self.test.unit) for split, loss in self.unigram.items()}
        names = figures(0.0, self.test.unit)
        return {
            **{f"unigram_{name}": {split: unigram[split][name] for split in unigram} for name in names},
            "shallow_stage": self.after_shallow and self.after_shallow.as_dict(),
            "valid": self.valid.as_dict(),
            "test": self.test.as_dict(),
            "training": dataclasses.asdict(self.training) | rate,
            "peak_memory_bytes": dict(self.peak_memory),
            "weights": self.weights,
        }

    def __str__(self) -> str:
        measure = self.test.measure

        def row(*losses: float) -> str:
            return " ".join(f"{measure.in_table(loss):>10}" for loss in losses)

        is_as_built = self.test.solve is None and self.test.shallow is None
        after_shallow = row(self.after_shallow.loss) if self.after_shallow else f"{'-':>10}"
        rows = [
            (measure.name, f"{'valid':>10} {'test':>10}"),
            ("  unigram model", row(self.unigram["valid"], self.unigram["test"])),
            *([] if is_as_built else [("  after shallow stage", after_shallow)]),
            ("  final", row(self.valid.loss, self.test.loss)),
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
        return "none: the layers are its depth" if self.test.solve is None else self.test.solve.brief()
