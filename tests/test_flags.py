"""The command line: every listed flag with its default, abbreviations old and new, resolved settings."""

import argparse
import pickle

import pytest
from tiny_run import COMMAND

from config import parser
from config.depth import evaluation_depth, training_depth, validation_depth
from data.corpus import DATASETS
from models.transformers.config import OUT_DROPOUTS
from modules.depth import Applications
from modules.deq import DEQModule
from modules.solvers import SOLVERS
from system.errors import UserError
from utils.optimizers import OPTIMIZERS
from utils.schedules import SCHEDULES

Settings, parse, make_parser = COMMAND.settings, COMMAND.parse, COMMAND.parser

# Flag, type, default, as existing scripts know them.
LISTED = [
    ("--data", str, "../data/wikitext-103"),
    ("--dataset", str, "wt103"),
    ("--n_layer", int, 12),
    ("--eval_n_layer", int, 12),
    ("--n_head", int, 10),
    ("--d_head", int, 50),
    ("--d_embed", int, -1),
    ("--d_model", int, 500),
    ("--d_inner", int, 8000),
    ("--dropout", float, 0.0),
    ("--dropatt", float, 0.0),
    ("--init", str, "normal"),
    ("--emb_init", str, "normal"),
    ("--init_range", float, 0.05),
    ("--emb_init_range", float, 0.01),
    ("--init_std", float, 0.01),
    ("--proj_init_std", float, 0.01),
    ("--optim", str, "Adam"),
    ("--lr", float, 0.00025),
    ("--scheduler", str, "cosine"),
    ("--warmup_step", int, 0),
    ("--decay_rate", float, 0.5),
    ("--lr_min", float, 0.0),
    ("--patience", int, 0),
    ("--clip", float, 0.25),
    ("--clip_nonemb", bool, False),
    ("--max_step", int, 200000),
    ("--batch_size", int, 60),
    ("--batch_chunk", int, 1),
    ("--tgt_len", int, 150),
    ("--eval_tgt_len", int, 150),
    ("--mem_len", int, 150),
    ("--local_size", int, 0),
    ("--not_tied", bool, False),
    ("--seed", int, 1111),
    ("--cuda", bool, False),
    ("--eval", bool, False),
    ("--adaptive", bool, False),
    ("--div_val", int, 1),
    ("--pre_lnorm", bool, False),
    ("--wnorm", bool, False),
    ("--varlen", bool, False),
    ("--multi_gpu", bool, False),
    ("--gpu0_bsz", int, -1),
    ("--log-interval", int, 200),
    ("--eval-interval", int, 4000),
    ("--solver", str, "anderson"),
    ("--stop_mode", str, "rel"),
    ("--f_thres", int, 50),
    ("--b_thres", int, 80),
    ("--work_dir", str, "LM-TFM"),
    ("--restart", bool, False),
    ("--restart_dir", str, ""),
    ("--debug", bool, False),
    ("--same_length", bool, False),
    ("--attn_type", int, 0),
    ("--eta_min", float, 0.0),
    ("--weight_decay", float, 0.0),
    ("--max_eval_steps", int, -1),
    ("--pretrain_steps", int, 0),
    ("--start_train_steps", int, 0),
    ("--load", str, ""),
    ("--name", str, "N/A"),
]


def expand(arguments: list[str]) -> list[str]:
    return parser.expand(arguments, COMMAND.flags)


def listed_parser() -> argparse.ArgumentParser:
    """What existing scripts were written for: argparse with the listed flags and its own abbreviations."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    for option, kind, default in LISTED:
        details = {"action": "store_true"} if kind is bool else {"type": kind, "default": default}
        parser.add_argument(option, **details)
    return parser


def test_every_listed_flag_has_its_name_type_and_default():
    settings = Settings()
    declared = {flag.option(name): name for name, flag in COMMAND.flags.items() if flag.listed}
    assert sorted(declared) == sorted(option for option, _, _ in LISTED)
    assert len(LISTED) == 63
    for option, kind, default in LISTED:
        value = getattr(settings, declared[option])
        assert (type(value), value) == (kind, default), option


def test_new_flags_have_their_defaults():
    settings = parse(["--d_head", "50"])
    assert (settings.f_eps, settings.b_eps) == (1e-3, 1e-3)
    assert (settings.stop_scope, settings.out_dropout, settings.cutoffs) == ("batch", "position", ())
    assert settings.outer_norm is False
    assert (settings.grad, settings.phantom_steps, settings.phantom_damping) == ("implicit", 5, 0.5)
    assert (settings.b_solver, settings.b_stop_mode, settings.b_init) == (None, "rel", "zero")
    assert (settings.f_history, settings.anderson_ridge, settings.rand_f_thres_delta) == (None, None, 0)
    assert (settings.jac_loss_weight, settings.jac_loss_freq, settings.jac_incremental) == (0.0, 0.4, 0)
    assert (settings.jac_samples, settings.spectral_radius, settings.sweep) == (1, False, "")


def test_flags_without_a_default_take_values_of_their_type():
    settings = parse(["--solver", "broyden", "--b_solver", "anderson", "--f_history", "7", "--anderson_ridge", "1e-4"])
    assert (settings.b_solver, settings.f_history, settings.anderson_ridge) == ("anderson", 7, 1e-4)


def all_prefixes() -> list[str]:
    options = [option for option, _, _ in LISTED]
    return sorted({option[:length] for option in options for length in range(3, len(option) + 1)})


@pytest.mark.parametrize("equals", [False, True])
def test_every_prefix_means_what_it_meant_with_the_listed_flags_alone(equals):
    kinds = {option: kind for option, kind, _ in LISTED}
    oracle, seen = listed_parser(), {"unique": 0, "ambiguous": 0}
    for prefix in all_prefixes():
        owners = [option for option in kinds if option == prefix] or [
            option for option in kinds if option.startswith(prefix)
        ]
        flagged = kinds[owners[0]] is bool
        if flagged and equals:
            continue
        given = [prefix] if flagged else [f"{prefix}=7"] if equals else [prefix, "7"]
        try:
            wanted = vars(oracle.parse_args(given))
        except (argparse.ArgumentError, SystemExit):
            seen["ambiguous"] += 1
            with pytest.raises(UserError, match=f"ambiguous option: {prefix} could match "):
                expand(given)
            continue
        seen["unique"] += 1
        full = expand(given)
        assert vars(oracle.parse_args(full)) == wanted
        assert full[0].partition("=")[0] in kinds, "the full name must be written out"
    assert seen["unique"] > 200
    assert seen["ambiguous"] > 30 or equals


def test_abbreviations_of_published_instructions():
    settings = parse(
        [
            "--pretrain_step",
            "3",
            "--eval_tgt",
            "33",
            "--f_thr",
            "9",
            "--eval",
            "--loa",
            "x.pkl",
            "--mem=5",
            "--log",
            "4",
        ]
    )
    assert (settings.pretrain_steps, settings.eval_tgt_len, settings.f_thres) == (3, 33, 9)
    assert (settings.load, settings.mem_len, settings.log_interval) == ("x.pkl", 5, 4)
    assert expand(["--cu", "--f"]) == ["--cuda", "--f_thres"]


def test_what_is_on_can_be_switched_off():
    settings = parse(["--varlen", "--no-varlen", "--wnorm", "--adaptive", "--no-adap", "--no-not_t"])
    assert (settings.varlen, settings.wnorm, settings.adaptive, settings.not_tied) == (False, True, False, False)
    assert expand(["--no"]) == ["--not_tied"], "what it meant before there were such forms"
    assert expand(["--no-cu", "--no-ad"]) == ["--no-cuda", "--no-adaptive"], "what is no switch has no such form"


def test_new_flags_can_be_abbreviated_where_no_listed_one_fits():
    assert expand(["--cut", "3", "--f_e=1", "--stop_s", "batch"]) == [
        "--cutoffs",
        "3",
        "--f_eps=1",
        "--stop_scope",
        "batch",
    ]
    assert expand(["--out_", "channel", "--oute"]) == ["--out_dropout", "channel", "--outer_norm"]


def test_help_can_be_abbreviated_and_names_every_flag_and_default(capsys):
    with pytest.raises(SystemExit) as stop:
        parse(["--hel"])
    assert stop.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    for name, flag in COMMAND.flags.items():
        assert flag.option(name) in shown
        assert flag.help in shown
    assert "(default: 0.00025)" in shown
    assert "(default: '../data/wikitext-103')" in shown


def test_what_is_no_flag_is_left_alone():
    assert expand(["--name", "--", "--f"]) == ["--name", "--", "--f"]
    assert expand(["value", "-5", "--nonsense"]) == ["value", "-5", "--nonsense"]


def test_d_embed_and_cutoffs_are_resolved():
    published = ["--adaptive", "--div_val", "4", "--n_head", "10", "--d_head", "70", "--d_model", "700"]
    assert parse(published).d_embed == 700
    assert parse(published).cutoffs == (20000, 40000, 200000)
    assert parse([*published, "--cutoffs", "5", "10", "--d_embed", "16"]).cutoffs == (5, 10)
    assert parse([*published, "--d_embed", "512"]).d_embed == 512
    assert parse(["--dataset", "wt2"]).cutoffs == ()


def test_adaptive_needs_cutoffs_where_there_is_no_default():
    with pytest.raises(UserError, match="--adaptive needs --cutoffs with --dataset wt2: "):
        parse(["--adaptive", "--dataset", "wt2"])


def test_choices_are_those_of_the_code():
    registries = {"dataset": DATASETS, "optim": OPTIMIZERS, "scheduler": SCHEDULES, "solver": SOLVERS}
    for name, registry in {**registries, "b_solver": SOLVERS, "out_dropout": OUT_DROPOUTS}.items():
        assert COMMAND.flags[name].choices == tuple(registry)


def test_settings_cannot_be_changed():
    with pytest.raises(AttributeError):
        parse([]).lr = 1.0


def test_stage_of_a_step():
    settings = Settings(n_layer=3, eval_n_layer=5, pretrain_steps=10, start_train_steps=4, rand_f_thres_delta=2)
    for depth in (training_depth(settings), validation_depth(settings)):
        assert [depth.at(step) == Applications(3) for step in (0, 9, 10)] == [True, True, False]
        assert isinstance(depth.at(10), DEQModule)
    assert training_depth(settings).at(10).f_thres_delta == 2
    assert validation_depth(settings).at(10).f_thres_delta == 0
    assert evaluation_depth(settings) == Applications(5)
    for equilibrium in (Settings(pretrain_steps=10, start_train_steps=10), Settings()):
        assert isinstance(evaluation_depth(equilibrium), DEQModule)
        assert isinstance(training_depth(equilibrium).at(10), DEQModule)


def test_parser_takes_no_abbreviation_of_its_own():
    with pytest.raises(UserError, match="unrecognized arguments: --pretrain_step"):
        make_parser().parse_args(["--pretrain_step", "0"])


def test_a_command_line_can_be_sent_to_other_processes():
    command = pickle.loads(pickle.dumps(COMMAND))
    assert (command.program, command.flags.keys()) == (COMMAND.program, COMMAND.flags.keys())
    assert command.spec.weights is not None
    assert vars(command.parse(["--seed", "3"])) == vars(COMMAND.parse(["--seed", "3"]))
