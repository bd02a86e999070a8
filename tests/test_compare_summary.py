"""What a comparison makes of its runs: figures that are read, means, ratios, the table, and the picture."""

import json
import math
import sys

import chart
import compare
import pytest
from comparison import System
from job import Job
from outcome import Course, Outcome, of_language_model
from summary import Summary, as_dict, ratios, table

from runs.curves import Curves
from system.figures import with_spread
from system.json_file import write_json


def outcome(score, *, measure="perplexity", values=(30.0, 20.0), seconds=(1.0, 4.0), **figures):
    course = Course("perplexity on valid", (5, 10)[: len(values)], seconds, values)
    given = {"parameters": 4200, "body": 3200, "seconds": 4.0, "ms_a_step": 400.0, "peak_memory": 3.5e8}
    given |= {"forward_steps": None, "backward_steps": None, "residual": None} | figures
    return Outcome(scores={measure: score}, course=course, **given)


def summary(name, *outcomes, failures=(), folder="out"):
    system = System(name, "train_transformer.py", ("--lr", "1"))
    jobs = [Job(system, seed, 1, folder) for seed in range(1, 1 + len(outcomes) + len(failures))]
    done = dict(zip(jobs, outcomes, strict=False))
    return Summary(system, done, dict(zip(jobs[len(done) :], failures, strict=True)))


@pytest.fixture
def summaries(monkeypatch):
    monkeypatch.setattr(Job, "place", "there")
    solves = {"forward_steps": 6.0, "backward_steps": 5.0, "residual": 0.002}
    slower = outcome(26.0, values=(32.0, 22.0), seconds=(2.0, 6.0), **solves)
    return [
        summary("equilibrium", outcome(24.0, **solves), slower),
        summary("stack", outcome(20.0), failures=["it diverged"]),
        summary("broken", failures=["no such flag"]),
    ]


def test_table(summaries):
    assert (
        f"\n{table(summaries)}\n"
        == """
system        seeds  params   body    perplexity  ratio  seconds  ms/step   MB  forward  backward  residual
equilibrium       2   4.20k  3.20k  25.00 ± 1.41  1.250        4    400.0  350      6.0       5.0    2.0e-3
stack        1 of 2   4.20k  3.20k         20.00  1.000        4    400.0  350        -         -         -
broken       0 of 1       -      -             -      -        -        -    -        -         -         -
"""
    )


def test_figures_for_programs(summaries, tmp_path):
    write_json(tmp_path / "comparison.json", as_dict(summaries))
    first, second, third = json.loads((tmp_path / "comparison.json").read_text())["systems"]
    assert first["scores"] == {"perplexity": {"mean": 25.0, "standard_deviation": pytest.approx(math.sqrt(2))}}
    assert (first["ratio"], first["residual"], second["residual"]) == (1.25, 0.002, None)
    assert second["scores"]["perplexity"]["standard_deviation"] is None
    assert first["runs"][1]["course"]["seconds"] == [2.0, 6.0]
    assert first["runs"][1]["command"] == ["train_transformer.py", "--lr", "1", "--seed", "2"]
    assert (second["runs"][1]["seed"], second["runs"][1]["failed"]) == (2, "it diverged")
    assert third["scores"] == {}


def test_figures_that_are_not_finite_have_no_spread_and_are_not_the_best():
    assert with_spread([math.nan, 1.0], "{:.1f}".format) == "nan ± nan"
    assert with_spread([math.inf, 1.0], "{:.1f}".format) == "inf ± nan"
    broken, sound = summary("broken", outcome(math.nan), outcome(3.0)), summary("sound", outcome(2.0))
    assert ratios([broken, sound])[1] == 1
    assert math.isnan(ratios([broken, sound])[0])
    assert "nan ± nan" in table([broken, sound])


def test_each_measure_has_a_best_of_its_own():
    characters, words = outcome(1.5, measure="bits per character"), outcome(80.0)
    three = [summary("characters", characters), summary("words", words), summary("worse", outcome(120.0))]
    assert ratios(three) == [1, 1, 1.5]
    assert "1.5000" in table(three)
    assert ratios([summary("all right", outcome(0.0, measure="loss"))]) == [None]


@pytest.mark.parametrize("dataset", ["text", "ptb_char"])
def test_a_run_is_read_from_its_folder(dataset, tmp_path):
    (tmp_path / "settings.json").write_text(json.dumps({"settings": {"dataset": dataset}}))
    (tmp_path / "log.txt").write_text("1,065 parameters (840 outside of embedding and softmax), on cpu\n")
    curves = Curves(tmp_path)
    for step in (1, 2, 3, 4):
        points = {"train/loss": 3.0, "train/seconds": 2.0 * step, "forward/steps": 4.0 + step, "backward/steps": 3.0}
        points |= {"valid/perplexity": {2: 8.0, 4: math.inf}[step]} if step in (2, 4) else {}
        curves.scalars(points, step)
    curves.close()
    test = {"perplexity": 4.0, "bits_per_character": 2.0, "residual": 0.01}
    memory = {"host": 5, "device": 7}
    training = {"updates": 4, "seconds": 8.0}
    write_json(tmp_path / "results.json", {"test": test, "training": training, "peak_memory_bytes": memory})
    found = of_language_model(tmp_path / "results.json")
    measure, score, valid = ("perplexity", 4.0, 8.0) if dataset == "text" else ("bits per character", 2.0, 3.0)
    assert found.scores == {measure: score}
    assert (found.parameters, found.body, found.peak_memory) == (1065, 840, 7)
    assert (found.seconds, found.ms_a_step) == (8.0, 2000.0)
    assert (found.forward_steps, found.backward_steps, found.residual) == (8.0, 3.0, 0.01)
    assert (found.course.measure, found.course.updates, found.course.seconds) == (f"{measure} on valid", (2,), (4.0,))
    assert found.course.values == pytest.approx((valid,))


def test_the_picture_shows_seeds_and_their_means(summaries):
    pytest.importorskip("matplotlib")
    figure = chart.figure_of(summaries)
    figure.draw_without_rendering()
    by_updates, by_seconds = figure.axes
    drawn = [[(list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines] for axes in figure.axes]
    assert drawn[0] == [
        ([5, 10], [30.0, 20.0]),
        ([5, 10], [32.0, 22.0]),
        ([5, 10], [31.0, 21.0]),
        ([5, 10], [30.0, 20.0]),
    ]
    assert [across for across, _ in drawn[1]] == [[1.0, 4.0], [2.0, 6.0], [1.5, 5.0], [1.0, 4.0]]
    assert len({line.get_color() for line in by_updates.lines}) == 2
    assert by_seconds.get_xlabel() == "seconds of training"
    assert by_updates.get_ylabel() == "perplexity on valid"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["equilibrium", "stack", "broken"]


def test_the_picture_of_seeds_that_differ_and_of_runs_without_times():
    pytest.importorskip("matplotlib")
    short = outcome(9.0, values=(500.0,), seconds=())
    by_updates, by_seconds = chart.figure_of([summary("a", outcome(9.0), short)]).axes
    assert [list(line.get_xdata()) for line in by_updates.lines] == [[5, 10], [5], [5]]
    assert [list(line.get_xdata()) for line in by_seconds.lines] == [[1.0, 4.0]]
    assert by_updates.get_yscale() == "log"
    assert not chart.figure_of([summary("none", failures=["no"])]).axes[0].lines


def test_without_matplotlib_there_is_no_picture(summaries, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "chart", None)
    compare._tell(summaries, tmp_path)
    assert "no picture: matplotlib is not installed: pip install" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["comparison.json", "comparison.txt"]
