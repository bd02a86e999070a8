"""Scores of texts against brute force, against the evaluation, and whatever the batch."""

import csv
import errno
import math
import os

import numpy as np
import pytest
import torch
from tiny_trained import trained_model

from config.depth import evaluation_depth
from data.batches import OrderedBatches
from data.text_tokens import TextTokens
from evaluation import scoring
from evaluation.evaluation import EVAL_ROWS, evaluate
from evaluation.scoring import score
from evaluation.token_scores import TokenScores, check_place, write_table
from evaluation.trained_model import TrainedModel
from generation.reading import read
from system.errors import UserError


def text_of(trained: TrainedModel, n_lines: int = 12, seed: int = 0) -> TextTokens:
    """Seven words and a line end a line; some words are unknown."""
    random = np.random.RandomState(seed)
    lines = [" ".join(f"w{i}" for i in random.randint(2, 24, 7)) for _ in range(n_lines)]
    return TextTokens.of(("\n".join(lines) + "\n").encode(), "text.txt", trained.vocab, trained.rule)


def test_every_token_is_scored_as_by_one_solve_over_all_that_comes_before_it():
    trained = trained_model("--mem_len 40 --eval_tgt_len 5")
    text = text_of(trained, n_lines=4)
    found = score(trained, text, rows=1, per_token=True)
    depth, log_p, rank = evaluation_depth(trained.settings), [], []
    for n in range(1, len(text)):
        every = read(trained.model, torch.from_numpy(text.ids[:n, None].astype(np.int64)), None, depth, n).log_p[0]
        log_p.append(float(every[text.ids[n]]))
        rank.append(1 + sum(float(other) > log_p[-1] for other in every))
    np.testing.assert_allclose(found.tokens.log_p, [np.nan, *log_p], atol=1e-8)
    assert found.tokens.rank.tolist() == [0, *rank]
    assert len(set(rank)) > 5
    assert found.report.loss == pytest.approx(-math.fsum(log_p) / len(log_p), abs=1e-8)


@pytest.mark.parametrize("further", ["", "--stop_scope sequence", "--pretrain_steps 5", "--adaptive --cutoffs 5 9"])
def test_the_score_is_that_of_an_evaluation_to_the_bit(further):
    trained = trained_model(f"--f_thres 5 --f_eps 1e-2 {further}")
    text, depth = text_of(trained, n_lines=15), evaluation_depth(trained.settings)
    batches = OrderedBatches(text.ids, EVAL_ROWS, trained.settings.eval_tgt_len)
    evaluated = evaluate(trained.model, batches, "text.txt", trained.settings, depth)
    found = score(trained, text, rows=EVAL_ROWS, per_token=True).report
    assert found.loss == evaluated.loss
    assert {**found.as_dict(), "seconds": 0, "tokens_per_second": 0} == {
        **evaluated.as_dict(),
        "seconds": 0,
        "tokens_per_second": 0,
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_with_stops_by_sequence_the_perplexity_is_the_same_whatever_the_batch(dtype):
    trained = trained_model("--stop_scope sequence --f_eps 1e-4 --f_thres 30")
    trained.model.to(dtype)
    text = text_of(trained, n_lines=60)
    found = {size: score(trained, text, rows=16, batch_size=size, per_token=True) for size in (1, 4, 5, 16)}
    whole = score(trained, text, rows=16)
    assert whole.report.loss == found[16].report.loss
    for other in found.values():
        assert other.report.perplexity == pytest.approx(whole.report.perplexity, rel=1e-6)
        assert (other.report.n_tokens, other.report.n_segments) == (16 * 29, 4)
        np.testing.assert_allclose(other.tokens.log_p, found[16].tokens.log_p, atol=1e-4)
        np.testing.assert_array_equal(other.tokens.rank == 0, found[16].tokens.rank == 0)
    assert len(set(found[16].tokens.steps.tolist())) > 3


def test_unscored_tokens_are_the_first_of_each_row_and_those_behind_the_last():
    trained = trained_model()
    text = text_of(trained, n_lines=5)
    tokens = score(trained, text, rows=3, batch_size=2, per_token=True).tokens
    unscored = [0, 13, 26, 39]
    assert np.flatnonzero(np.isnan(tokens.log_p)).tolist() == unscored
    assert np.flatnonzero(tokens.rank == 0).tolist() == unscored
    assert np.flatnonzero(tokens.steps < 0).tolist() == unscored


def test_steps_are_those_of_the_row_in_its_segment():
    trained = trained_model("--stop_scope sequence --eval_tgt_len 6 --f_eps 1e-6")
    text = text_of(trained, n_lines=5)  # 40 tokens: 3 rows of 13
    tokens = score(trained, text, rows=3, per_token=True).tokens
    depth, memory = evaluation_depth(trained.settings), None
    for segment in OrderedBatches(text.ids, 3, 6):
        hidden = trained.model.hidden(segment.tokens, memory, depth)
        memory = hidden.memory
        for row, steps in enumerate(hidden.solve.forward.sequence_steps):
            first = 13 * row + segment.start + 1
            assert set(tokens.steps[first : first + len(segment.tokens)]) == {steps}


def test_figures_by_hand():
    trained = trained_model()
    text = TextTokens.of(b"w2 w3 dog\n\nw4 w5\nw6", "here", trained.vocab, trained.rule)
    found = score(trained, text, rows=1, per_token=True)
    assert (found.report.n_tokens, found.n_words) == (9, 5)  # w2 is context; four line ends, one behind w6
    assert found.n_characters == len(" w3 dog\n\nw4 w5\nw6\n")
    bits = -np.nansum(found.tokens.log_p) / math.log(2)
    assert found.bits == pytest.approx(bits)
    assert found.bits_per_word == pytest.approx(bits / 5)
    assert f"{bits / 5:.5f} bits per word (5 words" in str(found)
    assert f"{bits / 18:.5f} bits per character (18 characters)" in str(found)
    assert math.isnan(score(trained, TextTokens.of(b"w2", "", trained.vocab, trained.rule), rows=1).bits_per_word)


def test_ranks_are_found_in_bounded_memory(monkeypatch):
    trained = trained_model()
    text = text_of(trained)
    at_once = score(trained, text, rows=2, per_token=True).tokens.rank
    sizes = []
    log_prob = trained.model.head.log_prob

    def counted(states: torch.Tensor) -> torch.Tensor:
        sizes.append(len(states))
        return log_prob(states)

    monkeypatch.setattr(trained.model.head, "log_prob", counted)
    monkeypatch.setattr(scoring, "AT_A_TIME", 3 * 20 + 19)
    np.testing.assert_array_equal(score(trained, text, rows=2, per_token=True).tokens.rank, at_once)
    assert max(sizes) == 3
    sizes.clear()
    monkeypatch.setattr(scoring, "AT_A_TIME", 1)
    score(trained, text, rows=2, per_token=True)
    assert set(sizes) == {1}


def test_a_text_that_is_too_short_is_refused():
    trained = trained_model()
    text = TextTokens.of(b"w2 w3\n", "here", trained.vocab, trained.rule)
    with pytest.raises(UserError, match="here: 3 tokens are too few for 4 rows of 2 or more: pass --rows 1, or"):
        score(trained, text, rows=4)


def test_the_table_has_a_line_for_each_token(tmp_path):
    trained = trained_model(lower_case=True)
    text = TextTokens.of("W2 \"dog's\n\nw3 語\n".encode(), "here", trained.vocab, trained.rule)
    tokens = score(trained, text, rows=1, per_token=True).tokens
    write_table(str(tmp_path / "table.tsv"), text, tokens)
    with open(tmp_path / "table.tsv", encoding="utf-8", newline="") as file:
        header, *lines = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
    assert header == ["word", "log_prob", "rank", "steps"]
    assert [line[0] for line in lines] == ["W2", "\"dog's", "<eos>", "<eos>", "w3", "語", "<eos>"]
    assert lines[0][1:] == ["", "", ""]
    for line, log_p, rank, steps in zip(lines[1:], tokens.log_p[1:], tokens.rank[1:], tokens.steps[1:], strict=True):
        assert (float(line[1]), line[2:]) == (pytest.approx(log_p, rel=1e-8), [str(rank), str(steps)])


def test_a_shallow_model_has_no_steps(tmp_path):
    trained = trained_model("--pretrain_steps 5")
    text = TextTokens.of(b"w2 w3\n", "here", trained.vocab, trained.rule)
    tokens = score(trained, text, rows=1, per_token=True).tokens
    assert list(tokens.lines(text))[1].split("\t")[3] == "\n"


def test_a_table_that_cannot_be_written_leaves_the_earlier_one(tmp_path, monkeypatch):
    trained = trained_model()
    text = TextTokens.of(b"w2 w3\n", "here", trained.vocab, trained.rule)
    path = tmp_path / "table.tsv"
    path.write_text("earlier")

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"--per_token .*table.tsv cannot be written \(No space left"):
        write_table(str(path), text, TokenScores.unscored(3))
    assert [other.name for other in tmp_path.iterdir()] == ["table.tsv"]
    assert path.read_text() == "earlier"


def test_places_where_a_table_cannot_go_are_refused_before_the_work(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("a")
    check_place(str(tmp_path / "new.tsv"), str(text))
    check_place(str(tmp_path / "new.tsv"), "-")
    for place, part in ((tmp_path / "no" / "x", "no folder"), (tmp_path, "no regular file"), (text, "is the text")):
        with pytest.raises(UserError, match=part):
            check_place(str(place), str(text))
