"""From the settings of a run to the configuration of its model."""

from dataclasses import fields
from typing import Any, TypeVar

C = TypeVar("C")


def configured(kind: type[C], settings: Any, n_token: int) -> C:
    """A configuration of a vocabulary of n_token words; its other fields are settings of the same names.

    Args:
        kind: a dataclass with the fields `n_token` and `tied`.
        settings: of the run, with the flag `not_tied`.
        n_token: V.

    Raises:
        ValueError: settings that contradict each other.
    """
    own = vars(settings)
    shared = {field.name: own[field.name] for field in fields(kind) if field.name in own}
    return kind(n_token=n_token, tied=not settings.not_tied, **shared)
