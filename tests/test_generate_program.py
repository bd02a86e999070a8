"""generate.py from its command line: prompts from everywhere, samples, seeds, and mistakes in one line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_run import COMMAND, Outcome
from tiny_trained import call_program, run_with_unk, with_random_weights

from config.depth import evaluation_depth
from evaluation.trained_model import TrainedModel
from generation.program import main
from generation.reading import read

SCRIPTS = Path(__file__).parent.parent / "DEQModel"


@pytest.fixture(scope="module")
def folder(run, place) -> Path:
    """Of a run."""
    return with_random_weights(run_with_unk(run, place).folder, place / "sure")


def generated(arguments: str | list[str], stdin: bytes = b"") -> Outcome:
    outcome = call_program(main, arguments, stdin)
    assert outcome.status == 0, outcome.err
    return outcome


def test_the_likeliest_words_are_those_of_brute_force(folder):
    exactly, prompt = "--mem_len 40 --f_thres 80 --f_eps 1e-6", "word1 WORD2 word7"
    out = generated([*f"{folder} --temperature 0 --length 9 {exactly} --prompt".split(), prompt]).out
    trained = TrainedModel.load("test", run=str(folder), changed=COMMAND.given(exactly.split()))
    depth, ids = evaluation_depth(trained.settings), [0, *map(trained.vocab.id_of, prompt.split())]
    for _ in range(9):
        whole = read(trained.model, torch.tensor(ids)[:, None], None, depth, segment=len(ids))
        ids.append(int(whole.log_p.argmax()))
    assert out.replace("\n", " <eos> ").split()[:9] == [trained.vocab.words[i] for i in ids[-9:]]
    assert len(set(ids[-9:])) > 1


def test_prompts_come_from_a_flag_a_file_and_standard_input(folder, tmp_path):
    path = tmp_path / "prompt.txt"
    path.write_text("word1 word2\nword3\n")
    expected = generated([str(folder), "--length", "6", "--prompt", "word1 word2\nword3"]).out
    assert generated(f"{folder} --length 6 --prompt_file {path}").out == expected
    assert generated(f"{folder} --length 6", path.read_bytes()).out == expected
    assert generated(f"{folder} --length 6 --prompt_file -", path.read_bytes()).out == expected
    assert generated(f"{folder} --length 6", b"").out != expected


def test_without_a_prompt_text_begins_behind_a_line_end(folder):
    alone = f"{folder} --length 6 --mem_len 0 --eval_tgt_len 1"  # words see nothing of what is before them
    nothing = generated(alone).out
    for prompt, same in ((b"word1 <eos>", True), (b"word1\n\n", True), (b"\n", True), (b"word1\n", False)):
        assert (generated(alone, prompt).out == nothing) == same


def test_unknown_words_of_a_prompt_are_told_on_standard_error(folder):
    outcome = generated([str(folder), "--length", "3", "--prompt", "word1 dog cow"])
    assert "note: words outside the vocabulary, read as <unk>: 2 of 3 ('dog', 'cow')" in outcome.err.splitlines()
    assert "note" not in outcome.out
    assert generated(f"{folder} --length 3 --prompt_file -", b"word1 <unk> <unk>").out == outcome.out


def test_each_of_several_samples_is_that_of_its_seed(folder):
    three = generated(f"{folder} --length 8 --samples 3 --seed 5").out
    for i, part in enumerate(three.split("--- sample ")[1:]):
        header, _, words = part.partition("\n")
        assert header == f"{i + 1} of 3 (--seed {5 + i})"
        assert generated(f"{folder} --length 8 --seed {5 + i}").out == words
    assert generated(f"{folder} --length 8 --samples 3 --seed 5").out == three


def test_a_sample_ends_at_the_stop_word(folder):
    out = generated(f"{folder} --length 99 --stop <eos> --seed 4").out
    assert out.count("\n") == 1
    assert len(out.split()) < 98
    one = generated(f"{folder} --length 60 --seed 4").out.split()
    assert generated(f"{folder} --length 60 --seed 4 --stop {one[5]}").out.split()[-1] == one[5]


def test_how_long_it_took_and_how_well_it_was_solved_is_told(folder):
    err = generated(f"{folder} --length 5 --samples 2 --f_thres 2").err.splitlines()
    assert "changed: --f_thres is 2, was 6" in err
    assert err[-1].startswith("10 words in ")
    assert "words/s; 2.0 steps, 3.0 evaluations" in err[-1]
    no_memory = generated(f"{folder} --length 5 --mem_len 0").err
    assert "note: --mem_len is 0, so that new words see nothing" in no_memory


BAD = [
    ("", ["no model", "--load FILE.pkl"]),
    ("{run} {run}", ["2 arguments", "one RUN"]),
    ("{run} --load {run}/model_state_dict.pkl", ["two models"]),
    ("{run} --prompt a --prompt_file b", ["--prompt", "--prompt_file b", "pass one"]),
    ("{run} --prompt_file {run}/none", ["none cannot be read"]),
    ("{run} --prompt=", ["--prompt is empty"]),
    ("{run} --length 0", ["--length is 0", "at least 1"]),
    ("{run} --temperature=-1", ["--temperature is -1", "at least 0"]),
    ("{run} --temperature nan", ["--temperature is nan", "finite"]),
    ("{run} --top_k=-1", ["--top_k is -1", "at least 0"]),
    ("{run} --top_p 0", ["--top_p is 0", "above 0"]),
    ("{run} --top_p 1.5", ["--top_p is 1.5", "below 1, or 1"]),
    ("{run} --samples 0", ["--samples is 0", "at least 1"]),
    ("{run} --seed=-1", ["--seed is -1", "at least 0"]),
    ("{run} --stop dog", ["--stop is 'dog'", "<eos>"]),
    ("{run} --lenght 3", ["did you mean --length?"]),
    ("{run} --s 3", ["ambiguous option: --s", "--samples", "--seed"]),
    ("{run} --prompt a\udcff", [r"--prompt is 'a\udcff'", "UTF-8"]),
]


@pytest.mark.parametrize(("arguments", "parts"), BAD, ids=[ascii(arguments) for arguments, _ in BAD])
def test_mistakes_are_one_line(folder, arguments, parts):
    outcome = call_program(main, arguments.format(run=folder))
    assert (outcome.status, outcome.out) == (2, "")
    assert len(outcome.err.splitlines()) == 1
    assert outcome.err.startswith("generate.py: error: ")
    assert all(part in outcome.err for part in parts), outcome.err


def test_a_prompt_that_is_no_text(folder):
    for data, part in ((b"word1\nword2 \xff", "line 2: bytes that are not UTF-8"), (b"a\0b", "line 1: a NUL byte")):
        outcome = call_program(main, f"{folder}", data)
        assert (outcome.status, outcome.out) == (2, "")
        assert outcome.err.startswith(f"generate.py: error: standard input, {part}")


def test_as_a_script_a_reader_that_leaves_ends_it_in_one_line(folder):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    script = subprocess.Popen(
        [sys.executable, SCRIPTS / "generate.py", folder, "--length", "100000"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    )
    first = script.stdout.read(20)  # words come while others are still to be drawn
    assert script.poll() is None
    script.stdout.close()
    told = script.stderr.read().decode()
    assert script.wait(30) == 1
    assert b"word" in first.lower()
    assert told.splitlines()[-1] == "generate.py: standard output is lost (Broken pipe)"
    script.stderr.close()
