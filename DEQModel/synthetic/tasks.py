"""The tasks by name, each made from a run's settings."""

from collections.abc import Callable
from typing import Any

from synthetic.copy_memory import CopyMemory
from synthetic.p_hop import PHop
from synthetic.state_tracking import StateTracking
from synthetic.task import Task

TASKS: dict[str, Callable[[Any], Task]] = {
    "copy_memory": lambda settings: CopyMemory(),
    "p_hop": lambda settings: PHop(p=settings.p),
    "state_tracking": lambda settings: StateTracking(),
}
