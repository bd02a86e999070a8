"""The recipe trains, resumes, evaluates and sweeps a model that it has never heard of."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow  # each call is a process of its own

PROJECT = Path(__file__).parent.parent
SCRIPT = Path(__file__).parent / "second_model" / "train_tanh.py"
RUN = "--dataset text --batch_size 4 --tgt_len 8 --eval_tgt_len 8 --f_thres 8 --b_thres 8 --lr 0.05 --pretrain_steps 3"
COURSE = "--max_step 8 --log-interval 2 --eval-interval 4 --n_layer 2 --solver broyden"


def call(arguments: str, status: int = 0) -> str:
    """Run the model's script; what it printed."""
    environment = {**os.environ, "PYTHONPATH": str(PROJECT / "DEQModel"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, SCRIPT, *arguments.split()], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def folders(place):
    """Two runs of as many updates: one at a stretch, one that went on after half of them."""
    base = f"--data {place}/corpus --work_dir {place}/T- {RUN} {COURSE}"
    call(f"{base} --name whole")
    call(f"{base} --name parts --max_step 4 --scheduler constant")
    whole, parts = (place / "T-deq-text" / name for name in ("whole", "parts"))
    return base, whole, parts


def test_it_is_trained_and_its_own_flags_are_checked(folders):
    base, whole, _ = folders
    log = (whole / "log.txt").read_text()
    assert re.search(r"step 8 .* f [\d.]+ +\S+ b [\d.]+ +\S+ grad", log)
    assert "end of shallow stage" in log
    assert call(f"{base} --width 7", status=2) == "train_tanh.py: error: --width is 7: pass an even one\n"
    assert "--gain X" in call("--help")


def test_it_is_resumed(folders, place):
    base, _, parts = folders
    call(f"{base} --name constant --scheduler constant")
    assert "resumed at step 4" in call(f"--restart --restart_dir {parts} --max_step 8")
    states = [
        torch.load(path / "checkpoint.pt", weights_only=True)["model"] for path in (parts, parts.parent / "constant")
    ]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[1])
    refused = call(f"--restart --restart_dir {parts} --max_step 9 --width 4", status=2)
    assert "cannot change --width 8 to 4 (the weights have its shape)" in refused


def test_it_is_evaluated(folders, tmp_path):
    base, whole, _ = folders
    state = torch.load(whole / "model_state_dict.pkl", weights_only=True)
    torch.save({f"old.{name}": value for name, value in state.items()}, tmp_path / "old.pkl")
    (final,) = re.findall(r"  final +([\d.]+) +[\d.]+", (whole / "log.txt").read_text())
    for weights in (whole / "model_state_dict.pkl", tmp_path / "old.pkl"):
        told = call(f"{base} --pretrain_steps 0 --eval --load {weights}")
        (found,) = re.findall(r"valid: perplexity ([\d.]+)", told)
        assert f"{float(found):.2f}" == final
    assert "--width is 4 but the file has 8: pass --width 8" in call(
        f"{base} --width 4 --eval --load {weights}", status=2
    )


def test_it_is_swept_over_its_own_settings_and_the_solvers(folders):
    base, whole, _ = folders
    told = call(f"{base} --pretrain_steps 0 --eval --restart_dir {whole} --sweep gain=0.5,1.0 --name swept")
    rows = [line.split() for line in told.splitlines() if re.match(r" *(0\.5|1\.0) ", line)]
    assert len(rows) == 2
    assert rows[0][1] != rows[1][1]
    assert "--sweep cannot change 'width'" in call(
        f"{base} --pretrain_steps 0 --eval --load x --sweep width=4,8", status=2
    )


def test_there_are_no_formulas_of_its_cost(place):
    said = call(f"--data {place}/corpus {RUN} --cost --cost_machine v100", status=2)
    assert "--cost: there are no formulas for a" in said
