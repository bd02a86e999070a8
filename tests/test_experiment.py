"""A run's record: folders that are never shared, log, curves, JSON files, and how a run goes on in its folder."""

import errno
import fcntl
import json
import sys
import time

import pytest
from reports import solve_report
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_run import COMMAND

from evaluation.solve_statistics import SolveStatistics, failed
from modules.report import Termination
from runs.experiment import Experiment
from runs.run_folder import make_run_folder
from system.errors import UserError
from system.progress import has_bar, progress_bar

Settings = COMMAND.settings


def settings(tmp_path, **changes) -> Settings:
    return Settings(work_dir=str(tmp_path / "runs-"), dataset="text", **changes)


@pytest.fixture
def folder(tmp_path):
    """Of a run that has ended."""
    with Experiment(settings(tmp_path)) as experiment:
        for step in (1, 2, 3):
            experiment.log(f"step {step}")
            experiment.scalars({"train/loss": float(step)}, step)
    return experiment.folder


def points(folder, name="train/loss"):
    return [(point.step, point.value) for point in EventAccumulator(str(folder)).Reload().Scalars(name)]


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
    stored = json.loads((experiment.folder / "settings.json").read_text())["settings"]
    assert stored["cutoffs"] == [3, 5]
    assert stored == {name: list(value) if isinstance(value, tuple) else value for name, value in vars(given).items()}
    assert json.loads((experiment.folder / "results.json").read_text()) == {"test": {"perplexity": 3.0}}
    assert not list(experiment.folder.glob(".*"))


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


def test_going_on_in_a_folder(folder, tmp_path):
    end = len("step 1\nstep 2\n")
    with Experiment(settings(tmp_path, lr=0.5), folder=folder, log_end=end, step=2) as experiment:
        assert experiment.log_end == end
        experiment.log("step 3 again")
        experiment.scalars({"train/loss": 0.25}, 2)
        experiment.scalars({"train/loss": 0.5}, 3)
        assert experiment.log_end == (folder / "log.txt").stat().st_size
    assert experiment.folder == folder
    assert list(folder.parent.iterdir()) == [folder]
    assert (folder / "log.txt").read_text() == "step 1\nstep 2\nstep 3 again\n"
    assert json.loads((folder / "settings.json").read_text())["settings"]["lr"] == 0.5
    assert points(folder) == [(1, 1.0), (2, 0.25), (3, 0.5)], "those from step 2 on count no more"


def test_event_files_follow_each_other_whatever_the_clock_says(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 1e9)
    for value in (5.0, 6.0):
        with Experiment(settings(tmp_path), folder=folder, step=2) as experiment:
            experiment.scalars({"train/loss": value}, 2)
    assert points(folder) == [(1, 1.0), (2, 6.0)]


@pytest.mark.parametrize("log_end", [None, 21, 10**6])
def test_a_log_that_is_no_longer_than_it_should_be_stays(folder, tmp_path, log_end):
    with Experiment(settings(tmp_path), folder=folder, log_end=log_end) as experiment:
        experiment.log("more")
    assert (folder / "log.txt").read_text() == "step 1\nstep 2\nstep 3\nmore\n"


def test_a_line_that_the_machine_left_torn_is_ended(folder, tmp_path):
    with open(folder / "log.txt", "a") as log:
        log.write("step 4 | lo")
    with Experiment(settings(tmp_path), folder=folder) as experiment:
        experiment.log("step 4")
    assert (folder / "log.txt").read_text().splitlines()[-2:] == ["step 4 | lo", "step 4"]


@pytest.mark.parametrize("first_is_new", [True, False])
def test_one_process_at_a_time_writes_a_folder(folder, tmp_path, first_is_new):
    first = Experiment(settings(tmp_path)) if first_is_new else Experiment(settings(tmp_path), folder=folder)
    before = (first.folder / "log.txt").read_bytes()
    with pytest.raises(UserError, match=f"^{first.folder} is in use by another process: wait"):
        Experiment(settings(tmp_path), folder=first.folder, log_end=1)
    assert (first.folder / "log.txt").read_bytes() == before
    with first:
        pass
    with Experiment(settings(tmp_path), folder=first.folder):
        pass


def test_a_file_system_without_locks(folder, tmp_path, monkeypatch):
    def flock(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with Experiment(settings(tmp_path), folder=folder) as experiment:
        experiment.log("one line")
    assert (folder / "log.txt").read_text().endswith("one line\n")


def test_a_log_that_cannot_be_opened_is_refused(folder, tmp_path):
    (folder / "log.txt").unlink()
    (folder / "log.txt").mkdir()
    with pytest.raises(UserError, match=r"^cannot write .*log\.txt \(Is a directory\): "):
        Experiment(settings(tmp_path), folder=folder)


def test_a_silent_process_leaves_no_trace(tmp_path, capsys):
    with Experiment(settings(tmp_path), silent=True) as experiment:
        experiment.log("unheard")
        experiment.scalars({"train/loss": 1.5}, 7)
        experiment.results({})
    assert (experiment.folder, experiment.log_end, experiment.silent) == (None, 0, True)
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr() == ("", "")


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
    assert solves.brief() == "7.0  4e-1"
    assert str(solves) == ("7.0 steps, 8.0 evaluations, residual 4e-1; 50% converged, 50% max steps; 25% open")


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
