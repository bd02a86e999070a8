"""Whole runs of the training script: training, evaluation of its files and of published ones, interruption."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import in_double
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_run import COURSE, LENGTHS, MODEL, call, perplexities

import train_transformer
from models.transformers.spec import SPEC
from training.recipe import program
from training.trainer import Trainer

ROOT = Path(__file__).parent.parent
GOLDEN = Path(__file__).parent / "golden"
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}
SIZES = ("n_head", "d_head", "d_model", "d_inner", "d_embed", "div_val", "mem_len")
STAGES = "--max_step 6 --pretrain_steps 3 --eval-interval 2"


def test_training_end_to_end_then_evaluation_of_its_file(run):
    outcome = run(STAGES)
    assert outcome.status == 0, outcome.err
    results = outcome.results
    assert sorted(path.name for path in outcome.folder.iterdir() if "tfevents" not in path.name) == [
        "checkpoint.previous.pt",
        "checkpoint.pt",
        "log.txt",
        "model_state_dict.pkl",
        "model_state_dict.settings.json",
        "results.json",
        "settings.json",
        "vocabulary.txt",
    ]
    assert any("tfevents" in path.name for path in outcome.folder.iterdir())
    assert f"tensorboard --logdir {outcome.folder}" in outcome.out
    assert outcome.log.splitlines() == outcome.out.splitlines(), "without a terminal both are the same"

    assert "step 3 end of shallow stage: perplexity" in outcome.log
    assert results["shallow_stage"]["shallow"] == 2
    assert (results["valid"]["shallow"], results["test"]["shallow"]) == (None, None)
    assert results["training"]["updates"] == 6
    assert results["peak_memory_bytes"]["host"] > 1e7
    assert set(results["unigram_perplexity"]) == {"valid", "test"}
    assert results["test"]["perplexity"] == pytest.approx(np.exp(results["test"]["loss"]))

    evaluated = run(f"--eval --load {outcome.folder}/model_state_dict.pkl")
    assert evaluated.status == 0
    assert evaluated.results["test"]["loss"] == pytest.approx(results["test"]["loss"], rel=1e-12)
    assert perplexities(evaluated.out) == perplexities(outcome.out)
    assert f"perplexity {results['test']['perplexity']:.3f}" in evaluated.out


def test_same_run_twice_gives_the_same_model(run):
    one, other = run("--dropout 0.1 --varlen --name one"), run("--dropout 0.1 --varlen --name other")
    assert one.folder != other.folder
    assert one.same_weights(other)


@pytest.mark.parametrize("solver", ["broyden", "anderson"])
@pytest.mark.parametrize("name", ["wnorm", "plain", "divval1", "nocut", "wnorm_2020_layout"])
def test_published_layouts_through_eval(name, solver, tmp_path, monkeypatch):
    # The golden losses are of loosely solved equilibria in float64: in float32 the solvers end elsewhere.
    monkeypatch.setattr(train_transformer, "main", program(replace(SPEC, build=in_double)))
    settings_of = name.removesuffix("_2020_layout")
    given = json.loads((GOLDEN / f"model_{settings_of}.json").read_text())
    golden = np.load(GOLDEN / f"model_{settings_of}.npz")
    write_golden_corpus(tmp_path, golden["tokens"], given["n_token"])
    sizes = " ".join(f"--{key} {given[key]}" for key in SIZES)
    cutoffs = f"--adaptive --cutoffs {' '.join(map(str, given['cutoffs']))}" if given["cutoffs"] else ""
    outcome = call(
        f"--data {tmp_path} --dataset text {sizes} {cutoffs} {'--wnorm' if given['wnorm'] else ''} --debug --eval "
        f"--load {GOLDEN}/model_{name}.pkl --solver {solver} --f_thres 60 --eval_tgt_len {given['tgt_len']} "
        f"{'--anderson_ridge 1e-4' if solver == 'anderson' else ''}"
    )
    assert outcome.status == 0, outcome.err
    loss = float(re.search(r"valid: .* loss (\S+) nats", outcome.out)[1])
    wanted = np.mean([golden[f"{solver}_eval_seg{i}_loss"] for i in range(3)])
    assert loss == pytest.approx(wanted, abs=6e-6)  # five decimals are printed


def write_golden_corpus(folder: Path, tokens: np.ndarray, n_token: int) -> None:
    """Texts that encode to `tokens` (T, 4) row by row, in a vocabulary where word i has id i, <eos> being 0."""
    words = [f"w{i}" for i in range(n_token)]
    train = [" ".join([words[i]] * 10 * (n_token - i)) for i in range(1, n_token)]
    lines = " ".join("\n" if i == 0 else words[i] for i in tokens.T.flatten())
    for split, text in (("train", "\n".join(train)), ("valid", lines), ("test", lines)):
        (folder / f"{split}.txt").write_text(text + "\n", encoding="utf-8")


@pytest.mark.parametrize("where", ["repository", "elsewhere"])
def test_script_starts_from_any_folder(where, place, weights_file):
    script, folder = {
        "repository": ("train_transformer.py", ROOT / "DEQModel"),
        "elsewhere": (str(ROOT / "DEQModel" / "train_transformer.py"), place),
    }[where]
    command = f"{script} --data {place}/corpus --dataset text {MODEL} {LENGTHS} --debug --eval --load {weights_file}"
    done = subprocess.run(
        [sys.executable, *command.split()], cwd=folder, capture_output=True, text=True, env=ONE_THREAD, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(perplexities(done.stdout)) == 2


@pytest.mark.slow
def test_interrupted_run_says_where_it_is(place):
    command = (
        f"{ROOT}/DEQModel/train_transformer.py --data {place}/corpus --dataset text --work_dir {place}/LM- "
        f"{MODEL} {LENGTHS} {COURSE} --max_step 100000 --eval-interval 1 --log-interval 1 --name interrupted"
    )
    folder = place / "LM-deq-text" / "interrupted"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, *command.split()], stdout=pipe, stderr=pipe, env=ONE_THREAD) as script:
        deadline = time.time() + 60
        while not (folder / "model_state_dict.pkl").exists() and time.time() < deadline:
            time.sleep(0.05)
        script.send_signal(signal.SIGINT)
        out, err = script.communicate(timeout=60)
    assert script.returncode == 130, err
    assert b"Traceback" not in err
    assert "interrupted at step" in out.decode()
    command = re.search("to go on: (.*)", out.decode())[1]
    assert command == f"{sys.executable} {ROOT}/DEQModel/train_transformer.py --restart --restart_dir {folder}"
    again = subprocess.run(
        f"{command} --max_step 1", shell=True, cwd="/", env=ONE_THREAD, capture_output=True, text=True
    )
    assert (again.returncode, again.stderr.count("\n")) == (2, 1), "the run is past its first step, and says so"
    assert "--max_step 1 lies before step" in again.stderr
    torch.load(folder / "model_state_dict.pkl", weights_only=True)
    kinds = {path.suffix for path in folder.iterdir() if "tfevents" not in path.name}
    assert kinds <= {".txt", ".json", ".pkl", ".pt"}


def test_interruption_while_modules_are_imported(tmp_path):
    (tmp_path / "numpy.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(60)\n")
    environment = {**ONE_THREAD, "PYTHONPATH": str(tmp_path)}
    command, pipe = [sys.executable, f"{ROOT}/DEQModel/train_transformer.py"], subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, env=environment, text=True) as script:
        assert script.stdout.readline() == "importing\n"
        script.send_signal(signal.SIGINT)
        _, err = script.communicate(timeout=60)
    assert (script.returncode, err) == (-signal.SIGINT, "")


@pytest.mark.parametrize("mode", ["", "--debug"])
def test_second_interrupt_does_not_wait_for_the_end_of_the_update(mode, run, monkeypatch):
    def interrupt_twice(*_):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("the update went on")

    monkeypatch.setattr(Trainer, "update", interrupt_twice)
    outcome = run(f"--name early {mode}")
    assert outcome.status == 130
    assert "interrupted at step 0\nno checkpoint has been written" in outcome.out
    assert outcome.err == "train_transformer.py: interrupted\n"


def test_run_that_is_stopped_by_its_loss_says_what_is_saved(run):
    outcome = run("--lr 1e30 --scheduler constant --max_step 50 --max_bad_steps 3 --save_interval 1 --name stopped")
    assert outcome.status == 2
    assert "step 4 update skipped: loss nan, gradient nan (3 in a row, --max_bad_steps 3)" in outcome.log
    assert "step 4: 3 updates in a row had a loss or a gradient that is not finite" in outcome.err
    assert f"{ROOT}/DEQModel/train_transformer.py --restart --restart_dir {outcome.folder}" in outcome.log
    assert torch.load(outcome.folder / "checkpoint.pt", weights_only=True)["step"] == 1


def test_notes_on_settings_are_in_the_log(run):
    assert run("--multi_gpu").log.startswith("note: --multi_gpu: ")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_runs_on_the_gpu(run):
    outcome = run("--cuda")
    assert outcome.status == 0, outcome.err
    assert "on cuda" in outcome.out
    assert outcome.results["peak_memory_bytes"]["device"] > 0
    assert outcome.results["test"]["loss"] == pytest.approx(run("").results["test"]["loss"], abs=1e-3)


def test_curves_of_a_run_are_in_tensorboard(run):
    board = EventAccumulator(str(run(STAGES).folder)).Reload()
    solve = {"steps", "evaluations", "residual", "unconverged_sequences", "stopped/converged", "stopped/max_steps"}
    names = {f"train/{name}" for name in ("loss", "perplexity", "lr", "gradient_norm", "tokens_per_second")}
    names |= {f"{kind}/{name}" for kind in ("forward", "backward", "valid", "test") for name in solve}
    names |= {"backward/failed", "train/epoch", "train/ms_per_step", "train/seconds"}
    names |= {f"probe/residual_after_{n}" for n in (1, 2, 4, 6)}
    assert names <= set(board.Tags()["scalars"])
    assert [point.step for point in board.Scalars("train/loss")] == [2, 4, 6]
    seconds = [point.value for point in board.Scalars("train/seconds")]
    assert 0 < seconds[0] < seconds[1] < seconds[2]


def test_a_run_is_one_run_in_tensorboard_and_its_probe_is_of_the_equilibrium(run):
    folder = run(STAGES).folder
    assert {path.parent for path in folder.rglob("*tfevents*")} == {folder}
    board = EventAccumulator(str(folder)).Reload()
    first, last = (board.Scalars(f"probe/residual_after_{n}") for n in (1, 6))
    assert [point.step for point in first] == [point.step for point in last] == [4, 6], "of the equilibrium stage"
    assert first[-1].value > last[-1].value
    assert "probe/residual_after_7" not in board.Tags()["scalars"], "whatever eps is, one an evaluation"
    assert re.search(r"^ {9}probe +rel residual by evaluation 1: 1.0e0, 2: .*, 4: .*, 6: ", run(STAGES).log, re.M)
