"""DEQ-TrellisNets from the command line: trained, resumed, evaluated, swept, generated from, scored, shared."""

import contextlib
import io
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from tiny_run import COURSE, Outcome, write_corpus
from tiny_trained import call_program

import train_transformer
import train_trellisnet
from evaluation.score_program import main as score
from export import main as export
from generation.program import main as generate
from system.state_dicts import load_state_dict

GOLDEN = Path(__file__).parent / "golden"
MODEL = "--n_layer 3 --eval_n_layer 4 --d_embed 8 --nhid 6 --nout 8 --wnorm"
LENGTHS = "--batch_size 4 --seq_len 8 --eval_tgt_len 8"


def call(main, arguments: str) -> Outcome:
    """Run a training script's main with these arguments."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(arguments.split())
    lines = [line for line in out.getvalue().splitlines() if line.startswith("run folder: ")]
    return Outcome(status, out.getvalue(), err.getvalue(), Path(lines[0][12:]) if lines else None)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trellisnet")
    write_corpus(folder / "corpus")
    return folder


@pytest.fixture
def train(place):
    """Trains with further flags, or does what they say."""

    def train(flags: str = "", main=train_trellisnet.main) -> Outcome:
        base = f"--data {place}/corpus --dataset text --work_dir {place}/T- {MODEL} {LENGTHS} {COURSE} --solver broyden"
        return call(main, f"{base} {flags}")

    return train


@pytest.fixture(scope="module")
def trained(place) -> Outcome:
    base = f"--data {place}/corpus --dataset text --work_dir {place}/T- {MODEL} {LENGTHS} {COURSE} --solver broyden"
    outcome = call(train_trellisnet.main, f"{base} --pretrain_steps 2 --name trained")
    assert outcome.status == 0, outcome.err
    return outcome


def perplexities(text: str) -> list[str]:
    return re.findall(r"(?:valid|test): perplexity (\S+)", text)[-2:]


def test_it_is_trained_through_both_stages(trained):
    assert "end of shallow stage" in trained.log
    assert re.search(r"segments of 8,\s+memory 1", trained.log)
    assert trained.results["test"]["memory"] == 1
    assert trained.settings["tgt_len"] == 8
    names = set(trained.weights)
    assert {"trellisnet.func.full_conv.weight_g", "trellisnet.inject_conv.bias", "encoder.weight"} < names


REGULARISED = "--dropout 0.2 --dropouti 0.2 --dropouth 0.2 --wdrop 0.3 --emb_dropout 0.1"


@pytest.mark.parametrize(
    "flags",
    [
        REGULARISED,
        f"--n_experts 2 --nout 5 --dropoutl 0.2 {REGULARISED}",
        "--adaptive --cutoffs 6 12 --div_val 2 --no-wnorm --ksize 3 --dilation 2 --optim Muon",
        "--not_tied --nout 5 --varlen --optim SGD --batch_chunk 2",
    ],
)
def test_a_run_that_was_cut_ends_as_one_at_a_stretch(train, flags):
    whole = train(f"{flags} --pretrain_steps 1")
    assert whole.status == 0, whole.err
    part = train(f"{flags} --pretrain_steps 1 --max_step 2 --scheduler constant")
    again = train(f"{flags} --pretrain_steps 1 --scheduler constant")
    resumed = call(train_trellisnet.main, f"--restart --restart_dir {part.folder} --max_step 4")
    assert resumed.status == 0, resumed.err
    assert "resumed at step 2" in resumed.log
    assert part.same_weights(again)  # the resumed run has overwritten its model
    assert not whole.same_weights(again)


def test_evaluating_a_run_repeats_its_results(trained):
    outcome = call(train_trellisnet.main, f"--eval --restart_dir {trained.folder}")
    assert outcome.status == 0, outcome.err
    assert perplexities(outcome.out) == perplexities(trained.log)
    assert "model: DEQ-TrellisNet" in outcome.out


def test_sweep_of_solves(trained):
    outcome = call(train_trellisnet.main, f"--eval --restart_dir {trained.folder} --sweep f_thres=2,6")
    assert outcome.status == 0, outcome.err
    assert len(re.findall(r"^ +[26]  +[\d.]+", outcome.out, re.MULTILINE)) == 2
    refused = call(train_trellisnet.main, f"--eval --restart_dir {trained.folder} --sweep mem_len=2,6")
    assert refused.status == 2
    assert "'mem_len'" in refused.err


@pytest.mark.parametrize("layout", ["2020", "current"])
def test_published_weights_are_evaluated_and_scored(place, layout, trained):
    """Of a file with nothing beside it, whose model its names tell; the vocabulary has its 61 words."""
    folder = place / f"published-{layout}"
    folder.mkdir()
    words = ["<eos>", *(f"w{i}" for i in range(1, 61))]
    (folder / "vocabulary.txt").write_text("\n".join(words) + "\n")
    for split in ("train", "valid", "test"):
        (folder / f"{split}.txt").write_text(" ".join(words[1:]) + "\n" + " ".join(reversed(words[1:])) + "\n")
    state = load_state_dict(GOLDEN / "trellisnet.pkl")
    if layout == "current":
        state = {name: value for name, value in state.items() if "func_copy" not in name and ".deq." not in name}
    torch.save(state, folder / "weights.pkl")
    shape = "--d_embed 10 --nhid 18 --nout 10 --wnorm --solver broyden"
    evaluated = call(
        train_trellisnet.main, f"--eval --load {folder}/weights.pkl --data {folder} --dataset text {shape} --debug"
    )
    assert evaluated.status == 0, evaluated.err
    scored = call_program(
        score,
        f"--load {folder}/weights.pkl --vocabulary {folder}/vocabulary.txt --dataset text {shape} --rows 4 "
        f"{folder}/test.txt",
    )
    assert scored.status == 0, scored.err
    assert perplexities(evaluated.out)[1] in scored.out + scored.err
    other = call(
        train_transformer.main,
        f"--eval --load {folder}/weights.pkl --data {folder} --dataset text --d_embed 10 --debug",
    )
    assert other.status == 2
    assert "pass the state dict of a DEQ-Transformer" in other.err


def test_generate_score_and_export(trained, place):
    written = call_program(generate, f"{trained.folder} --prompt word1 --length 5 --seed 3")
    assert written.status == 0, written.err
    assert len(written.out.split()) >= 4
    scored = call_program(score, f"{trained.folder} {place}/corpus/test.txt --rows 4")
    assert scored.status == 0, scored.err
    assert perplexities(trained.log)[1] in scored.out
    shared = call_program(export, f"{trained.folder} {place}/shared")
    assert shared.status == 0, shared.err
    again = call_program(generate, f"{place}/shared --prompt word1 --length 5 --seed 3")
    assert again.out == written.out
    card = (place / "shared" / "README.md").read_text()
    assert "DEQ-TrellisNet" in card
    (evaluation,) = re.findall(r"^python DEQModel/(\w+)\.py (--eval .*) --data ", card, re.MULTILINE)
    main = {"train_trellisnet": train_trellisnet.main, "train_transformer": train_transformer.main}[evaluation[0]]
    shown = call(main, f"{evaluation[1].replace('FOLDER', f'{place}/shared')} --data {place}/corpus --debug")
    assert shown.status == 0, shown.err
    assert perplexities(shown.out) == perplexities(trained.log)
    refused = call_program(generate, f"{trained.folder} --prompt word1 --mem_len 3")
    assert (refused.status, refused.out) == (2, "")
    assert "a DEQ-TrellisNet has no setting mem_len" in refused.err


def test_a_run_of_the_other_program_is_refused(trained, tmp_path):
    outcome = call(train_transformer.main, f"--eval --restart_dir {trained.folder}")
    assert outcome.status == 2
    assert "is of a DEQ-TrellisNet, and train_transformer.py is for a DEQ-Transformer" in outcome.err
    resumed = call(train_transformer.main, f"--restart --restart_dir {shutil.copytree(trained.folder, tmp_path / 'x')}")
    assert resumed.status == 2
    assert len(resumed.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--nout 5", ["--d_embed 8 is not --nout 5", "--not_tied"]),
        ("--nhid -1", ["--nhid is -1", "at least 0"]),
        ("--ksize 0", ["--ksize is 0", "at least 1"]),
        ("--dilation 0", ["--dilation is 0", "at least 1"]),
        ("--wdrop 1", ["--wdrop is 1.0", "below 1"]),
        ("--emb_dropout -0.1", ["--emb_dropout is -0.1", "at least 0"]),
        ("--dropouti 1", ["--dropouti is 1.0"]),
        ("--dropouth 1", ["--dropouth is 1.0"]),
        ("--dropoutl 1 --n_experts 2", ["--dropoutl is 1.0"]),
        ("--n_experts -1", ["--n_experts is -1"]),
        ("--n_experts 2 --adaptive --cutoffs 5", ["--n_experts", "--adaptive"]),
        ("--adaptive", ["--adaptive needs --cutoffs"]),
        ("--div_val 2", ["--div_val is 2", "--adaptive"]),
        ("--mem_len 5", ["unrecognized arguments: --mem_len"]),
        ("--seq_len 0", ["--tgt_len is 0"]),
    ],
)
def test_bad_input_is_one_line(train, flags, words):
    outcome = train(flags)
    assert outcome.status == 2
    (line,) = outcome.err.splitlines()
    assert all(word in line for word in words), line


EFFECTS = {  # flag -> one that makes it learn otherwise
    "dropout": "0.4",
    "dropouti": "0.4",
    "dropouth": "0.4",
    "wdrop": "0.4",
    "emb_dropout": "0.4",
    "dilation": "2",
}
SHAPES = {"d_embed": "8", "nhid": "4", "nout": "6", "ksize": "3", "n_experts": "2"}


@pytest.mark.parametrize("flag", EFFECTS)
def test_a_flag_changes_what_is_learned(train, trained, flag):
    outcome = train(f"--pretrain_steps 2 --{flag} {EFFECTS[flag]}")
    assert outcome.status == 0, outcome.err
    assert outcome.weights.keys() == trained.weights.keys()
    assert not outcome.same_weights(trained)
    assert outcome.results["test"]["loss"] != trained.results["test"]["loss"]


@pytest.mark.parametrize("flag", SHAPES)
def test_a_flag_changes_the_weights_shape(train, flag):
    base = "--max_step 1 --not_tied --d_embed 7"
    before, after = train(base), train(f"{base} --{flag} {SHAPES[flag]}")
    assert after.status == 0, after.err
    assert {n: w.shape for n, w in before.weights.items()} != {n: w.shape for n, w in after.weights.items()}


BINS = "--adaptive --cutoffs 8 16"
FORMS = {  # flag -> flags of a run, those of another, and whether the weights of both are as they should be
    "not_tied": (
        "",
        "--not_tied",
        lambda a, b: [torch.equal(w["encoder.weight"], w["decoder.weight"]) for w in (a, b)] == [True, False],
    ),
    "adaptive": ("", BINS, lambda a, b: "encoder.weight" in set(a) - set(b) and "crit.cluster_weight" in set(b)),
    "cutoffs": (
        BINS,
        "--adaptive --cutoffs 6",
        lambda a, b: (
            [len(w["crit.cluster_weight"]) for w in (a, b)] == [2, 1] and len(b["word_emb.emb_layers.0.weight"]) == 25
        ),
    ),
    "div_val": (
        BINS,
        f"{BINS} --div_val 2",
        lambda a, b: (
            a["word_emb.emb_layers.0.weight"].shape == (25, 8)
            and [tuple(b[f"word_emb.emb_layers.{i}.weight"].shape) for i in range(3)] == [(8, 8), (8, 4), (9, 2)]
        ),
    ),
    "wnorm": (
        "--no-wnorm",
        "--wnorm",
        lambda a, b: {f"trellisnet.{conv}.weight_g" for conv in ("inject_conv", "func.full_conv")} <= set(b) - set(a),
    ),
}


@pytest.mark.parametrize("flag", FORMS)
def test_a_flag_changes_the_weights_form(train, flag):
    base, change, is_right = FORMS[flag]
    before, after = (train(f"--max_step 2 {flags}") for flags in (base, change))
    assert (before.status, after.status) == (0, 0), before.err + after.err
    assert is_right(before.weights, after.weights)
    assert before.results["test"]["loss"] != after.results["test"]["loss"]


def test_dropout_of_latents(train):
    base = "--n_experts 2 --max_step 2"
    before, after = train(base), train(f"{base} --dropoutl 0.4")
    assert before.results["test"]["loss"] != after.results["test"]["loss"]
    assert "--dropoutl 0.4 has no effect without --n_experts" in train("--max_step 1 --dropoutl 0.4").out


@pytest.mark.parametrize("flags", ["--wdrop 0.4", "--dilation 2"])
def test_what_a_convolution_of_one_tap_has_no_use_for_is_told(train, flags):
    outcome = train(f"--ksize 1 --max_step 1 --debug {flags}")
    assert f"note: {flags} has no effect without --ksize 2 or more" in outcome.out


def test_every_flag_of_the_model_is_tested_here():
    own = set(train_trellisnet.main.args[0].spec.flags.__dataclass_fields__)
    assert own == EFFECTS.keys() | SHAPES.keys() | FORMS.keys() | {"dropoutl"}


def test_settings_of_the_run_are_written_with_their_names(trained):
    settings = json.loads((trained.folder / "settings.json").read_text())["settings"]
    assert "mem_len" not in settings
    assert settings["ksize"] == 2
