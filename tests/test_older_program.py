"""A checkpoint that an older program wrote goes on where it stopped, to what that program came to."""

import shutil
from pathlib import Path

import torch
from tiny_run import call, write_corpus

OLDER = Path(__file__).parent / "older_program"


def test_a_run_of_the_older_program_ends_as_it_would_have_ended_there(tmp_path):
    folder = shutil.copytree(OLDER, tmp_path / "stopped")
    outcome = call(f"--restart --restart_dir {folder} --data {write_corpus(tmp_path / 'corpus')}")
    assert outcome.status == 0, outcome.err
    assert "resumed at step 6, epoch 1" in outcome.out
    for flag in ("--alpha", "--beta", "--asgd", "--nonmono", "--when", "--anneal"):
        assert f"note: the run's program had no {flag}: it goes on with the default" in outcome.out
    assert "end of shallow stage" in outcome.log, "the log of before is kept"
    assert outcome.results["training"]["updates"] == 10
    expected = torch.load(OLDER / "expected.pkl", weights_only=True)
    # To rounding: another processor may round otherwise than the one on which it was written.
    torch.testing.assert_close(outcome.weights, expected, rtol=1e-4, atol=1e-6)
