"""Runs that go on from their checkpoint end as if they had never stopped, whatever step they stopped at."""

import json
import math
import os
import re
import shutil
import signal

import pytest
import torch
from stopped_runs import assert_same, content, curves, flags, restart, signal_in_update, told
from tiny_run import LENGTHS, MODEL, Outcome, call

from training.checkpoint import CHECKPOINT_FILE
from training.kept_checkpoints import KeptCheckpoints
from training.trainer import Trainer

WORSE = "--optim SGD --lr 30 --clip 1 --scheduler constant --eval-interval 2"  # from validation to validation
KINDS = {
    "shallow": "--pretrain_steps 20 --dropout 0.1 --dropatt 0.1",
    "both-stages": "--pretrain_steps 5 --dropout 0.1 --solver broyden",
    "equilibrium": "--dropout 0.1 --jac_loss_weight 1 --jac_loss_freq 0.5 --rand_f_thres_delta 2",
    "varlen": "--varlen --tgt_len 20 --dropout 0.1",
    "chunks": "--batch_size 5 --batch_chunk 3 --dropout 0.1",
    "bins": "--adaptive --cutoffs 8 16 --div_val 2 --wnorm --clip_nonemb",
    "layers": "--layers_before 1 --layers_after 1 --inject both --z_init previous --dropout 0.1 --batch_chunk 2",
    "inv_sqrt": "--scheduler inv_sqrt --warmup_step 4 --optim RAdam --weight_decay 0.1",
    "dev_perf": "--scheduler dev_perf --eval-interval 2 --lr 1e-6 --optim SGD --save_interval 3",
    "muon": "--optim Muon --weight_decay 0.1 --wnorm --dropout 0.1",
    "averaged": f"{WORSE} --asgd --nonmono 0 --alpha 1 --beta 1 --weight_decay 0.01 --dropout 0.1",
    "annealed": f"{WORSE} --anneal 1 --when 7 --save_interval 3",
    "constant": "--scheduler constant --optim Adagrad",
    "cosine": "--scheduler cosine --warmup_step 4 --eta_min 0.001 --optim RMSprop --mem_len 0",
}
QUICK = ("both-stages", "chunks", "muon", "averaged")  # the others are slow tests


@pytest.mark.parametrize(
    "kind", [kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS]
)
def test_run_that_stops_at_every_step_ends_with_the_same_bits(kind, place):
    whole, folder = call(flags(place, KINDS[kind], f"whole-{kind}")), None
    assert whole.status == 0, whole.err
    for step in range(1, 10):
        with signal_in_update(step):
            part = restart(folder) if folder else call(flags(place, KINDS[kind], f"parts-{kind}"))
        assert part.status == 128 + signal.SIGTERM, part.err
        assert f"stopped by SIGTERM at step {step}" in part.out
        assert content(part.folder)["step"] == step
        folder = part.folder
    last = restart(folder)
    assert last.status == 0, last.err
    assert last.same_weights(whole)
    mine, theirs = content(folder), content(whole.folder)
    assert mine["settings"].pop("name") != theirs["settings"].pop("name")
    assert_same(mine, theirs)
    assert told(folder) == told(whole.folder)
    assert curves(folder) == curves(whole.folder)
    assert (mine["average"]["weights"] is not None) == (kind == "averaged")
    assert (mine["annealing"]["falls"] > 0) == (kind == "annealed")
    a, b = last.results, whole.results
    assert (a["test"]["loss"], a["valid"]["loss"]) == (b["test"]["loss"], b["valid"]["loss"])
    assert a["training"]["updates"] == b["training"]["updates"] == 10


@pytest.fixture
def saved(monkeypatch) -> list[int]:
    """The steps at which checkpoints are written."""
    steps = []
    write = KeptCheckpoints.write
    monkeypatch.setattr(
        KeptCheckpoints, "write", lambda kept, content: (steps.append(content["step"]), write(kept, content))
    )
    return steps


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signals_save_and_stop(number, status, place, saved):
    with signal_in_update(3, number):
        outcome = call(flags(place, "--eval-interval 100", f"signal-{number}"))
    assert (outcome.status, saved) == (status, [3])
    assert content(outcome.folder)["step"] == 3
    assert f"--restart --restart_dir {outcome.folder}" in outcome.out


def test_the_warning_of_clusters_saves_and_the_run_goes_on(place, saved):
    with signal_in_update(3, signal.SIGUSR1):
        outcome = call(flags(place, "--eval-interval 100", "warned"))
    assert (outcome.status, saved) == (0, [3, 10, 10])


def test_checkpoints_are_written_at_intervals_before_validations_and_at_the_end(place, saved):
    assert call(flags(place, "--save_interval 3 --eval-interval 4", "intervals")).status == 0
    assert saved == [3, 4, 6, 8, 9, 10, 10]


def test_best_model_of_a_finished_run_outlives_worse_ones(place):
    first = call(flags(place, "--eval-interval 100", "better"))
    loss, weights = first.results["valid"]["loss"], first.weights
    rest = restart(first.folder, "--max_step 12 --lr 3 --scheduler constant")
    assert rest.status == 0
    assert rest.results["valid"]["loss"] == loss
    assert_same(rest.weights, weights)
    assert f"step 10 valid loss {loss:.5f}" in first.log
    assert re.search(rf"step 12 valid loss .* \(best {math.exp(loss):.3f}\)", rest.log)


def test_a_killed_run_that_validates_again_has_no_point_twice(place, monkeypatch):
    whole = call(flags(place, "", "alive"))
    update = Trainer.update

    def killed(trainer, *given):
        if trainer.progress.step == 6:
            raise RuntimeError("killed")
        return update(trainer, *given)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "update", killed)
        with pytest.raises(RuntimeError, match="killed"):
            call(flags(place, "", "killed"))
    folder = whole.folder.with_name("killed")
    assert content(folder)["step"] == 4, "before the validation"
    assert "valid/loss" in curves(folder)
    assert restart(folder).status == 0
    assert curves(folder) == curves(whole.folder)
    assert told(folder) == told(whole.folder)


def test_a_run_that_is_tested_again_has_no_point_twice(stopped):
    first = curves(restart(stopped).folder)
    assert "test/loss" in first
    assert curves(restart(stopped).folder) == first


def test_signal_in_a_validation_ends_it_and_loses_nothing(place, monkeypatch):
    whole = call(flags(place, "", "validated"))
    with monkeypatch.context() as patch:
        patch.setattr("training.trainer.evaluate", lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM))
        cut = call(flags(place, "", "cut"))
    assert cut.status == 143
    assert "stopped by SIGTERM at step 4" in cut.out
    rest = restart(cut.folder)
    assert rest.same_weights(whole)
    assert told(rest.folder) == told(whole.folder)


def test_a_run_goes_on_in_its_folder_with_its_settings(stopped):
    rest = restart(stopped)
    assert rest.status == 0, rest.err
    assert rest.folder == stopped
    assert "resumed at step 6, epoch 1" in rest.out
    assert "changed" not in rest.out
    assert json.loads((stopped / "settings.json").read_text())["settings"]["save_interval"] == 4


def test_a_finished_run_is_tested_again(stopped):
    first, again = restart(stopped), restart(stopped)
    assert again.status == 0, again.err
    assert (again.results["test"]["loss"], again.results["training"]["updates"]) == (first.results["test"]["loss"], 10)
    assert again.same_weights(first)


def test_changed_settings_are_told_one_by_one(stopped, place):
    rest = restart(stopped, "--lr 0.005 --max_step 12 --f_thres 7 --scheduler constant")
    assert rest.status == 0, rest.err
    lines = [line for line in rest.out.splitlines() if line.startswith("changed: ")]
    assert lines == [
        "changed: --f_thres is 7, was 6",
        "changed: --lr is 0.005, was 0.01",
        "changed: --scheduler is constant, was cosine",
        "changed: --max_step is 12, was 10",
    ]
    assert " lr 5.0e-3 " in rest.log
    assert rest.results["training"]["updates"] == 12


def test_changed_rate_holds_from_the_first_update_on(stopped):
    before = content(stopped)["model"]
    restart(stopped, "--lr 1e-30 --scheduler constant --max_step 7")
    assert content(stopped)["step"] == 7
    assert_same(content(stopped)["model"], before)


def test_a_changed_rate_counts_and_not_the_one_that_had_been_annealed(place):
    folder = call(flags(place, f"{WORSE} --anneal 1", "annealing")).folder
    falls = content(folder)["annealing"]["falls"]
    assert falls > 0
    for further, rate in (("--max_step 11 --anneal 9", 30 / 10**falls), ("--max_step 12 --lr 0.5", 0.5)):
        assert restart(folder, further).status == 0
        assert content(folder)["optimizer"]["param_groups"][0]["lr"] == rate


@pytest.mark.parametrize(
    ("further", "parts"),
    [
        ("--d_inner 32", ["--d_inner 16 to 32 (the weights have its shape)", "--load"]),
        ("--optim SGD --batch_size 3", ["--optim Adam to SGD", "--batch_size 4 to 3", "leave these flags out"]),
        ("--wnorm", ["--wnorm False to True"]),
        ("--init_std 0.3", ["--init_std 0.01 to 0.3 (it had its effect when the run began)"]),
        ("--dataset wt2", ["--dataset text to wt2"]),
        ("--name other", ["--name stopped to other", "own folder"]),
        ("--max_step 5", ["--max_step 5", "step 6", "raise"]),
        ("--debug", ["--restart", "--debug", "leave one"]),
        ("--load x.pkl", ["--load x.pkl", "--restart_dir", "pass one"]),
        ("--data {place}/other", ["--data", "other", "is not what the run", "same texts"]),
    ],
)
def test_changes_that_make_no_sense_are_refused(further, parts, stopped, place):
    before = {path: path.read_bytes() for path in stopped.iterdir() if path.is_file()}
    outcome = restart(stopped, further.replace("{place}", str(place)))
    assert (outcome.status, outcome.out) == (2, "")
    assert outcome.err.count("\n") == 1 + outcome.err.count("encoding")
    for part in parts:
        assert part in outcome.err
    assert {path: path.read_bytes() for path in stopped.iterdir() if path.is_file()} == before


def test_evaluation_of_a_run_refuses_another_numbering_of_as_many_words(stopped, place, tmp_path):
    texts = {split: (place / "corpus" / f"{split}.txt").read_text() for split in ("train", "valid", "test")}
    swapped = {split: text.replace("word1 ", "w ").replace("WORD1 ", "word1 ") for split, text in texts.items()}
    for name, written, status in (
        ("same", texts, 0),
        ("longer", {**texts, "valid": texts["test"]}, 0),
        ("other", swapped, 2),
    ):
        folder = tmp_path / name
        folder.mkdir()
        for split, text in written.items():
            (folder / f"{split}.txt").write_text(text)
        outcome = call(f"--data {folder} --dataset text {MODEL} {LENGTHS} --debug --eval --restart_dir {stopped}")
        assert outcome.status == status, outcome.err
        assert ("is not what the run" in outcome.err) == bool(status)


def test_other_texts_for_validation_and_test_are_told_once(stopped, place, tmp_path):
    corpus = shutil.copytree(place / "corpus", tmp_path / "copy", ignore=shutil.ignore_patterns(".*"))
    for split in ("valid", "test"):
        (corpus / f"{split}.txt").write_text("word1 WORD2 word3\n" * 30)
    evaluated = f"--data {corpus} --dataset text {MODEL} {LENGTHS} --eval --restart_dir {stopped}"
    wanted = [f"warning: {corpus}/{split}.txt is not the text that the run in {stopped}" for split in ("valid", "test")]

    def warned(outcome: Outcome) -> list[str]:
        assert outcome.status in (0, 143), outcome.err
        return [line.partition(" had: ")[0] for line in outcome.out.splitlines() if line.startswith("warning: ")]

    assert warned(call(evaluated)) == wanted
    with signal_in_update(7):
        assert warned(restart(stopped, f"--data {corpus}")) == wanted
    assert warned(restart(stopped)) == warned(call(evaluated)) == []
    assert "losses on valid do not compare" in call(evaluated.replace(str(corpus), f"{place}/corpus")).out


def test_checkpoints_of_a_program_that_noted_the_training_text_alone(stopped, place):
    checkpoint = content(stopped)
    words, train, *_ = checkpoint["corpus"].split("-")
    torch.save({**checkpoint, "corpus": f"{words}-{train}"}, stopped / CHECKPOINT_FILE)
    assert (
        "warning: "
        not in call(f"--data {place}/corpus --dataset text {MODEL} {LENGTHS} --eval --restart_dir {stopped}").out
    )
    assert restart(stopped, f"--data {place}/other").status == 2
    outcome = restart(stopped)
    assert outcome.status == 0
    assert "warning: " not in outcome.out
    assert content(stopped)["corpus"] == checkpoint["corpus"]


def test_best_model_that_was_damaged_is_searched_for_again(stopped):
    weights = stopped / "model_state_dict.pkl"
    weights.write_bytes(weights.read_bytes()[:300])
    rest = restart(stopped)
    assert rest.status == 0, rest.err
    assert "the search for the best model starts again" in rest.out
    assert rest.weights


def test_finished_run_goes_on_to_more_steps_like_a_longer_one(place):
    longer = call(flags(place, "--max_step 14 --scheduler constant", "longer"))
    first = call(flags(place, "--max_step 8 --scheduler constant", "extended"))
    rest = restart(first.folder, "--max_step 14")
    assert content(rest.folder)["step"] == 14
    assert_same(content(rest.folder)["model"], content(longer.folder)["model"])
