"""What two logs of the same run have in common."""

import re

OF_THE_CLOCK = re.compile(
    r"^\d\d:\d\d:\d\d |\S+/s +\S+ +left *|\S+ ms/step, |[\d,.]+ s, \S+ tokens/s|\d+ updates in .*", re.MULTILINE
)
OF_THE_CALL = ("resumed at", "changed: ", "warning: ", "note: ", "run folder: ", "curves: ", "peak memory")
TIMES = {"seconds", "tokens_per_second", "ms_per_step"}  # names of measured values, the last part of a curve's name


def without_times(log: str) -> list[str]:
    """The lines of a log without what tells of the clock or of a call."""
    lines = [line for line in log.splitlines() if not line.startswith(OF_THE_CALL) and " legend: " not in line]
    return OF_THE_CLOCK.sub("", "\n".join(lines)).splitlines()


def is_measured(name: object) -> bool:
    """Whether a value of this name is another one whenever it is measured."""
    return str(name).rpartition("/")[2] in TIMES
