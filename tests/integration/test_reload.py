# SPDX-License-Identifier: MIT
"""The worker is replaced by the program that is installed now, or stays."""

import os
import shutil
import signal
import struct
import subprocess
import threading

import pytest

import util
from deaths import kill_worker, worker_of
from test_death import begin_clients, end_clients
from util import MIB, eventually, kill, opened, read, write


def test_reload(mnt, ctl, place):
    """Another worker goes on with everything that is open, while it is used."""
    before = mnt.stats()
    clients = begin_clients(mnt, place, count=2)
    for n in range(5):
        ctl("reload", mnt.path)
        assert mnt.stats()["reloads"] == n + 1
    end_clients(mnt, place, clients, before)
    figures = mnt.stats()
    assert figures["deaths"] == 0 and figures["reloads_refused"] == 0 and figures["resumes"] == 5


@pytest.fixture
def installed(new_mount, place):
    """Mounts a copy of a program, which can be replaced; its path is the second result."""
    def start(original, mode):
        program = f"{place}/sectionfs"
        shutil.copy(original, program)
        mnt = new_mount(mode, start=False)
        mnt.command[0] = program
        return mnt.start(), program
    return start


def test_reload_takes_what_is_installed(session, installed, ctl):
    """The program may be replaced; one that does not know the registry is refused."""
    mnt, program = installed(session.programs.sectionfs, "passthrough")
    fd = os.open(mnt / "a", os.O_CREAT | os.O_RDWR)
    os.write(fd, b"bytes")
    old = mnt.stats()["worker_pid"]
    install(program, "exit 1\n")
    assert "stays" in ctl("reload", mnt.path, ok=False).stderr
    assert mnt.stats()["worker_pid"] == old and mnt.stats()["reloads_refused"] == 1
    os.unlink(program)
    shutil.copy(session.programs.sectionfs, program)
    ctl("reload", mnt.path)
    new = mnt.stats()["worker_pid"]
    assert os.path.samefile(f"/proc/{new}/exe", program)
    assert not os.path.samefile(f"/proc/{mnt.keeper}/exe", program)
    assert os.pread(fd, 10, 0) == b"bytes"
    os.close(fd)


def install(program, script):
    os.unlink(program)
    write(program, b"#!/bin/sh\n" + script.encode())
    os.chmod(program, 0o755)


def test_installed_program_that_ends_as_if_unmounted(session, installed, ctl):
    """The keeper asks the kernel, and goes on with what it is itself."""
    mnt, program = installed(session.programs.sectionfs, "cached")
    write(mnt / "a", b"bytes")
    ctl("reload", mnt.path)
    install(program, "exit 0\n")
    kill_worker(mnt)
    assert util.call(read, mnt / "a", timeout=20) == b"bytes"
    assert mnt.log_text().count("did not get to serve: status 0") == 2


def test_reload_is_taken_back(installed, ctl):
    """The installed program says that it can go on, and so it does, but never for long."""
    faults = os.environ.get("SECTIONFS_FAULTS")
    if not faults:
        pytest.skip("no build with faults: make check has one, see SECTIONFS_FAULTS")
    mnt, program = installed(faults, "cached")
    write(mnt / "a", b"bytes")
    install(program, f'SECTIONFS_ABORT_AT=10 exec {faults} "$@"\n')     # FUSE_UNLINK
    ctl("reload", mnt.path)
    os.unlink(mnt / "a")                        # or EIO, after three deaths
    assert mnt.stats()["deaths"] == 2


def test_reload_that_nobody_answers(session, installed, ctl):
    """A program that hangs is waited for in vain, but not for ever, and the same the next time."""
    mnt, program = installed(session.programs.sectionfs, "cached")
    install(program, "exec sleep 1000\n")
    for n in range(2):
        assert "stays" in ctl("reload", mnt.path, ok=False).stderr
        assert mnt.stats()["reloads_refused"] == n + 1
    assert "does not say" in mnt.log_text()
    os.unlink(program)
    shutil.copy(session.programs.sectionfs, program)
    ctl("reload", mnt.path)


def test_reload_where_the_kernel_does_not_send_again(mnt, ctl):
    """Then the worker's end would be that of the mount."""
    figures = mnt.stats()
    known = struct.pack("=III", *(figures[key] for key in ("keeper_pid", "worker_pid",
                                                           "worker_starts")))
    with opened(f"/proc/{mnt.keeper}/fd/4") as registry:
        at = os.pread(registry, MIB, 0).index(known) + len(known) + 4   # after `serving`
        os.pwrite(registry, struct.pack("=I", 1), at)
        result = ctl("reload", mnt.path, ok=False)
        assert result.returncode == 1 and "stays" in result.stderr
        assert mnt.stats()["worker_pid"] == figures["worker_pid"]
        assert "does not send requests again" in mnt.log_text()
        os.pwrite(registry, struct.pack("=I", 0), at)
    ctl("reload", mnt.path)


@pytest.mark.modes("passthrough")
def test_reload_from_another_pid_namespace(session, mnt):
    """There the numbers of the mount's processes are those of others, or of nobody."""
    keeper = mnt.stats()["keeper_pid"]
    # The bystander gets the keeper's number: it would die of the signal.
    script = f"""echo {keeper - 1} > /proc/sys/kernel/ns_last_pid; sleep 60 & bystander=$!
                 {session.programs.sectionctl} reload {mnt.path}; status=$?
                 kill -0 $bystander && kill $bystander && test $bystander = {keeper} && exit $status
                 exit 99"""
    result = subprocess.run(["unshare", "--pid", "--fork", "--mount-proc", "sh", "-c", script],
                            stderr=subprocess.PIPE, text=True, env=util.clean_environment())
    assert result.returncode == 1 and "its keeper is not to be found" in result.stderr, result
    assert mnt.stats()["reloads"] == 0


def test_reload_while_it_starts(new_mount, place):
    """The worker stays, for what it has made by then would be lost, and the mount with it."""
    server = new_mount("cached")                # who goes this way waits for it
    write(f"{place}/file", b"bytes")
    os.symlink(f"{place}/file", server / "link")
    write(f"{place}/list", f"[first]\n[second]\nfile={server.path}/link\n".encode())
    mnt = new_mount("cached", f"sections={place}/list", start=False)

    def hang_up():
        eventually(lambda: worker_of(mnt))
        eventually(lambda: kill(mnt.keeper, signal.SIGHUP)
                   or "does not serve yet" in mnt.log_text())
        kill(worker_of(server)[0], signal.SIGCONT)
    thread = threading.Thread(target=hang_up, daemon=True)
    with server.stopped():
        thread.start()
        mnt.start()
    thread.join()
    assert mnt.stats()["reloads_refused"] > 0
    assert sorted(os.listdir(mnt.path)) == ["first", "second"]
    assert mnt.stop() == []                     # before the file's mount
    mnt.keeper = None


def test_what_only_looks_like_statistics(mnt, ctl):
    """Below the root, .stats is a file like others: what it says of a keeper is not heeded."""
    bystander = mnt.child()
    os.mkdir(mnt / "d")
    write(mnt / "d/.stats", f"version: 1\nkeeper_pid: {bystander.pid}\n".encode())
    for command in "stats", "reload":
        assert "not the root" in ctl(command, mnt / "d", ok=False).stderr
    assert bystander.get("1") == 1
    ctl("reload", mnt.path)
