"""Copies of get_data.sh's project, mirrors for it, and calls of it."""

import contextlib
import http.server
import io
import os
import shutil
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
TOOLS = ("bash", "dirname", "grep", "mkdir", "mktemp", "mv", "rm", "rmdir", "sleep", "tail")
PTB = {"train": " a bc \n" * 4000, "valid": " <unk> N \n", "test": " a \n"}
PTB_CHAR = {"train": " a _ b c \n" * 4000, "valid": " < u n k > _ N \n", "test": " a \n"}


def project_in(tmp_path):
    """A folder with get_data.sh and what it needs."""
    root = tmp_path / "a project"
    (root / "DEQModel" / "data").mkdir(parents=True)
    shutil.copy(PROJECT / "get_data.sh", root)
    shutil.copy(PROJECT / "DEQModel" / "data" / "demo_corpus.py", root / "DEQModel" / "data")
    return root


def mirror_in(tmp_path):
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
