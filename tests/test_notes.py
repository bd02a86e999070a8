"""Remarks on settings that are allowed, but do not do all that they promise."""

import pytest
from tiny_run import COMMAND

from config.checks import notes

Settings, parse = COMMAND.settings, COMMAND.parse


@pytest.mark.parametrize(
    ("settings", "n_gpus", "n_processes", "wanted"),
    [
        (Settings(), 0, 1, []),
        (Settings(cuda=True), 2, 1, []),
        (Settings(), 1, 1, ["--cuda would use it"]),
        (Settings(multi_gpu=True), 0, 1, ["PyTorch sees no GPU, so this run uses the CPU"]),
        (Settings(multi_gpu=True), 1, 1, ["--cuda is not given, so this run uses the CPU", "--cuda would"]),
        (Settings(multi_gpu=True, cuda=True), 1, 1, ["there is a single GPU, so this run uses one GPU"]),
        (Settings(multi_gpu=True, cuda=True, gpu0_bsz=3), 1, 1, ["a single GPU", "--gpu0_bsz 3 is ignored"]),
        (Settings(multi_gpu=True, cuda=True), 4, 1, ["it is started as the only process"]),
        (Settings(multi_gpu=True, cuda=True), 4, 4, []),
        (Settings(multi_gpu=True, cuda=True, batch_size=56, gpu0_bsz=14), 4, 4, []),
        (Settings(multi_gpu=True, cuda=True, batch_size=56, gpu0_bsz=14), 2, 2, ["leaves 42 sequences to 1 other"]),
        (Settings(eval=True, load="x", pretrain_steps=9), 0, 1, ["--pretrain_steps 9 makes this a shallow evaluation"]),
        (Settings(eval=True, load="x", restart=True, pretrain_steps=9, start_train_steps=9), 0, 1, []),
    ],
)
def test_notes_on_flags_that_promise_more_than_this_machine_gives(settings, n_gpus, n_processes, wanted):
    remarks = notes(settings, n_gpus, n_processes)
    assert len(remarks) == len(wanted)
    for remark, part in zip(remarks, wanted, strict=True):
        assert remark.startswith("note: ")
        assert part in remark


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        ("--eta_min 1 --lr 0.1", ["--eta_min 1.0 and --lr 0.1", "rises"]),
        ("--eta_min 1 --lr 0.1 --scheduler constant", ["--eta_min 1.0 has no effect", "--scheduler cosine"]),
        ("--lr_min 1 --lr 0.1 --scheduler dev_perf", ["--lr_min 1.0 and --lr 0.1", "stays"]),
        ("--lr_min 1 --lr 0.1", ["--lr_min 1.0 has no effect", "--scheduler dev_perf"]),
        ("--patience 2", ["--patience 2 has no effect", "--scheduler dev_perf"]),
        ("--b_thres 7 --grad one_step", ["--b_thres 7 has no effect", "--grad implicit"]),
        ("--solver broyden --grad unroll", ["--solver broyden has no effect", "a solver"]),
        ("--n_layer 3", ["--n_layer 3 has no effect", "--pretrain_steps"]),
        ("--n_layer 3 --pretrain_steps 4", []),
        ("--init_range 0.2", ["--init_range 0.2 has no effect", "--init uniform"]),
        ("--init_range 0.2 --init uniform", []),
        ("--emb_init_range 0.2 --init uniform", ["--emb_init_range 0.2 has no effect", "--emb_init uniform"]),
        ("--varlen --tgt_len 1", ["--tgt_len 1", "5 tokens or more"]),
        ("--varlen --tgt_len 5", []),
        ("--patience 2 --eval --load x", []),
        ("--div_val 2", ["--div_val 2", "without --adaptive"]),
        ("--div_val 2 --adaptive", []),
        ("--warmup_step 9 --max_step 9", ["--warmup_step 9 and --max_step 9", "warm-up"]),
        ("--warmup_step 8 --max_step 9", []),
        ("--pretrain_steps 9 --max_step 9", ["--pretrain_steps 9 and --max_step 9", "whole run is shallow"]),
        ("--pretrain_steps 8 --max_step 9", []),
        ("--warmup_step 9 --max_step 9 --eval --load x", []),
    ],
)
def test_notes_on_settings_at_odds(flags, parts):
    remarks = notes(parse(flags.split()), 0, 1)
    assert len(remarks) == bool(parts)
    for part in parts:
        assert part in remarks[0]
