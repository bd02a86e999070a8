"""The scripts of the synthetic tasks: what they pass on, and what they refuse."""

import re

import pytest
from scripts import ROOT, copied_to
from scripts import run as run_script

from synthetic.models import build, n_parameters
from synthetic.settings import completed
from synthetic.tasks import TASKS


def test_the_script_passes_every_model_and_length_and_ends_with_the_table(tmp_path):
    project = copied_to(tmp_path)
    recorder = project / "python"
    recorder.write_text('#!/bin/sh\necho "$@"\n')
    recorder.chmod(0o755)
    with open(project / "environment.sh", "a") as file:
        print("prepare_environment() { python=$PYTHON; }", file=file)
    words = ("--seq_len", 5, 7, "--out", "some where", "--max_step", 3)
    done = run_script(project / "run_copy_memory.sh", *words, cwd=project, python=str(recorder))
    assert (done.returncode, done.stderr) == (0, "")
    *calls, table = done.stdout.splitlines()
    program = project / "DEQModel" / "train_synthetic.py"
    assert table == f"{program} --table some where"
    assert len(calls) == len(set(calls)) >= 8
    for call in calls:
        assert call.startswith(f"{program} --task copy_memory --out some where --max_step 3 --model ")
        assert call.endswith((" --seq_len 5", " --seq_len 7"))


def test_the_script_of_the_tasks_that_need_depth_trains_six_systems_on_both(tmp_path):
    project = copied_to(tmp_path)
    recorder = project / "python"
    recorder.write_text('#!/bin/sh\necho "$@"\n')
    recorder.chmod(0o755)
    with open(project / "environment.sh", "a") as file:
        print("prepare_environment() { python=$PYTHON; }", file=file)
    words = ("--seeds", 4, 5, "--out", "some where", "--max_step", 3)
    done = run_script(project / "run_depth_tasks.sh", *words, cwd=project, python=str(recorder))
    assert (done.returncode, done.stderr) == (0, "")
    *calls, table = done.stdout.splitlines()
    program = project / "DEQModel" / "train_synthetic.py"
    assert table == f"{program} --table some where"
    assert len(calls) == len(set(calls)) == 24
    for call in calls:
        assert call.startswith(f"{program} --task ")
        assert call.endswith(" --out some where --max_step 3")
    depths = [re.findall(r"--depth (\d)", " ".join(calls[i::2])) for i in (0, 1)]
    assert depths == [["1", "2", "4", "8"] * 2] * 2


@pytest.mark.parametrize("words", ["--seeds", "--seeds x", "--out"])
def test_the_script_of_the_tasks_that_need_depth_refuses_what_it_cannot_read(words, tmp_path):
    done = run_script(ROOT / "run_depth_tasks.sh", *words.split(), cwd=tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1


def test_systems_of_the_script_have_as_many_parameters(tmp_path):
    text = (ROOT / "run_depth_tasks.sh").read_text()
    for task in ("p_hop", "state_tracking"):
        sizes = {}
        for line in re.findall(rf'train "\${{{task}\[@\]}}".*', text):
            model = "stack" if "--model stack" in line else "deq_transformer"
            given = {"task": task, "model": model, "d_model": 64, "n_layer": 3, "init_std": -1.0, "not_tied": True}
            settings = completed({**given, "d_inner": int(re.search(r"--d_inner (\d+)", line)[1])})
            sizes[model] = n_parameters(build(settings, TASKS[task](settings).n_token))
        assert sizes["stack"] == pytest.approx(sizes["deq_transformer"], rel=0.02)


@pytest.mark.parametrize(
    ("words", "message"),
    [(("--seq_len",), "needs a number"), (("--seq_len", "x"), "whole numbers"), (("--out",), "needs a folder")],
)
def test_the_script_refuses_what_it_cannot_read(words, message, tmp_path):
    done = run_script(ROOT / "run_copy_memory.sh", *words, cwd=tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert message in done.stderr
