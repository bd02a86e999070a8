"""export.py: one folder that holds a model whole, and what the programs make of it elsewhere."""

import json
import shutil
import sys

import pytest
import torch
from tiny_run import COMMAND, call, perplexities

import export
from evaluation.trained_model import TrainedModel
from system.errors import UserError

BINS = "--adaptive --cutoffs 8 16 --div_val 2"
FILES = {
    "README.md",
    "model.safetensors",
    "model_state_dict.pkl",
    "model_state_dict.settings.json",
    "results.json",
    "settings.json",
    "vocabulary.txt",
}


@pytest.fixture(scope="module")
def trained(run):
    return run(f"{BINS} --wnorm --solver broyden --name to-share")


@pytest.fixture
def exported(trained, tmp_path, capsys):
    assert export.main([str(trained.folder), str(tmp_path / "out" / "mine")]) == 0
    assert capsys.readouterr().out == f"exported to {tmp_path}/out/mine\n"
    return tmp_path / "out" / "mine"


def test_the_folder_holds_all(exported, trained):
    assert {path.name for path in exported.iterdir()} == FILES
    weights = torch.load(exported / "model_state_dict.pkl", weights_only=True)
    assert all(torch.equal(weights[name], value) for name, value in trained.weights.items())
    card = (exported / "README.md").read_text()
    assert card.startswith("# mine\n")
    for part in (
        f"{trained.results['test']['perplexity']:.3f}",
        "--cutoffs 8 16",
        "25 words",
        'generate.py FOLDER --prompt "',
        "python DEQModel/train_transformer.py --eval --restart_dir FOLDER",
        f"torch: {torch.__version__}",
        *FILES - {"README.md"},
    ):
        assert part in card
    settings = json.loads((exported / "settings.json").read_text())
    assert not settings["settings"].keys() & {"data", "work_dir", "name", "load", "debug"}
    assert not settings["environment"].keys() & {"host", "command"}


def test_safetensors_hold_the_same_weights(exported, trained):
    from safetensors.torch import load_file

    found = load_file(exported / "model.safetensors")
    assert found.keys() == trained.weights.keys()
    assert all(torch.equal(found[name], value) for name, value in trained.weights.items())


def test_it_is_evaluated_where_the_corpus_is_named(exported, trained, place):
    evaluated = call(f"--eval --restart_dir {exported} --data {place}/corpus --debug")
    assert evaluated.status == 0, evaluated.err
    assert perplexities(evaluated.out) == perplexities(trained.out)
    alone = call(f"--eval --restart_dir {exported} --debug")
    assert alone.status == 2
    assert "comes without its corpus: pass --data FOLDER" in alone.err


def test_it_is_loaded_alone(exported, trained):
    loaded = TrainedModel.load("x.py", run=str(exported))
    assert len(loaded.vocab) == 25
    assert (loaded.settings.cutoffs, loaded.settings.solver) == ((8, 16), "broyden")
    assert not loaded.model.training


def test_without_the_package_there_are_no_safetensors(trained, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    assert export.main([str(trained.folder), str(tmp_path / "mine")]) == 0
    assert "note: model.safetensors is left out: pip install -r requirements-extra.txt" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "mine").iterdir()} == FILES - {"model.safetensors"}
    assert "safetensors" not in (tmp_path / "mine" / "README.md").read_text()


def test_a_run_without_results_has_no_figures(trained, tmp_path, capsys):
    folder = shutil.copytree(trained.folder, tmp_path / "unfinished")
    (folder / "results.json").unlink()
    assert export.main([str(folder), str(tmp_path / "mine")]) == 0
    assert "has no results.json" in capsys.readouterr().out
    assert "There are none of these weights." in (tmp_path / "mine" / "README.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ("", "no RUN"),
        ("{run}", "no OUT"),
        ("{place}/nowhere {place}/out", "there is no such folder"),
        ("{place} {place}/out", "model_state_dict.pkl"),
        ("{run} {place}", "is there already"),
        ("{run} {place}/file/out", "cannot be made"),
        ("{run} {place}/out --force", "unrecognized arguments: --force"),
    ],
)
def test_mistakes(arguments, part, trained, tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    before = sorted(tmp_path.rglob("*"))
    assert export.main(arguments.format(run=trained.folder, place=tmp_path).split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert part in err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_trained_model_is_one_of_two_things():
    for both in ({}, {"run": "x", "weights": "y"}):
        with pytest.raises(UserError, match=r"no model|two models"):
            TrainedModel.load("x.py", **both)


def test_flags_that_do_nothing_here_are_refused(trained):
    with pytest.raises(UserError, match="has no setting f_thresh"):
        TrainedModel.load("x.py", run=str(trained.folder), changed={"f_thresh": 3})
    with pytest.raises(UserError, match="--lr does nothing here"):
        TrainedModel.load("x.py", run=str(trained.folder), changed={"lr": 3.0})
    changed = TrainedModel.load("x.py", run=str(trained.folder), changed={"f_thres": 3})
    assert list(changed.remarks) == ["changed: --f_thres is 3, was 6"]


def test_published_weights_take_their_model_from_flags(trained, tmp_path):
    weights = shutil.copy(trained.folder / "model_state_dict.pkl", tmp_path / "bare.pkl")
    flags = (
        "--n_head 2 --d_head 4 --d_model 8 --d_inner 16 --adaptive --cutoffs 8 16 --div_val 2 --wnorm --dataset text"
    )
    vocabulary = str(trained.folder / "vocabulary.txt")
    loaded = TrainedModel.load("x.py", weights=weights, vocabulary=vocabulary, changed=COMMAND.given(flags.split()))
    assert torch.equal(loaded.model.state_dict()["inject_conv.weight"], trained.weights["inject_conv.weight"])
    with pytest.raises(UserError, match="--d_inner is 8000 but the file has 16"):
        TrainedModel.load("x.py", weights=weights, vocabulary=vocabulary, changed=COMMAND.given(flags.split()[:6]))
    (tmp_path / "words").write_text("<eos>\na\n")
    with pytest.raises(UserError, match="has other words"):
        TrainedModel.load("x.py", run=str(trained.folder), vocabulary=str(tmp_path / "words"))


@pytest.mark.parametrize("text", ["{}", "[1]", '{"valid": 3, "test": 4}', "[" * 100_000])
def test_broken_results_are_one_line(text, trained, tmp_path, capsys):
    folder = shutil.copytree(trained.folder, tmp_path / "broken")
    (folder / "results.json").write_text(text)
    assert export.main([str(folder), str(tmp_path / "mine")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "mine").exists()


def test_a_card_says_what_the_figures_rest_on_and_what_becomes_of_unknown_words(exported):
    card = (exported / "README.md").read_text()
    assert "broyden, threshold 6 steps, eps 0.001, stop mode rel, stop scope batch" in card
    assert "Words that are not in `vocabulary.txt` are refused" in card


def test_figures_of_other_weights_are_left_out(trained, run, tmp_path, capsys):
    folder = shutil.copytree(trained.folder, tmp_path / "mixed")
    shutil.copy(run("--name another").folder / "results.json", folder / "results.json")
    assert export.main([str(folder), str(tmp_path / "mine")]) == 0
    assert "results.json is of other weights: the model card has no figures" in capsys.readouterr().out
    assert not (tmp_path / "mine" / "results.json").exists()
