"""The picture of runs: what it shows, what it leaves alone, and where it cannot be written."""

import math
import sys
from itertools import combinations

import pytest
from written_runs import written

import plot_runs
from runs.comparison import names_of
from runs.curves import Curves
from runs.history import History

NEEDS_CURVES = ("forward_steps", "backward_steps", "forward_residual", "backward_residual", "probe_residual", "seconds")


def test_the_picture_of_runs(tmp_path, capsys):
    matplotlib = pytest.importorskip("matplotlib")
    settings = [name for name in matplotlib.rcParams if name != "backend"]  # to read that imports pyplot
    before = [matplotlib.rcParams[name] for name in settings]
    folders = [str(written(tmp_path / name)) for name in ("one", "other")]
    assert plot_runs.main([*folders, folders[0], "--out", str(tmp_path / "x.png")]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == f"picture: {tmp_path}/x.png"
    assert err == ""
    content = (tmp_path / "x.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    assert int.from_bytes(content[16:20], "big") == 1350, "pixels wide"
    assert [matplotlib.rcParams[name] for name in settings] == before
    assert "matplotlib.pyplot" not in sys.modules


def test_a_picture_that_cannot_be_written(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    folder, place = written(tmp_path / "run"), tmp_path / "nowhere" / "x.png"
    assert plot_runs.main([str(folder), "--out", str(place)]) == 2
    out, err = capsys.readouterr()
    assert "1.06k" in out
    assert err == (
        f"plot_runs.py: error: --out {place} cannot be written (No such file or directory): name another place\n"
    )


@pytest.mark.parametrize("n", [1, 3, 9])
def test_what_the_picture_shows_does_not_overlap(n, tmp_path):
    pytest.importorskip("matplotlib")
    from runs.picture import figure_of

    runs = [History.of(written(tmp_path / f"a-run-with-a-longer-name-{i}", pretrain_steps=8 + i)) for i in range(n)]
    figure = figure_of(runs)
    figure.draw_without_rendering()
    boxes = [panel.get_tightbbox() for panel in figure.axes] + [legend.get_window_extent() for legend in figure.legends]
    assert len(boxes) == 8
    for one, other in combinations(boxes, 2):
        assert not one.overlaps(other)
    for box in boxes:
        assert figure.bbox.x0 <= box.x0
        assert box.x1 <= figure.bbox.x1
    labels = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    assert labels == [
        *names_of(runs),
        "forward solves",
        "backward solves",
        "probe, last evaluation",
        "shallow stage ends",
    ]
    assert len({str(panel.lines[0].get_color()) for panel in figure.axes}) == 1, (
        "the first run has one colour in all panels"
    )
    assert figure.axes[5].get_yscale() == "log"


def test_names_that_mean_something_to_matplotlib(tmp_path):
    pytest.importorskip("matplotlib")
    from runs.picture import figure_of

    figure = figure_of([History.of(written(tmp_path / name)) for name in ("_hidden", "cost$1$", "x" * 99)])
    figure.draw_without_rendering()
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == [" _hidden", r"cost\$1\$", "…" + "x" * 59]


def test_a_run_without_solves_and_times(tmp_path):
    pytest.importorskip("matplotlib")
    from runs.picture import figure_of

    folder = tmp_path / "older"
    folder.mkdir()
    (folder / "settings.json").write_text("{}")
    curves = Curves(folder)
    curves.scalars({"train/loss": 3.0, "valid/perplexity": math.inf}, 7)
    curves.close()
    history = History.of(folder)
    assert not any(getattr(history, name) for name in NEEDS_CURVES)
    shown = [[text.get_text() for text in panel.texts] for panel in figure_of([history]).axes]
    assert shown == [[]] + 5 * [["nothing recorded"]]


def test_perplexities_of_a_wide_range_have_a_logarithmic_axis(tmp_path):
    pytest.importorskip("matplotlib")
    from runs.picture import figure_of

    folder = written(tmp_path / "run")
    assert figure_of([History.of(folder)]).axes[2].get_yscale() == "linear"
    more = Curves(folder)
    more.scalars({"valid/perplexity": 2e4}, 2)
    more.close()
    assert figure_of([History.of(folder)]).axes[2].get_yscale() == "log"
