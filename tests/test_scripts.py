"""The shell scripts: published settings, further flags, other folders, exit statuses."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_run import write_corpus

ROOT = Path(__file__).parent.parent
WT103 = ROOT / "run_wt103_deq_transformer.sh"
SMALL = (
    "--dataset text --cutoffs 8 16 --d_embed 8 --d_model 8 --n_head 2 --d_head 4 --d_inner 16 --div_val 2 "
    "--batch_size 4 --tgt_len 8 --eval_tgt_len 8 --mem_len 8 --f_thres 4 --b_thres 4 --pretrain_steps 1"
)


def run(script, *arguments, cwd, python=sys.executable, **environment):
    environment = {**os.environ, "PYTHON": python, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(
        ["bash", str(script), *map(str, arguments)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    "name", ["run_demo.sh", "run_tests.sh", "run_wt103_deq_transformer.sh", "get_data.sh", "environment.sh"]
)
def test_syntax(name):
    subprocess.run(["bash", "-n", str(ROOT / name)], check=True)


def test_training_and_evaluating_from_a_folder_with_a_blank_in_its_name(tmp_path):
    place = tmp_path / "some where"
    corpus = write_corpus(place / "my corpus")
    trained = run(WT103, "train", "--data", corpus, *SMALL.split(), "--max_step", 3, "--name", "a run", cwd=place)
    assert trained.returncode == 0, trained.stderr
    folder = place / "LM-TFMdeq-text" / "a run"
    assert (folder / "model_state_dict.pkl").is_file()
    weights = Path("LM-TFMdeq-text") / "a run" / "model_state_dict.pkl"  # relative to the caller's folder
    evaluated = run(WT103, "eval", "--data", corpus, *SMALL.split(), "--pretrain_step", 0, "--load", weights, cwd=place)
    assert evaluated.returncode == 0, evaluated.stderr
    assert "threshold 4" in evaluated.stdout
    as_published = run(WT103, "train", "--data", corpus, *SMALL.split(), "--f_thres", 30, "--eval", "--load", weights,
                       "--mem_len", 300, "--pretrain_step", 0, cwd=place)  # fmt: skip
    assert as_published.returncode == 0, as_published.stderr
    assert "threshold 30" in as_published.stdout
    assert "memory 300" in as_published.stdout


def test_published_settings_reach_the_training_script(tmp_path):
    recorder = tmp_path / "python"
    recorder.write_text('#!/bin/sh\ncase "$1" in -c) exit 1;; esac\nprintf "%s\\n" "$@"\n')
    recorder.chmod(0o755)
    for word, expected in (
        ("train", {"--f_thres": "25", "--b_thres": "35", "--mem_len": "150", "--pretrain_steps": "16000"}),
        ("eval", {"--f_thres": "30", "--mem_len": "300", "--pretrain_steps": "0"}),
    ):
        done = run(WT103, word, "--name", "two words", cwd=tmp_path, python=str(recorder))
        words = done.stdout.splitlines()
        last = {flag: words[len(words) - words[::-1].index(flag)] for flag in (*expected, "--d_inner", "--batch_size")}
        assert last == expected | {"--d_inner": "48000", "--batch_size": "56"}
        assert words[-2:] == ["--name", "two words"]
        assert ("--eval" in words) == (word == "eval")
        assert "--cuda" not in words


@pytest.mark.parametrize("arguments", [(), ("test",), ("--max_step", "3")])
def test_the_first_word_must_be_train_or_eval(arguments, tmp_path):
    done = run(WT103, *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "pass train or eval" in done.stderr


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help(flag, tmp_path):
    done = run(WT103, flag, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "run_wt103_deq_transformer.sh eval --load FILE.pkl" in done.stdout
    assert "set -" not in done.stdout


@pytest.mark.parametrize("missing", ["train.txt", "valid.txt", "test.txt", None])
def test_the_demo_fetches_its_corpus_where_a_text_is_missing(missing, tmp_path):
    copy = tmp_path / "project"
    corpus = write_corpus(copy / "data" / "demo")
    if missing:
        (corpus / missing).unlink()
    shutil.copy(ROOT / "run_demo.sh", copy)
    (copy / "environment.sh").write_text(
        'root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd) python=echo\nprepare_environment() { :; }\n'
    )
    (copy / "get_data.sh").write_text("echo fetching $1\nexit 2\n")
    done = run(copy / "run_demo.sh", cwd=tmp_path)
    assert done.stderr == ""
    if missing:
        assert (done.returncode, done.stdout) == (2, "fetching demo\n")
    else:
        assert done.stdout.startswith(f"{copy}/DEQModel/train_transformer.py --data {corpus}")


def test_exit_status_is_the_training_scripts(tmp_path):
    done = run(WT103, "train", "--data", tmp_path / "nowhere", cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert str(tmp_path / "nowhere") in done.stderr.splitlines()[-1]


def test_an_unusable_python_is_named(tmp_path):
    copy = tmp_path / "project"
    copy.mkdir()
    for name in ("run_tests.sh", "environment.sh", "requirements.txt", "requirements-dev.txt"):
        (copy / name).write_bytes((ROOT / name).read_bytes())
    done = run(copy / "run_tests.sh", cwd=tmp_path, python="/bin/false")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "run_tests.sh: PYTHON is /bin/false, which is no Python 3.10 or newer: name another one"
    ]
    assert not (copy / ".venv").exists()
