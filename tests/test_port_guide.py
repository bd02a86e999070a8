"""The guide for models from torchdeq: its code runs, its program too, and its table has the defaults of today."""

import re
import runpy
import sys
from pathlib import Path

import pytest
import torch

import modules
from modules.anderson import Anderson
from modules.broyden import Broyden
from modules.settings import Settings

EXAMPLES = Path(__file__).parent.parent / "examples"
GUIDE = EXAMPLES / "port_from_torchdeq.md"


@pytest.fixture(scope="module")
def page():
    return GUIDE.read_text(encoding="utf-8")


def blocks(page, kind):
    return re.findall(rf"^```{kind}\n(.*?)^```", page, re.DOTALL | re.MULTILINE)


def test_each_step_has_a_block_before_and_one_after(page):
    before, after = blocks(page, "py"), blocks(page, "python")
    assert len(before) == len(after) == len(re.findall(r"^## \d+\. ", page, re.MULTILINE)) == 11
    assert all(block.startswith("# torchdeq\n") for block in before)
    assert all(block.startswith("# here\n") for block in after)
    for block in before:
        compile(block, str(GUIDE), "exec")


def test_code_after_the_move_runs_and_trains(page, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "deqlib", modules)  # its name where it was installed
    names = {"__name__": "port_guide"}
    exec(compile("\n".join(blocks(page, "python")), str(GUIDE), "exec"), names)
    assert names["losses"][-1] < 0.5 * names["losses"][0]
    out = capsys.readouterr().out
    assert "['recur.weight']" in out
    assert out.count("the residual fell below eps") == 2
    assert names["h"].shape == names["c"].shape == (256, 16)
    assert [state.requires_grad for state in names["states"]] == [True] * 3


def test_sampled_states_are_those_that_the_guide_says(page):
    assert "F = 14 and n = 3 these are 6, 10 and 14" in page
    f, z0 = torch.cos, torch.zeros(2, 3)
    deq = modules.DEQModule(solver="fixed_point", f_thres=14, f_eps=0)
    _, by_number = deq(f, z0, iterates=3)
    _, by_index = deq(f, z0, iterates=[6, 10])
    for one, other in zip(by_number.iterates, by_index.iterates, strict=True):
        assert torch.equal(one, other)


def test_defaults_in_the_table_are_those_of_the_engine(page):
    ours, anderson = Settings(), Anderson()
    assert (ours.grad, ours.stop_mode, ours.b_stop_mode) == ("implicit", "rel", "rel")
    assert isinstance(ours.solver, Broyden)
    for row in (
        f"| thresholds | 40 and 40 | {ours.f_thres} and {ours.b_thres} |",
        f"| forward tolerance | 1e-3, absolute | {_number(ours.f_eps)}, relative |",
        f"| backward tolerance | 1e-6, absolute | {_number(ours.b_eps)}, relative |",
        f"| Anderson's window | `m` 6 | `m` {anderson.m} |",
        f"| damping of phantom steps | `tau` 1.0 | `phantom_damping` {ours.phantom_damping} |",
        f"| phantom steps | `grad` 1 | `phantom_steps` {ours.phantom_steps} |",
    ):
        assert row in page


def _number(x):
    return f"{x:.0e}".replace("e-0", "e-")


def test_the_program_trains(capsys):
    main = runpy.run_path(str(EXAMPLES / "port_from_torchdeq.py"))["main"]
    main(["--steps", "40"])
    *training, evaluation, radius = capsys.readouterr().out.splitlines()
    losses = [float(re.search(r"loss (\S+)", line)[1]) for line in training]
    assert len(losses) == 5
    assert losses[-1] < 0.6 * losses[0]
    assert all(re.search(r"[1-9]\d* steps forward, [1-9]\d* backward", line) for line in training)
    assert float(re.search(r"residual ([^:]+)", evaluation)[1]) < 1e-2
    assert 0 < float(radius.split()[-1]) < 2


def test_the_program_takes_the_engines_flags(capsys):
    main = runpy.run_path(str(EXAMPLES / "port_from_torchdeq.py"))["main"]
    main(["--steps", "2", "--grad", "one_step", "--solver", "fixed_point"])
    assert "0 backward" in capsys.readouterr().out
