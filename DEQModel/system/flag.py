"""The declaration of one setting of a command line, beside its name, type and default."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

# Reasons in `Flag.fixed` that several settings share.
OF_THE_CALL = "call"  # of a call, not of the run; never taken from before
AT_THE_BEGINNING = "it had its effect when the run began"
ITS_SHAPE, TRAINED_WITH = "the weights have its shape", "the weights were trained with it"


class SolverOption(NamedTuple):
    """The option of a solver that a setting is."""

    solver: str
    option: str  # as the solver's constructor calls it
    label: str  # as reports call it


@dataclass(frozen=True)
class Need:
    """What a setting has no effect without.

    Attributes:
        what: the missing setting, written as flags.
        is_there: tells whether settings have it.
    """

    what: str
    is_there: Callable[[Any], bool]


@dataclass(frozen=True)
class Note:
    """What is allowed in training, but does not do all that it promises.

    Attributes:
        at_odds: whether settings conflict.
        consequence: what comes of it.
        beside: another setting that has its part in that.
    """

    at_odds: Callable[[Any], bool]
    consequence: str
    beside: str | None = None


@dataclass(frozen=True)
class Flag:
    """What the command line needs to know about one setting.

    Attributes:
        help: its meaning.
        kind: type of the value, where the default is None and does not tell.
        several: takes one value or more.
        is_switch: is on or off.
        choices: names that it may have.
        least: smallest value allowed; or_exactly: one value outside the range that is allowed all the same.
        above, below: values must be larger, smaller than this.
        spelling: where the flag is not "--" + the setting's name.
        also: another spelling, of older scripts.
        listed: one of the flags whose abbreviations existing scripts may use.
        needs: what it has no effect without; it is refused there.
        serves: likewise, but in training it is only remarked on, as scripts of old may pass it all the same.
        note: a remark on values that are at odds with others.
        fixed: why a run that goes on cannot change it; None where it can; `OF_THE_CALL`.
        is_place: names a file or folder, which may lie elsewhere on another machine.
        is_width: the larger, the more memory a model needs.
        sweeps: a finished model may be evaluated with other values of it.
        scored: what a trained model scores depends on it, though it is neither part of the weights nor sweeps.
        solver_option: which one it is, where it is one.
        positional: its name in the help, where it is no flag but an argument.
    """

    help: str
    kind: type | None = None
    several: bool = False
    is_switch: bool = False
    choices: tuple[str, ...] | None = None
    least: float | None = None
    or_exactly: float | None = None
    above: float | None = None
    below: float | None = None
    spelling: str | None = None
    also: str | None = None
    listed: bool = True
    needs: tuple[Need, ...] = ()
    serves: Need | None = None
    note: Note | None = None
    fixed: str | None = None
    is_place: bool = False
    is_width: bool = False
    sweeps: bool = False
    scored: bool = False
    solver_option: SolverOption | None = None
    positional: str | None = None

    @property
    def is_of_weights(self) -> bool:
        """Whether a model's weights were made for its value."""
        return self.fixed in (ITS_SHAPE, TRAINED_WITH)

    @property
    def is_scored(self) -> bool:
        """Whether what a trained model scores depends on it."""
        return self.scored or self.sweeps or self.is_of_weights

    def option(self, name: str) -> str:
        """The flag as it is typed."""
        return self.positional or self.spelling or f"--{name}"


def flag(default: Any, help: str, **details: Any) -> Any:
    """A dataclass field that is a setting; `details` are the attributes of `Flag`."""
    return dataclasses.field(
        default=default, metadata={"flag": Flag(help, is_switch=isinstance(default, bool), **details)}
    )


def flags_of(settings: Any) -> Mapping[str, Flag]:
    """Setting name -> its flag, in the order of declaration; of a settings class or its instance."""
    return {field.name: field.metadata["flag"] for field in dataclasses.fields(settings)}


def defaults_of(settings: Any) -> dict[str, Any]:
    """Setting name -> its default."""
    return {field.name: field.default for field in dataclasses.fields(settings)}
