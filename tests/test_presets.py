"""--preset: named settings of lower precedence than --config and flags; what the files may hold, and what becomes of
them in runs."""

import dataclasses
import json
import re

import pytest
from scripts import copied_to, passed
from tiny_run import COMMAND, LENGTHS, Outcome, call, perplexities

from config import file
from config.file import read_settings
from config.run_settings import DeviceSettings, RecordSettings, TaskSettings
from config.settings import DataSettings
from models.bins import BinFlags
from models.transformers.flags import PRESETS
from system.errors import UserError
from system.flag import OF_THE_CALL

FILES = {path.stem: path for path in file.PRESETS.iterdir()}
WIDTHS = "--n_head 2 --d_head 4 --d_model 8 --d_inner 16"
COURSE = "--max_step 4 --log-interval 2 --eval-interval 4"
OF_A_CORPUS_OR_A_SIZE = {"n_head", "dropout", "dropatt", "mem_len", "tgt_len", "eval_tgt_len", "batch_size", "seed"}
OF_A_RUNS_LENGTH = {"depth", "pretrain_steps", "start_train_steps", "warmup_step", "max_step", "when"}


def parsed(flags: str):
    return COMMAND.parse(flags.split())


@pytest.fixture(scope="module")
def train(place):
    """Trains with these flags, beside widths, lengths and a corpus alone, or does what they say."""
    base = f"--data {place}/corpus --dataset text --work_dir {place}/P- {WIDTHS} {LENGTHS} {COURSE}"
    return lambda flags: call(f"{base} {flags}")


@pytest.fixture(scope="module")
def trained(train) -> Outcome:
    outcome = train("--preset equilibrium --name recommended")
    assert outcome.status == 0, outcome.err
    return outcome


# The files


def test_every_file_is_a_choice():
    assert tuple(sorted(FILES)) == PRESETS == COMMAND.flags["preset"].choices
    assert {path.suffix for path in FILES.values()} == {".toml"}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_holds_nothing_of_a_corpus_a_size_or_a_place(name):
    groups = (DataSettings, DeviceSettings, RecordSettings, TaskSettings, BinFlags)
    apart = {field.name for group in groups for field in dataclasses.fields(group)}
    apart |= OF_A_CORPUS_OR_A_SIZE | OF_A_RUNS_LENGTH
    for setting in read_settings(str(FILES[name])):
        flag = COMMAND.flags[setting]
        assert setting not in apart
        assert not flag.is_width
        assert flag.fixed != OF_THE_CALL


@pytest.mark.parametrize("name", PRESETS)
def test_every_setting_of_a_preset_is_the_runs_and_is_written_down(name, train):
    outcome = train(f"--preset {name} --name of-{name}")
    assert outcome.status == 0, outcome.err
    assert outcome.results["training"]["updates"] == 4
    content = read_settings(str(FILES[name]))
    assert len(content) > 8
    assert {setting: outcome.settings[setting] for setting in content} == content
    assert outcome.settings["preset"] == name
    as_flags = COMMAND.typed({setting: value for setting, value in content.items() if setting != "arch"})
    assert train(as_flags).same_weights(outcome)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_a_file_of_settings(name):
    of_file = vars(parsed(f"--config {FILES[name]}"))
    assert {**of_file, "config": "", "preset": name} == vars(parsed(f"--preset {name}"))


def test_published_is_what_the_script_trains_with(tmp_path):
    script = COMMAND.parse(passed(copied_to(tmp_path), "run_wt103_deq_transformer.sh", "train"))
    content = read_settings(str(FILES["published"]))
    assert {setting: getattr(script, setting) for setting in content} == content
    assert {"solver", "f_thres", "b_thres", "wnorm", "n_layer", "optim", "lr"} < content.keys()


# What comes before what


def test_a_file_overrides_a_preset_and_flags_override_both(tmp_path):
    (tmp_path / "mine.toml").write_text("lr = 0.5\nphantom_steps = 4\n")
    settings = parsed(f"--phantom_steps 3 --config {tmp_path}/mine.toml --preset equilibrium")
    assert (settings.phantom_steps, settings.lr, settings.f_thres) == (3, 0.5, 12)
    assert settings.b_thres == COMMAND.defaults["b_thres"]
    assert parsed("--no-norm_affine --preset equilibrium").norm_affine is False


def test_a_file_may_name_a_preset_and_a_flag_another(tmp_path):
    (tmp_path / "mine.toml").write_text('preset = "equilibrium"\nphantom_steps = 4\n')
    settings = parsed(f"--config {tmp_path}/mine.toml")
    assert (settings.preset, settings.phantom_steps, settings.optim) == ("equilibrium", 4, "Muon")
    other = parsed(f"--config {tmp_path}/mine.toml --preset published --grad phantom")
    assert (other.preset, other.phantom_steps, other.optim, other.wnorm) == ("published", 4, "Adam", True)


def test_settings_of_a_preset_that_a_flag_makes_idle_fall_back():
    settings = parsed("--preset equilibrium --grad one_step")
    assert (settings.phantom_steps, settings.phantom_damping) == (5, 0.5)


def test_settings_of_a_run_stand_for_themselves(trained, train):
    again = train(f"--config {trained.folder}/settings.json --name again")
    assert again.status == 0, again.err
    assert (again.settings["preset"], again.settings["optim"]) == (None, "Muon")
    assert again.same_weights(trained)


def test_a_run_may_outlive_its_preset(trained, tmp_path):
    content = json.loads((trained.folder / "settings.json").read_text())
    content["settings"]["preset"] = "gone"
    (tmp_path / "settings.json").write_text(json.dumps(content))
    assert parsed(f"--config {tmp_path}/settings.json").phantom_steps == 2


def test_the_preset_of_a_run_is_not_that_of_a_call_that_takes_its_settings(trained, train):
    outcome = train(f"--arch transformer_xl --config {trained.folder}/settings.json")
    assert outcome.status == 2
    assert "settings.json: there is no setting" in outcome.err
    assert "--preset" not in outcome.err


def test_a_preset_can_be_cut_short():
    assert parsed("--pres equilibrium").optim == parsed("--preset=equilibrium").optim == "Muon"
    assert parsed("--pret 3 --preset published").pretrain_steps == 3
    with pytest.raises(UserError, match="--pre could match --pre_lnorm, --pretrain_steps"):
        parsed("--pre equilibrium")


def test_the_help_lists_them(capsys):
    with pytest.raises(SystemExit):
        parsed("--preset published --help")
    assert f"--preset {{{','.join(PRESETS)}}}" in capsys.readouterr().out


# Programs, models, runs


@pytest.mark.parametrize("flags", ["--preset nosuch", "--preset=", "--preset nosuch --arch transformer_xl"])
def test_a_name_that_there_is_not(flags, train):
    outcome = train(flags)
    assert (outcome.status, outcome.out, outcome.err.count("\n")) == (2, "", 1)
    assert all(part in outcome.err for part in ("--preset", *PRESETS))


def test_a_name_that_there_is_not_in_a_file(tmp_path):
    (tmp_path / "mine.toml").write_text('preset = "nosuch"')
    with pytest.raises(UserError, match="preset is 'nosuch': choose from equilibrium, published"):
        parsed(f"--config {tmp_path}/mine.toml")


def test_another_model_is_refused(train, place):
    xl = train("--arch transformer_xl --n_layer 1 --name xl")
    assert xl.status == 0, xl.err
    for flags, message in (
        ("--arch transformer_xl", "--preset equilibrium is for arch deq_transformer, not transformer_xl"),
        (f"--config {xl.folder}/settings.json", "--preset equilibrium is for arch deq_transformer, not transformer_xl"),
        (f"--eval --restart_dir {xl.folder}", rf"--preset .* deq_transformer, but {xl.folder} is of a Transformer-XL"),
    ):
        outcome = train(f"--preset equilibrium {flags}")
        assert (outcome.status, outcome.err.count("\n")) == (2, 1)
        assert re.search(message, outcome.err)


def test_a_preset_names_the_model(train, tmp_path, monkeypatch):
    monkeypatch.setattr(file, "PRESETS", tmp_path)
    (tmp_path / "published.toml").write_text('arch = "transformer_xl"\nn_layer = 1\n')
    (tmp_path / "mine.toml").write_text('preset = "published"')
    for flags in ("--preset published", f"--config {tmp_path}/mine.toml", "--pres=published --arch transformer_xl"):
        outcome = train(flags)
        assert outcome.status == 0, outcome.err
        assert outcome.settings["arch"] == "transformer_xl"
        assert "layers.0.dec_attn.r_net.weight" in outcome.weights


def test_a_run_goes_on_without_its_preset(trained, train, place):
    part = train("--preset equilibrium --max_step 2 --scheduler constant --name part")
    resumed = call(f"--restart --restart_dir {part.folder} --max_step 4")
    assert resumed.status == 0, resumed.err
    assert "changed: --max_step is 4, was 2" in resumed.log
    assert resumed.log.count("changed: ") == 1
    whole = train("--preset equilibrium --scheduler constant --name whole")
    assert resumed.same_weights(whole)
    other = call(f"--restart --restart_dir {part.folder} --preset published --max_step 6")
    assert other.status == 2
    assert all(
        part in other.err
        for part in ("--optim Muon to Adam", "--inject residual to attention", "--wnorm False to True")
    )


def test_evaluation(trained, place, tmp_path):
    of_run = call(f"--eval --restart_dir {trained.folder} --debug")
    assert perplexities(of_run.out) == perplexities(trained.log)
    weights = tmp_path / "alone.pkl"
    weights.write_bytes((trained.folder / "model_state_dict.pkl").read_bytes())
    base = f"--eval --load {weights} --data {place}/corpus --dataset text {WIDTHS} {LENGTHS} --debug"
    with_preset = call(f"{base} --preset equilibrium")
    assert perplexities(with_preset.out) == perplexities(trained.log)
    assert call(base).status == 2  # a file without settings beside it does not tell of the cell
    other = call(f"--eval --restart_dir {trained.folder} --preset published --debug")
    assert "--inject is attention, not residual" in other.err


@pytest.mark.parametrize("name", PRESETS)
def test_cost(name, train):
    cost = "--cost --cost_vocabulary 25 --cost_machine a100"
    told = train(f"--preset {name} {cost}")
    assert told.status == 0, told.err
    content = read_settings(str(FILES[name]))
    as_flags = COMMAND.typed({setting: value for setting, value in content.items() if setting != "arch"})
    assert told.out == train(f"{as_flags} {cost}").out != train(cost).out
