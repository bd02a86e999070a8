"""A run's record: folders that are never shared, log, curves, JSON files."""

import json
import sys
import time

import pytest
from reports import solve_report
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from modules.tracker import Termination
from utils.errors import UserError
from utils.experiment import Experiment, make_run_folder
from utils.progress import has_bar, progress_bar
from utils.settings import Settings
from utils.solve_statistics import SolveStatistics, failed


def settings(tmp_path, **changes) -> Settings:
    return Settings(work_dir=str(tmp_path / "runs-"), dataset="text", **changes)


def test_run_folder_has_the_name(tmp_path):
    assert make_run_folder(settings(tmp_path, name="first")) == tmp_path / "runs-deq-text" / "first"


def test_run_folder_has_a_timestamp_without_a_name(tmp_path):
    folder = make_run_folder(settings(tmp_path))
    assert abs(time.mktime(time.strptime(folder.name, "%Y%m%d-%H%M%S")) - time.time()) < 100


@pytest.mark.parametrize("name", ["again", "N/A"])
def test_no_two_runs_share_a_folder(tmp_path, name):
    folders = {make_run_folder(settings(tmp_path, name=name)) for _ in range(5)}
    assert len(folders) == 5


def test_run_folder_that_cannot_be_made_names_the_flag(tmp_path):
    (tmp_path / "runs-deq-text").write_text("in the way")
    with pytest.raises(UserError, match=r"^--work_dir .*runs-: cannot create .*: pass a place"):
        make_run_folder(settings(tmp_path))


def test_log_goes_to_file_and_screen(tmp_path, capsys):
    with Experiment(settings(tmp_path)) as experiment:
        experiment.log("one line")
        assert (experiment.folder / "log.txt").read_text() == "one line\n", "written at once"
    assert capsys.readouterr().out == "one line\n"


def test_routine_lines_leave_a_terminal_with_a_bar_alone(tmp_path, capsys, monkeypatch):
    with Experiment(settings(tmp_path)) as experiment:
        experiment.log("without a terminal", routine=True)
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
        assert has_bar()
        experiment.log("with a bar", routine=True)
        experiment.log("news")
        with progress_bar(2, "some work") as bar:
            bar.update()
            assert not bar.disable
    shown = capsys.readouterr()
    assert shown.out == "without a terminal\nnews\n"
    assert "some work" in shown.err
    assert (experiment.folder / "log.txt").read_text() == "without a terminal\nwith a bar\nnews\n"


def test_no_bar_without_a_terminal(capsys):
    with progress_bar(2, "some work") as bar:
        bar.update()
    assert capsys.readouterr().err == ""


def test_log_says_what_ended_a_run(tmp_path):
    with pytest.raises(UserError), Experiment(settings(tmp_path)) as experiment:
        raise UserError("the loss is nan")
    assert "UserError: the loss is nan" in (experiment.folder / "log.txt").read_text()


def test_curves_and_settings_are_in_tensorboard(tmp_path):
    with Experiment(settings(tmp_path, lr=0.125)) as experiment:
        experiment.scalars({"train/loss": 1.5, "train/perplexity": float("inf")}, 7)
    board = EventAccumulator(str(experiment.folder)).Reload()
    (point,) = board.Scalars("train/loss")
    assert (point.step, point.value) == (7, 1.5)
    (text,) = board.Tensors("settings/text_summary")
    assert "| lr | 0.125 |" in text.tensor_proto.string_val[0].decode()


def test_settings_and_results_are_json(tmp_path):
    given = settings(tmp_path, cutoffs=(3, 5))
    with Experiment(given) as experiment:
        experiment.results({"test": {"perplexity": 3.0}})
    stored = json.loads((experiment.folder / "settings.json").read_text())
    assert stored.pop("cutoffs") == [3, 5]
    assert stored == {name: value for name, value in vars(given).items() if name != "cutoffs"}
    assert json.loads((experiment.folder / "results.json").read_text()) == {"test": {"perplexity": 3.0}}
    assert not list(experiment.folder.glob("*.part"))


def test_json_has_null_for_what_is_no_number(tmp_path):
    with Experiment(settings(tmp_path)) as experiment:
        experiment.results({"residual": float("inf"), "points": [{"loss": float("nan")}, (1.5, -float("inf"))]})
    content = (experiment.folder / "results.json").read_text()
    assert json.loads(content) == {"residual": None, "points": [{"loss": None}, [1.5, None]]}
    assert "Infinity" not in content


def test_debug_writes_nothing(tmp_path, capsys):
    with Experiment(settings(tmp_path, debug=True)) as experiment:
        experiment.log("seen")
        experiment.scalars({"train/loss": 1.5}, 7)
        experiment.results({})
    assert experiment.folder is None
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().out == "seen\n"


def test_curve_is_a_line_of_its_own(tmp_path):
    with Experiment(settings(tmp_path)) as experiment:
        experiment.curve("probe/residual", (1.0, 0.5, 0.125), "step 000007")
    board = EventAccumulator(str(experiment.folder / "probe" / "residual" / "step 000007")).Reload()
    assert [(point.step, point.value) for point in board.Scalars("probe/residual")] == [(1, 1.0), (2, 0.5), (3, 0.125)]


def test_solve_statistics_are_means_and_shares():
    solves = SolveStatistics()
    solves.add(solve_report(n_steps=4, residual=0.5))
    solves.add(None)
    solves.add(solve_report(Termination.MAX_STEPS, n_steps=10, residual=0.25, sequence_residuals=(0.1, 1e-4)))
    assert (solves.mean_steps, solves.mean_evals, solves.mean_residual) == (7, 8, 0.375)
    scalars = solves.scalars("forward")
    assert scalars["forward/steps"] == 7
    assert scalars["forward/stopped/converged"] == scalars["forward/stopped/max_steps"] == 0.5
    assert scalars["forward/stopped/diverged"] == scalars["forward/failed"] == 0
    assert scalars["forward/unconverged_sequences"] == 0.25
    assert solves.brief() == "7.0 to 4e-01 25% open"
    assert str(solves) == (
        "7.0 steps, 8.0 evaluations, residual 3.8e-01 (50% converged, 50% max steps; 25% of sequences not converged)"
    )


@pytest.mark.parametrize(
    ("termination", "residual", "wanted"),
    [
        (Termination.CONVERGED, 1e-4, False),
        (Termination.STAGNATED, 1e-3, False),
        (Termination.MAX_STEPS, 1.0, False),
        (Termination.MAX_STEPS, 1.01, True),
        (Termination.MAX_STEPS, float("inf"), True),
        (Termination.MAX_STEPS, float("nan"), True),
        (Termination.DIVERGED, 0.5, True),
        (Termination.NONFINITE, 0.5, True),
    ],
)
def test_solves_that_failed(termination, residual, wanted):
    report = solve_report(termination, residual=residual)
    assert failed(report) is wanted
    solves = SolveStatistics()
    solves.add(report)
    assert solves.n_failed == wanted


def test_solve_statistics_of_no_solve():
    assert SolveStatistics().scalars("forward") == {}
    assert str(SolveStatistics()) == "no solve"
