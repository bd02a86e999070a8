"""Training in several processes is training in one: losses, weights, validations, checkpoints."""

import re
import shutil
import signal
from pathlib import Path

import pytest
import torch
from processes import Job, checkpoint, losses, run_in
from tiny_run import MODEL

pytestmark = pytest.mark.slow  # processes take seconds to start

BASE = "--batch_size 5 --tgt_len 8 --eval_tgt_len 8 --mem_len 8 --lr 0.01 --max_step 20 --log-interval 7"
KINDS = {
    # rows that do not divide, rare bins, the whole batch's stop rule with loose solves, forward and backward
    "broyden": "--solver broyden --f_thres 6 --b_thres 6 --adaptive --cutoffs 8 22 --div_val 2 --wnorm "
    "--eval-interval 10",
    "anderson": "--f_thres 6 --b_thres 6 --varlen --gpu0_bsz 1 --optim RAdam --weight_decay 0.1 --clip_nonemb "
    "--eval-interval 10",
    "stages": "--pretrain_steps 9 --f_thres 6 --b_thres 6 --stop_scope sequence --solver broyden --scheduler dev_perf "
    "--eval-interval 4",
    "averaged": "--optim SGD --lr 3 --scheduler constant --asgd --nonmono 0 --anneal 2 --eval-interval 2 --f_thres 6 "
    "--b_thres 6",
    # chunks stop their solves on their own, and are cut otherwise from a process's rows than from all
    "chunks": "--batch_size 7 --batch_chunk 2 --f_thres 6 --b_thres 6 --stop_scope sequence --solver broyden "
    "--alpha 1 --beta 2 --eval-interval 10",
}
LOOSE = {
    "dropout": "--dropout 0.1 --dropatt 0.1 --f_thres 6 --b_thres 6",
    "thresholds": "--rand_f_thres_delta 3 --f_thres 6 --b_thres 6",
    "penalty": "--jac_loss_weight 1 --f_thres 6 --b_thres 6",
}
COUNTS = (1, 2, 3)


@pytest.fixture(scope="module")
def runs(place, tmp_path_factory) -> Path:
    """A folder with a run `<kind>-<n>` of each kind in n processes, and their output in `of-<kind>-<n>`."""
    folder = tmp_path_factory.mktemp("processes")
    for n in COUNTS:
        kinds = {**KINDS, **(LOOSE if n < 3 else {})}
        jobs = [job(place, folder, f"{kind}-{n}", further) for kind, further in kinds.items()]
        statuses = run_in(n, jobs)
        assert statuses == [[0] * n] * len(kinds), [(j.place / "err-0").read_text() for j in jobs]
    return folder


def job(place: Path, folder: Path, name: str, further: str, **ailment) -> Job:
    output = folder / f"of-{name}"
    output.mkdir(exist_ok=True)
    flags = f"--data {place}/corpus --dataset text --work_dir {folder}/ {MODEL} {BASE} {further} --name {name}"
    return Job(tuple(flags.split()), output, **ailment)


def run_folder(folder: Path, name: str) -> Path:
    return folder / "deq-text" / name


@pytest.mark.parametrize("n", COUNTS[1:])
@pytest.mark.parametrize("kind", KINDS)
def test_losses_and_weights_are_those_of_one_process(kind, n, runs):
    one, several = run_folder(runs, f"{kind}-1"), run_folder(runs, f"{kind}-{n}")
    assert len(losses(one)) == 20
    assert losses(several) == pytest.approx(losses(one), abs=1e-6)
    mine, theirs = checkpoint(several), checkpoint(one)
    for part in ("model", "optimizer", "memory", "average"):
        assert_close(mine[part], theirs[part])
    assert mine["model"]["word_emb.emb_layers.0.weight"].dtype == torch.float64
    assert (mine["average"]["weights"] is not None) == (kind == "averaged")
    assert mine["best"]["loss"] == pytest.approx(theirs["best"]["loss"], abs=1e-6)
    assert mine["best"]["n_tokens"] == theirs["best"]["n_tokens"]
    assert (mine["best"]["rows"], mine["step"], mine["position"]) == (4, 20, theirs["position"])


def assert_close(one: object, other: object) -> None:
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        one, other = list(one.values()), list(other.values())
    if isinstance(one, list | tuple):
        for pair in zip(one, other, strict=True):
            assert_close(*pair)
    elif isinstance(one, torch.Tensor):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", LOOSE)
def test_random_draws_differ_between_processes_and_do_no_harm(kind, runs):
    one, two = (losses(run_folder(runs, f"{kind}-{n}")) for n in (1, 2))
    assert one[0] == pytest.approx(two[0], abs=0.3)
    assert one != two
    states = checkpoint(run_folder(runs, f"{kind}-2"))["random"]
    assert len(states) == 2
    assert not torch.equal(states[0]["cpu"], states[1]["cpu"])


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_process_alone_writes_and_speaks(kind, runs):
    names = {path.name for path in run_folder(runs, f"{kind}-3").iterdir() if "tfevents" not in path.name}
    assert names == {path.name for path in run_folder(runs, f"{kind}-1").iterdir() if "tfevents" not in path.name}
    assert len(list(run_folder(runs, f"{kind}-3").glob("*tfevents*"))) == 1
    assert [(runs / f"of-{kind}-3" / f"out-{rank}").read_text() for rank in (1, 2)] == ["", ""]
    assert "on cpu in 3 processes" in (runs / f"of-{kind}-3" / "out-0").read_text()


def test_a_checkpoint_resumes_under_another_number_of_processes(place, tmp_path, runs):
    further = KINDS["broyden"]
    kept = {}
    for n in (2, 1):
        (stop,) = run_in(n, [job(place, tmp_path, f"from-{n}", further, ailing=n - 1, at=13, number=signal.SIGTERM)])
        assert stop == [143] * n, "all processes stop when one of them is told to"
        kept[n] = run_folder(tmp_path, f"from-{n}")
        assert checkpoint(kept[n])["step"] == 13
    whole = checkpoint(run_folder(runs, "broyden-1"))
    output = tmp_path / "rest"
    output.mkdir()
    for before, after in ((2, 1), (1, 3)):
        (done,) = run_in(after, [Job(("--restart", "--restart_dir", str(kept[before])), output)])
        assert done == [0] * after, (output / "err-0").read_text()
        assert_close(checkpoint(kept[before])["model"], whole["model"])
        assert checkpoint(kept[before])["best"]["loss"] == pytest.approx(whole["best"]["loss"], abs=1e-6)


def test_processes_without_a_row_or_with_too_few_for_the_chunks_are_refused(place, tmp_path):
    jobs = [
        job(place, tmp_path, "few", "--batch_size 1"),
        job(place, tmp_path, "much", "--gpu0_bsz 5"),
        job(place, tmp_path, "chunks", "--batch_chunk 3"),
    ]
    assert run_in(2, jobs) == [[2, 2]] * 3
    parts = [
        "--batch_size 1 leaves some of 2 processes",
        "--gpu0_bsz 5 of --batch_size 5 sequences",
        "--batch_chunk 3 is more than the 2",
    ]
    for refused, part in zip(jobs, parts, strict=True):
        for rank in range(2):
            lines = (refused.place / f"err-{rank}").read_text().splitlines()
            assert len(lines) == 1
            assert re.search(re.escape(part), lines[0])
    assert not (tmp_path / "deq-text").exists()


def test_processes_end_together_where_they_would_train_otherwise_or_cannot_write(place, runs, tmp_path):
    """As on two machines, each with a command line and files of its own; and with a folder in a file's place."""
    one, other = (job(place, tmp_path, "differ", f"--lr {lr}") for lr in (0.01, 0.02))
    folder, output = shutil.copytree(run_folder(runs, "stages-2"), tmp_path / "stages-2"), tmp_path / "blocked"
    (folder / "results.json").unlink()
    for blocked in (folder / "results.json", output):
        blocked.mkdir()
    resumed = ("--restart", "--restart_dir", str(folder))
    assert run_in(2, [Job(one.argv, one.place, of_others=other.argv), Job(resumed, output)]) == [[2, 2], [2, 2]]
    assert "the processes differ: lr is 0.01 in process 0 and 0.02 in process 1" in (one.place / "err-0").read_text()
    assert not (tmp_path / "deq-text").exists()
    assert f"{folder}: results.json (Is a directory) could not be written" in (output / "err-0").read_text()
