"""The lines of a run's log: how wide they are, what they hold and where."""

import dataclasses
import math
import re

import pytest
from reports import solve_report
from test_results import SHALLOW, TEST, VALID

from evaluation.probe import Probe
from evaluation.solve_statistics import SolveStatistics
from modules.report import Termination
from system.lines import WIDTH, stamped, wrapped
from training.log_lines import for_bar, legend, of_updates, of_validation, warning
from training.telemetry import Window

CLOCK = r"^\d\d:\d\d:\d\d "
LAST = 300000  # step of the published run


def solved(steps: int, residual: float, reasons=(Termination.CONVERGED,)) -> SolveStatistics:
    solves = SolveStatistics()
    for reason in reasons:
        solves.add(solve_report(reason, n_steps=steps, residual=residual))
    return solves


def published(*, loss: float = 5.678, skipped: int = 0, norm: float = 0.3124, lr: float = 2.5e-4, **solves) -> Window:
    """200 updates of the published run, 12,345 tokens a second."""
    tokens, n = 56 * 150, 200 - skipped
    seconds = n * tokens / 12345
    return Window(
        lr, n, skipped, n * tokens, loss * n * tokens, norm * n, seconds, 0, 0.0,
        **(solves or {"forward": solved(12, 7e-4), "backward": solved(25, 8e-4)}),
    )  # fmt: skip


def test_the_line_of_the_published_run():
    assert re.sub(CLOCK, "15:48:58 ", stamped(of_updates(published(), 3000, LAST))) == (
        "15:48:58 step 3000   loss 5.68 ppl 292.4 lr 2.5e-4 12.3k/s 2.3d left f 12.0 7e-4 b 25.0 8e-4 grad 0.312"
    )


@pytest.mark.parametrize(
    ("window", "wanted", "beyond"),
    [
        (published(), "step 300000 loss 5.68 ppl 292.4 lr 2.5e-4 12.3k/s 0.0s left f 12.0 7e-4", None),
        (published(loss=12.3), "loss 12.3 ppl 220k  lr 2.5e-4 12.3k/s 0.0s left f 12.0 7e-4", None),
        (published(loss=math.nan), "loss nan  ppl nan   lr 2.5e-4", None),
        (published(loss=1e4), "ppl inf   lr 2.5e-4", None),
        (published(lr=6.9e-15), "lr 7e-15  12.3k/s 0.0s left f 12.0 7e-4", None),
        (published(forward=solved(123, math.inf)), "0.0s left f 123  unk", "grad 0.312"),
        (published(skipped=3), "f 12.0 7e-4", "b 25.0 8e-4 3 skipped"),
        (published(skipped=199, norm=1e30), "f 12.0 7e-4", "b 25.0 8e-4 199 skipped"),
        (published(forward=SolveStatistics(), backward=SolveStatistics()), "0.0s left grad 0.312", None),
    ],
)
def test_lines_are_narrow_and_what_matters_is_in_the_first_80_columns(window, wanted, beyond):
    line = stamped(of_updates(window, LAST, LAST))
    assert re.match(CLOCK + rf"step {LAST} loss ", line)
    assert len(line) <= WIDTH
    assert wanted in line[:80]
    assert beyond is None or line.endswith(beyond)


def test_columns_align():
    early = published(loss=12.3, lr=2e-8, forward=solved(4, 7e-4), backward=solved(25, 8e-4))
    lines = [of_updates(window, step, LAST) for window, step in ((early, 200), (published(), LAST - 200))]
    for word in (" loss ", " ppl ", " lr ", "/s ", " left ", " f ", " b ", " grad "):
        ends = [
            re.search(rf"\S* *{word}", line).start() if word in ("/s ", " left ") else line.index(word)
            for line in lines
        ]
        assert ends[0] == ends[1], word


def test_time_left_is_that_of_the_updates_at_the_speed_of_the_last_ones():
    window = Window(updates=90, skipped=10, seconds=50.0)
    assert " 4.2m left" in of_updates(window, 500, 1000)
    assert " 10s  left" in of_updates(window, 980, 1000)


def test_the_legend_fits():
    assert re.match(r"\d{4}-\d\d-\d\d legend: ", legend())
    assert len(legend()) <= WIDTH


def test_the_bar_shows_what_matters_first():
    assert for_bar(published(skipped=3))[:5] == ["loss 5.68", "ppl 292.4", "12.3k/s", "f 12.0 7e-4", "3 skipped"]


@pytest.mark.parametrize("step", [3, LAST])
def test_a_warning_on_backward_solves_is_wrapped(step):
    reasons = tuple(Termination)
    window = published(backward=solved(35, 1.2, reasons))
    lines = stamped(f"step {step} {warning(window)}").splitlines()
    assert max(map(len, lines)) <= WIDTH
    assert re.match(CLOCK + rf"step {step} warning: 6 of 6 backward solves failed \(17% converged, ", lines[0])
    assert all(line.startswith(" " * 9) for line in lines[1:])
    assert warning(published()) is None


def validation(report=VALID, best=VALID, **options) -> list[str]:
    given = {"step": LAST, "epoch": 12, "probe": Probe("rel", (1.0, 0.5, 1e-3))} | options
    return stamped(of_validation(report, best, given.pop("window", published()), **given)).splitlines()


def test_a_validation():
    first, *others = validation()
    assert re.sub(CLOCK, "15:48:58 ", first) == (
        "15:48:58 step 300000 valid loss 1.00000 ppl 2.718 best so far, 2.0 s, 50.0 tokens/s"
    )
    assert others == [
        "         valid    7.2 steps, 8.2 evaluations, residual 6e-4; 75% converged, 25% max steps; 30% open",
        "         forward  12.0 steps, 13.0 evaluations, residual 7e-4; 100% converged; 0% open",
        "         backward 25.0 steps, 26.0 evaluations, residual 8e-4; 100% converged; 0% open",
        "         updates  200, epoch 12, 680 ms/step, gradient 0.312",
        "         radius   spectral radius of the Jacobian: mean 0.500, max 0.750 over 40 sequences of 10 segments",
        "         probe    rel residual by evaluation 1: 1.0e0, 2: 5.0e-1, 3: 1.0e-3",
    ]


def test_a_validation_that_is_not_the_best():
    assert "ppl 7.389 (best 2.718), 2.0 s" in validation(TEST)[0]


def test_a_validation_of_a_shallow_model_and_without_updates():
    others = validation(dataclasses.replace(SHALLOW, radius=None), window=Window(), probe=None)[1:]
    assert others == ["         valid    2 applications of the cell"]


def test_a_validation_tells_of_skipped_and_penalised_updates():
    window = dataclasses.replace(published(skipped=3), penalised=150, jacobian_loss=15.0)
    (line,) = [line for line in validation(window=window) if "updates" in line]
    assert (
        line == "         updates  197, 3 skipped, epoch 12, 670 ms/step, gradient 0.312, jacobian 0.1 in 150 updates"
    )


def test_a_validation_tells_of_the_activation_penalty():
    window = dataclasses.replace(published(), regularised=4, activation_loss=1.0)
    (line,) = [line for line in validation(window=window) if "updates" in line]
    assert line.endswith("gradient 0.312, activations 0.25")


def test_lines_of_a_validation_are_narrow_whatever_happens():
    reasons = tuple(Termination)
    shares = {reason.name.lower(): 1 / len(reasons) for reason in reasons}
    report = dataclasses.replace(VALID, solve=dataclasses.replace(VALID.solve, steps=123.4, stopped=shares))
    window = published(forward=solved(123, 2e3, reasons), backward=solved(123, 2e3, reasons))
    lines = validation(report, window=window, probe=Probe("abs", tuple(10.0**-k for k in range(200))))
    assert max(map(len, lines)) <= WIDTH
    for line in str(report).splitlines():
        assert len(line) <= WIDTH


def test_words_that_are_wider_than_a_line_stay_whole():
    path = "/a" * 100
    assert wrapped(f"cannot write {path}", 4).splitlines() == ["cannot write", f"    {path}"]


def test_no_line_of_a_run_is_wide(run):
    outcome = run(
        "--pretrain_steps 2 --eval-interval 2 --spectral_radius --f_history 2 --b_solver broyden --name narrow"
    )
    assert outcome.status == 0, outcome.err
    wide = [line for line in outcome.log.splitlines() if len(line) > WIDTH]
    assert all(line.startswith(("run folder: ", "curves: ")) for line in wide), wide
    evaluated = run(f"--eval --load {outcome.folder}/model_state_dict.pkl --spectral_radius --stop_scope sequence")
    wide = [line for line in evaluated.out.splitlines() if len(line) > WIDTH]
    assert all(line.startswith(("run folder: ", "note: from ")) for line in wide), wide
