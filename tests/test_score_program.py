"""score.py from its command line: the same figures as --eval, what it says beside them, and mistakes in one line."""

import csv
import math
import re
import shutil
from pathlib import Path

import pytest
import torch
from tiny_run import Outcome, call, perplexities
from tiny_trained import call_program, run_with_unk

from evaluation import trained_model
from evaluation.score_program import main
from evaluation.trained_model import TrainedModel
from system import state_dicts


@pytest.fixture(scope="module")
def trained(run, place) -> Outcome:
    return run_with_unk(run, place)


def scored(arguments: str, stdin: bytes = b"") -> str:
    outcome = call_program(main, arguments, stdin)
    assert outcome.status == 0, outcome.err
    return outcome.out


def report_of(out: str) -> str:
    """In one line, without times and speeds."""
    return " ".join(re.sub(r"[\d.]+ s, [\d,]+ tokens/s", "", out).split())


@pytest.mark.parametrize("further", ["", "--f_thres 3 --mem_len 4 --eval_tgt_len 5 --stop_scope sequence"])
def test_the_report_is_that_of_eval(trained, place, further):
    evaluated = call(f"--eval --restart_dir {trained.folder} --debug {further}")
    for split, perplexity in zip(("valid", "test"), perplexities(evaluated.out), strict=True):
        out = scored(f"{trained.folder} {place}/rare/{split}.txt {further}")
        of_eval = report_of(evaluated.out.split(f"\n{split}: ")[1].split("\ntest: ")[0])
        assert of_eval.startswith(f"perplexity {perplexity} | loss ")
        assert of_eval.split("of sequences not converged")[0] in report_of(out)
        assert "bits per word" in out
        assert ("changed: --f_thres is 3, was 6" in out) == bool(further)


def test_weights_and_a_vocabulary_do_for_a_run(trained, place, tmp_path):
    for name in ("model_state_dict.pkl", "model_state_dict.settings.json", "vocabulary.txt"):
        shutil.copy(trained.folder / name, tmp_path)
    source = f"--load {tmp_path}/model_state_dict.pkl --vocabulary {tmp_path}/vocabulary.txt"
    whole, apart = (scored(f"{model} {place}/rare/test.txt") for model in (trained.folder, source))
    assert report_of(whole) in report_of(apart)


def test_weights_without_a_description_take_the_models_settings_from_flags(trained, place, tmp_path):
    shutil.copy(trained.folder / "model_state_dict.pkl", tmp_path)
    source = f"--load {tmp_path}/model_state_dict.pkl --vocabulary {trained.folder}/vocabulary.txt"
    model = "--dataset text --no-adaptive --n_head 2 --d_head 4 --d_model 8 --d_inner 16"
    apart = scored(f"{source} {place}/rare/test.txt {model} --solver broyden --f_thres 6 --eval_tgt_len 8 --mem_len 8")
    assert report_of(scored(f"{trained.folder} {place}/rare/test.txt")) in report_of(apart)


def test_weights_without_a_description_are_read_once(trained, place, tmp_path, monkeypatch):
    shutil.copy(trained.folder / "model_state_dict.pkl", tmp_path)
    reads = []
    monkeypatch.setattr(
        trained_model, "load_state_dict", lambda path: (reads.append(path), state_dicts.load_state_dict(path))[1]
    )
    TrainedModel.load(
        "score.py",
        weights=f"{tmp_path}/model_state_dict.pkl",
        vocabulary=f"{trained.folder}/vocabulary.txt",
        changed={"dataset": "text", "n_head": 2, "d_head": 4, "d_model": 8, "d_inner": 16},
    )
    assert len(reads) == 1


def test_flags_may_stand_anywhere_and_a_text_comes_from_standard_input_too(trained, place):
    text = (place / "rare" / "test.txt").read_bytes()
    from_file = report_of(scored(f"--rows 2 {trained.folder} --f_thres 4 {place}/rare/test.txt --no-wnorm"))
    from_input = report_of(scored(f"{trained.folder} --f_thres=4 - --rows 2", text))
    assert from_input.replace("standard input", f"{place}/rare/test.txt") == from_file


def test_notes_tell_what_is_not_scored_and_what_is_unknown(trained, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("word1 WORD2 dog word3\ncow dog word4 word1\n")
    out = scored(f"{trained.folder} {text} --rows 3 --batch_size 2")
    assert "6 tokens scored in 3 rows" in out
    notes = [line for line in out.splitlines() if line.startswith("note: ")]
    assert notes == [
        "note: the first word of each of 3 rows is only context, and the last 1 of 10 tokens do not fill the rows",
        "note: words outside the vocabulary, read as <unk>: 3 of 8 ('dog', 'cow')",
        "note: solves stop over the 2 rows that are computed at the same time, where an evaluation has 3: pass "
        "--stop_scope sequence for a score that does not depend on that",
    ]
    quiet = scored(f"{trained.folder} {text} --rows 1 --batch_size 1")
    assert "note: the first word is only context\n" in quiet
    assert "solves stop" not in quiet
    assert "solves stop" not in scored(f"{trained.folder} {text} --rows 2 --batch_size 1 --stop_scope sequence")


def test_the_table_sums_up_to_the_report(trained, place, tmp_path):
    table = tmp_path / "tokens.tsv"
    out = scored(f"{trained.folder} {place}/rare/test.txt --per_token {table}")
    with open(table, encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    words = (place / "rare" / "test.txt").read_text().replace("\n", " <eos> ").split()
    assert [line["word"] for line in lines] == words
    log_p = [float(line["log_prob"]) for line in lines if line["log_prob"]]
    perplexity = float(re.search(r"perplexity (\S+)", out)[1])
    assert math.exp(-sum(log_p) / len(log_p)) == pytest.approx(perplexity, abs=6e-4)
    assert all(1 <= int(line["rank"]) <= 26 and int(line["steps"]) <= 6 for line in lines if line["log_prob"])


BAD = [
    ("", ["0 arguments that are no flags", "RUN TEXT", "--load FILE.pkl TEXT"]),
    ("{run}", ["1 arguments", "RUN TEXT"]),
    ("{run} {text} more", ["3 arguments", "more"]),
    ("--load {run}/model_state_dict.pkl {run} {text}", ["2 arguments", "pass TEXT"]),
    ("{place}/nowhere {text}", ["nowhere", "no such folder"]),
    ("{run} {place}/nowhere.txt", ["nowhere.txt cannot be read", "No such file"]),
    ("{run} {run}", ["cannot be read", "directory"]),
    ("{run} -", ["standard input holds no words"]),
    (
        "--load {place}/unknown.pkl --vocabulary {run}/vocabulary.txt {text}",
        ["unknown.pkl", "no model that this program knows", "DEQ-Transformer or a DEQ-TrellisNet"],
    ),
    ("{run} {text} --rows 0", ["--rows is 0", "at least 1"]),
    ("{run} {text} --rows 99", ["98 tokens are too few for 99 rows", "--rows 1"]),
    ("{run} {text} --per_token {run}/vocabulary.txt", ["vocabulary.txt is there already and no table"]),
    ("{run} {text} --batch_size 0", ["--batch_size is 0", "at least 1"]),
    ("{run} {text} --rows two", ["--rows", "'two'"]),
    ("{run} {text} --per_token=", ["--per_token is empty"]),
    ("{run} {text} --per_token {text}", ["--per_token", "is the text that is scored"]),
    ("{run} {text} --per_token {place}/none/x.tsv", ["--per_token", "no folder"]),
    ("{run} {text} --f_tres 3", ["unrecognized arguments: --f_tres: did you mean --f_thres?"]),
    ("{run} {text} --f_thres=-3", ["--f_thres is -3"]),
    ("{run} {text} --d_inner 32", ["--d_inner is 32, not 16", "weights were trained"]),
    ("{run} {text} --vocabulary {text}", ["is no vocabulary"]),
    ("{run} {text} --lr 3", ["unrecognized arguments: --lr\n"]),
]


@pytest.mark.parametrize(("arguments", "parts"), BAD, ids=[arguments for arguments, _ in BAD])
def test_mistakes_are_one_line(trained, place, arguments, parts):
    torch.save({"weight": torch.zeros(2)}, place / "unknown.pkl")
    filled = arguments.format(run=trained.folder, text=place / "rare" / "test.txt", place=place)
    outcome = call_program(main, filled)
    assert outcome.status == 2, outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert outcome.err.startswith("score.py: error: ")
    assert all(part in outcome.err for part in parts), outcome.err
    assert ": perplexity" not in outcome.out


def test_words_that_are_not_utf8_on_the_command_line(trained):
    outcome = call_program(main, [str(trained.folder), "x", "--per_token", "a\udcff"])
    assert (outcome.status, outcome.out) == (2, "")
    assert r"--per_token is 'a\udcff': pass text in UTF-8" in outcome.err


def test_a_vocabulary_without_unk_names_the_line_of_an_unknown_word(run, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("word1 word2\nword3 dog\n")
    outcome = call_program(main, f"{run().folder} {text}")
    assert outcome.status == 2
    assert "text.txt, line 2: the word 'dog' is not in the vocabulary, which has no <unk> either" in outcome.err


def test_help_names_its_own_flags_and_those_of_the_evaluation(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    for words in (
        "usage: score.py [RUN] TEXT [flags]",
        "--rows N",
        "--per_token PATH",
        "--stop_scope {batch,sequence}",
    ):
        assert words in shown
    assert "--lr" not in shown
    assert Path(__file__).parent.parent.joinpath("DEQModel", "score.py").is_file()
