"""What an evaluation found out: a loss, and everything that the number depends on."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from data.measure import MEASURES, PERPLEXITY, Measure, bits, figures
from data.vocabulary import Unit
from evaluation.solve_statistics import SolveStatistics, SolveSummary
from system.figures import four_digits, three_digits
from system.lines import WIDTH, wrapped

INDENT = " " * 4  # of a report's lines after the first


@dataclass(frozen=True)
class SpectralRadius:
    """Spectral radius of ∂f/∂z at the equilibrium, over the sequences of some segments."""

    mean: float
    max: float
    n_sequences: int
    n_segments: int

    @classmethod
    def over(cls, segments: Sequence[Tensor]) -> "SpectralRadius":
        """From the estimates (B,) of each segment."""
        every = torch.cat(list(segments))
        return cls(float(every.mean()), float(every.max()), len(every), len(segments))

    def __str__(self) -> str:
        return (
            f"spectral radius of the Jacobian: mean {self.mean:.3f}, max {self.max:.3f} over {self.n_sequences} "
            f"sequences of {self.n_segments} segments"
        )


@dataclass(frozen=True)
class EvaluationReport:
    """A split's loss and everything that the number depends on.

    Attributes:
        split: valid or test.
        loss: mean nll, nats per token.
        n_tokens: tokens scored: all but the first of each row.
        n_segments: segments read, each of `segment` tokens in `rows` rows.
        memory: length of the memory.
        shallow: applications of the cell; None for an equilibrium, and for layers that are as deep as they are built.
        solve: the solver and its solves; None where nothing was solved.
        radius: of ∂f/∂z, where it was asked for.
        seconds: time taken, the spectral radius apart.
        unit: what a token is.
    """

    split: str
    loss: float
    n_tokens: int
    n_segments: int
    rows: int
    segment: int
    memory: int
    shallow: int | None
    solve: SolveSummary | None
    radius: SpectralRadius | None
    seconds: float
    unit: Unit = "word"

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "EvaluationReport":
        """From `state` or `as_dict`; numbers that are None, as files hold those that are not finite, are infinite."""
        values = {name: value for name, value in values.items() if name not in DERIVED}
        own, of_solve = ({name: values[name] for name in names if name in values} for names in (OWN, OF_SOLVE))
        own["loss"] = math.inf if own["loss"] is None else own["loss"]
        solve = None
        if of_solve["solver"] is not None:
            of_solve["residual"] = math.inf if of_solve["residual"] is None else of_solve["residual"]
            options = {name: value for name, value in values.items() if name not in (*OWN, *OF_SOLVE)}
            solve = SolveSummary(**of_solve, options=options)
        radius = values["radius"]
        return cls(**{**own, "solve": solve, "radius": radius and SpectralRadius(**radius)})

    @property
    def perplexity(self) -> float:
        """exp(loss)."""
        return PERPLEXITY.of(self.loss)

    @property
    def measure(self) -> Measure:
        """The figure by which people compare models of such tokens."""
        return MEASURES[self.unit]

    @property
    def shown(self) -> str:
        """That figure."""
        return self.measure.shown(self.loss)

    @property
    def tokens_per_second(self) -> float:
        """Tokens scored per second."""
        return self.n_tokens / max(self.seconds, 1e-9)

    @property
    def without_solves(self) -> str:
        """How deep the model went where nothing was solved."""
        if self.shallow is None:
            return "explicit layers, nothing is solved"
        return f"{self.shallow} applications of the cell"

    def scalars(self) -> dict[str, float]:
        """The numbers that change from one validation to the next, by the names of their curves."""
        values = {"loss": self.loss, **figures(self.loss, self.unit), "tokens_per_second": self.tokens_per_second}
        if self.solve is not None:
            values |= self.solve.scalars()
        if self.radius is not None:
            values |= {"spectral_radius/mean": self.radius.mean, "spectral_radius/max": self.radius.max}
        return {f"{self.split}/{name}": value for name, value in values.items()}

    def state(self) -> dict[str, Any]:
        """For a checkpoint: flat, the solver's options among the rest; entries of a solve are None without one."""
        own = dataclasses.asdict(self)
        solve = own.pop("solve") or {**dict.fromkeys(OF_SOLVE), "stopped": {}, "options": {}}
        return {**own, **solve.pop("options"), **solve}

    def as_dict(self) -> dict[str, Any]:
        """For results: the same, and the figures that follow from it."""
        return {**self.state(), **figures(self.loss, self.unit), "tokens_per_second": self.tokens_per_second}

    def __str__(self) -> str:
        in_bits = "" if self.unit == "character" else f" ({bits(self.loss):.5f} bits)"
        also = f"perplexity {self.perplexity:.3f} | " if self.unit == "character" else ""
        shallow = "" if self.shallow is None else "shallow: "
        how = str(self.solve) if self.solve is not None else f"{shallow}{self.without_solves}"
        lines = [
            f"{self.split}: {self.measure.name} {self.shown} | {also}loss {self.loss:.5f} nats{in_bits} per token",
            f"{self.n_tokens:,} tokens scored in {self.rows} rows, {self.n_segments:,} segments of {self.segment}, "
            f"memory {self.memory}",
            *how.split("\n"),
            *([str(self.radius)] if self.radius else []),
            f"{self.seconds:.1f} s, {self.tokens_per_second:,.0f} tokens/s",
        ]
        return f"\n{INDENT}".join(wrapped(line, len(INDENT), width=WIDTH - len(INDENT)) for line in lines)


OWN = [field.name for field in dataclasses.fields(EvaluationReport) if field.name != "solve"]
OF_SOLVE = [field.name for field in dataclasses.fields(SolveSummary) if field.name != "options"]
DERIVED = (*(measure.key for measure in MEASURES.values()), "tokens_per_second")


def bar_figures(loss: float, measure: Measure, speed: float, solves: SolveStatistics) -> list[str]:
    """Loss, perplexity or what is shown in its place, tokens per second and the solves' means, for a progress bar."""
    compared = f"{measure.short} {four_digits(measure.of(loss))}"
    shown = [f"loss {three_digits(loss)}", compared, f"{three_digits(speed)}/s"]
    return [*shown, f"solver {solves.brief()}"] if solves.n_solves else shown
