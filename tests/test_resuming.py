"""Runs that go on from their checkpoint end as if they had never stopped, whatever step they stopped at."""

import json
import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from tiny_run import COURSE, LENGTHS, MODEL, Outcome, call

from system.errors import UserError
from system.tensor_files import read_tensors
from training import recipe
from training.checkpoint import CHECKPOINT_FILE, PREVIOUS_FILE, write_checkpoint
from training.trainer import Trainer
from training.update import Updater

SHORT = "--tgt_len 30 --max_step 10 --log-interval 3 --eval-interval 4"  # 7 segments an epoch
KINDS = {
    "shallow": "--pretrain_steps 20 --dropout 0.1 --dropatt 0.1",
    "both-stages": "--pretrain_steps 5 --dropout 0.1 --solver broyden",
    "equilibrium": "--dropout 0.1 --jac_loss_weight 1 --jac_loss_freq 0.5 --rand_f_thres_delta 2",
    "varlen": "--varlen --tgt_len 20 --dropout 0.1",
    "chunks": "--batch_size 5 --batch_chunk 3 --dropout 0.1",
    "bins": "--adaptive --cutoffs 8 16 --div_val 2 --wnorm --clip_nonemb",
    "inv_sqrt": "--scheduler inv_sqrt --warmup_step 4 --optim RAdam --weight_decay 0.1",
    "dev_perf": "--scheduler dev_perf --eval-interval 2 --lr 1e-6 --optim SGD --save_interval 3",
    "constant": "--scheduler constant --optim Adagrad",
    "cosine": "--scheduler cosine --warmup_step 4 --eta_min 0.001 --optim RMSprop --mem_len 0",
}
OF_THE_CLOCK = re.compile(r"[\d,.]+ (ms/step|tokens/s|s, )")
OF_THE_CALL = ("resumed at", "changed: ", "warning: ", "note: ", "run folder: ", "curves: ", "peak memory")


def flags(place: Path, kind: str, name: str) -> str:
    """A short run below `place` with the corpus there."""
    base = f"--data {place}/corpus --dataset text --work_dir {place}/R- {MODEL} {LENGTHS} {COURSE} {SHORT}"
    return f"{base} {kind} --name {name}"


def told(folder: Path) -> list[str]:
    """The log without what tells of the clock or of a call."""
    lines = (folder / "log.txt").read_text().splitlines()
    kept = [OF_THE_CLOCK.sub("", line) for line in lines if not line.startswith(OF_THE_CALL)]
    return [re.sub(r" in +s|\d+ updates in .*", "", line) for line in kept]


def content(folder: Path) -> dict:
    return torch.load(folder / CHECKPOINT_FILE, weights_only=True)


def assert_same(one: object, other: object, where: str = "") -> None:
    """Equal to the bit, all but times and what depends on the length of their digits."""
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one.keys() - {"seconds", "log_end", "restart", "restart_dir"}:
            assert_same(one[key], other[key], f"{where} {key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for i, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{where} {i}")
    elif isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype, where
        assert torch.equal(one, other), where
    else:
        assert one == other, where


@contextmanager
def signal_in_update(step: int, number: int = signal.SIGTERM) -> Iterator[None]:
    """A signal comes in the update that ends with this step."""
    update = Trainer.update

    def disturbed(trainer, *given):
        if trainer.progress.step + 1 == step:
            os.kill(os.getpid(), number)
        return update(trainer, *given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "update", disturbed)
        yield


def restart(folder: Path, further: str = "") -> Outcome:
    return call(f"--restart --restart_dir {folder} {further}")


@pytest.mark.parametrize("kind", KINDS)
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
    a, b = last.results, whole.results
    assert (a["test"]["loss"], a["valid"]["loss"]) == (b["test"]["loss"], b["valid"]["loss"])
    assert a["training"]["updates"] == b["training"]["updates"] == 10


@pytest.fixture
def saved(monkeypatch) -> list[int]:
    """The steps at which checkpoints are written."""
    steps = []
    monkeypatch.setattr(
        "training.trainer.write_checkpoint",
        lambda content, folder: (steps.append(content["step"]), write_checkpoint(content, folder)),
    )
    return steps


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
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
    assert "step 10 | valid: perplexity" in rest.log


def test_damaged_checkpoint_never_becomes_the_one_before(stopped):
    newest = stopped / CHECKPOINT_FILE
    newest.write_bytes(newest.read_bytes()[:-500])
    with signal_in_update(5):
        assert restart(stopped).status == 143
    steps = [torch.load(stopped / name, weights_only=True)["step"] for name in (CHECKPOINT_FILE, PREVIOUS_FILE)]
    assert steps == [5, 4]


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


@pytest.fixture
def stopped(place, tmp_path) -> Path:
    """The folder of a run that was stopped at step 6 of 10."""
    with signal_in_update(6):
        return call(f"{flags(place, '--save_interval 4', 'stopped')} --work_dir {tmp_path}/R-").folder


def test_a_run_goes_on_in_its_folder_with_its_settings(stopped):
    rest = restart(stopped)
    assert rest.status == 0, rest.err
    assert rest.folder == stopped
    assert "resumed at step 6, epoch 1" in rest.out
    assert "changed" not in rest.out
    assert json.loads((stopped / "settings.json").read_text())["save_interval"] == 4


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
    assert "lr 0.005 |" in rest.log
    assert rest.results["training"]["updates"] == 12


def test_changed_rate_holds_from_the_first_update_on(stopped):
    before = content(stopped)["model"]
    restart(stopped, "--lr 1e-30 --scheduler constant --max_step 7")
    assert content(stopped)["step"] == 7
    assert_same(content(stopped)["model"], before)


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
    for name, content, status in (
        ("same", texts, 0),
        ("longer", {**texts, "valid": texts["test"]}, 0),
        ("other", swapped, 2),
    ):
        folder = tmp_path / name
        folder.mkdir()
        for split, text in content.items():
            (folder / f"{split}.txt").write_text(text)
        outcome = call(f"--data {folder} --dataset text {MODEL} {LENGTHS} --eval --restart_dir {stopped}")
        assert outcome.status == status, outcome.err
        assert ("is not what the run" in outcome.err) == bool(status)


def test_damaged_checkpoint_gives_way_to_the_one_before(stopped, place):
    whole = call(flags(place, "--save_interval 4", "undamaged"))
    newest = stopped / CHECKPOINT_FILE
    newest.write_bytes(newest.read_bytes()[:-500])
    rest = restart(stopped)
    assert rest.status == 0, rest.err
    assert f"warning: {newest} is cut short, damaged" in rest.out
    assert f"{stopped / PREVIOUS_FILE}, step 4" in rest.out
    assert rest.same_weights(whole)
    assert told(stopped) == told(whole.folder)


def test_without_a_sound_checkpoint_there_is_one_line(stopped):
    for name in (CHECKPOINT_FILE, PREVIOUS_FILE):
        (stopped / name).write_bytes(b"")
    outcome = restart(stopped)
    assert (outcome.status, outcome.out) == (2, "")
    for part in ("no checkpoint to go on from", CHECKPOINT_FILE, PREVIOUS_FILE, "--load"):
        assert part in outcome.err
    assert outcome.err.count("\n") == 1


@pytest.mark.parametrize("change", [{"format": 99}, {"extra": 1}])
def test_checkpoint_of_another_version_is_refused(change, stopped):
    torch.save({**content(stopped), **change}, stopped / CHECKPOINT_FILE)
    outcome = restart(stopped)
    assert outcome.status == 2
    assert "go on with the version that wrote it" in outcome.err


def rewrite_settings(folder: Path, rewritten) -> None:
    """The checkpoint of a program with other settings."""
    checkpoint = content(folder)
    torch.save({**checkpoint, "settings": rewritten(dict(checkpoint["settings"]))}, folder / CHECKPOINT_FILE)


def test_checkpoint_of_an_older_program_goes_on_with_defaults_that_are_told(stopped, place):
    """To the bits of a run that had the defaults, whatever settings the older program did not have."""
    whole = call(flags(place, "--save_interval 4", "newer"))
    lacking = ("jac_loss_weight", "f_history", "max_bad_steps", "log_interval")
    rewrite_settings(stopped, lambda s: {name: value for name, value in s.items() if name not in lacking})
    rest = restart(stopped, "--log-interval 3")
    assert rest.status == 0, rest.err
    for flag, default in (("jac_loss_weight", 0.0), ("f_history", None), ("max_bad_steps", 10), ("log-interval", 200)):
        assert f"note: the run's program had no --{flag}: it goes on with the default, {default}\n" in rest.out
    assert "changed: --log-interval is 3, was 200" in rest.out
    assert rest.same_weights(whole)


def test_settings_that_this_program_does_not_know_are_refused(stopped):
    rewrite_settings(stopped, lambda s: {**s, "of_the_future": 3})
    outcome = restart(stopped)
    assert (outcome.status, outcome.out) == (2, "")
    for part in ("does not know (of_the_future)", "go on with the program that wrote", "--load"):
        assert part in outcome.err


@pytest.mark.parametrize("other", [{"a": torch.ones(2)}, [1, 2], 3])
def test_other_tensor_files_are_no_checkpoints(other, stopped):
    torch.save(other, stopped / CHECKPOINT_FILE)
    outcome = restart(stopped)
    assert outcome.status == 2
    assert "is no checkpoint of a training run" in outcome.err


@pytest.mark.parametrize("field", ["model", "optimizer", "memory", "random", "window", "plateau", "totals", "best"])
def test_checkpoint_with_nonsense_inside_is_refused(field, stopped):
    torch.save({**content(stopped), field: {"nonsense": torch.ones(3)}}, stopped / CHECKPOINT_FILE)
    outcome = restart(stopped)
    assert outcome.status == 2, outcome.out
    assert "Traceback" not in outcome.err


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


def test_memory_that_runs_out_while_resuming_is_not_another_kind_of_run(stopped, monkeypatch):
    def too_much(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    monkeypatch.setattr(Updater, "restore", too_much)
    outcome = restart(stopped)
    assert outcome.status == 2
    assert "the checkpoint does not fit into the memory: make room" in outcome.err
    assert "another kind" not in outcome.err
    assert outcome.err.count("\n") == 1


def test_evaluation_of_a_run_reads_no_values_of_its_checkpoints(stopped, place):
    """Their weights are damaged, which nothing notices; another corpus is noticed all the same."""
    for name in (CHECKPOINT_FILE, PREVIOUS_FILE):
        weight = torch.load(stopped / name, weights_only=True)["model"]["inject_conv.weight"].numpy().tobytes()
        whole = (stopped / name).read_bytes()
        assert whole.count(weight) == 1
        (stopped / name).write_bytes(whole.replace(weight, bytes(len(weight))))
        with pytest.raises(UserError, match="damaged"):
            read_tensors(stopped / name)
    evaluated = f"--dataset text {MODEL} {LENGTHS} --eval --restart_dir {stopped}"
    assert call(f"--data {place}/corpus {evaluated}").status == 0
    refused = call(f"--data {place}/other {evaluated}")
    assert refused.status == 2
    assert "is not what the run" in refused.err


def test_a_checkpoint_from_which_another_process_went_on_meanwhile_is_refused(stopped, place, monkeypatch):
    """Both had read its header; the other one was the first to lock the folder, and is through."""
    whole = call(flags(place, "--save_interval 4", "alone"))
    open_experiment, left = recipe.open_experiment, {}

    def late(*given):
        monkeypatch.undo()
        assert restart(stopped).status == 0
        left.update({path: path.read_bytes() for path in stopped.iterdir() if path.is_file()})
        return open_experiment(*given)

    monkeypatch.setattr(recipe, "open_experiment", late)
    outcome = restart(stopped)
    assert (outcome.status, outcome.out) == (2, "")
    assert f"{stopped} is in use by another process, which has gone on" in outcome.err
    assert {path: path.read_bytes() for path in stopped.iterdir() if path.is_file()} == left
    assert told(stopped) == told(whole.folder)


def test_an_unknown_entry_is_refused_before_anything_is_written(stopped):
    torch.save({**content(stopped), "extra": 1}, stopped / CHECKPOINT_FILE)
    before = {path: path.read_bytes() for path in stopped.iterdir() if path.is_file()}
    outcome = restart(stopped)
    assert (outcome.status, outcome.out) == (2, "")
    assert {path: path.read_bytes() for path in stopped.iterdir() if path.is_file()} == before


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"step": -5}, "is no checkpoint of a training run"),
        ({"format": torch.ones(2)}, "is no checkpoint of a training run"),
        ({"settings": 3}, "is no checkpoint of a training run"),
        ({"log_end": "x"}, "is no checkpoint of a training run"),
        ({"position": -5}, "another kind of run"),
        ({"epoch": 2.5}, "another kind of run"),
    ],
)
def test_entries_of_another_kind_are_refused(change, part, stopped):
    torch.save({**content(stopped), **change}, stopped / CHECKPOINT_FILE)
    outcome = restart(stopped)
    assert (outcome.status, outcome.err.count("\n")) == (2, 1)
    assert part in outcome.err


@pytest.mark.parametrize("entry", ["epoch", "model", "window", "best"])
def test_a_missing_entry_is_refused_before_anything_is_written(entry, stopped):
    torch.save({name: value for name, value in content(stopped).items() if name != entry}, stopped / CHECKPOINT_FILE)
    before = {path: path.read_bytes() for path in stopped.iterdir() if path.is_file()}
    assert restart(stopped).status == 2
    assert {path: path.read_bytes() for path in stopped.iterdir() if path.is_file()} == before
