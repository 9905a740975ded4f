"""What is wrong with the place of the access log, which workers would find only when there is something to write.

As in `tls_checks` files are looked at; nothing is written.
"""

import os
from collections.abc import Iterator

from proxy.config.checks import Conflict
from proxy.config.document import Document
from proxy.config.faults import BadValue
from proxy.config.values import parse_sink


def find_log_conflicts(document: Document) -> Iterator[Conflict]:
    """Why there can be no log where it is to be."""
    path = ("access_log", "sink")
    value = document.get(path)
    try:
        sink = "off" if value is None else parse_sink(value)
    except BadValue:
        return
    if sink in ("off", "stdout"):
        return
    folder = os.path.dirname(sink)
    if os.path.isdir(sink):
        yield Conflict(path, "is a directory", "the path of a file")
    elif not os.path.isdir(folder):
        yield Conflict(path, "is in a directory that does not exist", "a file in a directory that does")
    elif not os.access(sink if os.path.exists(sink) else folder, os.W_OK):
        yield Conflict(path, "cannot be written", "a file that this user may write")
