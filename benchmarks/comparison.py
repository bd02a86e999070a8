"""What a comparison compares: the systems and seeds that a TOML file names, looked at closely before anything runs.

program = "train_transformer.py"
flags = "--data data/wikitext-2 --dataset wt2 --batch_size 16"     # of all systems
seeds = [1, 2, 3]
threads = 1                                                        # of each process

[systems.shallow]
flags = "--depth 1"                                                # these come after those of all

[systems."the other program"]
program = "train_trellisnet.py"
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from program import PROGRAMS, Program

from config.file import preset_file, read_settings, read_toml
from models.transformers.flags import PRESETS
from system.errors import UserError

REMEDY = "pass a TOML file such as benchmarks/comparisons/demo.toml"
DEFAULTS: dict[str, Any] = {"program": "", "flags": "", "seeds": [1], "threads": 1, "systems": {}}  # by key of the file
OF_A_SYSTEM = ("program", "flags")
SEED = "--seed"
PRESET, SHORTEST = "--preset", "--pres"  # what is cut shorter is another flag, or several


@dataclass(frozen=True)
class System:
    """A model and how it is trained.

    Attributes:
        name: in tables.
        program: that trains it, a name among `PROGRAMS`.
        flags: the words of its command line, without seed and place.
        preset: the settings that --preset stands for among them, as its file has them now, in JSON; else empty.
    """

    name: str
    program: str
    flags: tuple[str, ...]
    preset: str = ""


@dataclass(frozen=True)
class Comparison:
    """Systems, each trained once with every seed, in processes of so many threads."""

    systems: tuple[System, ...]
    seeds: tuple[int, ...]
    threads: int

    @classmethod
    def read(cls, path: str) -> Comparison:
        """From a file.

        Raises:
            UserError: it cannot be read, or something in it makes no sense: one line that names what.
        """
        content = read_toml(path, REMEDY)
        _see_keys(content, DEFAULTS, path)
        content = {**DEFAULTS, **content}
        shared = {key: _text(content[key], f"{path}: {key}") for key in OF_A_SYSTEM}
        tables = content["systems"]
        if not isinstance(tables, dict) or not tables:
            raise UserError(f'{path} has no systems: write a table [systems.NAME] with flags = "…" for each')
        systems = tuple(_system(name, table, shared, path) for name, table in tables.items())
        _see_that_they_compare(systems, path)
        return cls(systems, _seeds(content["seeds"], path), _threads(content["threads"], path))

    def only(self, names: Sequence[str], seeds: Sequence[int]) -> Comparison:
        """With these systems alone, and these seeds; an empty list leaves all.

        Raises:
            UserError: there is no such system.
        """
        known = [system.name for system in self.systems]
        if unknown := [name for name in names if name not in known]:
            raise UserError(f"--only {unknown[0]}: there is no such system: choose from {', '.join(known)}")
        chosen = [system for system in self.systems if system.name in (names or known)]
        return replace(self, systems=tuple(chosen), seeds=tuple(dict.fromkeys(seeds)) or self.seeds)


def _system(name: str, table: Any, shared: Mapping[str, str], path: str) -> System:
    where = f"{path}: systems.{name}"
    if not isinstance(table, dict):
        raise UserError(f"{where} is {table!r}: write a table [systems.{name}]")
    _see_keys(table, OF_A_SYSTEM, where)
    own = {key: _text(value, f"{where}: {key}") for key, value in table.items()}
    program = own.get("program") or shared["program"]
    if program not in PROGRAMS:
        named = f"program {program!r} is not known" if program else "no program is named"
        raise UserError(f"{where}: {named}: choose from {', '.join(PROGRAMS)}")
    flags = _words(shared["flags"], program, f"{path}: flags") + _words(own.get("flags", ""), program, where)
    return System(name, program, flags, _preset(flags, where))


def _words(flags: str, program: str, where: str) -> tuple[str, ...]:
    """The words of a shell's line.

    Raises:
        UserError: it is none, or has flags that are not the file's to give, in full or cut short.
    """
    try:
        words = tuple(shlex.split(flags))
    except ValueError as error:
        raise UserError(f"{where}: {flags!r} cannot be split into words ({error}): close its quotes") from error
    taken = (SEED, *PROGRAMS[program].not_given)
    for word in words:
        option = word.partition("=")[0]
        full = next((flag for flag in taken if option[2:] and flag.startswith(option)), None)
        if full:
            raise UserError(f"{where}: {option} is not for the file to give: leave it out{_instead(full)}")
    return words


def _preset(flags: Sequence[str], where: str) -> str:
    """The settings of the preset that is named last, in full or cut short, in JSON; empty where none is.

    Raises:
        UserError: there is no such preset.
    """
    preset = ""
    for word, following in zip(flags, (*flags, "")[1:], strict=True):
        option, equals, value = word.partition("=")
        if option.startswith(SHORTEST) and PRESET.startswith(option):
            name = value if equals else following
            if name not in PRESETS:
                raise UserError(f"{where}: {PRESET} {name}: choose from {', '.join(PRESETS)}")
            preset = json.dumps(read_settings(preset_file(name)), sort_keys=True)
    return preset


def _instead(flag: str) -> str:
    return ", and name seeds = [1, 2, 3]" if flag == SEED else ""


def _see_keys(table: Mapping[str, Any], known: Collection[str], where: str) -> None:
    if unknown := sorted(table.keys() - set(known)):
        raise UserError(f"{where}: there is no key {', '.join(unknown)}: keys are {', '.join(known)}")


def _see_that_they_compare(systems: Sequence[System], path: str) -> None:
    kinds: dict[Program, System] = {PROGRAMS[system.program]: system for system in reversed(systems)}
    if len(kinds) > 1:
        named = " and ".join(f"{system.name} by {system.program}" for system in reversed(kinds.values()))
        raise UserError(f"{path}: what trains {named} has no common measure: compare them in files of their own")


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise UserError(f'{where} is {value!r}: write text, in quotes: "…"')
    return value


def _seeds(value: Any, path: str) -> tuple[int, ...]:
    if not isinstance(value, list) or not value or not all(type(seed) is int and seed >= 0 for seed in value):
        raise UserError(f"{path}: seeds is {value!r}: write numbers from 0 on, such as [1, 2, 3]")
    return tuple(dict.fromkeys(value))


def _threads(value: Any, path: str) -> int:
    if type(value) is not int or value < 1:
        raise UserError(f"{path}: threads is {value!r}: write a number above 0")
    return value
