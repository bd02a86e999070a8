"""Tensor files with flipped bits, cut short, emptied or overwritten: the right values, or a clear refusal."""

import io
import random
import zipfile
from collections import Counter
from pathlib import Path

import pytest
import torch

from system.errors import UserError
from system.state_dicts import load_state_dict, save_state_dict
from system.tensor_files import archive_signature, check_archive, read_tensors
from training.checkpoint import CHECKPOINT_FILE, PREVIOUS_FILE, corpus_of

GOLDEN = Path(__file__).parent / "golden"
EXTREMES = (b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"\xff\xff\xff\xff", b"\0\0\0\x10")


def state() -> dict[str, torch.Tensor]:
    tied = torch.arange(35.0).view(7, 5)
    others = {"half": torch.ones(3).half(), "ids": torch.arange(4), "empty": torch.zeros(0), "part": tied[1:3]}
    return {"func.pos_ff.ff1_net.weight": tied, "tied": tied, **others}


def damaged(whole: bytes, rng: random.Random) -> bytes:
    content = bytearray(whole)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        kind = rng.choice(("flip", "flip", "flip", "block", "zeros", "copy", "insert", "delete", "extreme", "cut"))
        size = rng.choice((1, 4, 16, 64, 512))
        start = rng.randrange(len(content) + 1)
        stop = min(start + size, len(content))
        if kind == "flip" and start < stop:
            content[start] ^= 1 << rng.randrange(8)
        elif kind == "block":
            content[start:stop] = rng.randbytes(stop - start)
        elif kind == "zeros":
            content[start:stop] = bytes(stop - start)
        elif kind == "copy":
            content[start:stop] = content[: stop - start]
        elif kind == "insert":
            content[start:start] = rng.randbytes(size)
        elif kind == "delete":
            del content[start:stop]
        elif kind == "extreme":
            content[start : start + 4] = rng.choice(EXTREMES)
        elif kind == "cut" and rng.random() < 0.2:
            del content[start:]
    return bytes(content)


def outcome(path: Path) -> str:
    """Of reading a file of `state()`; any error but the one for users is a test's failure."""
    try:
        read = load_state_dict(path)
    except UserError:
        return "refused"
    same = read.keys() == state().keys() and all(torch.equal(read[name], value) for name, value in state().items())
    return "right" if same else "wrong"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.pkl"


@pytest.mark.parametrize("zip_format", [True, False], ids=["zip", "legacy"])
def test_random_damage(path, zip_format):
    torch.save(state(), path, _use_new_zipfile_serialization=zip_format)
    whole, rng, outcomes = path.read_bytes(), random.Random(0), Counter()
    for _ in range(1500):
        path.write_bytes(damaged(whole, rng))
        archive_signature(path)
        outcomes[outcome(path)] += 1
    assert outcomes["refused"] > 800
    assert outcomes["right"] > 100, "not every byte matters"
    assert not (zip_format and outcomes["wrong"]), "the legacy format has no checksums"


@pytest.mark.parametrize("zip_format", [True, False], ids=["zip", "legacy"])
def test_every_cut(path, zip_format):
    torch.save({"weight": torch.ones(9)}, path, _use_new_zipfile_serialization=zip_format)
    whole = path.read_bytes()
    for size in range(0, len(whole), 3):
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match=r"cut short|pickles more"):
            load_state_dict(path)


def test_any_bit_of_a_weight(path):
    save_state_dict({"weight": torch.ones(9)}, path)
    whole = path.read_bytes()
    place = whole.index(torch.ones(9).numpy().tobytes())
    for bit in range(9 * 32):
        content = bytearray(whole)
        content[place + bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        assert not torch.load(path, weights_only=True)["weight"].equal(torch.ones(9)), "PyTorch does not notice"
        with pytest.raises(UserError, match="damaged"):
            check_archive(path)


def test_a_record_that_is_marked_as_a_folder(path):
    """PyTorch would leave the weight's memory as it found it, whatever was there."""
    save_state_dict({"weight": torch.ones(9)}, path)
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        names = [record.filename for record in archive.infolist()]
    place = archive.start_dir
    for name in names:
        if name.endswith("data/0"):
            content[place + 38] |= 0x10  # external attributes
        place += 46 + len(name)  # PyTorch writes no extra fields there
    path.write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        load_state_dict(path)


@pytest.mark.parametrize("n", [0, 1, 63, 64, 65, 4096, 65537, (1 << 22) + 1])
def test_sound_files_pass(path, n):
    for dtype in (torch.float32, torch.bool, torch.complex64):
        save_state_dict({"weight": torch.zeros(n, dtype=dtype)}, path)
        check_archive(path)


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.pkl")), ids=lambda path: path.name)
def test_published_layouts_pass(path):
    check_archive(path)
    assert load_state_dict(path)


def test_files_without_checksums_pass(path):
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(state(), path)
    finally:
        torch.serialization.set_crc32_options(before)
    assert load_state_dict(path).keys() == state().keys()


def test_the_signature_is_of_the_content(path):
    def signature(**changes):
        save_state_dict(state() | changes, path)
        return archive_signature(path)

    assert signature() == signature()
    assert signature(tied=torch.zeros(7, 5)) != signature()
    assert signature(tied=torch.zeros(7, 6)) != signature()
    assert len(signature()) == 16
    torch.save(state(), path, _use_new_zipfile_serialization=False)
    assert archive_signature(path) is None
    assert archive_signature(path.with_name("missing")) is None


def test_values_may_stay_in_the_file(path):
    save_state_dict({"weight": torch.ones(9)}, path)
    weight = read_tensors(path, lazily=True)["weight"]
    place = path.read_bytes().index(torch.ones(9).numpy().tobytes())
    with open(path, "r+b") as file:
        file.seek(place)
        file.write(torch.arange(9.0).numpy().tobytes())
    assert weight.tolist() == list(range(9))


def overwrite(path, content, other):
    """Put other bytes where these are."""
    whole = path.read_bytes()
    assert whole.count(content) == 1
    path.write_bytes(whole.replace(content, other))


def test_what_is_read_lazily_needs_no_sound_values(path):
    torch.save({"weight": torch.ones(9), "corpus": "words-text"}, path)
    overwrite(path, torch.ones(9).numpy().tobytes(), torch.zeros(9).numpy().tobytes())
    assert read_tensors(path, lazily=True)["corpus"] == "words-text"
    with pytest.raises(UserError, match="damaged"):
        read_tensors(path)
    overwrite(path, b"words-text", b"words-Text")
    with pytest.raises(UserError, match="damaged"):
        read_tensors(path, lazily=True)


def test_the_corpus_of_a_run_needs_no_sound_values_and_a_sound_description(tmp_path):
    assert corpus_of(tmp_path) is None
    for name, corpus in ((CHECKPOINT_FILE, "words-text"), (PREVIOUS_FILE, "words-before")):
        torch.save({"weight": torch.ones(9), "corpus": corpus}, tmp_path / name)
        overwrite(tmp_path / name, torch.ones(9).numpy().tobytes(), torch.zeros(9).numpy().tobytes())
    assert corpus_of(tmp_path) == "words-text"
    overwrite(tmp_path / CHECKPOINT_FILE, b"words-text", b"words-Text")
    assert corpus_of(tmp_path) == "words-before"
    overwrite(tmp_path / PREVIOUS_FILE, b"words-before", b"words-Before")
    assert corpus_of(tmp_path) is None


def test_the_remedy_is_the_readers(path):
    path.write_bytes(b"nothing like it")
    for wrong in (path, path.with_name("missing")):
        with pytest.raises(UserError, match=r"do something$"):
            read_tensors(wrong, remedy="do something")


def test_archives_that_pytorch_does_not_write_are_refused(path):
    save_state_dict(state(), path)
    packed = io.BytesIO()
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    path.write_bytes(packed.getvalue())
    with pytest.raises(UserError, match="damaged"):
        load_state_dict(path)
