"""Flags that say what a call does, where it starts from and what it writes."""

from pathlib import Path

import torch
from tiny_run import COURSE, LENGTHS, MODEL, call, perplexities, write_corpus


def test_eval_n_layer_serves_a_shallow_model(run, weights_file):
    shallow = run(f"--eval --load {weights_file} --pretrain_steps 5 --eval_n_layer 3")
    assert shallow.out.count("shallow: 3 applications of the cell") == 2
    other = run(f"--eval --load {weights_file} --pretrain_steps 5 --eval_n_layer 1")
    assert perplexities(other.out) != perplexities(shallow.out)
    solved = run(f"--eval --load {weights_file} --pretrain_steps 5 --start_train_steps 5")
    assert "anderson, threshold" in solved.out


def test_load_starts_from_the_weights(run, weights_file):
    still = run(f"--load {weights_file} --lr 1e-12")
    wanted = torch.load(weights_file, weights_only=True)
    assert all(torch.allclose(value, wanted[key], atol=1e-9) for key, value in still.weights.items())


def test_eval_of_a_run_folder_is_that_of_its_file(run, weights_file):
    of_folder = run(f"--eval --restart_dir {Path(weights_file).parent}")
    assert perplexities(of_folder.out) == perplexities(run(f"--eval --load {weights_file}").out)


def test_debug_with_a_new_corpus_writes_its_cache_alone(tmp_path):
    corpus = write_corpus(tmp_path / "corpus")
    texts = set(corpus.iterdir())
    assert call(f"--data {corpus} --dataset text --work_dir {tmp_path}/ {MODEL} {LENGTHS} {COURSE} --debug").status == 0
    assert set(tmp_path.iterdir()) == {corpus}
    assert set(corpus.iterdir()) - texts == {corpus / ".cache-deq"}


def test_debug_writes_nothing_and_reports_the_same(run, place, tmp_path):
    run("")
    before = sorted(place.rglob("*"))
    outcome = run(f"--debug --work_dir {tmp_path}/")
    assert outcome.status == 0
    assert (sorted(place.rglob("*")), list(tmp_path.iterdir())) == (before, [])
    assert perplexities(outcome.out) == perplexities(run("").out)
    assert "nothing but the cache" in outcome.out
