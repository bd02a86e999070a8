"""TensorBoard's event files, written whole record by whole record, without a thread.

PyTorch's SummaryWriter writes from a thread of its own: when the disk is full that thread dies, prints a traceback,
and leaves a torn record, behind which TensorBoard reads nothing any more.
"""

import io
import re
import socket
import time
from collections.abc import Mapping
from os import getpid
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard.summary import text

from system.growing_file import GrowingFile

EVENT_FILES = "events.out.tfevents.*"
NUMBER = re.compile(r"events\.out\.tfevents\.(\d+)\.")
VERSION = "brain.Event:2"


class Curves:
    """The curves of a folder, in a new event file.

    Args:
        folder: where other event files may lie; it is made with the first points.
        purge_step: the first step whose points in the other files count no more; None leaves all.
    """

    def __init__(self, folder: Path, purge_step: int | None = None):
        header = _record(file_version=VERSION)
        if purge_step is not None:
            header += _record(session_log=SessionLog(status=SessionLog.START), step=purge_step)
        self.path = folder / _next_name(folder)
        self._file = GrowingFile(self.path, header=header)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Add a point to each named curve.

        Raises:
            OSError: they cannot be written, and are lost.
        """
        self._file.append(_point(values, step))

    def text(self, name: str, content: str, step: int) -> None:
        """Add a text, in Markdown.

        Raises:
            OSError: it cannot be written, and is lost.
        """
        self._file.append(_record(summary=text(name, content), step=step))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _next_name(folder: Path) -> str:
    """TensorBoard reads files in the order of their names: this one comes last, whatever the clock says."""
    numbers = [int(match[1]) for path in folder.glob(EVENT_FILES) if (match := NUMBER.match(path.name))]
    number = max([int(time.time()), *(number + 1 for number in numbers)])
    return f"events.out.tfevents.{number:010d}.{socket.gethostname()}.{getpid()}"


def _point(values: Mapping[str, float], step: int) -> bytes:
    summary = Summary(value=[Summary.Value(tag=name, simple_value=value) for name, value in values.items()])
    return _record(summary=summary, step=step)


def _record(**content: object) -> bytes:
    record = io.BytesIO()
    RecordWriter(record).write(Event(wall_time=time.time(), **content).SerializeToString())
    return record.getvalue()
