"""Which settings a run that goes on takes from before, which may change, and which may not."""

import os
from collections.abc import Collection, Mapping
from typing import Any

from config.parser import shown
from config.run_settings import NO_NAME
from config.settings import Settings
from system.errors import UserError
from system.flag import OF_THE_CALL, Flag, flags_of


def completed(
    before: Mapping[str, Any], flags: Mapping[str, Flag], defaults: Mapping[str, Any], folder: str
) -> tuple[dict[str, Any], list[str]]:
    """The settings of an earlier run, with defaults for those that its program lacked, and a line on each of these.

    Args:
        before: its settings.
        flags, defaults: of this program.
        folder: of the run, for the message.

    Raises:
        UserError: it has settings that this program does not know, and so would not follow.
    """
    unknown = sorted(before.keys() - flags.keys())
    if unknown:
        raise UserError(
            f"--restart_dir {folder}: the run has settings that this program does not know ({', '.join(unknown)}): go "
            "on with the program that wrote its checkpoint, or start a new run from its weights with --load"
        )
    lacking = [name for name, flag in flags.items() if name not in before and flag.fixed != OF_THE_CALL]
    remarks = [
        f"note: the run's program had no {flags[name].option(name)}: it goes on with the default, {defaults[name]}"
        for name in lacking
    ]
    return {**defaults, **before}, remarks


def inherited(before: Mapping[str, Any], flags: Mapping[str, Flag]) -> dict[str, Any]:
    """The settings of an earlier run, completed, that hold where the command line does not name them."""
    return {name: value for name, value in before.items() if flags[name].fixed != OF_THE_CALL}


def without_places(settings: Settings) -> dict[str, Any]:
    """The settings that several processes must share; files may lie in different places on their machines."""
    flags = flags_of(settings)
    return {name: value for name, value in vars(settings).items() if not flags[name].is_place}


def changes(before: Mapping[str, Any], now: Settings, step: int) -> list[str]:
    """A line on each setting that has changed, and one where the folder seems to be another run's.

    Args:
        before: settings of the run that goes on.
        now: those it goes on with.
        step: that it goes on from.

    Raises:
        UserError: settings that a run cannot change, all of them in one line.
    """
    flags = flags_of(now)
    before = _with_absolute_places(before, flags)
    changed = {
        flag.option(name): (before[name], getattr(now, name), flag.fixed)
        for name, flag in flags.items()
        if flag.fixed != OF_THE_CALL and getattr(now, name) != before[name]
    }
    refused = [f"{flag} {was} to {new} ({why})" for flag, (was, new, why) in changed.items() if why]
    if refused:
        raise UserError(
            f"--restart cannot change {'; '.join(refused)}: leave these flags out, or start a new run, from weights "
            "with --load"
        )
    if now.max_step < step:
        raise UserError(f"--max_step {now.max_step} lies before step {step}, which the run has reached: raise it")
    messages = [f"changed: {flag} is {new}, was {was}" for flag, (was, new, _) in changed.items()]
    name, folder = before["name"], os.path.basename(os.path.realpath(now.restart_dir))
    if name != NO_NAME and folder != name and not folder.startswith(f"{name}-"):
        messages.append(f"warning: the checkpoint in {now.restart_dir} is of a run that was named {name}")
    return messages


def overrides(before: Mapping[str, Any], now: Settings, named: Collection[str], source: str) -> list[str]:
    """A line on each setting of a trained model that a call changes.

    Args:
        before: the model's settings, or its run's.
        now: those of the call.
        named: those that it names; of the others those that a score depends on are told of.
        source: where the model's come from, for the message.

    Raises:
        UserError: settings that its weights were made for, all of them in one line.
    """
    flags, before = flags_of(now), _with_absolute_places(before, flags_of(now))
    told = [name for name in before if name in named or flags[name].is_scored]
    changed = [name for name in told if getattr(now, name) != before[name]]
    refused = [name for name in changed if flags[name].is_of_weights]
    if refused:
        faults = (f"{flags[n].option(n)} is {shown(getattr(now, n))}, not {shown(before[n])}" for n in refused)
        raise UserError(
            f"{'; '.join(faults)}, with which the weights were trained ({source}): leave these flags out, or "
            "call the program itself where a script passes them"
        )
    return [f"changed: {flags[n].option(n)} is {shown(getattr(now, n))}, was {shown(before[n])}" for n in changed]


def _with_absolute_places(settings: Mapping[str, Any], flags: Mapping[str, Flag]) -> dict[str, Any]:
    """The same, those that stay with a run as they are stored since paths are absolute."""
    return {
        name: os.path.abspath(value) if flags[name].is_place and flags[name].fixed != OF_THE_CALL else value
        for name, value in settings.items()
    }
