"""Files from strangers: whatever they pickle, nothing in them is ever run."""

import io
import os
import pickle
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from data.corpus import SPLITS, Corpus
from system.errors import UserError
from system.state_dicts import load_state_dict
from system.tensor_files import archive_signature, check_archive, read_tensors
from training.checkpoint import CHECKPOINT_FILE, Checkpoint
from training.trainer import ENTRIES

LEGACY_START = b"".join(
    pickle.dumps(value, protocol=2)
    for value in (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}})
)


class MakesFolder:
    """A pickle of it makes a folder when it is loaded the unsafe way."""

    def __init__(self, folder: Path):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def by_hand(instructions: str):
    """A pickle in Python's assembler, `DIR` in which is the folder to make."""
    return lambda folder: instructions.replace("DIR", str(folder)).encode("latin-1")


def pickled(wrap, protocol):
    return lambda folder: pickle.dumps(wrap(MakesFolder(folder)), protocol=protocol)


PICKLES = {
    "top": pickled(lambda hostile: hostile, 2),
    "top, protocol 0": pickled(lambda hostile: hostile, 0),
    "top, protocol 4": pickled(lambda hostile: hostile, 4),
    "top, protocol 5": pickled(lambda hostile: hostile, 5),
    "value": pickled(lambda hostile: {"weight": hostile}, 2),
    "nested": pickled(lambda hostile: {"model": [({"weight": {"deep": hostile}},)]}, 4),
    "key": pickled(lambda hostile: {hostile: 1}, 2),
    "set": pickled(lambda hostile: {"weight": {hostile}}, 4),
    "GLOBAL": by_hand("cos\nmkdir\n(S'DIR'\ntR."),
    "STACK_GLOBAL": by_hand("S'os'\nS'mkdir'\n\x93(S'DIR'\ntR."),
    "INST": by_hand("(S'DIR'\nios\nmkdir\n."),
    "OBJ": by_hand("(cos\nmkdir\nS'DIR'\no."),
    "BUILD": by_hand("ctypes\nSimpleNamespace\n)\x81}S'__setstate__'\ncos\nmkdir\nsbS'DIR'\nb."),
    "after a harmless one": by_hand("ccollections\nOrderedDict\n)R0cos\nmkdir\n(S'DIR'\ntR."),
}


def zip_file(content: bytes, *others: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, record in {"data.pkl": content, "version": b"3\n", **dict.fromkeys(others, b"")}.items():
            archive.writestr(f"archive/{name}", record)
    return file.getvalue()


def tar_file(content: bytes) -> bytes:
    """The format of PyTorch before 0.1.10."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


FORMATS = {
    "zip": zip_file,
    "legacy": lambda content: LEGACY_START + content + pickle.dumps([]),
    "bare": lambda content: content,
    "tar": tar_file,
    "script": lambda content: zip_file(content, "constants.pkl", "code/__torch__.py"),
}
LOADERS = {
    "load_state_dict": load_state_dict,
    "read_tensors": read_tensors,
    "read_tensors lazily": lambda path: read_tensors(path, lazily=True),
    "Checkpoint.newest": lambda path: Checkpoint.newest(path.parent, ENTRIES),
}


@pytest.fixture
def witness(tmp_path):
    return tmp_path / "it ran"


@pytest.fixture
def path(tmp_path):
    return tmp_path / CHECKPOINT_FILE


@pytest.mark.parametrize("kind", PICKLES)
@pytest.mark.parametrize("form", FORMATS)
def test_a_pickle_that_would_run_code_is_refused_and_not_run(path, witness, form, kind, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    path.write_bytes(FORMATS[form](PICKLES[kind](witness)))
    for name, load in LOADERS.items():
        with pytest.raises(UserError) as caught:
            load(path)
        assert str(path) in str(caught.value), name
        assert "\n" not in str(caught.value), name
        assert not witness.exists(), name
    archive_signature(path)
    check_archive(path)
    assert not witness.exists()


@pytest.mark.parametrize("kind", PICKLES)
def test_these_pickles_run_where_nothing_prevents_it(witness, kind):
    pickle.loads(PICKLES[kind](witness))
    assert witness.is_dir()


@pytest.mark.parametrize("zip_format", [True, False], ids=["zip", "legacy"])
def test_what_would_run_is_named(path, witness, zip_format):
    payload = {"weight": torch.zeros(2), "more": MakesFolder(witness)}
    for protocol in (2, 4):
        torch.save(payload, path, _use_new_zipfile_serialization=zip_format, pickle_protocol=protocol)
        with pytest.raises(UserError, match=r"pickles more than tensors \(posix\.mkdir\) and was not run"):
            load_state_dict(path)
    assert not witness.exists()
    torch.load(path, weights_only=False)
    assert witness.exists(), "the payload does not work, so this test shows nothing"


def test_a_pickle_written_by_hand_is_named(path, witness):
    path.write_bytes(PICKLES["INST"](witness))
    with pytest.raises(UserError, match=r"\(os\.mkdir\) and was not run"):
        load_state_dict(path)


def test_a_whole_pickled_module_is_refused(path):
    torch.save(nn.Linear(2, 2), path)
    with pytest.raises(UserError, match=r"\(torch\.nn\.modules\.linear\.Linear\) .*: pass .*state_dict\(\), FILE\)"):
        load_state_dict(path)


def test_values_in_the_place_of_methods_are_left_behind(path):
    state = nn.Linear(2, 2).state_dict()
    state.itemz = state.keyz = state["weight"].detaxx = state["weight"].dimx = 5  # the same length as what replaces it
    torch.save(state, path, _use_new_zipfile_serialization=False)  # has no checksums
    content = path.read_bytes()
    for ours, theirs in ((b"itemz", b"items"), (b"keyz", b"keys"), (b"detaxx", b"detach"), (b"dimx", b"size")):
        assert ours in content
        content = content.replace(ours, theirs)
    path.write_bytes(content)
    hidden = torch.load(path, weights_only=True)
    assert hidden.items == hidden["weight"].size == 5, "the payload does not work, so this test shows nothing"
    read = load_state_dict(path)
    assert {name: tuple(value.size()) for name, value in read.items()} == {"weight": (2, 2), "bias": (2,)}


def test_a_container_in_itself_is_refused(path):
    state = {}
    state["state"] = state
    torch.save(state, path)
    with pytest.raises(UserError, match="damaged"):
        read_tensors(path)


def test_what_is_shared_many_times_over_is_read_once(path):
    value = [torch.zeros(1)]
    for _ in range(60):
        value = [value, value]
    torch.save(value, path)
    one, other = read_tensors(path)
    assert one is other


@pytest.mark.parametrize("name", ["two\nlines", "\x1b[31mred", "long" * 999, (1, "\n")])
def test_names_in_messages_are_short_and_printable(path, name):
    torch.save({name: 1, "weight": torch.zeros(2)}, path)
    with pytest.raises(UserError, match="dense tensors") as caught:
        load_state_dict(path)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("name", ["record.json", "words.txt", "train.int32"])
def test_a_cache_is_never_unpickled(tmp_path, witness, name, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    for split in SPLITS:
        (tmp_path / f"{split}.txt").write_text("a b a\n")
    Corpus.load(tmp_path, "text", progress=False)
    (tmp_path / ".cache-deq" / "text" / name).write_bytes(PICKLES["top"](witness))
    assert Corpus.load(tmp_path, "text", progress=False).train.tolist() == [1, 2, 1, 0]
    assert not witness.exists()


def test_a_text_is_never_unpickled(tmp_path, witness, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    for split in SPLITS:
        (tmp_path / f"{split}.txt").write_bytes(PICKLES["top"](witness))
    with pytest.raises(UserError, match=r"train\.txt, line 1: bytes that are not UTF-8"):
        Corpus.load(tmp_path, "text", progress=False)
    assert not witness.exists()
