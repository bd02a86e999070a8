"""Every flag changes what it should: a run without and with it are compared."""

import re

import numpy as np
import pytest
import torch
from effects import (
    EMBEDDING,
    INJECTION,
    Effect,
    fewer_steps,
    learned_otherwise,
    logged_steps,
    loss,
    more_weights,
    moved,
    penalised,
    rates,
    shape,
    steps,
    validations,
)
from tiny_run import COMMAND, MODEL

from evaluation.trained_model import make_model

BACKWARD = "         backward "  # the row of the backward solves, under a validation
BINS = "--adaptive --cutoffs 8 16"
PLATEAU = "--scheduler dev_perf --eval-interval 1 --log-interval 1 --lr 1e-9 --max_step 5"
WORSE = "--optim SGD --lr 30 --clip 1 --scheduler constant --eval-interval 1 --log-interval 1"  # from step to step
EFFECTS = {
    "data": Effect("--data {place}/other", lambda a, b: "25 words" in a.out and "31 words" in b.out),
    "dataset": Effect("--dataset ptb", lambda a, b: "25 words" in a.out and "13 words" in b.out),
    "depth": Effect(
        "--depth 3",
        lambda a, b: [run.results["test"]["shallow"] for run in (a, b)] == [None, 3] and learned_otherwise(a, b),
    ),
    "n_layer": Effect(
        "--n_layer 3",
        lambda a, b: [run.results["test"]["shallow"] for run in (a, b)] == [2, 3] and learned_otherwise(a, b),
        "--pretrain_steps 99",
    ),
    "n_head": Effect("--n_head 4 --d_head 2", shape("func.dec_attn.r_w_bias", 4, 2)),
    "d_head": Effect("--d_head 8 --d_model 16", shape("func.dec_attn.r_w_bias", 2, 8)),
    "d_embed": Effect("--d_embed 6", shape(EMBEDDING, 25, 6)),
    "d_model": Effect("--d_head 8 --d_model 16", shape(EMBEDDING, 25, 16)),
    "d_inner": Effect("--d_inner 12", shape("func.pos_ff.ff1_net.bias", 12)),
    "dropout": Effect("--dropout 0.3", learned_otherwise),
    "dropatt": Effect("--dropatt 0.3", learned_otherwise),
    "out_dropout": Effect("--out_dropout channel", learned_otherwise, "--dropout 0.3"),
    "not_tied": Effect(
        "--not_tied",
        lambda a, b: (
            [torch.equal(run.weights[EMBEDDING], run.weights["crit.out_layers.0.weight"]) for run in (a, b)]
            == [True, False]
        ),
    ),
    "adaptive": Effect(BINS, lambda a, b: "crit.cluster_weight" in set(b.weights) - set(a.weights)),
    "cutoffs": Effect("--cutoffs 6", shape("crit.cluster_weight", 1, 8), BINS),
    "div_val": Effect("--div_val 2", lambda a, b: b.weights["word_emb.emb_layers.2.weight"].shape == (9, 2), BINS),
    "pre_lnorm": Effect("--pre_lnorm", learned_otherwise),
    "outer_norm": Effect("--outer_norm", learned_otherwise, "--pre_lnorm"),
    "norm_affine": Effect("--norm_affine", lambda a, b: "func.attn_norm.weight" in set(b.weights) - set(a.weights)),
    "heads_norm": Effect("--heads_norm", learned_otherwise),
    "cell_layers": Effect("--cell_layers 2", lambda a, b: "func.layers.1.dec_attn.r_w_bias" in b.weights),
    "inject": Effect("--inject both", shape(INJECTION, 32, 8, 1)),
    "inject_norm": Effect(
        "--inject_norm", lambda a, b: "inject_norm.weight" in set(b.weights) - set(a.weights), base="--inject residual"
    ),
    "feedback": Effect("--feedback 0.5", lambda a, b: "func.feedback" in set(b.weights) - set(a.weights)),
    "train_thres": Effect("--train_thres 2", fewer_steps("forward", 3), base="--f_eps 1e-9"),
    "z_init": Effect("--z_init previous", learned_otherwise),
    "layers_before": Effect("--layers_before 1", more_weights("layers_before.0.")),
    "layers_after": Effect("--layers_after 1", more_weights("layers_after.0.")),
    "wnorm": Effect("--wnorm", lambda a, b: "func.pos_ff.ff1_net.weight_g" in set(b.weights) - set(a.weights)),
    "local_size": Effect("--local_size 2", learned_otherwise),
    "same_length": Effect("--same_length", learned_otherwise, "--mem_len 3"),
    "solver": Effect("--solver broyden", lambda a, b: "broyden, threshold" in b.out and learned_otherwise(a, b)),
    "stop_mode": Effect(
        "--stop_mode abs", lambda a, b: "stop mode abs" in b.out and learned_otherwise(a, b), "--f_eps 0.3"
    ),
    "stop_scope": Effect(
        "--stop_scope sequence", lambda a, b: "stop scope sequence" in b.out and learned_otherwise(a, b), "--f_eps 0.05"
    ),
    "b_solver": Effect("--b_solver fixed_point", lambda a, b: steps(b, "backward") > 5 and learned_otherwise(a, b)),
    "b_stop_mode": Effect(
        "--b_stop_mode abs", lambda a, b: steps(b, "backward") < steps(a, "backward") and learned_otherwise(a, b)
    ),
    "b_init": Effect(
        "--b_init shine",  # a guess that takes the place of the solve
        learned_otherwise,
        "--solver broyden --b_thres 0",
    ),
    "f_history": Effect(
        "--f_history 1",
        lambda a, b: "broyden, history 1, threshold" in b.out and learned_otherwise(a, b),
        "--solver broyden --f_eps 0",
    ),
    "anderson_ridge": Effect(
        "--anderson_ridge 1", lambda a, b: "anderson, ridge 1, threshold" in b.out and learned_otherwise(a, b)
    ),
    "grad": Effect(
        "--grad one_step", lambda a, b: BACKWARD in a.log and BACKWARD not in b.log and learned_otherwise(a, b)
    ),
    "phantom_steps": Effect("--phantom_steps 2", learned_otherwise, "--grad phantom"),
    "rev_beta": Effect("--rev_beta 0.5", learned_otherwise, "--grad reversible"),
    "phantom_damping": Effect("--phantom_damping 1", learned_otherwise, "--grad phantom"),
    "rand_f_thres_delta": Effect(
        "--rand_f_thres_delta 4 --log-interval 1",
        lambda a, b: len(set(logged_steps(b, "forward"))) > 1 == len(set(logged_steps(a, "forward"))),
        "--f_eps 0",
    ),
    "jac_loss_weight": Effect(
        "--jac_loss_weight 2", lambda a, b: "jacobian" in b.log and "jacobian" not in a.log and learned_otherwise(a, b)
    ),
    "jac_loss_freq": Effect(
        "--jac_loss_freq 1",
        lambda a, b: penalised(b) == 20 and 2 < penalised(a) < 15 and learned_otherwise(a, b),
        "--jac_loss_weight 2 --max_step 20 --eval-interval 20",
    ),
    "jac_incremental": Effect(
        "--jac_incremental 1", learned_otherwise, "--jac_loss_weight 0.1 --jac_loss_freq 1 --solver broyden"
    ),
    "jac_samples": Effect("--jac_samples 5", learned_otherwise, "--jac_loss_weight 2 --jac_loss_freq 1"),
    "spectral_radius": Effect(
        "--spectral_radius",
        lambda a, b: "spectral radius of the Jacobian: mean" in b.out and a.same_weights(b) and loss(a) == loss(b),
    ),
    "f_thres": Effect("--f_thres 3", fewer_steps("forward", 3), "--f_eps 0"),
    "b_thres": Effect("--b_thres 3", fewer_steps("backward", 3), "--b_eps 0"),
    "f_eps": Effect("--f_eps 0.5", fewer_steps("forward", 4), "--f_eps 0"),
    "b_eps": Effect("--b_eps 0.5", fewer_steps("backward", 4), "--b_eps 0"),
    "amp": Effect(
        "--amp bf16",
        lambda a, b: [" of them in bfloat16" in run.out for run in (a, b)] == [False, True] and learned_otherwise(a, b),
    ),
    "pretrain_steps": Effect(
        "--pretrain_steps 2", lambda a, b: "end of shallow stage" in b.log and learned_otherwise(a, b)
    ),
    "start_train_steps": Effect("--start_train_steps 1", lambda a, b: b.results["training"]["updates"] == 3),
    "optim": Effect("--optim RMSprop", learned_otherwise),
    "lr": Effect("--lr 0.02", lambda a, b: np.allclose(rates(b), 2 * np.array(rates(a)), rtol=0.05)),
    "scheduler": Effect("--scheduler constant", lambda a, b: rates(b) == [0.01, 0.01] and rates(a)[1] < 0.01),
    "warmup_step": Effect("--warmup_step 4 --log-interval 1", lambda a, b: rates(b) == [0.0025, 0.0025, 0.005, 0.0075]),
    "decay_rate": Effect("--decay_rate 0.1", lambda a, b: (rates(a)[2], rates(b)[2]) == (5e-10, 1e-10), PLATEAU),
    "lr_min": Effect("--lr_min 4e-10", lambda a, b: min(rates(a)) < 3e-10 and min(rates(b)) == 4e-10, PLATEAU),
    "patience": Effect("--patience 2", lambda a, b: rates(a)[3] < 1e-9 and rates(b)[3] == 1e-9, PLATEAU),
    "eta_min": Effect("--eta_min 0.005", lambda a, b: min(rates(b)) > 0.005 > min(rates(a)), "--log-interval 1"),
    "when": Effect(
        "--when 2 3",
        lambda a, b: rates(a) == [0.01] * 4 and rates(b) == [0.01, 0.01, 0.001, 0.0001],
        "--scheduler constant --log-interval 1",
    ),
    "anneal": Effect("--anneal 1", lambda a, b: rates(a) == [30.0] * 4 and rates(b) == [30.0, 30.0, 30.0, 3.0], WORSE),
    "asgd": Effect(
        "--asgd --nonmono 0",
        lambda a, b: "weights are averaged" in b.log and "averaged" not in a.log and validations(a) != validations(b),
        WORSE,
    ),
    "nonmono": Effect(
        "--nonmono 1",
        lambda a, b: ["step 2 the weights" in run.log for run in (a, b)] == [True, False],
        f"{WORSE} --asgd --nonmono 0",
    ),
    "ema": Effect(
        "--ema 0.9", lambda a, b: validations(a) != validations(b) and not a.same_weights(b), "--eval-interval 2"
    ),
    "alpha": Effect(
        "--alpha 2", lambda a, b: "activations" in b.log and "activations" not in a.log and learned_otherwise(a, b)
    ),
    "beta": Effect(
        "--beta 2", lambda a, b: "activations" in b.log and "activations" not in a.log and learned_otherwise(a, b)
    ),
    "weight_decay": Effect("--weight_decay 0.1", learned_otherwise),
    "adam_ratio": Effect(
        "--adam_ratio 0",  # the embedding stays where it is, the matrices learn
        lambda a, b: moved(b, EMBEDDING) == 0 < min(moved(a, EMBEDDING), moved(b, "func.pos_ff.ff1_net.weight")),
        "--optim Muon",
    ),
    "clip": Effect("--clip 1e-7", lambda a, b: moved(b, INJECTION) < 1e-7 < moved(a, INJECTION), "--optim SGD --lr 1"),
    "clip_nonemb": Effect(
        "--clip_nonemb",
        lambda a, b: moved(a, EMBEDDING) < 1e-6 < moved(b, EMBEDDING) and moved(b, INJECTION) < 1e-6,
        "--optim SGD --lr 1 --clip 1e-7",
    ),
    "max_step": Effect("--max_step 6", lambda a, b: b.results["training"]["updates"] == 6),
    "batch_size": Effect("--batch_size 3", lambda a, b: b.results["training"]["tokens"] == 4 * 3 * 8),
    "batch_chunk": Effect(
        "--batch_chunk 3",  # each chunk stops its own solves
        lambda a, b: not a.same_weights(b) and abs(loss(a) - loss(b)) < 1e-3,
    ),
    "tgt_len": Effect("--tgt_len 6", lambda a, b: b.results["training"]["tokens"] == 4 * 4 * 6),
    "eval_tgt_len": Effect("--eval_tgt_len 5", lambda a, b: "segments of 5" in b.out and loss(a) != loss(b)),
    "mem_len": Effect("--mem_len 2", lambda a, b: "memory 2" in b.out and learned_otherwise(a, b)),
    "varlen": Effect("--varlen", lambda a, b: b.results["training"]["tokens"] != 4 * 4 * 8),
    "seed": Effect("--seed 2", learned_otherwise),
    "max_eval_steps": Effect(
        "--max_eval_steps 2", lambda a, b: b.results["test"]["n_segments"] == 2 and loss(a) != loss(b)
    ),
    "log_interval": Effect("--log-interval 1", lambda a, b: (len(rates(a)), len(rates(b))) == (2, 4)),
    "eval_interval": Effect(
        "--eval-interval 2",
        lambda a, b: [len(re.findall(r" step \d+ valid loss", run.log)) for run in (a, b)] == [1, 2],
    ),
    "work_dir": Effect("--work_dir {place}/elsewhere-", lambda a, b: b.folder.parent.name == "elsewhere-deq-text"),
    "sample": Effect(
        "--sample 12",
        lambda a, b: "a sample" not in a.log and len(b.log.split("a sample of the model:\n")[1].split("\n\n")[0]) > 20,
    ),
    "name": Effect("--name mine", lambda a, b: b.folder.name == "mine"),
    "multi_gpu": Effect("--multi_gpu", lambda a, b: "note: --multi_gpu: " in b.log and a.same_weights(b)),
    "gpu0_bsz": Effect("--gpu0_bsz 1", lambda a, b: "note: --gpu0_bsz 1 is ignored" in b.log and a.same_weights(b)),
}
ELSEWHERE = {
    "arch",
    "eval",
    "eval_n_layer",
    "load",
    "restart",
    "restart_dir",
    "debug",
    "cuda",
    "attn_type",
    "sweep",
    "config",
    "preset",
    "max_bad_steps",
    "save_interval",
    "cost",
    "cost_vocabulary",
    "cost_machine",
    "cost_flops",
    "cost_bandwidth",
    "cost_link",
}
INITIALISATION = {"init", "init_range", "init_std", "emb_init", "emb_init_range", "proj_init_std"}


def test_every_flag_has_an_effect_that_is_tested():
    assert set(EFFECTS) | ELSEWHERE | INITIALISATION == set(COMMAND.flags)


@pytest.mark.parametrize("name", EFFECTS)
def test_flag(name, run):
    effect = EFFECTS[name]
    before, after = run(effect.base), run(f"{effect.base} {effect.change}".strip())
    assert (before.status, after.status) == (0, 0), before.err + after.err
    assert effect.check(before, after), f"before:\n{before.out}\nafter:\n{after.out}"


@pytest.mark.parametrize(
    ("flags", "key", "low", "high"),
    [
        ("", INJECTION, 0.02, 0.06),  # the largest of some 200 numbers from N(0, 0.01²)
        ("--init_std 0.5", INJECTION, 1.0, 3.0),
        ("--init uniform", INJECTION, 0.045, 0.05),
        ("--init uniform --init_range 0.7", INJECTION, 0.65, 0.7),
        ("--emb_init uniform", EMBEDDING, 0.009, 0.01),
        ("--emb_init uniform --emb_init_range 0.7", EMBEDDING, 0.65, 0.7),
        ("--d_embed 6", "crit.out_projs.0.weight", 0.015, 0.06),
        ("--d_embed 6 --proj_init_std 0.5", "crit.out_projs.0.weight", 0.75, 3.0),
    ],
)
def test_initialisation_flag(flags, key, low, high):
    settings = COMMAND.parse(f"{MODEL} {flags}".split())
    state = make_model(COMMAND, settings, 25, torch.device("cpu")).state_dict()
    assert low < float(state[key].abs().max()) < high
