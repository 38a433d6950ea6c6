# SPDX-License-Identifier: MIT
"""Fixtures. See ../README.md for how to run the tests and what they need."""

import contextlib
import os
import shutil
import sys

import pytest

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import failures  # noqa: E402
import util  # noqa: E402

TEST_TIME = 90          # seconds until a test counts as hanging


def pytest_addoption(parser):
    parser.addoption("--reference", action="store_true",
                     help="try the tests marked posix on a plain tmpfs instead of sectionfs")


def pytest_generate_tests(metafunc):
    if "mnt" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("modes")
        modes = marker.args if marker else ("passthrough", "cached")
        if metafunc.config.getoption("--reference"):
            modes = ("tmpfs",)
        metafunc.parametrize("mnt", modes, indirect=True)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    if config.getoption("--reference"):
        wanted = [item for item in items if item.get_closest_marker("posix")]
        config.hook.pytest_deselected(items=[item for item in items if item not in wanted])
        items[:] = wanted
    for item in items:
        if "swap" in item.fixturenames:
            item.add_marker(pytest.mark.alone)
    if os.geteuid() != 0:
        for item in items:
            item.add_marker(pytest.mark.skip(reason="needs root: mounts, users, swap"))


class Session:
    def __init__(self):
        self.directory = util.work_directory()
        self.user = self.no_user = None
        self.refused_passthrough = None         # the daemon's reason, once it has refused
        public = os.path.join(self.directory, "bin")
        os.mkdir(public)
        self.programs = util.Programs(public)


@pytest.fixture(scope="session")
def session(request):
    if os.geteuid() != 0:
        pytest.skip("needs root")
    util.private_namespace()
    util.prctl(util.PR_SET_CHILD_SUBREAPER, 1)
    os.umask(0o022)
    session = Session()
    watchdog = None
    try:
        if session.programs.sectionfs is None and not request.config.getoption("--reference"):
            pytest.exit("no sectionfs to test: build it, or set SECTIONFS", 2)
        session.no_user = util.public_fuse_device(session.directory)
        try:
            session.user = util.add_user()
        except (AssertionError, FileNotFoundError) as error:
            session.no_user = f"no user could be added: {error}"
        session.watchdog = watchdog = util.Watchdog()
        yield session
    finally:
        if watchdog:
            watchdog.stop()
        if session.user:
            util.remove_user(session.user)
        for path in reversed(util.mounts_below(session.directory)):
            util.umount(path, util.MNT_DETACH)
        with contextlib.suppress(OSError):
            if "/dev/fuse" in util.mounts_below("/dev/fuse"):
                util.umount("/dev/fuse", util.MNT_DETACH)
        shutil.rmtree(session.directory)


@pytest.fixture(autouse=True)
def clean(session):
    """Fails a test that leaves a process or a mount behind, and removes what it left."""
    own = os.getpid()
    mounts = util.mounts_below("/")
    session.watchdog.arm(TEST_TIME)
    yield
    problems = []
    for child in list(util.Child.all):
        child.kill()
    try:
        def left():
            found = {p for p in util.descendants(own) if p[0] != session.watchdog.pid}
            # Orphans that have ended wait for us; others' own children are not ours to collect.
            for pid, row in util.process_table().items():
                if row[0] == own and row[1] == "Z" and pid != session.watchdog.pid:
                    util.reap([pid])
            return found
        try:
            util.eventually(lambda: not left(), 5)
        except AssertionError:
            for pid, start in left():
                with contextlib.suppress(OSError):
                    with open(f"/proc/{pid}/cmdline") as file:
                        problems.append("left running: " + file.read().replace("\0", " "))
                util.kill(pid)
            util.eventually(lambda: not left(), 10)
        for path in reversed([p for p in util.mounts_below("/") if p not in mounts]):
            problems.append(f"left mounted: {path}")
            with contextlib.suppress(OSError):
                util.umount(path, util.MNT_DETACH)
    finally:
        session.watchdog.disarm()
    if problems:
        pytest.fail("\n".join(problems), pytrace=False)


@pytest.fixture
def place(session, clean):
    """A directory for this test that everybody may use, outside the mount, on a disk."""
    path = os.path.join(session.directory, "test")
    os.mkdir(path)
    os.chmod(path, 0o1777)
    yield path
    for left in reversed(util.mounts_below(path)):
        util.umount(left, util.MNT_DETACH)
    shutil.rmtree(path)


@pytest.fixture
def user(session):
    """An unprivileged user who can also mount."""
    if session.no_user:
        pytest.skip(session.no_user)
    return session.user


@pytest.fixture
def other(session):
    """Another unprivileged user: not root, not that user, in no group. Needs no name."""
    if session.user is None:
        pytest.skip(session.no_user)
    return util.User("another", session.user.uid + 40000, session.user.gid + 40000)


@pytest.fixture
def new_mount(session, place, request):
    """A function that starts sectionfs as the test likes; everything it starts is ended."""
    made = []

    def make(mode="passthrough", options="", background=False, arguments=(), start=True):
        owner = None
        if mode == "user":
            owner = request.getfixturevalue("user")
        if mode == "passthrough" and session.refused_passthrough:
            pytest.skip(f"no passthrough: {session.refused_passthrough}")
        path = os.path.join(place, f"mnt{len(made)}")
        os.mkdir(path)
        if owner:
            os.chown(path, owner.uid, owner.gid)
        if mode == "tmpfs":
            mount = util.TmpfsMount(path, options)
        else:
            mount = util.Mount(session.programs, path, f"{place}/log{len(made)}", mode, options,
                               owner, background, arguments)
        if not start:
            made.append(mount)
            return mount
        made.append(mount)
        mount.start()
        if mode == "passthrough":
            figures = mount.stats()
            if figures["mode"] != "passthrough":
                session.refused_passthrough = figures.get("mode_reason", "no reason given")
                pytest.skip(f"no passthrough: {session.refused_passthrough}")
        return mount

    yield make
    problems = []
    for mount in made:
        if getattr(mount, "keeper", True) is not None:
            problems += mount.stop()
            problems += mount.log_problems()
    if problems:
        logs = "\n".join(f"--- {m.log}\n{m.log_text()[-4000:]}" for m in made
                         if isinstance(m, util.Mount) and os.path.exists(m.log))
        pytest.fail("\n".join(problems) + "\n" + logs, pytrace=False)


@pytest.fixture
def mnt(request, new_mount):
    """A mounted sectionfs, in each of the modes that the test is marked for."""
    marker = request.node.get_closest_marker("options")
    return new_mount(request.param, marker.args[0] if marker else "")


@pytest.fixture
def faulty(new_mount, monkeypatch, place):
    """Mounts with a build that can be told to fail, and is: by these variables, and by what its
    failures have planned."""
    program = os.environ.get("SECTIONFS_FAULTS")
    if not program:
        pytest.skip("no build with faults: make check has one, see SECTIONFS_FAULTS")
    clean_environment = util.clean_environment

    def make(mode, options="", **variables):
        mnt = new_mount(mode, options, start=False)
        mnt.failures = failures.Failures(mnt.path + ".failures")
        monkeypatch.setattr(util, "clean_environment",
                            lambda: {**clean_environment(), **variables,
                                     "SECTIONFS_FAILURES": mnt.failures.path})
        mnt.command[0] = program
        mnt.log_is_fine = r"has ended 3 workers|no memory|to allocate|creating thread"
        return mnt.start()
    return make


@pytest.fixture
def ctl(session, request):
    """Runs sectionctl: as the owner of the mount, or as the user given."""
    def sectionctl(*arguments, user=None, **options):
        program = session.programs.sectionctl
        assert program, "no sectionctl to test: build it, or set SECTIONCTL"
        if user is not None:
            program = session.programs.for_user(program)
        return util.run(program, *arguments, user=user, **options)
    return sectionctl


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """Shows the end of the daemon's log under a test that has failed."""
    report = (yield).get_result()
    if report.when == "call":
        item.test_failed = report.failed
    mount = getattr(item, "funcargs", {}).get("mnt")
    if report.failed and isinstance(mount, util.Mount) and os.path.exists(mount.log):
        report.sections.append(("sectionfs log", mount.log_text()[-4000:]))
