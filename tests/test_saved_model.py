"""A trained model's settings: beside its weights, in its run's folder, and what an evaluation makes of them."""

import json
import shutil
from pathlib import Path

import pytest
from tiny_run import COMMAND, LENGTHS, MODEL, call, perplexities, write_corpus

from data.vocabulary import Vocab
from runs.saved_model import ModelDescription, beside
from system.errors import UserError

REACH = "--pre_lnorm --outer_norm --same_length --local_size 3 --solver broyden --f_thres 5 --mem_len 6"


@pytest.fixture(scope="module")
def trained(run):
    """Of a model that no default describes."""
    outcome = run(f"{REACH} --name unusual")
    assert outcome.status == 0, outcome.err
    return outcome


def test_a_run_is_evaluated_with_its_own_settings(trained, tmp_path):
    evaluated = call(f"--eval --restart_dir {trained.folder} --work_dir {tmp_path}/E-")
    assert evaluated.status == 0, evaluated.err
    assert perplexities(evaluated.out) == perplexities(trained.out)
    assert "changed" not in evaluated.out.replace("changed: --work_dir", "")
    model = " ".join(evaluated.out.split("valid: ")[0].split())
    for words in ("--n_head 2", "--d_inner 16", "--pre_lnorm", "--outer_norm", "--same_length", "--local_size 3"):
        assert words in model
    assert "--no-wnorm" in model
    assert "broyden, threshold 5" in evaluated.out
    assert "memory 6" in evaluated.out
    assert evaluated.results["test"]["loss"] == pytest.approx(trained.results["test"]["loss"], rel=1e-12)
    assert evaluated.results["file"] == str(trained.folder / "model_state_dict.pkl")
    assert evaluated.folder.parent.parent == tmp_path


def test_flags_override_the_settings_of_the_run_and_are_told(trained):
    evaluated = call(f"--eval --restart_dir {trained.folder} --debug --f_thres 3 --no-same_length --mem_len 6")
    assert evaluated.status == 0, evaluated.err
    told = [line for line in evaluated.out.splitlines() if line.startswith("changed: ")]
    assert told == ["changed: --f_thres is 3, was 5", "changed: --same_length is False, was True"]
    assert perplexities(evaluated.out) != perplexities(trained.out)


def test_what_the_weights_were_made_for_cannot_be_changed(trained):
    for place in (f"--restart_dir {trained.folder}", f"--load {trained.folder}/model_state_dict.pkl"):
        refused = call(f"--eval {place} --no-pre_lnorm --no-outer_norm --debug")
        assert (refused.status, refused.out) == (2, "")
        assert "--pre_lnorm is False, not True; --outer_norm is False, not True" in refused.err


def test_a_shallow_model_is_evaluated_at_its_depth(run):
    shallow = run("--pretrain_steps 4 --n_layer 3 --name shallow")
    assert shallow.results["test"]["shallow"] == 3
    evaluated = call(f"--eval --restart_dir {shallow.folder} --debug")
    assert evaluated.out.count("shallow: 3 applications") == 2
    assert perplexities(evaluated.out) == perplexities(shallow.out)
    both = run("--pretrain_steps 2 --name both")
    evaluated = call(f"--eval --restart_dir {both.folder} --debug")
    assert "anderson, threshold 6" in evaluated.out
    assert perplexities(evaluated.out) == perplexities(both.out)


def test_folders_of_an_older_program_tell_their_depth_too(run, tmp_path):
    """It wrote settings without what stands beside them, and no description of the model."""
    for flags in ("--pretrain_steps 4 --n_layer 3 --name shallow", "--pretrain_steps 2 --name both"):
        new = run(flags)
        old = shutil.copytree(new.folder, tmp_path / new.folder.name)
        (old / "model_state_dict.settings.json").unlink()
        (old / "vocabulary.txt").unlink()
        (old / "settings.json").write_text(json.dumps(new.settings))
        evaluated = call(f"--eval --restart_dir {old} --debug")
        assert perplexities(evaluated.out) == perplexities(new.out)


def test_weights_bring_their_model_along(trained, place, tmp_path):
    for name in ("model_state_dict.pkl", "model_state_dict.settings.json"):
        shutil.copy(trained.folder / name, tmp_path / name)
    flags = f"--data {place}/corpus --load {tmp_path}/model_state_dict.pkl --debug"
    evaluated = call(f"{flags} --eval --eval_tgt_len 8")
    assert evaluated.status == 0, evaluated.err
    assert perplexities(evaluated.out) == perplexities(trained.out)
    assert f"note: from {tmp_path}/model_state_dict.settings.json: " in evaluated.out
    assert "--pre_lnorm --outer_norm" in evaluated.out
    # A new run takes the model alone: its solves, lengths and course are the caller's.
    further = call(f"{flags} --dataset text {LENGTHS} --max_step 1 --f_thres 2")
    assert further.status == 0, further.err
    assert "--pre_lnorm --outer_norm" in " ".join(further.out.split())
    assert "anderson, threshold 2" in further.out


def test_other_words_are_refused(trained, place):
    refused = call(f"--eval --load {trained.folder}/model_state_dict.pkl --data {place}/other --debug")
    assert (refused.status, refused.out) == (2, "")
    assert "has other words (31) than the model" in refused.err
    assert "trained with (25)" in refused.err


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 7}', '{"format": 1, "model": 3}'])
def test_a_broken_description_is_one_line(trained, text, place, tmp_path):
    weights = Path(shutil.copy(trained.folder / "model_state_dict.pkl", tmp_path))
    beside(weights).write_text(text)
    refused = call(f"--eval --load {weights} --data {place}/corpus --dataset text {MODEL} --debug")
    assert (refused.status, refused.out) == (2, "")
    assert f"{beside(weights)} " in refused.err
    assert "remove this one and pass the model's settings as flags" in refused.err
    assert refused.err.count("\n") == 1


def test_weights_of_another_model_are_one_line(trained, tmp_path):
    weights = Path(shutil.copy(trained.folder / "model_state_dict.pkl", tmp_path))
    content = json.loads(beside(trained.folder / "model_state_dict.pkl").read_text())
    beside(weights).write_text(json.dumps({**content, "model": "DEQ-RNN", "settings": {"width": 3}}))
    refused = call(f"--eval --load {weights} --debug")
    assert (refused.status, refused.err.count("\n")) == (2, 1)
    assert "is of a DEQ-RNN, and train_transformer.py is for a DEQ-Transformer" in refused.err


def test_unknown_settings_of_a_description_are_one_line(trained, place, tmp_path):
    weights = Path(shutil.copy(trained.folder / "model_state_dict.pkl", tmp_path))
    content = json.loads(beside(trained.folder / "model_state_dict.pkl").read_text())
    for settings, part in (({"n_heads": 3}, "no setting n_heads"), ({"n_head": "3"}, "of type int")):
        beside(weights).write_text(json.dumps({**content, "settings": {**content["settings"], **settings}}))
        refused = call(f"--eval --load {weights} --data {place}/corpus --debug")
        assert (refused.status, refused.err.count("\n")) == (2, 1)
        assert part in refused.err


def test_description_goes_there_and_back(tmp_path):
    settings, vocab = (
        COMMAND.parse(f"{MODEL} --pretrain_steps 7 --adaptive --cutoffs 3 5".split()),
        Vocab(["<eos>", "a"]),
    )
    for shallow, depth in ((None, (0, 12)), (3, (7, 3))):
        written = ModelDescription.of("DEQ-Transformer", settings, vocab, shallow)
        written.write(tmp_path / "w.pkl")
        read = ModelDescription.beside(tmp_path / "w.pkl")
        assert (read.model, read.n_words, read.vocabulary) == ("DEQ-Transformer", 2, vocab.identity)
        assert read.settings["cutoffs"] == [3, 5]
        wanted = (depth[0], depth[1] if shallow else settings.eval_n_layer)
        assert (read.settings["pretrain_steps"], read.settings["eval_n_layer"]) == wanted
    assert ModelDescription.beside(tmp_path / "other.pkl") is None


def test_a_run_folder_says_what_it_was_made_with(trained):
    content = json.loads((trained.folder / "settings.json").read_text())
    assert content["model"] == "DEQ-Transformer"
    assert content["environment"].keys() == {
        *("program", "commit", "command", "python", "torch", "host", "date", "device", "processes")
    }
    assert content["settings"]["local_size"] == 3
    words = (trained.folder / "vocabulary.txt").read_text().splitlines()
    assert (words[0], len(words)) == ("<eos>", 25)
    assert Vocab.read(trained.folder / "vocabulary.txt").words == tuple(words)


@pytest.mark.parametrize("text", ["", "a\n<eos>\n", "<eos>\na\na\n", "<eos>\na b\n", "<eos>\n\n", "<eos>\n\xff\n"])
def test_what_is_no_vocabulary(text, tmp_path):
    (tmp_path / "words").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=r"vocabulary\.txt of the run"):
        Vocab.read(tmp_path / "words")
    with pytest.raises(UserError, match="cannot read"):
        Vocab.read(tmp_path / "nowhere")


def test_data_is_stored_where_it_is(tmp_path, monkeypatch):
    write_corpus(tmp_path / "corpus")
    monkeypatch.chdir(tmp_path)
    outcome = call(f"--data corpus --dataset text --work_dir R- {MODEL} {LENGTHS} --max_step 1")
    assert outcome.settings["data"] == str(tmp_path / "corpus")
    monkeypatch.chdir("/")
    again = call(f"--restart --restart_dir {tmp_path / outcome.folder} --max_step 2")
    assert again.status == 0, again.err
    assert "changed: --data" not in again.out


def test_what_has_no_effect_any_more_is_not_inherited(run):
    first = run("--f_history 2 --b_solver broyden --jac_loss_weight 1 --jac_loss_freq 0.5 --name inherits")
    evaluated = call(f"--eval --load {first.folder}/model_state_dict.pkl --data {first.settings['data']} --debug")
    assert evaluated.status == 0, evaluated.err
    again = call(f"--restart --restart_dir {first.folder} --max_step 5 --jac_loss_weight 0")
    assert again.status == 0, again.err
    assert "changed: --jac_loss_freq is 0.4, was 0.5" in again.out


def test_a_description_of_other_weights_is_told(run, monkeypatch):
    """A run is cut off between the two files, at the change of its stage."""
    from training import best_model

    write = best_model.ModelDescription.write

    def cut_off(description, path):
        if description.settings["pretrain_steps"] == 0:
            raise KeyboardInterrupt
        write(description, path)

    monkeypatch.setattr(best_model.ModelDescription, "write", cut_off)
    cut = run("--pretrain_steps 2 --eval-interval 2 --name cut-off")
    monkeypatch.undo()
    assert cut.status == 130
    refused = call(f"--eval --restart_dir {cut.folder} --debug")
    assert (refused.status, refused.err.count("\n")) == (2, 1)
    assert "is of other weights than" in refused.err
    assert call(f"--restart --restart_dir {cut.folder}").status == 0
    assert call(f"--eval --restart_dir {cut.folder} --debug").status == 0


def test_a_best_model_found_under_other_settings_is_validated_again(run):
    first = run("--f_thres 6 --name other-settings")
    again = call(f"--restart --restart_dir {first.folder} --f_thres 2 --mem_len 4")
    assert again.status == 0, again.err
    assert "it is validated again" in again.log
    results = again.results
    assert [(results[split]["threshold"], results[split]["memory"]) for split in ("valid", "test")] == [(2, 4), (2, 4)]
    evaluated = call(f"--eval --restart_dir {first.folder} --debug")
    assert "changed" not in evaluated.out
    assert perplexities(evaluated.out) == [f"{results[split]['perplexity']:.3f}" for split in ("valid", "test")]


def test_a_sample_that_fails_costs_nothing(run, monkeypatch):
    from training import sample

    class Failing:
        def __init__(self, *given): ...

        def draws(self, *given, **named):
            raise UserError("its states are not finite")

    monkeypatch.setattr(sample, "Generator", Failing)
    outcome = run("--sample 5 --name sample-fails")
    assert outcome.status == 0, outcome.err
    assert outcome.results["test"]["loss"] > 0
    assert "no sample of the model: its states are not finite" in outcome.log


def test_solvers_can_be_swept_whatever_options_the_run_had(run):
    first = run("--solver broyden --f_history 2 --name swept-solvers")
    swept = call([*f"--eval --restart_dir {first.folder} --debug --sweep".split(), "solver=broyden,anderson"])
    assert swept.status == 0, swept.err
    assert len([line for line in swept.out.splitlines() if line.lstrip().startswith(("broyden ", "anderson "))]) == 2


def test_files_that_contradict_are_told(run, tmp_path):
    folder = Path(shutil.copytree(run("--name contradicts").folder, tmp_path / "edited"))
    content = json.loads((folder / "settings.json").read_text())
    (folder / "settings.json").write_text(json.dumps({**content, "settings": {**content["settings"], "f_thres": 3}}))
    evaluated = call(f"--eval --restart_dir {folder} --debug")
    assert "was found with --f_thres 6, not 3 as settings.json has it" in evaluated.out
    (folder / "settings.json").write_text("{")
    refused = call(f"--eval --restart_dir {folder} --debug")
    assert (refused.status, refused.err.count("\n")) == (2, 1)
    assert "go on with the run, which writes it anew" in refused.err


def test_another_text_for_validation_is_validated_anew(place, tmp_path):
    corpus = shutil.copytree(place / "corpus", tmp_path / "corpus")
    first = call(f"--data {corpus} --dataset text --work_dir {tmp_path}/R- {MODEL} {LENGTHS} --max_step 2")
    before, text = first.results["valid"]["n_tokens"], (corpus / "valid.txt").read_text()
    (corpus / "valid.txt").write_text(text + text)
    again = call(f"--restart --restart_dir {first.folder}")
    assert again.status == 0, again.err
    assert again.results["valid"]["n_tokens"] > 1.9 * before
