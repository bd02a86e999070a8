"""train_synthetic.py from its command line: tiny runs of every model, what they leave, tables, and mistakes."""

import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from scripts import ROOT
from tiny_synthetic import SMALL, SOLVES, trained
from tiny_trained import call_program

from synthetic.models import MODELS
from synthetic.p_hop import PHop
from synthetic.program import main
from synthetic.record import Record
from synthetic.settings import DEQ_MODELS, completed
from synthetic.table import main_test
from synthetic.tasks import TASKS
from synthetic.training import training_depth
from system.errors import UserError


@pytest.mark.parametrize("model", MODELS)
def test_every_model_is_trained_and_tested(model, tmp_path):
    record, out = trained(tmp_path, f"--model {model} --n_layer 2 --d_embed 4")
    assert record.settings["model"] == model
    assert f"{record.parameters:,} parameters" in out
    assert len(record.training.course) == 4  # a point an update, of so few
    assert [point.step for point in record.training.course] == [1, 2, 3, 4]
    assert record.training.loss == record.training.course[-1].loss > 0
    assert record.training.seconds_a_step == record.training.seconds / 4 > 0
    assert record.peak_memory["host"] > 1e7
    test = main_test(record)
    assert test.length == 3
    assert 0 <= test.accuracy <= 1
    solves = model in DEQ_MODELS
    figures = (record.training.forward_steps, record.training.backward_steps, test.steps, test.residual, test.threshold)
    assert all((figure is not None) == solves for figure in figures)
    assert test.threshold == (5 if solves else None)
    assert f"loss {test.loss:.1e}".replace("e+0", "e") in out


@pytest.mark.parametrize("task", TASKS)
def test_every_task_is_learned(task, tmp_path):
    record, _ = trained(tmp_path, f"--task {task} --p 1 --n_train 0 --seq_len 6 --model gru --max_step 60 --lr 0.05")
    first, last = record.training.course[0], record.training.course[-1]
    assert last.loss < 0.95 * first.loss


def test_the_seed_decides_all(tmp_path):
    losses = [
        [point.loss for point in trained(tmp_path / folder, f"--seed {seed} {more}")[0].training.course]
        for folder, seed, more in (("a", 1, ""), ("b", 1, ""), ("c", 2, ""), ("d", 1, "--n_train 0"))
    ]
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]
    assert losses[0] != losses[3]


def test_a_stopped_run_leaves_nothing_and_others_stay(tmp_path, monkeypatch):
    trained(tmp_path)
    before = sorted(tmp_path.iterdir())

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("synthetic.program.trials", interrupted)
    outcome = call_program(main, f"{SMALL} {SOLVES} --out {tmp_path} --seed 9")
    assert outcome.status == 130
    assert outcome.err == "train_synthetic.py: interrupted\n"
    assert sorted(tmp_path.iterdir()) == before


def test_tests_at_other_lengths_and_thresholds(tmp_path):
    record, _ = trained(tmp_path, "--test_lengths 3 6 --test_thresholds 2 9 --f_eps 1e-9")
    assert [(test.length, test.threshold) for test in record.tests] == [(3, 2), (3, 9), (6, 2), (6, 9)]
    assert [test.steps for test in record.tests] == [2, 9, 2, 9]
    assert main_test(record).threshold == 2  # 5 of training is nearer to it than to 9


def test_another_solver_for_the_tests(tmp_path):
    one, other = (trained(tmp_path, more)[0] for more in ("", "--test_solver fixed_point"))
    assert one.training.course == other.training.course
    assert main_test(one).residual != main_test(other).residual


def test_a_cell_that_is_applied_a_number_of_times(tmp_path):
    record, _ = trained(tmp_path, "--depth 3 --test_thresholds 1 3")
    assert record.training.forward_steps is None
    assert [(test.threshold, test.steps) for test in record.tests] == [(1, None), (3, None)]
    assert record.tests[0].loss != record.tests[1].loss
    other, _ = trained(tmp_path, "--depth 1 --test_thresholds 1 3")
    assert other.training.loss != record.training.loss


def test_stages_have_as_many_values_of_each_setting():
    with pytest.raises(UserError, match=r"2 value.s. of p, 1 value.s. of max_step"):
        list(completed({"curriculum": "p=1,2 max_step=3"}).stages)


def test_a_curriculum_comes_before_the_task(tmp_path, monkeypatch):
    seen = []
    examples = PHop.examples

    def watched(self, n, seq_len, generator):
        seen.append((self.p, n, seq_len))
        return examples(self, n, seq_len, generator)

    monkeypatch.setattr(PHop, "examples", watched)
    base = "--task p_hop --p 3 --n_train 0 --model gru --seq_len 9 --max_step 1"
    given = f"{SMALL} --out {tmp_path} {base}".split()
    curriculum = ["--curriculum", "p=1,2 seq_len=5,7 batch_size=4,3 max_step=2,3"]
    assert call_program(main, [*given, *curriculum]).status == 0
    before = len(completed({"curriculum": curriculum[1]}).stages)  # a test set of each is looked at
    assert seen[before:] == [(1, 4, 5)] * 2 + [(2, 3, 7)] * 3 + [(3, 5, 9), (3, 7, 9)]  # and the test's
    (path,) = tmp_path.iterdir()
    assert Record.read(path).training.course[-1].step == 6


def test_each_stage_has_a_course_of_the_rate_of_its_own(tmp_path, monkeypatch):
    rates = []
    monkeypatch.setattr("synthetic.training.set_rate", lambda optimizer, rate: rates.append(rate))
    curriculum = ["--curriculum", "max_step=4"]
    assert call_program(main, [*f"{SMALL} {SOLVES} --out {tmp_path} --model gru".split(), *curriculum]).status == 0
    assert rates[:4] == rates[4:]
    assert rates[0] != rates[3]
    rates.clear()
    more = ["--warmup_step", "0", "--scheduler", "trapezoid", "--lr", "1"]
    assert (
        call_program(main, [*f"{SMALL} {SOLVES} --out {tmp_path} --model gru --max_step 5".split(), *more]).status == 0
    )
    assert rates == pytest.approx([1, 1, 1, 1, 0.5])


def test_stages_are_tested_on_their_own_tasks(tmp_path):
    base = f"{SMALL} {SOLVES} --out {tmp_path} --task p_hop --p 3 --n_train 0 --seq_len 9".split()
    more = ["--test_stages", "--curriculum", "p=1,2 max_step=2,3", "--test_thresholds", "2", "5"]
    outcome = call_program(main, [*base, *more])
    assert outcome.status == 0
    assert "test p 2 T 9 threshold 5: loss" in outcome.out
    (path,) = tmp_path.iterdir()
    record = Record.read(path)
    assert [(test.p, test.threshold) for test in record.tests] == [(p, n) for p in (1, 2, 3) for n in (2, 5)]
    assert main_test(record).p == 3
    shown = call_program(main, f"--table {tmp_path}").out
    assert all(f"p {p} T 9" in shown for p in (1, 2, 3))


def test_updates_without_a_position_that_counts_change_nothing(tmp_path, monkeypatch):
    nothing = PHop.examples

    def uncounted(self, n, seq_len, generator):
        examples = nothing(self, n, seq_len, generator)
        return replace(examples, counted=examples.counted & (n == 7))  # but for the test set

    monkeypatch.setattr(PHop, "examples", uncounted)
    record, _ = trained(tmp_path, "--task p_hop --p 1 --seq_len 12 --n_train 0 --depth 1")
    assert {(point.loss, point.accuracy) for point in record.training.course} == {(0, 0)}
    assert main_test(record).loss > 0


def test_the_shallow_stage_comes_before_the_solves():
    stages = training_depth(completed({"pretrain_steps": 3, "n_layer": 4})).stages
    assert [first for first, _ in stages] == [0, 3]
    assert stages[0][1].n == 4
    assert stages[1][1].f_thres == completed({}).f_thres


@pytest.mark.parametrize(
    "more",
    [
        "--optim Muon",
        "--lr 0.02",
        "--beta2 0.5",
        "--warmup_step 0",
        "--clip 0.01",
        "--init_std 0.3",
        "--init_std -1",
        "--not_tied",
        "--n_head 4",
        "--d_inner 9",
        "--pretrain_steps 3",
        "--grad unroll --f_thres 3",
        "--b_thres 2",
        "--solver anderson",
        "--grad one_step",
        "--grad phantom --phantom_steps 2",
        "--jac_loss_weight 5 --jac_loss_freq 1",
        "--batch_size 6",
        "--n_train 31",
    ],
)
def test_every_flag_changes_what_comes_out(more, tmp_path):
    usual, _ = trained(tmp_path)
    changed, _ = trained(tmp_path, more)
    assert changed.training.loss != usual.training.loss


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--task chess", "argument --task: invalid choice"),
        ("--modell gru", "did you mean --model?"),
        ("--depth 0", "--depth is '0': pass equilibrium, a number"),
        ("--depth deep", "--depth is 'deep'"),
        ("--model gru --depth 3", "--depth 3 has no effect without --model deq_transformer"),
        ("--d_model 9", "--d_model 9 is no multiple of --n_head 2"),
        ("--d_model 7 --n_head 1", "--d_model is 7: pass an even width"),
        ("--model tcn --n_layer 1 --seq_len 50", "--n_layer 1"),
        ("--model tcn --n_layer 1 --kernel_size 15 --test_lengths 3 50", "--n_layer 1"),
        ("--seq_len 0", "--seq_len is 0"),
        ("--task p_hop --p 8 --seq_len 9", "--p 8: so many hops lead nowhere in 7 sequences of length 9"),
        ("--task p_hop --p 1 --seq_len 64 --test_lengths 64 2", "sequences of length 2: lower --p"),
        ("--seed -1", "--seed is -1"),
        ("--model gru --test_solver anderson", "--test_solver anderson has no effect without --depth equilibrium"),
        ("--test_stages", "--test_stages has no effect without --curriculum"),
        ("--adam_ratio 0.3", "--adam_ratio 0.3 has no effect without --optim Muon"),
        ("--beta2 0.5 --optim Muon", "--beta2 0.5 has no effect without --optim Adam"),
        ("--phantom_steps 2", "--phantom_steps 2 has no effect without --grad phantom"),
        ("--f_thres -1", "--f_thres is -1"),
        ("--test_thresholds 3 0", "--test_thresholds is 0"),
        ("--lr 1e30", "the loss is"),
        ("--curriculum p", "--curriculum has 'p': write"),
        ("--curriculum lr=1", "--curriculum cannot change 'lr': choose from p, seq_len"),
        ("--curriculum p=1", "--curriculum has no max_step"),
        ("--curriculum max_step=3,0", "--curriculum has max_step=0: pass whole numbers of at least 1"),
        ("--model deq_trellisnet", "--d_embed 10 is more than --d_model 8"),
        ("--out {place}/file", "cannot write"),
        ("--table {place}/none", "is no folder"),
        ("--table {place}/empty", "holds no runs"),
        ("--table {place}/broken", "is no record of a run"),
    ],
)
def test_mistakes_take_one_line(more, message, tmp_path):
    (tmp_path / "file").write_text("")
    for name, content in (("empty", None), ("broken", '{"settings": {}}')):
        (tmp_path / name).mkdir()
        if content:
            (tmp_path / name / "a.json").write_text(content)
    before = sorted(tmp_path.rglob("*"))
    arguments = more.replace("{place}", str(tmp_path))
    outcome = call_program(main, f"{SMALL} {SOLVES} --out {tmp_path}/new {arguments}")
    assert outcome.status == 2
    (line,) = outcome.err.splitlines()
    assert line.startswith("train_synthetic.py: error: ")
    assert message in line
    assert sorted(tmp_path.rglob("*")) == before


def test_ctrl_c_ends_in_good_order(tmp_path):
    child = subprocess.Popen(
        [sys.executable, ROOT / "DEQModel" / "train_synthetic.py", *f"{SMALL} --max_step 1000000".split()],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert "parameters" in child.stdout.readline()  # from here on it trains
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=30)
    assert (child.returncode, err) == (130, "train_synthetic.py: interrupted\n")
    assert list(tmp_path.iterdir()) == []


def test_updates_do_not_depend_on_other_random_draws(tmp_path):
    first, _ = trained(tmp_path / "a")
    torch.rand(100)
    assert trained(tmp_path / "b")[0].training.course == first.training.course
