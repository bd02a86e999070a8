"""benchmarks/compare.py: its runs, mistakes in a call, and what becomes of runs that fail or are interrupted."""

import contextlib
import hashlib
import importlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import compare
import job
import pytest
from comparison import SEED, Comparison
from scripts import ROOT
from stopped_runs import signal_in_update
from tiny_run import write_corpus

from config import file
from system.errors import UserError
from system.signals import Stopped

DEMO = ROOT / "benchmarks" / "comparisons" / "demo.toml"
SYSTEMS = ["equilibrium", "3 applications"]
SYNTHETIC = "--seq_len 3 --n_train 30 --n_test 7 --batch_size 5 --max_step 4 --d_model 8 --d_inner 8 --n_head 2"


@pytest.fixture
def commands(monkeypatch) -> list[list[str]]:
    """Has runs made in this process, as imports would take most of the time; the commands of those that were made."""
    made = []

    def run(command, *, stdout, stderr, env, **_):
        made.append(command[1:])
        assert env["OMP_NUM_THREADS"] == "1"
        main = importlib.import_module(Path(command[1]).stem).main
        with contextlib.ExitStack() as stack:
            stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(stdout.name, "w"))))
            stack.enter_context(contextlib.redirect_stderr(stack.enter_context(open(stderr.name, "w"))))
            return main(command[2:])

    monkeypatch.setattr(job, "_waited_for", run)
    return made


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The folder that calls are made in, with a corpus where the demo looks for one."""
    monkeypatch.chdir(tmp_path)
    write_corpus(tmp_path / "data" / "demo")
    return tmp_path


def called(arguments: str, capsys) -> tuple[int, str, str]:
    status = compare.main(arguments.replace("DEMO", str(DEMO)).split())
    return status, *capsys.readouterr()


def figures(folder: Path) -> dict[str, dict]:
    return {system["system"]: system for system in json.loads((folder / "comparison.json").read_text())["systems"]}


def test_the_demo_from_nothing_to_its_picture_and_once_more(folder, commands, capsys):
    status, out, err = called("DEMO --out out", capsys)
    assert (status, err) == (0, "")
    assert [command[-6:-4] for command in commands] == [["--seed", seed] for seed in "1122"]
    assert ["--pretrain_steps" in command for command in commands] == 2 * [False, True]
    written = (folder / "out" / "comparison.txt").read_text()
    assert f"\n{written}\n" in out
    assert [line[:14].strip() for line in written.splitlines()] == ["system", *SYSTEMS]
    found = figures(folder / "out")
    for name in SYSTEMS:
        runs = found[name]["runs"]
        assert [run["seed"] for run in runs] == [1, 2]
        for run in runs:
            (results,) = Path(run["folder"]).glob("*/*/results.json")
            content = json.loads(results.read_text())
            assert run["scores"] == {"perplexity": content["test"]["perplexity"]}
            assert run["peak_memory"] == content["peak_memory_bytes"]["host"]
            assert run["course"]["updates"] == [10, 20]
            assert min(run["course"]["values"]) == pytest.approx(content["valid"]["perplexity"], rel=1e-6)
            assert run["ms_a_step"] == pytest.approx(1000 * content["training"]["seconds"] / 20)
    assert found["equilibrium"]["body"] == found["3 applications"]["body"] < found["equilibrium"]["parameters"]
    assert (found["equilibrium"]["forward_steps"] > 1, found["3 applications"]["forward_steps"]) == (True, None)

    commands.clear()
    status, out, _ = called("DEMO --out out --seeds 2 3 --only equilibrium", capsys)
    assert status == 0
    assert [command[command.index("--seed") + 1] for command in commands] == ["3"]
    assert "equilibrium, seed 2: is there already" in out
    assert figures(folder / "out").keys() == {"equilibrium"}


def test_another_command_makes_another_run_and_leaves_the_old_one(folder, commands, capsys):
    file = folder / "mine.toml"
    for lr in ("0.01", "0.02", "0.01"):
        file.write_text(DEMO.read_text().replace("--lr 0.01", f"--lr {lr}"))
        assert called("mine.toml --out out --seeds 1 --only equilibrium", capsys)[0] == 0
    assert len(commands) == len(list((folder / "out" / "runs").iterdir())) == 2


@pytest.mark.parametrize(
    "flag", ["--preset equilibrium", "--preset=equilibrium", "--pres published --pres equilibrium"]
)
def test_a_preset_that_has_changed_makes_another_run(flag, tmp_path, monkeypatch):
    (tmp_path / "mine.toml").write_text(DEMO.read_text().replace("--f_thres 6", f"{flag} --f_thres 6"))
    monkeypatch.setattr(file, "PRESETS", tmp_path)
    (tmp_path / "published.toml").write_text("lr = 3.0")

    def places(text: str) -> list[Path]:
        (tmp_path / "equilibrium.toml").write_text(text)
        systems = Comparison.read(str(tmp_path / "mine.toml")).systems
        return [job.Job(system, 1, 1, tmp_path).place for system in systems]

    before, reworded, after = places("lr = 1.0\nclip = 2.0"), places("clip = 2.0 # why\nlr = 1.0"), places("lr = 2.0")
    assert before == reworded
    assert (before[0] == after[0], before[1] == after[1]) == (False, True)  # the second system has none


def test_a_command_without_a_preset_has_the_place_that_it_had():
    (system, _) = Comparison.read(str(DEMO)).systems
    words = [1, *system.flags, SEED, "1"]
    digest = hashlib.sha256(json.dumps([words[0], system.program, *words[1:]]).encode()).hexdigest()[:10]
    assert job.Job(system, 1, 1, Path("out")).place.name == f"train_transformer-seed-1-{digest}"


def test_an_interrupted_run_goes_on(folder, commands, capsys):
    arguments = "DEMO --seeds 1 --only equilibrium"
    assert called(f"{arguments} --out whole", capsys)[0] == 0
    with signal_in_update(13):
        status, out, _ = called(f"{arguments} --out out", capsys)
    assert status == 2
    assert "equilibrium, seed 1: failed: stopped by SIGTERM" in out
    assert figures(folder / "out")["equilibrium"]["runs"][0]["failed"] == "stopped by SIGTERM"
    commands.clear()
    assert called(f"{arguments} --out out", capsys)[0] == 0
    ((_, *flags),) = commands
    assert flags[:2] == ["--restart", "--restart_dir"]
    whole, other = (figures(folder / name)["equilibrium"]["scores"] for name in ("whole", "out"))
    assert whole == other


def test_a_run_that_fails_is_told_and_the_others_go_on(folder, commands, capsys):
    text = DEMO.read_text().replace("--f_thres 6", "--f_thres 6 --data later")
    (folder / "mine.toml").write_text(text)
    status, out, err = called("mine.toml --out out --seeds 1", capsys)
    assert (status, err) == (2, "")
    (line,) = (line for line in out.splitlines() if "failed" in line)
    assert line.startswith("equilibrium, seed 1: failed: ")
    assert "later" in line
    rows = (folder / "out" / "comparison.txt").read_text().splitlines()
    assert rows[1].split() == ["equilibrium", "0", "of", "1", *["-"] * 10]
    assert rows[2].split()[:3] == ["3", "applications", "1"]
    write_corpus(folder / "later")
    commands.clear()
    assert called("mine.toml --out out --seeds 1", capsys)[0] == 0
    assert len(commands) == 1


def test_synthetic_tasks(folder, commands, capsys):
    flags = f'program = "train_synthetic.py"\nflags = "{SYNTHETIC}"\n'
    gru, deq = "--model gru", "--f_thres 5 --b_thres 5 --pretrain_steps 0"
    systems = f'[systems]\ngru.flags = "{gru}"\ndeq.flags = "{deq}"\n'
    (folder / "mine.toml").write_text(f"{flags}seeds = [1, 2]\n{systems}")
    status, out, err = called("mine.toml --out out", capsys)
    assert (status, err) == (0, "")
    assert all(word in out for word in ("loss", "accuracy"))
    found = figures(folder / "out")
    for name in ("gru", "deq"):
        for run in found[name]["runs"]:
            (record,) = Path(run["folder"]).glob("figures/*.json")
            content = json.loads(record.read_text())
            (test,) = content["tests"]
            assert run["scores"] == {"loss": test["loss"], "accuracy": test["accuracy"]}
            assert run["course"]["values"] == [point["loss"] for point in content["training"]["course"]]
            assert run["course"]["updates"] == [1, 2, 3, 4]
            assert 0 < run["course"]["seconds"][0] < run["course"]["seconds"][-1] <= content["training"]["seconds"]
    assert (found["gru"]["residual"], found["deq"]["residual"] > 0) == (None, True)
    assert min(found["gru"]["ratio"], found["deq"]["ratio"]) == 1


@pytest.mark.slow
def test_the_script_runs_its_systems_in_processes_of_their_own(folder):
    words = ["--out", "out", "--seeds", "1", "--only", "equilibrium"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "compare.py"), str(DEMO), *words],
        env={**os.environ, "PYTHONPATH": str(ROOT / "DEQModel")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(figures(folder / "out")["equilibrium"]["runs"]) == 1


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ("", ["no file"]),
        ("nowhere.toml --out out", ["cannot read nowhere.toml", "demo.toml"]),
        ("DEMO", ["no --out"]),
        ("DEMO --out out --only nothing", ["--only nothing", "choose from equilibrium, 3 applications"]),
        ("DEMO --out out --seeds -1", ["--seeds is -1"]),
        ("DEMO --out file", ["--out file cannot be written"]),
        ("DEMO --outs out", ["unrecognized arguments", "--out"]),
    ],
)
def test_mistakes_in_the_call_are_one_line(arguments, parts, folder, capsys):
    (folder / "file").touch()
    status, out, err = called(arguments, capsys)
    (line,) = err.splitlines()
    assert (status, out) == (2, "")
    assert all(part in line for part in parts), line


def test_two_comparisons_do_not_work_in_one_folder(folder, capsys):
    with job.alone_in(folder / "out") as lock:
        assert called("DEMO --out out", capsys)[2].startswith("compare.py: error: --out out is in use by another")
        orphan = subprocess.Popen(["sleep", "60"], pass_fds=(lock,))
    try:
        with pytest.raises(UserError, match="in use"), job.alone_in(folder / "out"):
            pass
    finally:
        orphan.kill()
        orphan.wait()
    with job.alone_in(folder / "out"):
        pass


def test_who_is_asked_to_stop_stops_the_run_first(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    script = f"trap 'echo saved >{tmp_path}/saved; exit 0' TERM; kill -TERM {os.getpid()}; while :; do sleep 0.02; done"
    with pytest.raises(Stopped):
        job._waited_for(["bash", "-c", script])
    assert (tmp_path / "saved").read_text() == "saved\n"
    assert signal.getsignal(signal.SIGTERM) is before
