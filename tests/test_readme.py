"""What README.md says: its commands parse, what it names exists, and its SLURM script does what the text says."""

import fnmatch
import os
import re
import shlex
import subprocess

import pytest
import torch
from scripts import ROOT, copied_to, passed
from tiny_run import COMMAND
from torch.distributed.run import get_args_parser

import evaluation.score_program
import generation.program
import train_transformer
import train_trellisnet
from config.parser import Parser
from synthetic.program import check
from synthetic.settings import GROUPS, completed

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```bash\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
SLURM = next(block for block in BLOCKS if "#SBATCH" in block)
TRAINING = {
    "DEQModel/train_transformer.py": train_transformer.main.args[0],
    "DEQModel/train_trellisnet.py": train_trellisnet.main.args[0],
}
PROGRAMS = [path for folder in ("DEQModel", "examples", "benchmarks") for path in (ROOT / folder).glob("*.py")]
FILES = [str(path.relative_to(ROOT)) for path in ROOT.rglob("*") if not path.relative_to(ROOT).parts[0].startswith(".")]
FAKES = {
    "srun": 'exec "$@"',
    "scontrol": 'case $1 in show) echo node1;; requeue) echo "$2" >>requeued;; esac',
    # what training does before it is over, and what it does when it is asked to stop
    "torchrun": 'printf "%s\\n" "$@" >arguments; trap "$ASKED" TERM; eval "$DOES"; exit',
}
SAVE = "mkdir -p runs/deq-wt103/big; echo new >runs/deq-wt103/big/checkpoint.pt;"
TIME_IS_UP = "kill -USR1 $PPID; for _ in {1..500}; do sleep 0.02; done"


def commands():
    """Those of the blocks and within the text, each once, as their words."""
    lines = [line for block in BLOCKS if block != SLURM for line in block.replace("\\\n", " ").splitlines()]
    lines += re.findall(r"`((?:[A-Z]+=\S+ )?(?:bash|python|python3|torchrun|pip|tensorboard) [^`]+)`", README)
    words = [tuple(shlex.split(part, comments=True)) for line in lines for part in line.split(" && ")]
    return [command for command in dict.fromkeys(words) if command]


def is_training(command):
    return not TRAINING.keys().isdisjoint(command) or any(
        word.startswith(("run_demo", "run_wt103", "run_ptb")) for word in command
    )


@pytest.mark.parametrize("command", [*filter(is_training, commands())], ids=" ".join)
def test_training_commands_parse(command, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    command = [word for word in command if not word.startswith("PYTHON=")]
    if command[0] == "torchrun":
        launched = get_args_parser().parse_args(command[1:])
        command = ["python"] * (not launched.no_python) + [launched.training_script, *launched.training_script_args]
    if command[0] == "bash":
        model = "trellisnet" if "trellisnet" in command[1] else "transformer"
        program, arguments = f"DEQModel/train_{model}.py", passed(copied_to(tmp_path), *command[1:])
    else:
        assert command[0] == "python"
        program, arguments = command[1], command[2:]
    (tmp_path / "FILE").write_text("{}")
    monkeypatch.chdir(tmp_path)  # where --config FILE is
    if "--help" not in arguments:
        TRAINING[program].parse(arguments)


@pytest.mark.parametrize(
    "command", [command for command in commands() if "DEQModel/train_synthetic.py" in command], ids=" ".join
)
def test_commands_of_synthetic_tasks_parse(command):
    given, _ = Parser("train_synthetic.py", "", GROUPS).given(command[2:])
    check(completed(given))


def test_commands_are_whole():
    assert len(commands()) > 30
    assert not [command for command in commands() if "…" in " ".join(command)]


def test_corpora_are_those_of_get_data():
    known = re.search(r'known="(.*)"', (ROOT / "get_data.sh").read_text())[1].split()
    named = [command[2:] for command in commands() if command[:2] == ("bash", "get_data.sh")]
    assert named
    assert all(word in known for words in named for word in " ".join(words).split(" --")[0].split())


def test_flags_exist():
    named = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", README.replace(SLURM, "")))
    written = "".join(path.read_text(encoding="utf-8") for path in [*PROGRAMS, ROOT / "get_data.sh"])
    known = {*get_args_parser()._option_string_actions}
    for program in (generation.program.PROGRAM, evaluation.score_program.PROGRAM, *TRAINING.values()):
        known |= program.parser()._option_string_actions.keys()
    known |= Parser("train_synthetic.py", "", GROUPS)._option_string_actions.keys()
    known |= set(re.findall(r"[\"' ](--[a-z][\w-]*)", written)) | {"--logdir", "--out"}  # of tensorboard, plot_runs.py
    abbreviated = {"--pretrain_step"}  # as existing scripts have it
    assert named - known - abbreviated == set()


def test_files_exist():
    named = set(re.findall(r"(?<![\w<>*/~.])[\w*./-]+\.(?:py|sh|md)\b|requirements[\w-]*\.txt", README))
    assert len(named) > 50
    missing = {name for name in named if not fnmatch.filter(FILES, name) + fnmatch.filter(FILES, f"*/{name}")}
    assert missing == set()


def test_folders_of_the_layout_exist():
    layout = README.split("## Layout")[1].split("```")[1]
    named = re.findall(r"^ *([\w/]+)/", layout, re.MULTILINE)
    assert len(named) > 10
    assert [name for name in named if not ((ROOT / name).exists() or (ROOT / "DEQModel" / name).exists())] == []


def test_links_lead_somewhere_and_the_contents_are_whole():
    headings = re.findall(
        r"^(#+) (.*)$", re.sub(r"^```.*?^```", "", README, flags=re.DOTALL | re.MULTILINE), re.MULTILINE
    )
    anchors = {"#" + re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-"): level for level, text in headings}
    targets = re.findall(r"\]\(([^)]+)\)", README)
    assert [target for target in targets if target not in anchors and not (ROOT / target).exists()] == []
    assert [anchor for anchor, level in anchors.items() if level != "#" and anchor not in targets] == []


def test_the_python_block_runs(capsys):
    (block,) = re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    torch.manual_seed(0)
    exec(compile(block.replace("from deqlib", "from modules"), "README.md", "exec"), {})
    n_steps, residual, reason = capsys.readouterr().out.split(" ", 2)
    assert int(n_steps) < 30
    assert float(residual) < 1e-3
    assert reason == "the residual fell below eps\n"


@pytest.fixture
def slurm(tmp_path):
    """Runs the README's script as a job, with what training does and what it does at SIGTERM; status, requeued."""
    (tmp_path / "job").write_text(SLURM.replace("/shared/", f"{tmp_path}/"))
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, text in FAKES.items():
        (tools / name).write_text(f"#!/bin/bash\n{text}\n")
        (tools / name).chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{tools}:{os.environ['PATH']}",
        "SLURM_SUBMIT_DIR": str(tmp_path),
        "SLURM_JOB_ID": "17",
        "SLURM_NNODES": "2",
        "SLURM_JOB_NODELIST": "node[1-2]",
    }

    def job(does: str, asked: str = "exit 1") -> tuple[int, bool]:
        requeued = tmp_path / "requeued"
        requeued.unlink(missing_ok=True)
        done = subprocess.run(
            ["bash", "job"],
            cwd=tmp_path,
            env=environment | {"DOES": does, "ASKED": asked},
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert done.stderr == ""
        return done.returncode, requeued.exists()

    return job


@pytest.mark.parametrize(
    ("does", "asked", "expected"),
    [
        ("exit 0", "", (0, False)),
        (f"{SAVE} exit 2", "", (2, False)),  # a wrong flag, divergence
        (f"{SAVE} exit 143", "", (143, False)),  # stopped by somebody else
        (TIME_IS_UP, f"{SAVE} exit 1", (1, True)),
        (TIME_IS_UP, f"{SAVE} exit 143", (143, True)),
        (f"{SAVE} {TIME_IS_UP}", "exit 1", (1, True)),
        (TIME_IS_UP, f"{SAVE} exit 0", (0, False)),  # finished at the last moment
        (TIME_IS_UP, "exit 1", (1, False)),
    ],
)
def test_a_slurm_job_is_requeued_only_where_it_can_go_on(slurm, tmp_path, does, asked, expected):
    for _ in range(2):  # also where there is a checkpoint of before
        assert slurm(does, asked) == expected
        old = tmp_path / "runs" / "deq-wt103" / "big" / "checkpoint.pt"
        old.parent.mkdir(parents=True, exist_ok=True)
        old.write_text("old")
        os.utime(old, (1e9, 1e9))


def test_a_slurm_job_goes_on_with_its_newest_run(slurm, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)

    def settings():
        _, program, words = (tmp_path / "arguments").read_text().partition("DEQModel/train_transformer.py\n")
        assert program
        return COMMAND.parse(words.splitlines())

    slurm("exit 0")
    assert settings().restart is False
    runs = tmp_path / "runs" / "deq-wt103"
    for age, name in enumerate(("bigger", "big-2", "big")):
        (runs / name).mkdir(parents=True)
        (runs / name / "checkpoint.pt").touch()
        os.utime(runs / name / "checkpoint.pt", (1e9 - age, 1e9 - age))
    slurm("exit 0")
    assert settings().restart
    assert settings().restart_dir == str(runs / "big-2")
