# SPDX-License-Identifier: MIT
"""The control interface, for tests about what it controls: reading and setting attributes, making
sections that have never been opened, and waiting for closes to arrive."""

import errno
import os

from util import eventually, link_fd

PREFIX = "user.section."

# Verbs of an open view, for ioctl.
RESET, COMMIT = ord("S") << 8 | 0x82, ord("S") << 8 | 0x83


def key(path, name):
    return os.getxattr(path, PREFIX + name).decode()


def set_keys(path, **values):
    """In this order. Numbers may be numbers; file, base and others may be paths."""
    for name, value in values.items():
        os.setxattr(path, PREFIX + name, os.fsencode(str(value)))


def keys_of(path):
    return {name[len(PREFIX):] for name in os.listxattr(path) if name.startswith(PREFIX)}


FIRST = ("offset", "length")
LAST = ("protect", "resize")


def make(path, size=None, mode=None, **values):
    """A new section, complete when its name appears, and never opened by that name: as sectionctl
    does, through a descriptor that opens nothing. What the file is opened by is set before it, what
    forbids to change the size after the size."""
    nameless = os.open(os.path.dirname(path), os.O_TMPFILE | os.O_RDWR, 0o666)
    fd = os.open(f"/proc/self/fd/{nameless}", os.O_PATH)
    os.close(nameless)
    try:
        this = f"/proc/self/fd/{fd}"
        first = FIRST + (("protect",) if "file" in values else ())
        order = sorted(values, key=lambda name: (0 if name in first else
                                                 1 if name in ("file", "base") else
                                                 3 if name in LAST else 2))
        set_keys(this, **{name: values[name] for name in order if name not in LAST or name in first})
        if size is not None:
            os.truncate(this, size)
        set_keys(this, **{name: values[name] for name in order if name in LAST and name not in first})
        if mode is not None:
            os.chmod(this, mode)
        link_fd(fd, path)
    finally:
        os.close(fd)
    return path


def patiently(function, *arguments):
    """For what is refused while the section is in use: the daemon hears of a last close a moment
    after close has returned, and under load the moment can be long. Returns what it returned."""
    result = []

    def attempt():
        try:
            result.append(function(*arguments))
        except OSError as error:
            if error.errno not in (errno.ETXTBSY, errno.EBUSY):
                raise
            return False
        return True
    eventually(attempt, what="it is no longer refused")
    return result[0]


def unused(path):
    """Waits until no handle on it is left."""
    eventually(lambda: key(path, "opens") == "0")


def gone(path, timeout=15):
    """Waits until the name has vanished by itself."""
    eventually(lambda: not os.path.lexists(path), timeout, f"{path} is still there")
