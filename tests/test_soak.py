"""Memory stays flat over thousands of steps."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_memory_is_flat_over_two_thousand_steps():
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "DEQModel")}
    command = [sys.executable, str(ROOT / "benchmarks" / "soak.py"), "--steps", "200", "1000", "2000"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    sizes = {int(step): float(size) for step, size in re.findall(r"step +(\d+) +([\d.]+) MiB", done.stdout)}
    assert sizes.keys() == {200, 1000, 2000}
    # A batch's tensors kept from each step would come to hundreds of MiB, a single float list to some.
    assert sizes[2000] - sizes[200] < 5, sizes
    assert sizes[2000] - sizes[1000] < 2, sizes
