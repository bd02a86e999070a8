"""The shell scripts: published settings, further flags, other folders, exit statuses."""

import subprocess
from pathlib import Path

import pytest
from scripts import ROOT, SCRIPTS, copied_to, passed, run
from tiny_run import write_corpus

import train_transformer
import train_trellisnet
from config.depth import evaluation_depth, training_depth
from modules.depth import Applications

WT103, PTB = ROOT / "run_wt103_deq_transformer.sh", ROOT / "run_ptb_deq_transformer.sh"
COMMANDS = {"transformer": train_transformer.main.args[0], "trellisnet": train_trellisnet.main.args[0]}
SMALL = (
    "--dataset text --cutoffs 8 16 --d_embed 8 --d_model 8 --n_head 2 --d_head 4 --d_inner 16 --div_val 2 "
    "--batch_size 4 --tgt_len 8 --eval_tgt_len 8 --mem_len 8 --f_thres 4 --b_thres 4 --pretrain_steps 1"
)


@pytest.mark.parametrize("name", SCRIPTS)
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


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("train", {"--f_thres": "25", "--b_thres": "35", "--mem_len": "150", "--pretrain_steps": "16000"}),
        ("eval", {"--f_thres": "30", "--mem_len": "300", "--pretrain_steps": "0"}),
    ],
)
def test_published_settings_reach_the_training_script(word, expected, tmp_path):
    words = passed(copied_to(tmp_path), "run_wt103_deq_transformer.sh", word, "--name", "two words")
    last = {flag: words[len(words) - words[::-1].index(flag)] for flag in (*expected, "--d_inner", "--batch_size")}
    assert last == expected | {"--d_inner": "48000", "--batch_size": "56"}
    assert words[-2:] == ["--name", "two words"]
    assert ("--eval" in words) == (word == "eval")
    assert "--cuda" not in words


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            "transformer train",
            {"--dataset": "ptb", "--d_inner": "23500", "--tgt_len": "70", "--pretrain_steps": "8000"},
        ),
        ("transformer train words", {"--dataset": "ptb", "--d_inner": "23500", "--tgt_len": "70"}),
        ("transformer train chars", {"--dataset": "ptb_char", "--d_inner": "15000", "--tgt_len": "150"}),
        ("transformer eval chars", {"--dataset": "ptb_char", "--pretrain_steps": "0"}),
        ("transformer eval", {"--dataset": "ptb", "--pretrain_steps": "0"}),
        ("trellisnet train", {"--dataset": "ptb", "--nhid": "1000", "--optim": "SGD", "--alpha": "2"}),
        ("trellisnet train chars", {"--dataset": "ptb_char", "--nhid": "1050", "--wdrop": "0.26", "--lr": "0.002"}),
        ("trellisnet eval chars", {"--dataset": "ptb_char", "--pretrain_steps": "0"}),
    ],
)
def test_penn_treebanks_words_and_characters(words, expected, project):
    model, *words = words.split()
    passed_on = passed(project, f"run_ptb_deq_{model}.sh", *words, "--name", "two words")
    last = {flag: passed_on[len(passed_on) - passed_on[::-1].index(flag)] for flag in (*expected, "--data")}
    folder = {"ptb": "penn", "ptb_char": "penn_char"}[expected["--dataset"]]
    assert last == expected | {"--data": f"{project}/data/{folder}"}
    assert passed_on[-2:] == ["--name", "two words"]
    assert ("--eval" in passed_on) == (words[0] == "eval")
    COMMANDS[model].parse([word for word in passed_on if word != "--eval"])


@pytest.mark.parametrize("word", ["train", "eval"])
def test_published_settings_of_the_trellisnet(word, project):
    passed_on = passed(project, "run_wt103_deq_trellisnet.sh", word)
    settings = COMMANDS["trellisnet"].parse([word for word in passed_on if word != "--eval"])
    assert (settings.d_embed, settings.nhid, settings.nout, settings.ksize) == (500, 1500, 500, 2)
    assert (settings.clip, settings.lr, settings.tgt_len, settings.batch_size) == (0.07, 0.001, 100, 49)
    assert (settings.f_thres, settings.b_thres, settings.n_layer) == (45, 45, 40)
    assert settings.pretrain_steps == {"train": 30000, "eval": 0}[word]
    assert settings.cutoffs == (20000, 40000, 200000)


@pytest.mark.parametrize("word", ["train", "eval"])
def test_published_settings_of_torchdeqs_language_model(word, project):
    passed_on = passed(project, "run_wt103_torchdeq_lm.sh", word)
    settings = COMMANDS["transformer"].parse([word for word in passed_on if word != "--eval"])
    assert (settings.cell_layers, settings.d_inner, settings.dropout) == (3, 14800, 0.05)
    assert (settings.warmup_step, settings.max_step) == (8000, 150000)
    assert settings.mem_len == {"train": 150, "eval": 480}[word]
    training, evaluation = training_depth(settings), evaluation_depth(settings)
    assert {training.at(step) for step in (0, 149_999)} == {evaluation} == {Applications(12)}


@pytest.mark.parametrize("arguments", [(), ("test",), ("--max_step", "3"), ("chars", "train")])
@pytest.mark.parametrize("script", [WT103, PTB])
def test_the_first_word_must_be_train_or_eval(script, arguments, tmp_path):
    done = run(script, *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "pass train or eval" in done.stderr


@pytest.fixture
def project(tmp_path):
    """A copy of the scripts, without .venv."""
    return copied_to(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("run_demo.sh", "--help"), "bash run_demo.sh --restart --restart_dir LM-TFM-deq-text/demo"),
        (("run_demo.sh", "--max_step", 3, "-h"), "DEQModel/train_transformer.py --help"),
        (("run_tests.sh", "--help"), "bash run_tests.sh [pytest arguments]"),
        (("run_tests.sh", "-h"), ".venv/bin/python -m pytest --help"),
        (("run_depth_tasks.sh", "-h"), "[--seeds N …]"),
        (("run_copy_memory.sh", "--seq_len", 100, "--help"), "[--seq_len T …]"),
        (("run_wt103_deq_transformer.sh", "--help"), "run_wt103_deq_transformer.sh eval --load FILE.pkl"),
        (("run_wt103_deq_transformer.sh", "-h"), "run_wt103_deq_transformer.sh train --help"),
        (("run_ptb_deq_transformer.sh", "-h"), "run_ptb_deq_transformer.sh train [words|chars]"),
        (("run_ptb_deq_transformer.sh", "train", "chars", "--help"), "a Python with PyTorch"),
        (("run_ptb_deq_trellisnet.sh", "-h"), "run_ptb_deq_trellisnet.sh train [words|chars]"),
        (("run_wt103_deq_trellisnet.sh", "-h"), "run_wt103_deq_trellisnet.sh train --help"),
        (("run_wt103_deq_transformer.sh", "train", "--help"), "a Python with PyTorch"),
        (("run_wt103_deq_transformer.sh", "eval", "--mem_len", 3, "-h"), "a Python with PyTorch"),
    ],
)
def test_help_needs_and_makes_nothing(arguments, expected, project):
    script, *words = arguments
    before = sorted(project.iterdir())
    done = run(project / script, *words, cwd=project.parent, python="/bin/false")
    assert (done.returncode, done.stderr) == (0, "")
    assert expected in done.stdout
    assert "set -" not in done.stdout
    assert sorted(project.iterdir()) == before


def test_flags_are_listed_by_a_python_that_can(tmp_path):
    done = run(WT103, "train", "--help", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--f_thres" in done.stdout


@pytest.mark.parametrize(
    "of_a_run", ["--restart_dir a/run", "--restart_dir=a/run", "--restart_d a/run", "--restart_=a"]
)
@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("run_demo.sh --restart", "--restart"),
        ("run_demo.sh --eval", "--eval"),
        ("run_wt103_deq_transformer.sh train --restart", "--restart"),
        ("run_wt103_deq_transformer.sh train --eval", "--eval"),
        ("run_wt103_deq_transformer.sh eval", "--eval"),
        ("run_ptb_deq_transformer.sh train chars --restart", "--restart"),
        ("run_ptb_deq_transformer.sh eval", "--eval"),
        ("run_ptb_deq_trellisnet.sh train chars --restart", "--restart"),
        ("run_wt103_deq_trellisnet.sh eval", "--eval"),
    ],
)
def test_a_run_keeps_its_settings(script, expected, of_a_run, project):
    further = [*of_a_run.split(), "--f_thres", "30"]
    assert passed(project, *script.split(), *further) == [expected, *further]


@pytest.mark.parametrize(
    "further", ["--restart", "--eval --load a.pkl", "--restart_no_such_flag", "--name restart_dir"]
)
def test_other_flags_leave_the_published_settings(further, project):
    words = further.split()
    of_training = passed(project, "run_wt103_deq_transformer.sh", "train", *words)
    assert of_training[-len(words) :] == words
    assert "--d_inner" in of_training


@pytest.mark.parametrize("missing", ["train.txt", "valid.txt", "test.txt", None])
def test_the_demo_fetches_its_corpus_where_a_text_is_missing(missing, project):
    corpus = write_corpus(project / "data" / "demo")
    if missing:
        (corpus / missing).unlink()
    with open(project / "environment.sh", "a") as file:
        print("prepare_environment() { python=echo; }", file=file)
    (project / "get_data.sh").write_text("echo fetching $1\nexit 2\n")
    done = run(project / "run_demo.sh", cwd=project.parent)
    assert done.stderr == ""
    if missing:
        assert (done.returncode, done.stdout) == (2, "fetching demo\n")
    else:
        assert done.stdout.startswith(f"{project}/DEQModel/train_transformer.py --data {corpus}")


@pytest.mark.parametrize("of_their_own", [("--data", "mine"), ("--data=mine",)])
def test_the_demo_fetches_nothing_for_another_corpus(of_their_own, project):
    with open(project / "environment.sh", "a") as file:
        print("prepare_environment() { python=echo; }", file=file)
    (project / "get_data.sh").write_text("exit 1\n")
    done = run(project / "run_demo.sh", *of_their_own, cwd=project.parent)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith(f" {' '.join(of_their_own)}\n")


def test_exit_status_is_the_training_scripts(tmp_path):
    done = run(WT103, "train", "--data", tmp_path / "nowhere", cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert str(tmp_path / "nowhere") in done.stderr.splitlines()[-1]


def test_an_unusable_python_is_named(project):
    done = run(project / "run_tests.sh", cwd=project.parent, python="/bin/false")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "run_tests.sh: PYTHON is /bin/false, which is no Python 3.10 or newer: name another one"
    ]
    assert not (project / ".venv").exists()


@pytest.mark.parametrize(
    ("given", "instead"),
    [
        ("--config x.toml", "--config FILE"),
        ("--config=x.toml", "--config FILE"),
        ("--conf x.toml", "--config FILE"),
        ("--preset equilibrium", "--preset NAME"),
        ("--pres=equilibrium", "--preset NAME"),
    ],
)
def test_a_file_of_settings_is_not_for_scripts_that_have_their_own(given, instead, project):
    for script in (
        ("run_demo.sh",),
        ("run_wt103_deq_transformer.sh", "train"),
        ("run_ptb_deq_transformer.sh", "train"),
        ("run_ptb_deq_trellisnet.sh", "train"),
    ):
        program = "train_trellisnet.py" if "trellisnet" in script[0] else "train_transformer.py"
        done = run(project / script[0], *script[1:], *given.split(), cwd=project)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert f"call python {project}/DEQModel/{program} {instead}" in done.stderr
