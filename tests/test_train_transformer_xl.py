"""Transformer-XLs from the command line, and the DEQ-Transformer's cell at a fixed depth."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from tiny_run import call, perplexities, write_corpus
from tiny_trained import call_program

from evaluation.score_program import main as score
from export import main as export
from generation.program import main as generate
from models.transformer_xl.config import TransformerXLConfig
from models.transformer_xl.model import TransformerXLLM
from models.transformer_xl.spec import SPEC
from models.transformers.spec import SPEC as DEQ_TRANSFORMER
from modules.depth import AsBuilt
from system.state_dicts import load_state_dict

GOLDEN = Path(__file__).parent / "golden"
WIDTHS = "--n_head 2 --d_head 4 --d_model 8 --d_inner 16"
XL = f"--arch transformer_xl --n_layer 2 {WIDTHS}"
CELL = f"--depth 3 {WIDTHS}"
COURSE = (
    "--batch_size 4 --tgt_len 8 --eval_tgt_len 8 --mem_len 8 --lr 0.01 --max_step 4 --log-interval 2 --eval-interval 2"
)


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


def small(**changes) -> TransformerXLLM:
    """A model in float64 whose weights are large enough that everything matters."""
    shapes = {"n_token": 13, "n_layer": 3, "n_head": 2, "d_head": 3, "d_model": 8, "d_inner": 12, "d_embed": 8}
    torch.manual_seed(3)
    model = TransformerXLLM(TransformerXLConfig(**{**shapes, "mem_len": 5, **changes})).double()
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, 1.0 if name.endswith("layer_norm.weight") else 0.0, 0.4)
    return model


def tokens(length: int, rows: int = 3) -> torch.Tensor:
    return torch.randint(13, (length, rows), generator=torch.Generator().manual_seed(1))


CHOICES = [{}, {"pre_lnorm": True}, {"same_length": True}, {"clamp_len": 2}]


# The model


@pytest.mark.parametrize("changes", CHOICES)
def test_rows_do_not_know_of_each_other(changes):
    model, text = small(**changes), tokens(14)
    whole = model.hidden(text[7:], model.hidden(text[:7], None, AsBuilt()).memory, AsBuilt())
    for row in range(3):
        own = text[:, row : row + 1]
        alone = model.hidden(own[7:], model.hidden(own[:7], None, AsBuilt()).memory, AsBuilt())
        torch.testing.assert_close(alone.states[:, 0], whole.states[:, row], rtol=0, atol=1e-6)


@pytest.mark.parametrize("changes", CHOICES)
def test_a_text_may_be_read_in_parts_of_any_length(changes):
    """What the memory still holds whole: its inputs are those of each layer."""
    model, text = small(**{**changes, "mem_len": 20}), tokens(9)
    whole, memory, states = model.hidden(text, None, AsBuilt()), None, []
    for part in text.split([4, 1, 3, 1]):
        read = model.hidden(part, memory, AsBuilt())
        memory = read.memory
        states.append(read.states)
    torch.testing.assert_close(torch.cat(states), whole.states, rtol=0, atol=1e-6)
    for part, at_once in zip(memory, whole.memory, strict=True):
        torch.testing.assert_close(part, at_once, rtol=0, atol=1e-6)


def test_each_layer_remembers_its_own_inputs():
    model, text = small(), tokens(7)
    memory = model.hidden(text, None, AsBuilt()).memory
    assert [tuple(part.shape) for part in memory] == [(3, 5, 8)] * 3
    assert not any(part.requires_grad for part in memory)
    assert torch.equal(memory[0], model.word_emb(text.t())[:, 2:])
    for i in range(3):  # every part matters to what comes next
        changed = [part + (j == i) for j, part in enumerate(memory)]
        states = [model.hidden(tokens(2), part, AsBuilt()).states for part in (memory, changed)]
        assert not torch.equal(*states)


def test_attention_sees_no_future_and_no_more_than_it_may():
    text = tokens(9, rows=1)
    other = text.clone()
    other[0] = (text[0] + 1) % 13
    for horizon, reached in (({}, True), ({"n_layer": 1, "mem_len": 3, "same_length": True}, False)):
        model = small(**horizon)
        a, b = (model.hidden(part, None, AsBuilt()).states for part in (text, other))
        assert torch.equal(a[8], b[8]) != reached
        late = other.clone()
        late[8] = (text[8] + 1) % 13
        assert torch.equal(model.hidden(late, None, AsBuilt()).states[:8], b[:8])


def test_far_keys_have_the_position_of_the_clamp():
    near, far = small(clamp_len=2)._positions(3), small(clamp_len=2)._positions(6)
    assert torch.equal(far[3:], near)
    assert torch.equal(far[:4], near[:1].expand(4, -1))
    assert torch.equal(small(clamp_len=2)._positions(2), small()._positions(2))


def test_other_reach_and_no_other_build():
    model = small()
    assert model.with_config(TransformerXLConfig(**{**vars(model.config), "mem_len": 2})).memory_length == 2
    with pytest.raises(ValueError, match=r"`n_layer` belongs to the model's build"):
        model.with_config(TransformerXLConfig(**{**vars(model.config), "n_layer": 2}))


def test_dropout_is_drawn_in_training_alone():
    model, text = small(dropout=0.3, dropatt=0.3), tokens(6)
    assert not torch.equal(*(model.hidden(text, None, AsBuilt()).raw for _ in range(2)))
    model.eval()
    assert torch.equal(*(model.hidden(text, None, AsBuilt()).states for _ in range(2)))


def test_scales_of_the_norms_start_at_one():
    model, settings = small(), call_settings("--init_std 0.001")
    SPEC.initialise(model, settings)
    state = model.state_dict()
    assert (state["layers.1.pos_ff.layer_norm.weight"] - 1).abs().max() < 0.01
    assert state["layers.1.pos_ff.layer_norm.bias"].abs().max() == 0
    assert 0 < state["layers.1.dec_attn.qkv_net.weight"].abs().max() < 0.01
    assert 0 < state["r_w_bias"].abs().max() < 0.01


def call_settings(flags: str):
    from config.flags import CommandLine

    return CommandLine("x", SPEC).parse(f"--dataset text {XL} {flags}".split())


# The program


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


# The cell at a fixed depth


def test_the_cell_is_trained_and_evaluated_at_a_fixed_depth(cell, train):
    assert cell.results["test"]["shallow"] == 3
    assert cell.log.count("3 applications of the cell") >= 3
    assert "note: --depth 3: there are no solves; the solver and its flags are not used" in cell.log
    assert "residual" not in cell.log
    as_a_stage = train(f"--pretrain_steps 9 --n_layer 3 {WIDTHS}")
    assert as_a_stage.same_weights(cell)
    written = json.loads((cell.folder / "model_state_dict.settings.json").read_text())["settings"]
    assert (written["depth"], written["pretrain_steps"]) == ("3", 0)


def test_its_depth_stays_with_the_model_and_may_be_changed(cell, place):
    same = call(f"--eval --restart_dir {cell.folder}")
    assert perplexities(same.out) == perplexities(cell.log)
    scored = call_program(score, f"{cell.folder} {place}/corpus/test.txt --rows 4")
    assert perplexities(cell.log)[1] in scored.out
    deeper = call(f"--eval --restart_dir {cell.folder} --depth 5")
    assert "changed: --depth is 5, was 3" in deeper.out
    assert deeper.out.count("shallow: 5 applications of the cell") == 2
    assert perplexities(deeper.out) != perplexities(same.out)
    solved = call(f"--eval --load {cell.folder}/model_state_dict.pkl --data {place}/corpus --depth equilibrium --debug")
    assert solved.status == 0, solved.err
    assert "anderson, threshold" in solved.out


def test_a_shallow_stage_may_be_followed_by_a_fixed_depth(train):
    """A run that goes on at another depth keeps no stage that would have no effect."""
    part = train(f"--pretrain_steps 9 --n_layer 2 {WIDTHS} --max_step 2 --scheduler constant")
    resumed = call(f"--restart --restart_dir {part.folder} --max_step 4 --depth 2")
    assert resumed.status == 0, resumed.err
    assert "changed: --depth is 2, was equilibrium" in resumed.log
    again = train(f"--depth 2 {WIDTHS} --scheduler constant")
    assert resumed.same_weights(again)


def test_a_state_dict_of_the_other_model_is_refused(trained, place, tmp_path):
    torch.save(load_state_dict(trained.folder / "model_state_dict.pkl"), tmp_path / "alone.pkl")
    outcome = call(f"--eval --load {tmp_path}/alone.pkl --arch deq_transformer --data {place}/corpus --dataset text")
    assert outcome.status == 2
    assert "pass the state dict of a DEQ-Transformer" in outcome.err
