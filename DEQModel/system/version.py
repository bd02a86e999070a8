"""Which program this is: its version, and the commit that it was checked out from."""

import subprocess
from pathlib import Path

VERSION = "0.1.0"  # as in pyproject.toml
PATIENCE = 5  # seconds for git


def commit() -> str | None:
    """The checked-out commit, with "-dirty" behind it where files have been changed; None where git cannot tell."""
    here = Path(__file__).parent
    command = ["git", "-C", str(here), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
