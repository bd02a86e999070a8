"""What runs on synthetic tasks leave behind, and the tables of it."""

import dataclasses
import json
import math

import pytest
from tiny_synthetic import trained
from tiny_trained import call_program

from synthetic.program import main
from synthetic.record import Record
from synthetic.table import main_test


def test_a_finished_run_is_not_repeated_and_other_settings_make_another(tmp_path):
    record, _ = trained(tmp_path)
    (path,) = tmp_path.iterdir()
    before = path.stat().st_mtime_ns
    again, out = trained(tmp_path)
    assert again == record
    assert "is there already" in out
    assert path.stat().st_mtime_ns == before
    for number, more in enumerate(("--seed 2", "--lr 0.01", "--test_lengths 3 5"), start=2):
        trained(tmp_path, more)
        assert len(list(tmp_path.iterdir())) == number


def test_a_table_puts_seeds_together_beside_what_is_published(tmp_path):
    record, _ = trained(tmp_path, "--model gru --seq_len 400 --max_step 1 --batch_size 2 --n_test 2")
    other, _ = trained(tmp_path, "--model gru --seq_len 400 --max_step 1 --batch_size 2 --n_test 2 --seed 2")
    trained(tmp_path, "--test_lengths 4 --test_thresholds 2 3")
    outcome = call_program(main, f"--table {tmp_path}")
    assert outcome.status == 0
    lines = outcome.out.splitlines()
    (row,) = (line for line in lines if line.startswith("gru") and "±" in line)
    mean = (main_test(record).loss + main_test(other).loss) / 2
    for cell in (f"{mean:.1e}".replace("e+0", "e"), "4.9e-2", "5.0e-2", "copy_memory T 400", "max_step 1"):
        assert cell in row
    assert any(line.startswith("deq_transformer") and line.split()[-1].startswith("(") for line in lines)
    assert json.loads(next(tmp_path.glob("*gru*seed-2*.json")).read_text())["settings"]["seed"] == 2


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_figures_that_are_not_finite_are_kept_and_shown(value, tmp_path):
    record, _ = trained(tmp_path)
    (path,) = tmp_path.iterdir()
    broken = dataclasses.replace(main_test(record), loss=value, residual=value)
    dataclasses.replace(record, tests=(broken,)).write(path)
    assert math.isnan(main_test(Record.read(path)).loss)
    assert math.isnan(main_test(Record.read(path)).residual)
    _, out = trained(tmp_path)
    assert "loss nan" in out
    outcome = call_program(main, f"--table {tmp_path}")
    assert (outcome.status, outcome.err) == (0, "")
    assert "nan" in outcome.out


def test_without_solves_there_is_no_residual(tmp_path):
    _, _ = trained(tmp_path, "--model gru")
    (path,) = tmp_path.iterdir()
    assert main_test(Record.read(path)).residual is None


def test_a_table_has_the_memory_of_the_device_that_trained(tmp_path):
    record, _ = trained(tmp_path)
    (path,) = tmp_path.iterdir()
    dataclasses.replace(record, peak_memory={"host": 9 * 10**9, "device": 7 * 10**6}).write(path)
    head, row, *_ = call_program(main, f"--table {tmp_path}").out.splitlines()
    assert row[: head.index("MB") + len("MB")].split()[-1] == "7"
