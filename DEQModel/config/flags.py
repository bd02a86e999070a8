"""A program's command line: text to checked `Settings`."""

import dataclasses
import os
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from config.checks import check
from config.depth import training_depth
from config.file import preset_file, settings_of_file
from config.parser import OFF, Parser, shown
from config.settings import Settings, help_groups, settings_class
from config.solve_settings import StageSettings
from config.sweep_grid import grid
from config.words import mistakes_in_flags
from models.protocol import ModelSpec
from system.flag import Flag, defaults_of, flags_of
from system.lines import wrapped

INDENT = 4  # columns of further lines
ANY_VOCABULARY = sys.maxsize  # words, larger than any list of word ids asks for


@dataclass(frozen=True)
class CommandLine:
    """What a program that trains a model can be asked for.

    Args:
        program: its name, as users call it.
        spec: the model.
    """

    program: str
    spec: ModelSpec

    def __reduce__(self) -> tuple[type["CommandLine"], tuple[str, ModelSpec]]:
        """For other processes, without the class of settings that has been made, which they do not know."""
        return CommandLine, (self.program, self.spec)

    @cached_property
    def settings(self) -> type[Settings]:
        """The class of its settings."""
        return settings_class(self.spec)

    @cached_property
    def flags(self) -> Mapping[str, Flag]:
        """Setting name -> its flag."""
        return flags_of(self.settings)

    @cached_property
    def flag_names(self) -> Mapping[str, str]:
        """Setting, or option of a solver, -> its flag, as users type it."""
        options = {
            flag.solver_option.option: flag.option(name) for name, flag in self.flags.items() if flag.solver_option
        }
        return options | {name: flag.option(name) for name, flag in self.flags.items()}

    @cached_property
    def defaults(self) -> Mapping[str, Any]:
        """Setting name -> its default."""
        return defaults_of(self.settings)

    def parse(self, arguments: Sequence[str]) -> Settings:
        """The settings that a command line asks for, resolved and checked.

        Raises:
            UserError: the command line is wrong; the message names the flag, its value and the remedy.
            SystemExit: --help was asked for.
        """
        given = self.given(arguments)
        return self.resolved(given, self.of_files(given))

    def given(self, arguments: Sequence[str]) -> dict[str, Any]:
        """The settings that a command line names, unchecked.

        Raises:
            UserError: a flag that does not exist, or a value that it cannot have, as an empty one.
            SystemExit: --help was asked for.
        """
        return self.parser().given(arguments)[0]

    def of_files(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The settings in the files that --preset and --config name, unchecked; --config overrides --preset.

        Raises:
            UserError: one cannot be read, or names settings that do not exist.
        """
        of_config = settings_of_file(given["config"], self.flags, self.defaults) if "config" in given else {}
        preset = given.get("preset", of_config.get("preset"))
        of_preset = settings_of_file(preset_file(preset), self.flags, self.defaults) if preset else {}
        return {**of_preset, **of_config}

    def resolved(self, given: Mapping[str, Any], earlier: Mapping[str, Any] | None = None) -> Settings:
        """The settings that are named, completed by those of an earlier run or a file, or by the defaults.

        Earlier ones that have no effect beside what is named fall back to their defaults.

        Args:
            given: name -> value.
            earlier: likewise.

        Raises:
            UserError: they make no sense; the message names the flag, its value and the remedy.
        """
        settings = self.settings(**{**(earlier or {}), **given})
        settings = self._without_idle(settings, (earlier or {}).keys() - given.keys())
        settings = dataclasses.replace(settings, data=os.path.abspath(settings.data))  # wherever it is read again
        self._check(settings)
        for point in self.points(settings):
            self._check(self.at(settings, point))
        return dataclasses.replace(settings, **self._filled_in(settings))

    def points(self, settings: Settings) -> list[dict[str, Any]]:
        """The settings that --sweep changes, at each of its points."""
        return grid(settings.sweep, self.flags, self.defaults)

    def at(self, settings: Settings, point: Mapping[str, Any]) -> Settings:
        """The settings at a point of a sweep, without those that have no effect there, as another solver's options."""
        return self._without_idle(dataclasses.replace(settings, **point), self.flags.keys() - point.keys())

    def _without_idle(self, settings: Settings, names: Iterable[str]) -> Settings:
        filled = [name for name in names if getattr(settings, name) not in (self.defaults[name], ())]
        idle = [name for name in filled if not all(need.is_there(settings) for need in self.flags[name].needs)]
        if not idle:
            return settings
        # others may have rested on these
        return self._without_idle(dataclasses.replace(settings, **{name: self.defaults[name] for name in idle}), filled)

    def _filled_in(self, settings: Settings) -> Mapping[str, Any]:
        with mistakes_in_flags(self.flag_names):
            return self.spec.resolve(settings)

    def _check(self, settings: Settings) -> None:
        check(settings, self.flags, self.defaults)
        whole = dataclasses.replace(settings, **self._filled_in(settings))
        with mistakes_in_flags(self.flag_names):
            training_depth(whole)
            # The vocabulary is not known yet; all else about a model need not wait for the corpus.
            self.spec.configure(whole, ANY_VOCABULARY)

    def model_in_words(self, settings: Settings, but: Collection[str] = ()) -> str:
        """The settings of a model that its score depends on, but for some, as flags; the reports tell of its solves."""
        own = [field.name for field in dataclasses.fields(self.spec.flags)]
        names = [name for name in ("dataset", *own) if self.flags[name].is_scored]
        of_gradient = [name for name in ("grad", "rev_beta") if name in self.flags]
        names += [name for name in of_gradient if getattr(settings, name) != self.defaults[name]]
        values = {name: getattr(settings, name) for name in names if name not in but}
        return self._in_words("model", values, self.spec.name)

    def evaluation_in_words(self, settings: Settings, but: Collection[str]) -> str:
        """The settings of solves and lengths that the score of an equilibrium depends on, but for some, as flags."""
        apart = {field.name for group in (self.spec.flags, StageSettings) for field in dataclasses.fields(group)}
        names = [name for name, flag in self.flags.items() if flag.is_scored and name not in apart | {"dataset", *but}]
        used = [name for name in names if all(need.is_there(settings) for need in self.flags[name].needs)]
        values = {name: getattr(settings, name) for name in used}
        return self._in_words("evaluation", {name: value for name, value in values.items() if value is not None})

    def _in_words(self, title: str, values: Mapping[str, Any], name: str = "") -> str:
        return wrapped(" ".join(filter(None, [f"{title}:", name, self.typed(values)])), INDENT)

    def typed(self, values: Mapping[str, Any]) -> str:
        """Settings as they are typed."""
        return " ".join(_as_flag(self.flag_names[name], value) for name, value in values.items() if value != ())

    def parser(self) -> Parser:
        """A parser with every setting's flag."""
        description = (
            f"Train or evaluate a {self.spec.name}. What a flag switches on, another switches off: --varlen, "
            "--no-varlen. Flags may be cut short as long as they are unique."
        )
        return Parser(self.program, description, help_groups(self.spec))


def _as_flag(flag: str, value: Any) -> str:
    if isinstance(value, bool):
        return flag if value else f"{OFF}{flag[2:]}"
    return f"{flag} {shown(value)}"
