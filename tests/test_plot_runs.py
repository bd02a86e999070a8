"""The comparison of runs: what is read from their folders, the table, and what is refused."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from written_runs import written

import plot_runs
from runs.comparison import differences, figures, names_of
from runs.curves import Curves
from runs.history import Curve, History, settings_of
from system.errors import UserError

STAGES = "--max_step 12 --pretrain_steps 4 --log-interval 2 --eval-interval 4"


def test_a_real_run_is_read(run):
    outcome = run(STAGES)
    history = History.of(outcome.folder)
    assert history.settings == outcome.settings
    assert (history.n_parameters, history.n_body) == (1065, 840)
    assert (history.n_updates, history.equilibrium_from) == (12, 4)
    assert history.train_loss.steps == (2, 4, 6, 8, 10, 12)
    assert history.valid_perplexity.steps == (4, 8, 12)
    assert history.forward_steps.steps == history.backward_residual.steps == (6, 8, 10, 12)
    assert history.probe_residual.steps == (8, 12)
    assert history.best_perplexity == outcome.results["valid"]["perplexity"]
    assert history.best_step in (8, 12)
    assert history.training_seconds == outcome.results["training"]["seconds"]
    assert history.seconds.last == pytest.approx(history.training_seconds, rel=1e-6)


@pytest.mark.parametrize(
    ("log", "sizes"),
    [
        ("725 tokens for training, 1,065 parameters, on cpu", (1065, None)),  # of older runs
        ("1,065 parameters\n    (840 outside of embedding\n    and softmax), on cpu in 2 processes", (1065, 840)),
        ("nothing of it", (None, None)),
    ],
)
def test_sizes_in_logs_of_any_generation_and_width(log, sizes, tmp_path):
    folder = written(tmp_path / "run")
    (folder / "log.txt").write_text(log)
    history = History.of(folder)
    assert (history.n_parameters, history.n_body) == sizes


def test_settings_of_any_generation(tmp_path):
    for content in ({"lr": 0.1}, {"settings": {"lr": 0.1}, "environment": {"torch": "2"}}):
        (tmp_path / "settings.json").write_text(json.dumps(content))
        assert settings_of(tmp_path) == {"lr": 0.1}


def test_a_run_that_is_at_work(tmp_path):
    history = History.of(written(tmp_path / "run"))
    assert (history.n_updates, history.training_seconds, history.speed) == (20, 40.0, 1234.0)
    assert (history.best_perplexity, history.best_step) == (90.0, 16), "of the equilibrium stage"
    assert history.probe_residual.values[0] == pytest.approx(1 / 9)
    assert history.seconds_at((0, 8)) == (0.0, 16.0)
    shallow = History.of(written(tmp_path / "shallow", pretrain_steps=99))
    assert (shallow.equilibrium_from, shallow.best_perplexity) == (None, 80.0)


def test_points_that_were_written_again_count_once(tmp_path):
    folder = written(tmp_path / "run")
    again = Curves(folder)  # without purging the others, as older programs did for validations
    again.scalars({"valid/perplexity": 50.0}, 16)
    again.close()
    curve = History.of(folder).valid_perplexity
    assert curve == Curve((4, 8, 12, 16, 20), (120.0, 80.0, 110.0, 50.0, 95.0))


def test_curves_are_thinned_by_means_of_what_is_finite():
    curve = Curve(tuple(range(1, 8)), (1.0, 3.0, math.nan, 5.0, 7.0, 9.0, math.inf))
    assert curve.thinned(100) == Curve((1, 2, 4, 5, 6), (1.0, 3.0, 5.0, 7.0, 9.0))
    assert curve.thinned(3) == Curve((2, 5, 6), (2.0, 6.0, 9.0))
    assert Curve().thinned(3) == Curve()


def test_table(tmp_path):
    results = {"valid": {"perplexity": 110.0}, "test": {"perplexity": 105.5}}
    results["training"] = {"updates": 19, "seconds": 39.6, "tokens_per_second": 4321.0}
    runs = [
        History.of(written(tmp_path / "ended", results=results, solver="anderson")),
        History.of(written(tmp_path / "at-work", solver="broyden", cutoffs=[8])),
        History.of(written(tmp_path / "begun", last=3, cutoffs=[8])),
    ]
    assert (
        f"\n{figures(runs)}\n"
        == """
                                             valid ppl             test  forward            backward
run      params  updates  seconds  tokens/s       best  at step     ppl    steps  residual     steps  residual
ended     1.06k       19       40     4,321     110.00       12  105.50     10.0    1.0e-3      10.0    1.0e-3
at-work   1.06k       20       40     1,234      90.00       16       -     10.0    1.0e-3      10.0    1.0e-3
begun     1.06k        3        6     1,234          -        -       -        -         -         -         -
"""
    )
    assert differences(runs).splitlines() == [
        "setting     ended  at-work  begun",
        "cutoffs      8 16        8      8",
        "solver   anderson  broyden      -",
    ]
    assert differences(runs[:1]) == "all settings are the same"


def test_a_wide_table_of_settings_is_turned(tmp_path):
    runs = [History.of(written(tmp_path / (letter * 40), seed=i)) for i, letter in enumerate("abc")]
    assert differences(runs).splitlines()[:2] == ["setting" + " " * 35 + "seed", "a" * 40 + "     0"]


def test_runs_of_the_same_name_are_told_apart(tmp_path):
    runs = [History.of(written(tmp_path / where / "run")) for where in ("here", "there")]
    assert names_of(runs) == ["here/run", "there/run"]


def test_without_matplotlib_there_is_the_table_alone(tmp_path, capsys, monkeypatch):
    folder = written(tmp_path / "table")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "runs.picture", raising=False)
    assert plot_runs.main([str(folder)]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[2].startswith("table   1.06k")
    assert out.splitlines()[-1] == "no picture: matplotlib is not installed: pip install -r requirements-extra.txt"
    assert err == ""
    assert plot_runs.main([str(folder), "--out", "wanted.png"]) == 2
    out, err = capsys.readouterr()
    assert out.splitlines()[2].startswith("table   1.06k")
    assert err == (
        "plot_runs.py: error: no picture: matplotlib is not installed: pip install -r requirements-extra.txt\n"
    )
    assert not list(tmp_path.glob("*.png"))


@pytest.fixture
def damaged(tmp_path) -> Path:
    """Folders that are no run's any more."""
    for name, file, content in (
        ("no-settings", "settings.json", None),
        ("bad-settings", "settings.json", b"{"),
        ("binary-settings", "settings.json", b"\xff\xfe"),
        ("list-settings", "settings.json", b"[]"),
        ("bad-results", "results.json", b"{"),
        ("no-curves", "events", None),
        ("bad-curves", "events", bytes(range(256)) * 9),
    ):
        folder = written(tmp_path / name)
        (path,) = folder.glob("events*") if file == "events" else [folder / file]
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_bytes(content)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ("", ["no run to show", "pass the folders"]),
        ("{place}/nowhere", ["nowhere is not there", "pass the folder of a run"]),
        ("{place}/no-curves/log.txt", ["log.txt is no folder"]),
        ("{place}/no-settings", ["cannot read", "no-settings/settings.json (No such file"]),
        ("{place}/bad-settings", ["bad-settings/settings.json cannot be understood"]),
        ("{place}/binary-settings", ["binary-settings/settings.json cannot be understood"]),
        ("{place}/list-settings", ["list-settings/settings.json cannot be understood"]),
        ("{place}/bad-results", ["bad-results/results.json cannot be understood"]),
        ("{place}/no-curves", ["no-curves has no curves", "first log line"]),
        ("{place}/bad-curves", ["bad-curves has no curves"]),
        ("{place}/bad-results --out x.jpg", ["--out x.jpg", ".png"]),
        ("{place}/bad-results --out", ["--out", "expected one argument"]),
        ("{place}/bad-results --wide", ["unrecognized arguments: --wide"]),
    ],
)
def test_mistakes_are_one_line(arguments, parts, damaged, capsys):
    assert plot_runs.main(arguments.replace("{place}", str(damaged)).split()) == 2
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert out == ""
    assert line.startswith("plot_runs.py: error: ")
    assert all(part in line for part in parts), line


def test_a_curve_that_was_cut_off_is_read_as_far_as_it_goes(tmp_path):
    folder = written(tmp_path / "run")
    (path,) = folder.glob("events*")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert 4 < len(History.of(folder).train_loss.steps) < 20


def test_the_script_starts_from_any_folder(tmp_path):
    script = Path(plot_runs.__file__)
    done = subprocess.run(
        [sys.executable, str(script), "nowhere"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "plot_runs.py: error: nowhere is not there: pass the folder of a run of the training script\n"


def test_reading_raises_for_what_is_no_run(tmp_path):
    with pytest.raises(UserError, match="is not there"):
        History.of(tmp_path / "nowhere")
