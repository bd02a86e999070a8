"""The examples run, and print what they promise."""

import re
import runpy
from pathlib import Path

EXAMPLES = Path(__file__).parent.parent / "examples"


def numbers(line):
    return [float(number) for number in re.findall(r"[\d.]+", line)]


def test_classifier_prints_its_comparison(capsys):
    main = runpy.run_path(str(EXAMPLES / "deq_classifier.py"))["main"]
    main(["--steps", "15", "--length", "8", "--channels", "4", "--depth", "3", "--threshold", "20"])
    lines = capsys.readouterr().out.splitlines()
    found = {line.split()[0].rstrip(","): numbers(line) for line in lines[1:3]}
    for accuracy, far, milliseconds, kilobytes in (found["DEQ"], found["unrolled"][1:]):
        assert 30 < accuracy <= 100
        assert 0 <= far <= 100
        assert milliseconds > 0
        assert kilobytes > 0
    forward, backward = (next(line for line in lines if line.startswith(f"  {way}")) for way in ("forward", "backward"))
    assert numbers(forward)[0] <= 20
    assert re.search(r"\d steps, residual \d\.\de[-+]\d\d; \d+% ended above 0\.001", backward)

    depths, deq, unrolled = (numbers(line) for line in lines[-3:])
    assert depths == [5, 10, 20, 40, 80]
    assert len(set(deq)) == 1
    state = 4 * 32 * 4 * 8 / 1e3
    assert deq[0] < unrolled[0]
    for i in range(4):
        assert abs(unrolled[i + 1] - unrolled[i] - state * (depths[i + 1] - depths[i])) <= 1
