"""Mistakes of modules and models in the words of flags."""

import pytest
from tiny_run import COMMAND

from config.words import in_flags, mistakes_in_flags
from system.errors import UserError


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("`d_model` is 5: pass an even width", "--d_model is 5: pass an even width"),
        ("`log_interval` is 0", "--log-interval is 0"),
        ("`history` is 0: pass 1 or more", "--f_history is 0: pass 1 or more"),
        ("`lam` is -1", "--anderson_ridge is -1"),
        ("`z0` is None", "z0 is None"),
        ("d_model and dropout", "d_model and dropout"),
    ],
)
def test_settings_in_backticks_become_flags(text, wanted):
    assert in_flags(text, COMMAND.flag_names) == wanted


def test_a_value_error_becomes_a_users_error_and_others_pass():
    with pytest.raises(UserError, match=r"^FILE: --wnorm is off$"), mistakes_in_flags(COMMAND.flag_names, "FILE: "):
        raise ValueError("`wnorm` is off")
    with pytest.raises(KeyError), mistakes_in_flags(COMMAND.flag_names):
        raise KeyError("x")
