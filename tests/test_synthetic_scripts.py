"""The scripts of the synthetic tasks: what they pass on, and what they refuse."""

import re
import shlex
from pathlib import Path

import pytest
from scripts import ROOT, copied_to
from scripts import run as run_script

from config.parser import Parser
from models.size import Size
from synthetic.models import build
from synthetic.program import check
from synthetic.settings import GROUPS, completed
from synthetic.tasks import TASKS


def recorded(script: str, words: tuple[object, ...], folder: Path) -> tuple[list[str], str]:
    """The calls of the program that a script makes, and the last of them."""
    project = copied_to(folder)
    recorder = project / "python"
    recorder.write_text('#!/bin/sh\nshift\necho "$@"\n')
    recorder.chmod(0o755)
    with open(project / "environment.sh", "a") as file:
        print("prepare_environment() { python=$PYTHON; }", file=file)
    done = run_script(project / script, *words, cwd=project, python=str(recorder))
    assert (done.returncode, done.stderr) == (0, "")
    *calls, table = done.stdout.splitlines()
    return calls, table


@pytest.mark.parametrize(
    "words",
    [
        ("--seq_len", 5, 7, "--out", "some where", "--max_step", 3),
        ("--max_step", 3, "--out=some where", "--seq_len=5", 7),
    ],
)
def test_every_model_and_length_is_passed_and_the_table_is_last(words, tmp_path):
    calls, table = recorded("run_copy_memory.sh", words, tmp_path)
    assert table == "--table some where"
    assert len(calls) == len(set(calls)) == 10
    for call in calls:
        assert call.startswith("--task copy_memory --out some where --max_step 3 --model ")
        assert call.endswith((" --seq_len 5", " --seq_len 7"))


@pytest.mark.parametrize(
    "words",
    [
        ("--seeds", 4, 5, "--out", "some where", "--max_step", 3),
        ("--max_step", 3, "--seeds=4", 5, "--out=some where"),
        ("--max_step", 3, "--seed", 4, 5, "--out=some where"),
    ],
)
def test_six_systems_are_trained_on_both_tasks_that_need_depth(words, tmp_path):
    calls, table = recorded("run_depth_tasks.sh", words, tmp_path)
    assert table == "--table some where"
    assert len(calls) == len(set(calls)) == 24
    for call in calls:
        assert call.startswith("--task ")
        assert call.endswith(" --out some where --max_step 3")
        settings = completed(Parser("", "", GROUPS).given(shlex.split(quoted(call)))[0])
        check(settings)
    depths = [re.findall(r"--depth (\d)", " ".join(calls[i::2])) for i in (0, 1)]
    assert depths == [["1", "2", "4", "8"] * 2] * 2


def quoted(call: str) -> str:
    """A call with the words together that belong to one value."""
    return re.sub(r"(--curriculum) ((?:\w+=[\d,]+ ?)+)(?= --|$)", r"\1 '\2'", call).replace("some where", "somewhere")


def test_a_look_takes_as_few_updates_as_the_script_says(tmp_path):
    text = (ROOT / "run_depth_tasks.sh").read_text()
    words = re.search(r'(--curriculum "\S+" --max_step \d+) for a look', text)[1]
    calls, _ = recorded("run_depth_tasks.sh", ("--seeds", 1, *shlex.split(words)), tmp_path)
    for call in calls:
        settings = completed(Parser("", "", GROUPS).given(shlex.split(quoted(call)))[0])
        check(settings)
        assert settings.n_updates == 10


@pytest.mark.parametrize(
    ("script", "words", "message"),
    [
        ("run_copy_memory.sh", ("--seq_len",), "--seq_len needs a value"),
        ("run_copy_memory.sh", ("--seq_len", "--out", "a"), "--seq_len needs a value"),
        ("run_copy_memory.sh", ("--seq_len", "x"), "whole numbers"),
        ("run_depth_tasks.sh", ("--seeds=x",), "whole numbers"),
        ("run_depth_tasks.sh", ("--out",), "--out needs a value"),
        ("run_depth_tasks.sh", ("--out=",), "--out needs a value"),
        ("run_depth_tasks.sh", ("--model", "lstm"), "--model: this script has its own"),
        ("run_depth_tasks.sh", ("--dept=3",), "--depth: this script has its own"),
        ("run_copy_memory.sh", ("--seq_len", "5", "--task", "p_hop"), "--task: this script has its own"),
        ("run_copy_memory.sh", ("--tabl", "x"), "--table: this script has its own"),
    ],
)
def test_what_cannot_be_read_is_refused(script, words, message, tmp_path):
    done = run_script(ROOT / script, *words, cwd=tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert message in done.stderr


@pytest.mark.parametrize("task", ["p_hop", "state_tracking"])
def test_the_stack_has_as_many_parameters_as_the_equilibrium(task):
    sizes = []
    for model in ("deq_transformer", "stack"):
        settings = completed({"task": task, "model": model})
        sizes.append(Size.of(build(settings, TASKS[task](settings).n_token)).whole)
    assert sizes[0] == pytest.approx(sizes[1], rel=0.02)
    assert sizes[0] == pytest.approx(80000, rel=0.1)
