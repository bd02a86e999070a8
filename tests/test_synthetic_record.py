"""What runs on synthetic tasks leave behind, and the tables of it."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
from tiny_synthetic import SMALL, trained
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


def changed(folder: Path, **changes: object) -> None:
    """Changes a record by names that lead into it, a double underscore between two."""
    (path,) = folder.glob("*.json")
    content = json.loads(path.read_text())
    for names, value in changes.items():
        *way, last = names.split("__")
        place = content
        for name in way:
            place = place[int(name) if isinstance(place, list) else name]
        place[last] = value
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    "changes",
    [
        {"tests": []},
        {"tests__0__p": 77},
        {"tests__0__length": "a"},
        {"tests__0__accuracy": None},
        {"settings": [1]},
        {"settings__task": "foo"},
        {"settings__f_thres": "many"},
        {"settings__seq_len": -20},
        {"settings__flavour": 3},
        {"peak_memory": {}},
        {"peak_memory__host": "all"},
        {"parameters": "many"},
        {"training__loss": None},
        {"training__seconds": None},
        {"training__course": [3]},
    ],
    ids=str,
)
def test_a_record_that_was_changed_is_told(changes, tmp_path):
    trained(tmp_path)
    changed(tmp_path, **changes)
    outcome = call_program(main, f"--table {tmp_path}")
    assert outcome.status == 2
    (line,) = outcome.err.splitlines()
    assert "is no record of a run" in line
    assert str(next(tmp_path.iterdir())) in line


def test_a_record_of_a_program_with_fewer_flags_is_read(tmp_path):
    record, _ = trained(tmp_path)
    (path,) = tmp_path.iterdir()
    content = json.loads(path.read_text())
    del content["settings"]["rand_f_thres_delta"]
    path.write_text(json.dumps(content))
    assert Record.read(path) == record


@pytest.mark.parametrize(
    ("more", "lacking"),
    [
        ("--model gru --p 3", "--p 3 has no effect without --task p_hop"),
        ("--model gru --n_head 1", "--n_head 1 has no effect without --model deq_transformer or stack"),
        ("--model gru --f_thres 3", "--f_thres 3 has no effect without --depth equilibrium"),
        ("--model lstm --test_thresholds 4", "--test_thresholds (4,) has no effect without --model deq_transformer or"),
        ("--depth 2 --rand_f_thres_delta 3", "--rand_f_thres_delta 3 has no effect without --depth equilibrium"),
        ("--depth 2 --pretrain_steps 1", "--pretrain_steps 1 has no effect without --depth equilibrium"),
        ("--model tcn --dilation 3", "--dilation 3 has no effect without --model deq_trellisnet"),
    ],
)
def test_flags_without_effect_are_told_and_make_no_other_run(more, lacking, tmp_path):
    plain = " ".join(more.split()[:-2])
    call_program(main, f"{SMALL} --out {tmp_path} {plain}")
    outcome = call_program(main, f"{SMALL} --out {tmp_path} {more}")
    assert f"note: {lacking}" in outcome.out
    assert "is there already" in outcome.out
    assert len(list(tmp_path.iterdir())) == 1


def test_a_place_that_cannot_be_written_to_is_told_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr("synthetic.program._finished", None)
    (tmp_path / "file").write_text("")
    outcome = call_program(main, f"{SMALL} --out {tmp_path}/file/below")
    assert (outcome.status, len(outcome.err.splitlines())) == (2, 1)
    assert "cannot write to" in outcome.err
