"""Transformer-XLs from the command line."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from tiny_peers import CELL, COURSE, WIDTHS, XL
from tiny_run import call, perplexities, write_corpus
from tiny_trained import call_program

from evaluation.score_program import main as score
from export import main as export
from generation.program import main as generate
from models.transformer_xl.spec import SPEC
from models.transformers.spec import SPEC as DEQ_TRANSFORMER
from system.state_dicts import load_state_dict

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("transformer_xl")
    write_corpus(folder / "corpus")
    return folder


@pytest.fixture(scope="module")
def train(place):
    """Trains with these flags, or does what they say."""
    return lambda flags: call(f"--data {place}/corpus --dataset text --work_dir {place}/T- {COURSE} {flags}")


@pytest.fixture(scope="module")
def trained(train):
    outcome = train(f"{XL} --name trained --sample 4")
    assert outcome.status == 0, outcome.err
    return outcome


@pytest.fixture(scope="module")
def cell(train):
    outcome = train(f"{CELL} --name cell")
    assert outcome.status == 0, outcome.err
    return outcome


def test_it_is_trained(trained):
    assert trained.results["test"]["memory"] == 8
    assert (trained.results["test"]["shallow"], trained.results["test"]["solver"]) == (None, None)
    assert trained.settings["arch"] == "transformer_xl"
    assert not {"f_thres", "solver", "grad", "pretrain_steps", "depth"} & trained.settings.keys()
    assert "explicit layers, nothing is solved" in trained.log
    assert "a sample of the model" in trained.log
    for word in ("forward", "backward", "shallow stage", "residual"):
        assert word not in trained.log
    assert {"layers.1.pos_ff.CoreNet.3.weight", "r_w_bias"} < trained.weights.keys()


FURTHER = [
    f"{XL} --dropout 0.2 --dropatt 0.2",
    f"{XL} --pre_lnorm --varlen --batch_chunk 2",
    f"{XL} --adaptive --cutoffs 6 12 --div_val 2 --same_length --clamp_len 4 --d_head 3",
    f"{CELL} --dropout 0.2",
]


@pytest.mark.parametrize("flags", FURTHER)
def test_a_run_that_was_cut_ends_as_one_at_a_stretch(train, flags):
    part = train(f"{flags} --max_step 2 --scheduler constant")
    again = train(f"{flags} --scheduler constant")
    assert (part.status, again.status) == (0, 0), part.err + again.err
    resumed = call(f"--restart --restart_dir {part.folder} --max_step 4")
    assert resumed.status == 0, resumed.err
    assert "resumed at step 2" in resumed.log
    assert part.same_weights(again)  # the resumed run has overwritten its model


@pytest.mark.parametrize("flags", ["", "--arch transformer_xl", "--debug"])
def test_evaluating_a_run_repeats_its_results(trained, flags):
    outcome = call(f"--eval --restart_dir {trained.folder} {flags}")
    assert outcome.status == 0, outcome.err
    assert perplexities(outcome.out) == perplexities(trained.log)
    assert "model: Transformer-XL" in outcome.out


def test_its_weights_are_evaluated_wherever_they_are(trained, place, tmp_path):
    alone = shutil.copy(trained.folder / "model_state_dict.pkl", tmp_path / "alone.pkl")
    data = f"--data {place}/corpus --dataset text --debug"
    with_settings = call(f"--eval --load {trained.folder}/model_state_dict.pkl {data}")
    without = call(f"--eval --load {alone} {data} --n_layer 2 {WIDTHS} --mem_len 8 --eval_tgt_len 8")
    for outcome in (with_settings, without):
        assert outcome.status == 0, outcome.err
        assert perplexities(outcome.out) == perplexities(trained.log)
    refused = call(f"--eval --load {alone} {data} --n_layer 3 {WIDTHS}")
    assert refused.status == 2
    assert "--n_layer is 3 but the file has 2: pass --n_layer 2" in refused.err


def test_settings_of_a_run_and_of_a_file_name_the_model(trained, train, tmp_path):
    again = train(f"--config {trained.folder}/settings.json --name again")
    assert again.status == 0, again.err
    assert again.same_weights(trained)
    (tmp_path / "xl.toml").write_text('arch = "transformer_xl"\nn_layer = 1\nn_head = 2\nd_head = 4\nd_model = 8\n')
    of_file = train(f"--conf={tmp_path}/xl.toml --max_step 1")
    assert of_file.status == 0, of_file.err
    assert "layers.0.dec_attn.r_net.weight" in of_file.weights


def test_a_new_run_starts_from_its_weights(trained, train):
    outcome = train(f"--load {trained.folder}/model_state_dict.pkl --lr 1e-12 --name from")
    assert outcome.status == 0, outcome.err
    assert all(torch.allclose(value, trained.weights[name], atol=1e-9) for name, value in outcome.weights.items())


def test_sweep(trained):
    outcome = call(f"--eval --restart_dir {trained.folder} --sweep mem_len=0,8")
    assert outcome.status == 0, outcome.err
    rows = re.findall(r"^ +([08])  +([\d.]+)  +([\d.]+)  +[\d,]+$", outcome.out, re.MULTILINE)
    assert [row[0] for row in rows] == ["0", "8"]
    assert rows[1][2] in outcome.out
    refused = call(f"--eval --restart_dir {trained.folder} --sweep f_thres=2,6")
    assert refused.status == 2
    assert "--sweep cannot change 'f_thres': choose from" in refused.err


def test_published_weights_are_evaluated_and_scored(place):
    """Of a file with nothing beside it, whose model its names tell."""
    settings = json.loads((GOLDEN / "transformer_xl.json").read_text())
    folder = place / "published"
    folder.mkdir()
    words = ["<eos>", *(f"w{i}" for i in range(1, settings["n_token"]))]
    (folder / "vocabulary.txt").write_text("\n".join(words) + "\n")
    for split in ("train", "valid", "test"):
        (folder / f"{split}.txt").write_text(" ".join(words[1:]) + "\n" + " ".join(reversed(words[1:])) + "\n")
    weights = shutil.copy(GOLDEN / "transformer_xl.pkl", folder / "weights.pkl")
    shapes = " ".join(f"--{name} {settings[name]}" for name in ("n_layer", "n_head", "d_head", "d_model", "d_inner"))
    cutoffs = " ".join(map(str, settings["cutoffs"]))
    flags = f"--dataset text {shapes} --adaptive --cutoffs {cutoffs} --div_val {settings['div_val']} --mem_len 9"
    evaluated = call(f"--eval --load {weights} --data {folder} {flags} --debug")
    assert evaluated.status == 0, evaluated.err
    scored = call_program(
        score, f"--load {weights} --vocabulary {folder}/vocabulary.txt {flags} --rows 4 {folder}/test.txt"
    )
    assert scored.status == 0, scored.err
    assert perplexities(evaluated.out)[1] in scored.out


def test_generate_score_and_export(trained, place):
    written = call_program(generate, f"{trained.folder} --prompt word1 --length 5 --seed 3 --samples 3 --stop word2")
    assert written.status == 0, written.err
    one = call_program(generate, f"{trained.folder} --prompt word1 --length 5 --seed 4 --stop word2")
    assert one.out.strip() in written.out  # a sample does not depend on the others
    scored = call_program(score, f"{trained.folder} {place}/corpus/test.txt --rows 4 --batch_size 2")
    assert scored.status == 0, scored.err
    assert perplexities(trained.log)[1] in scored.out
    assert "solves stop over" not in scored.out
    shared = call_program(export, f"{trained.folder} {place}/shared")
    assert shared.status == 0, shared.err
    again = call_program(generate, f"{place}/shared --prompt word1 --length 5 --seed 4 --stop word2")
    assert again.out == one.out
    card = (place / "shared" / "README.md").read_text()
    assert "A Transformer-XL language model with" in card
    assert "equilibrium" not in card
    assert call(f"--eval --restart_dir {place}/shared --data {place}/corpus --debug").status == 0
    for flag in ("--f_thres 3", "--depth 3"):
        refused = call_program(generate, f"{trained.folder} --prompt word1 {flag}")
        assert (refused.status, refused.out) == (2, "")
        assert "a Transformer-XL has no setting" in refused.err


BAD = [
    (f"{XL} --f_thres 5", ["unrecognized arguments: --f_thres 5"]),
    (f"{XL} --solver broyden", ["unrecognized arguments: --solver broyden"]),
    (f"{XL} --pretrain_steps 3", ["unrecognized arguments: --pretrain_steps 3"]),
    (f"{XL} --jac_loss_weight 1", ["unrecognized arguments: --jac_loss_weight 1"]),
    (f"{XL} --spectral_radius", ["unrecognized arguments: --spectral_radius"]),
    (f"{XL} --depth 3", ["unrecognized arguments: --depth 3"]),
    (f"{XL} --wnorm", ["unrecognized arguments: --wnorm"]),
    (f"{XL} --n_layer 0", ["--n_layer is 0", "at least 1"]),
    (f"{XL} --d_model 7", ["--d_model is 7", "even width"]),
    (f"{XL} --clamp_len 0", ["--clamp_len is 0", "at least 1"]),
    (f"{XL} --attn_type 2", ["--attn_type is 2"]),
    (f"{XL} --same_length --mem_len 0", ["--same_length needs a memory"]),
    ("--arch rnn", ["argument --arch: invalid choice: 'rnn'", "transformer_xl"]),
    ("--arch", ["argument --arch: expected one argument"]),
    ("--arch deq_transformer --clamp_len 3", ["unrecognized arguments: --clamp_len"]),
    (f"{CELL} --depth 0", ["--depth is '0'", "a number of applications above 0"]),
    (f"{CELL} --depth -1", ["--depth is '-1'"]),
    (f"{CELL} --depth 1.5", ["--depth is '1.5'"]),
    (f"{CELL} --depth {'9' * 5000}", ["a number of applications above 0"]),
    (f"{CELL} --pretrain_steps 2", ["--pretrain_steps 2 has no effect without --depth equilibrium"]),
    (f"{CELL} --spectral_radius", ["--spectral_radius has no effect without --depth equilibrium"]),
]


@pytest.mark.parametrize(("flags", "words"), BAD)
def test_bad_input_is_one_line(train, flags, words):
    outcome = train(flags)
    assert outcome.status == 2
    (line,) = outcome.err.splitlines()
    assert all(word in line for word in words), line


def test_a_run_is_of_one_model(trained, cell):
    for flags, name in ((trained, "Transformer-XL"), (cell, "DEQ-Transformer")):
        other = "deq_transformer" if name == "Transformer-XL" else "transformer_xl"
        for what in (f"--restart --restart_dir {flags.folder}", f"--eval --load {flags.folder}/model_state_dict.pkl"):
            outcome = call(f"{what} --arch {other}")
            assert outcome.status == 2
            assert f"--arch {other}, but " in outcome.err
            assert outcome.err.endswith(f"is of a {name}: leave --arch out\n")


@pytest.mark.parametrize(
    ("arch", "has", "lacks"),
    [("transformer_xl", SPEC, DEQ_TRANSFORMER), ("deq_transformer", DEQ_TRANSFORMER, SPEC)],
)
def test_help_tells_the_flags_of_the_model(arch, has, lacks, capsys):
    with pytest.raises(SystemExit):
        call_help(["--help", "--arch", arch])
    shown = capsys.readouterr().out
    assert f"\n{has.name}:" in shown
    assert f"\n{lacks.name}:" not in shown
    assert ("--f_thres" in shown) == has.is_equilibrium


def call_help(words: list[str]) -> None:
    import train_transformer

    train_transformer.main(words)


EFFECTS = {"dropout": "0.4", "dropatt": "0.4", "clamp_len": "2", "pre_lnorm": "", "mem_len": "2", "same_length": ""}


@pytest.mark.parametrize("flag", EFFECTS)
def test_a_flag_changes_what_is_learned(train, trained, flag):
    outcome = train(f"{XL} --{flag} {EFFECTS[flag]}")
    assert outcome.status == 0, outcome.err
    assert outcome.weights.keys() == trained.weights.keys()
    assert not outcome.same_weights(trained)


SHAPES = {"n_layer": "3", "d_head": "3", "d_inner": "12", "d_embed": "6", "not_tied": ""}


@pytest.mark.parametrize("flag", SHAPES)
def test_a_flag_changes_the_weights(train, trained, flag):
    outcome = train(f"{XL} --max_step 1 --{flag} {SHAPES[flag]}")
    assert outcome.status == 0, outcome.err
    shapes = [{name: value.shape for name, value in run.weights.items()} for run in (trained, outcome)]
    tied = [
        torch.equal(run.weights["word_emb.emb_layers.0.weight"], run.weights["crit.out_layers.0.weight"])
        for run in (trained, outcome)
    ]
    assert shapes[0] != shapes[1] or tied == [True, False]


def test_a_state_dict_of_the_other_model_is_refused(trained, place, tmp_path):
    torch.save(load_state_dict(trained.folder / "model_state_dict.pkl"), tmp_path / "alone.pkl")
    outcome = call(f"--eval --load {tmp_path}/alone.pkl --arch deq_transformer --data {place}/corpus --dataset text")
    assert outcome.status == 2
    assert "pass the state dict of a DEQ-Transformer" in outcome.err
