"""Names in files of pickles: what they would import, read off without running them, and how messages show it."""

import io
import os
import pickletools
import re
import zipfile
from contextlib import suppress

HARMLESS = re.compile(r"torch\.(_utils\.)?\w+$|collections\.OrderedDict$")  # names in a pickle of tensors
LONGEST_NAME = 100  # characters of a name that a message shows
LARGEST_PICKLE = 1 << 22  # bytes that are looked at; tensors' values are elsewhere, or behind


def foreign_name(path: str | os.PathLike) -> str | None:
    """The first name in a torch file of either format, or a bare pickle, that tensors do not need; None without one."""
    with suppress(Exception):  # a damaged file raises nearly any type
        with open(path, "rb") as file:
            if zipfile.is_zipfile(file):
                with zipfile.ZipFile(file) as archive:
                    (member,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
                    pickles = io.BytesIO(archive.open(member).read(LARGEST_PICKLE))
            else:
                file.seek(0)
                pickles = io.BytesIO(file.read(LARGEST_PICKLE))
        while True:  # the legacy format has several pickles; the end of the file ends the loop
            strings: list[str] = []
            for opcode, argument, _ in pickletools.genops(pickles):
                if isinstance(argument, str):
                    strings.append(argument)
                parts = (
                    strings[-2:] if opcode.name == "STACK_GLOBAL" else argument.split() if opcode.name == "INST" else []
                )
                if parts and not HARMLESS.match(name := ".".join(parts)):
                    return name
    return None


def shown(name: object) -> str:
    """A name from a file in one line of a message."""
    if not isinstance(name, str):
        return f"a key of type {type(name).__name__}"
    text = name if name.isprintable() else ascii(name)
    return text if len(text) <= LONGEST_NAME else f"{text[:LONGEST_NAME]}…"
