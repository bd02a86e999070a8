"""The lines of a run's log: of its updates, and of its validations."""

import time

from data.measure import PERPLEXITY, Measure
from evaluation.probe import Probe
from evaluation.report import EvaluationReport
from evaluation.solve_statistics import shares_in_words
from system.figures import duration, four_digits, plain, power, three_digits
from system.lines import CLOCK_WIDTH, WIDTH, rows
from training.telemetry import Window

LABEL_WIDTH = len("backward ")


def legend(*, solves: bool = True) -> str:
    """What the lines of the updates hold, of solves where there are any, and the date, as they tell the time alone."""
    of_solves = "; f, b: steps and residual of forward and backward solves" if solves else ""
    return f"{time.strftime('%Y-%m-%d')} legend: loss in nats, tokens/s, time left{of_solves}"


def figures(window: Window, measure: Measure) -> dict[str, str]:
    """What some updates came to, by kind, in few characters and of the same width from line to line."""
    texts = {
        "loss": f"loss {three_digits(window.loss):<4}",
        "measure": f"{measure.short} {four_digits(measure.of(window.loss)):<5}",
        "lr": f"lr {power(window.lr, 0 if window.lr < 1e-9 else 1):<6}",
        "speed": f"{three_digits(window.speed) + '/s':<7}",
    }
    for name, solves in (("f", window.forward), ("b", window.backward)):
        if solves.n_solves:
            texts[name] = f"{name} {solves.brief()}"
    if window.skipped:
        texts["skipped"] = f"{window.skipped} skipped"
    return {**texts, "grad": f"grad {plain(window.norm)}"}


def for_bar(window: Window, measure: Measure = PERPLEXITY) -> list[str]:
    """The same beside a progress bar, the first where there is little room."""
    texts = figures(window, measure)
    order = ("loss", "measure", "speed", "f", "skipped", "b", "lr", "grad")
    return [texts[name] for name in order if name in texts]


def of_updates(window: Window, step: int, last_step: int, measure: Measure = PERPLEXITY) -> str:
    """The line of the updates since the last one, to be stamped. What it has no room for is left off its end."""
    texts = figures(window, measure)
    left = duration(window.seconds_per_update * (last_step - step))
    parts = [f"step {step:<{len(str(last_step))}}", *(texts.pop(name) for name in ("loss", "measure", "lr", "speed"))]
    parts += [f"{left:<4} left", *texts.values()]
    while len(" ".join(parts)) > WIDTH - CLOCK_WIDTH:
        parts.pop()
    return " ".join(parts).rstrip()


def warning(window: Window) -> str | None:
    """A line on backward solves that failed; None where none did."""
    solves = window.backward
    if not solves.n_failed:
        return None
    return (
        f"warning: {solves.n_failed} of {solves.n_solves} backward solves failed ({shares_in_words(solves.shares())}; "
        f"mean residual {power(solves.mean_residual)}), so that their updates followed no true gradient: raise "
        "--b_thres, lower --lr or pass --jac_loss_weight"
    )


def of_validation(
    report: EvaluationReport,
    best: EvaluationReport | None,
    window: Window,
    *,
    step: int,
    epoch: int,
    probe: Probe | None,
) -> str:
    """The lines of a validation, to be stamped.

    Args:
        report: of the validation.
        best: of the best one of its stage so far, this one included; None while none had a finite loss.
        window: the updates since the one before.
        step, epoch: where the run stands.
        probe: of the model, where it is an equilibrium.
    """
    place = "best so far" if best is report else f"(best {best.shown})" if best else "(none finite so far)"
    lines = [
        f"step {step} valid loss {report.loss:.5f} {report.measure.short} {report.shown} {place}, "
        f"{report.seconds:.1f} s, {three_digits(report.tokens_per_second)} tokens/s"
    ]
    solve = report.solve
    table = {"valid": report.without_solves if solve is None else solve.in_words()}
    for name, solves in (("forward", window.forward), ("backward", window.backward)):
        if solves.n_solves:
            table[name] = str(solves)
    if window.updates + window.skipped:
        table["updates"] = _of_all_updates(window, epoch)
    if report.radius is not None:
        table["radius"] = str(report.radius)
    if probe is not None:
        table["probe"] = str(probe)
    return "\n".join(lines + rows(table, LABEL_WIDTH))


def _of_all_updates(window: Window, epoch: int) -> str:
    parts = [f"{window.updates}", f"epoch {epoch}", f"{1000 * window.seconds_per_update:.0f} ms/step"]
    if window.skipped:
        parts.insert(1, f"{window.skipped} skipped")
    parts.append(f"gradient {plain(window.norm)}")
    if window.penalised:
        parts.append(f"jacobian {plain(window.jacobian_loss / window.penalised)} in {window.penalised} updates")
    if window.regularised:
        parts.append(f"activations {plain(window.activation_loss / window.regularised)}")
    return ", ".join(parts)
