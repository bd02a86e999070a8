"""--config: settings from a run's settings.json or a TOML file; flags override them."""

import json

import pytest
from tiny_run import COMMAND, call

from system.errors import UserError

TOML = """\
d_model = 8
n_head = 2
d_head = 4
lr = 1
log-interval = 7
varlen = true
adaptive = true
dataset = "text"
cutoffs = [5, 9]
solver = "broyden"
f_history = 3
"""


def parsed(path, *further: str):
    return COMMAND.parse(["--config", str(path), *further])


def test_toml(tmp_path):
    (tmp_path / "small.toml").write_text(TOML)
    settings = parsed(tmp_path / "small.toml")
    assert (settings.d_model, settings.lr, settings.log_interval, settings.varlen) == (8, 1.0, 7, True)
    assert (settings.cutoffs, settings.solver, settings.f_history) == ((5, 9), "broyden", 3)
    assert type(settings.lr) is float
    assert settings.d_inner == COMMAND.defaults["d_inner"]


def test_flags_override_a_file_whatever_comes_first(tmp_path):
    (tmp_path / "small.toml").write_text(TOML)
    assert parsed(tmp_path / "small.toml", "--lr", "0.5", "--no-varlen").lr == 0.5
    settings = COMMAND.parse(["--no-varlen", "--cutoffs", "3", "--conf", str(tmp_path / "small.toml")])
    assert (settings.varlen, settings.cutoffs) == (False, (3,))


def test_flags_override_settings_that_others_rest_on(tmp_path):
    (tmp_path / "small.toml").write_text(TOML + 'b_init = "shine"\n')
    path = tmp_path / "small.toml"
    assert parsed(path, "--solver", "anderson", "--b_init", "zero").f_history is None
    assert parsed(path, "--grad", "one_step").b_init == "zero"
    assert parsed(path, "--no-adaptive").cutoffs == ()
    path.write_text('optim = "SGD"\nasgd = true\nnonmono = 3\n')
    settings = parsed(path, "--optim", "Adam")  # --nonmono rests on --asgd, and that on --optim SGD
    assert (settings.asgd, settings.nonmono) == (False, 5)


def test_settings_of_a_run(run):
    first = run("--name config --solver broyden --f_thres 5")
    again = call(f"--config {first.folder}/settings.json --name again")
    assert again.status == 0, again.err
    assert again.same_weights(first)
    assert again.folder.parent == first.folder.parent
    kept = {key: value for key, value in again.settings.items() if key not in ("name", "config")}
    assert kept == {key: value for key, value in first.settings.items() if key not in ("name", "config")}


def test_what_a_call_alone_was_asked_for_is_not_taken_from_a_run(tmp_path):
    content = {"settings": {"d_model": 8, "n_head": 2, "d_head": 4, "eval": True, "load": "x", "debug": True}}
    (tmp_path / "settings.json").write_text(json.dumps(content))
    settings = parsed(tmp_path / "settings.json")
    assert (settings.d_model, settings.eval, settings.load, settings.debug) == (8, False, "", False)


@pytest.mark.parametrize(
    ("name", "text", "part"),
    [
        ("a.toml", "d_modell = 3", "no setting d_modell"),
        ("a.toml", "d_model = 'x'", "d_model is 'x': write a value of type int"),
        ("a.toml", "d_model = 3.5", "d_model is 3.5: write a value of type int"),
        ("a.toml", "varlen = 1", "varlen is 1: write a value of type bool"),
        ("a.toml", "solver = 'newton'", "choose from anderson"),
        ("a.toml", "cutoffs = ['a']", "cutoffs is 'a'"),
        ("a.toml", "work_dir = ' '", "work_dir is empty"),
        ("a.toml", "lr = 5\n[settings]\nlr = 0.5", "no setting settings"),
        ("a.toml", 'config = "b.toml"', "names another file, b.toml"),
        ("a.toml", "d_model = ", "cannot be understood"),
        ("a.toml", "d_model = -4", "--d_model is -4"),
        ("a.json", "{", "cannot be understood"),
        ("a.json", "[1]", "holds no names"),
        ("a.json", "[" * 100_000, "cannot be understood"),
        ("a.json", "\x00", "cannot be understood"),
        ("folder/a.json", None, "cannot read"),
    ],
)
def test_files_that_are_refused(name, text, part, tmp_path):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=part) as refused:
        parsed(tmp_path / name)
    assert "\n" not in str(refused.value)
