# SPDX-License-Identifier: MIT
"""The attributes that policies are set by: what they take, whom they obey, what they tell, who
inherits them; and the file of sections= that sets them when the mount starts."""

import errno
import os
import re
import stat
import threading

import pytest

from sections import PREFIX, key, keys_of, make, set_keys
from util import (KIB, MIB, PAGE, Child, call, eventually, mounts_at, opened, pairs, pattern, read,
                  refused, run, write, write_all)

every_mode = pytest.mark.modes("passthrough", "cached", "user")
POLICIES = {"lifetime": ("permanent", "temporary"), "commit": ("reserve", "commit"),
            "resize": ("free", "grow", "fixed"), "delete": ("posix", "busy"),
            "limit": ("0", "1048576")}
NORMAL = {name: values[0] for name, values in POLICIES.items()}
NT = {"lifetime": "temporary", "commit": "commit", "resize": "grow", "delete": "busy", "limit": "0"}


def policies(path):
    return {name: key(path, name) for name in POLICIES}


# --- What they take -------------------------------------------------------------------------------

@every_mode
def test_every_value_can_be_set_and_read(mnt):
    def body():
        make(mnt / "x")
        os.mkdir(mnt / "d")
        assert policies(mnt / "x") == policies(mnt / "d") == policies(mnt.path) == NORMAL
        for path in (mnt / "x", mnt / "d", mnt.path):
            assert set(POLICIES) <= keys_of(path)
            for name, values in POLICIES.items():
                for value in (*values, values[0]):
                    set_keys(path, **{name: value})
                    assert key(path, name) == value
                set_keys(path, **{name: values[-1]})
                os.removexattr(path, PREFIX + name)     # which sets what is normal
                assert key(path, name) == values[0]
        make(mnt / "y")
        for protect in ("readonly", "writecopy", "readwrite"):
            set_keys(mnt / "y", protect=protect)
            assert key(mnt / "y", "protect") == protect
        for cow in ("section", "open"):
            set_keys(mnt / "y", cow=cow)
            assert key(mnt / "y", "cow") == cow
    mnt.run(body)


def test_what_is_no_value_is_einval_and_changes_nothing(mnt):
    make(mnt / "x", size=PAGE)
    os.mkdir(mnt / "d")
    bad = {"lifetime": ["", "Temporary", "temporary ", "temporary\n", "temp\0orary", "temporary\0\0", "forever", "0"],
           "commit": ["", "yes", "1", "commited"], "resize": ["", "shrink", "grow,fixed"],
           "delete": ["", "never", "BUSY"], "limit": ["", "-1", "1.5", "lots", "0x10", " 1", "1 ",
                                                      "99999999999999999999"],
           "protect": ["", "none", "\0readwrite"], "cow": ["", "close", "sections"],
           "nonsense": ["1"], "Lifetime": ["temporary"], "": ["1"]}
    for path in (mnt / "x", mnt / "d"):
        before = {name: os.getxattr(path, name) for name in os.listxattr(path)}
        for name, values in bad.items():
            for value in values:
                try:
                    os.setxattr(path, PREFIX + name, value.encode())
                except OSError as error:
                    assert error.errno == errno.EINVAL, (name, value)
                else:
                    raise AssertionError(f"{name}={value!r} was accepted")
        assert {name: os.getxattr(path, name) for name in os.listxattr(path)} == before


def test_create_and_replace_are_heeded(mnt, place):
    write(f"{place}/real", b"real")
    make(mnt / "x")
    path = os.fsencode(f"{place}/real")
    os.setxattr(mnt / "x", "user.section.limit", b"1M", os.XATTR_REPLACE)
    with refused(errno.EEXIST):
        os.setxattr(mnt / "x", "user.section.limit", b"2M", os.XATTR_CREATE)
    assert key(mnt / "x", "limit") == str(MIB)
    with refused(errno.ENODATA):
        os.setxattr(mnt / "x", "user.section.file", path, os.XATTR_REPLACE)
    os.setxattr(mnt / "x", "user.section.file", path, os.XATTR_CREATE)
    with refused(errno.EEXIST):
        os.setxattr(mnt / "x", "user.section.file", path, os.XATTR_CREATE)
    assert read(mnt / "x") == b"real"


def test_a_directory_has_policies_and_nothing_else(mnt, place):
    os.mkdir(mnt / "d")
    assert keys_of(mnt / "d") == set(POLICIES) == keys_of(mnt.path)
    write(f"{place}/real", b"data")
    for name, value in (("protect", "readonly"), ("file", f"{place}/real"), ("base", "x"),
                        ("offset", "1"), ("length", "1"), ("cow", "section")):
        with refused(errno.EINVAL):
            set_keys(mnt / "d", **{name: value})
        with refused(errno.ENODATA):
            key(mnt / "d", name)


def test_other_kinds_of_files_have_none(mnt):
    os.symlink("x", mnt / "link")
    os.mkfifo(mnt / "fifo")
    os.mknod(mnt / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    for name in ("fifo", "null"):
        assert [n for n in os.listxattr(mnt / name) if n.startswith(PREFIX)] == []
    set_keys(mnt.path, lifetime="temporary", delete="busy")
    os.mkfifo(mnt / "fifo2")
    os.close(os.open(mnt / "fifo2", os.O_RDWR))
    with opened(mnt / "fifo2"):
        os.unlink(mnt / "fifo2")
    assert os.path.exists(mnt / "fifo")


def test_only_the_owner_may(mnt, user, other):
    def own():
        make(mnt / "x", mode=0o666)
        os.mkdir(mnt / "d")
        os.chmod(mnt / "d", 0o777)
    call(own, user=user)

    def body():
        for path in (mnt / "x", mnt / "d"):
            for name, values in POLICIES.items():
                for value in values:
                    with refused(errno.EPERM):
                        set_keys(path, **{name: value})
                with refused(errno.EPERM):
                    os.removexattr(path, PREFIX + name)
                assert key(path, name) == values[0]
        for name, value in (("protect", "readonly"), ("cow", "section"), ("base", "y"),
                            ("offset", "1"), ("length", "1")):
            with refused(errno.EPERM):
                set_keys(mnt / "x", **{name: value})
        with refused(errno.EPERM, errno.EACCES):
            set_keys(mnt.path, lifetime="temporary")
    call(body, user=other)
    call(lambda: set_keys(mnt / "x", lifetime="temporary"), user=user)
    set_keys(mnt / "d", lifetime="temporary")           # root may


def test_set_through_a_descriptor_and_through_every_name(mnt):
    make(mnt / "x", size=PAGE)
    os.link(mnt / "x", mnt / "y")
    with opened(mnt / "x", os.O_RDONLY) as fd:
        os.setxattr(fd, PREFIX + "limit", b"8192")
        assert key(mnt / "y", "limit") == "8192"
        set_keys(mnt / "y", limit=4096)
        assert os.getxattr(fd, PREFIX + "limit") == b"4096"
    for path in (mnt.cow("x"), mnt.info("x")):
        with refused(errno.EROFS, errno.EACCES):
            set_keys(path, limit=1)


# --- Who inherits ---------------------------------------------------------------------------------

@every_mode
def test_new_sections_and_directories_inherit(mnt):
    def body():
        os.mkdir(mnt / "d")
        set_keys(mnt / "d", **NT)
        set_keys(mnt / "d", limit=MIB, lifetime="permanent")
        want = {**NT, "limit": str(MIB), "lifetime": "permanent"}
        os.mkdir(mnt / "d/e")
        os.mkdir(mnt / "d/e/f")
        with opened(mnt / "d/created", os.O_CREAT | os.O_RDWR):
            pass
        os.mknod(mnt / "d/node", 0o644 | stat.S_IFREG)
        make(mnt / "d/linked")
        make(mnt / "d/e/f/deep")
        for name in ("d/e", "d/e/f", "d/created", "d/node", "d/linked", "d/e/f/deep"):
            assert policies(mnt / name) == want, name
        assert policies(mnt / "d") == want
        make(mnt / "outside")
        assert policies(mnt / "outside") == NORMAL
        with refused(errno.EFBIG):
            os.truncate(mnt / "d/created", MIB + 1)
    mnt.run(body)


def test_what_is_there_already_does_not_change(mnt):
    """Neither by the directory's change, nor by moving or linking it elsewhere."""
    os.mkdir(mnt / "d")
    os.mkdir(mnt / "e")
    make(mnt / "d/x")
    os.mkdir(mnt / "d/sub")
    set_keys(mnt / "d", delete="busy")
    set_keys(mnt / "e", resize="grow")
    assert key(mnt / "d/x", "delete") == key(mnt / "d/sub", "delete") == "posix"
    make(mnt / "d/y")
    os.rename(mnt / "d/y", mnt / "e/y")
    os.link(mnt / "e/y", mnt / "d/z")
    os.rename(mnt / "d/sub", mnt / "e/sub")
    for name in ("e/y", "d/z"):
        assert (key(mnt / name, "delete"), key(mnt / name, "resize")) == ("busy", "free")
    make(mnt / "e/sub/x")
    assert policies(mnt / "e/sub/x") == NORMAL


@pytest.mark.parametrize("options,want", [
    ("", NORMAL),
    ("semantics=posix", NORMAL),
    ("semantics=nt", NT),
    ("lifetime=temporary", {**NORMAL, "lifetime": "temporary"}),
    ("limit=64k,resize=fixed", {**NORMAL, "limit": str(64 * KIB), "resize": "fixed"}),
    ("limit=0", NORMAL),
    ("semantics=nt,lifetime=permanent", {**NT, "lifetime": "permanent"}),
    ("commit=reserve,semantics=nt", NT),
    ("semantics=nt,semantics=posix", NORMAL),
    ("limit=1M,semantics=nt", None),            # limit is none of NT's
    ("delete=busy,delete=posix", NORMAL),
])
def test_mount_options_are_those_of_the_root(new_mount, options, want):
    mnt = new_mount("cached", options)
    want = want or {**NT, "limit": policies(mnt.path)["limit"]}
    os.mkdir(mnt / "d")
    make(mnt / "d/x")
    assert policies(mnt.path) == policies(mnt / "d") == policies(mnt / "d/x") == want


def refusal(session, place, *options):
    """What the daemon says when it will not mount: one line; nothing is mounted then."""
    path = f"{place}/nowhere"
    os.makedirs(path, exist_ok=True)
    result = run(session.programs.sectionfs, path, "-o", ",".join(options), ok=False)
    assert result.returncode != 0
    assert mounts_at(path) == [] and os.listdir(path) == []
    line, = result.stderr.splitlines()
    assert line.startswith("sectionfs: ")
    return line


def test_mount_options_that_make_no_sense(session, place):
    for option in ("semantics=windows", "semantics=", "lifetime=", "lifetime=short", "commit=yes",
                   "resize=shrink", "delete=0", "limit=-1", "limit=50%", "limit="):
        assert option.partition("=")[0] in refusal(session, place, option)


# --- What they tell -------------------------------------------------------------------------------

def holders(path):
    """{(pid, access)}; the rest of each line is looked at here."""
    found = set()
    for line in key(path, "holders").splitlines():
        pid, command, uid, access, age = line.split(" ")
        assert command and re.fullmatch(r"rw?m?|wm?|m", access) and re.fullmatch(r"-|\d+", age)
        assert int(uid) >= 0
        found.add((int(pid), access))
    return found


@every_mode
def test_holders_are_those_who_have_it_now(mnt):
    child = mnt.child()
    child.do("def holders(path):\n"
             "    text = os.getxattr(path, 'user.section.holders').decode()\n"
             "    return {(int(line.split()[0]), line.split()[3]) for line in text.splitlines()}\n"
             "prctl(4, 1)    # PR_SET_DUMPABLE: becoming a user has hidden it from that user's daemon\n"
             "me = os.getpid()\n"
             "fd = os.open(path, os.O_CREAT | os.O_RDWR); os.ftruncate(fd, PAGE)\n"
             "assert holders(path) == {(me, 'rw')}\n"
             "view = View(fd, PAGE)\n"
             "assert holders(path) == {(me, 'rwm')}\n"
             "os.close(fd)\n"
             "assert holders(path) == {(me, 'm')}\n"
             "view.close()\n"
             "assert holders(path) == set()\n"
             "fd = os.open(path, os.O_RDONLY); other = os.open(path, os.O_WRONLY)\n"
             "assert holders(path) == {(me, 'rw')}\n"
             "os.close(fd)\n"
             "assert holders(path) == {(me, 'w')}\n"
             "os.close(other)", path=mnt / "x")


def test_holders_after_forks_and_sockets(mnt):
    """Not who called open, but who has the descriptor."""
    make(mnt / "x", size=PAGE)
    opener, taker = mnt.child(), mnt.child()
    fd = os.open(mnt / "x", os.O_RDONLY)
    opener.give(fd, "fd")
    taker.give(fd, "fd")
    assert holders(mnt / "x") == {(os.getpid(), "r"), (opener.pid, "r"), (taker.pid, "r")}
    os.close(fd)
    opener.kill()
    assert holders(mnt / "x") == {(taker.pid, "r")}
    taker.do("heir = os.fork()\nif heir == 0: signal.pause()")
    heir = taker.get("heir")
    assert holders(mnt / "x") == {(taker.pid, "r"), (heir, "r")}
    taker.do("os.close(fd)")
    assert holders(mnt / "x") == {(heir, "r")}
    assert key(mnt / "x", "opens") == "1"
    taker.do("os.kill(heir, signal.SIGKILL); os.waitpid(heir, 0)")
    assert holders(mnt / "x") == set()


def test_holders_of_a_copy_on_write_section(mnt):
    make(mnt / "x", size=PAGE, protect="writecopy")
    child = mnt.child()
    child.do("fd = os.open(path, os.O_RDWR); view = View(fd, PAGE); os.close(fd)", path=mnt / "x")
    assert holders(mnt / "x") == {(child.pid, "m")}


def test_names_of_holders_cannot_do_harm(mnt):
    make(mnt / "x", size=PAGE)
    child = mnt.child()
    child.do("fd = os.open(path, os.O_RDONLY)\n"
             "open('/proc/self/comm', 'wb').write(b'a b\\n\\x1b[31mc')", path=mnt / "x")
    text = key(mnt / "x", "holders")
    assert len(text.splitlines()) == 1 and "\x1b" not in text
    assert text.split()[:2] == [str(child.pid), "a\\040b\\012\\033[31mc"]


def test_holders_ages_and_users(mnt, user):
    make(mnt / "x", size=PAGE, mode=0o666)
    child = Child(user=user)
    child.do("fd = os.open(path, os.O_RDWR)", path=mnt / "x")
    pid, _, uid, _, age = key(mnt / "x", "holders").split()
    assert (int(pid), int(uid)) == (child.pid, user.uid)
    assert 0 <= int(age) < 60


@every_mode
def test_resident_tells_the_memory_it_takes(mnt):
    def body():
        make(mnt / "x", size=64 * MIB)
        assert key(mnt / "x", "resident") == key(mnt / "x", "swapped") == "0"
        with opened(mnt / "x") as fd:
            write_all(fd, pattern("x", 4 * MIB))
            os.fsync(fd)
            got = int(key(mnt / "x", "resident")) + int(key(mnt / "x", "swapped"))
            assert 4 * MIB <= got <= 6 * MIB
            os.ftruncate(fd, 0)
            assert int(key(mnt / "x", "resident")) == 0
    mnt.run(body)


def test_resident_of_a_file_section_is_its_page_cache(mnt, place):
    write(f"{place}/real", pattern("real", 2 * MIB))
    make(mnt / "x", file=f"{place}/real")
    assert read(mnt / "x") == pattern("real", 2 * MIB)
    assert 0 <= int(key(mnt / "x", "resident")) <= 2 * MIB
    assert key(mnt / "x", "kind") == "file"


def test_info_tells_the_same(mnt):
    make(mnt / "x", size=PAGE, limit=MIB, delete="busy")
    with opened(mnt / "x"):
        text = read(mnt.info("x")).decode()
    info = pairs(text)
    assert info["limit"] == MIB and info["delete"] == "busy" and info["size"] == PAGE
    assert {"kind", "protect", "lifetime", "commit", "resize", "mode", "opens"} <= set(info)


# --- The file of sections= ------------------------------------------------------------------------

@pytest.fixture
def begin(new_mount, place):
    """Mounts with a list of sections."""
    def begin_with(mode, text, options=""):
        write(f"{place}/list", text.encode())
        return new_mount(mode, ",".join(filter(None, [options, f"sections={place}/list"])))
    return begin_with


@pytest.mark.parametrize("mode", ["passthrough", "cached", "user"])
def test_a_mount_begins_with_the_sections_of_its_list(begin, place, mode, request):
    write(f"{place}/real", pattern("real", 16 * PAGE))
    if mode == "user":
        owner = request.getfixturevalue("user")
        os.chown(f"{place}/real", owner.uid, owner.gid)
    mnt = begin(mode, f"""
# every key
[images/golden]
file={place}/real
protect=readonly

[images/part]
file = {place}/real
offset = 4K
length = 8192

[copy]
base=/images/golden
cow=section
lifetime=temporary

[shm/deep/er/ring]
size=64K
commit=commit
resize=fixed
delete=busy
limit=1M
permissions=0640

[private]
file={place}/real
protect=writecopy
""")

    def body():
        assert sorted(os.listdir(mnt.path)) == ["copy", "images", "private", "shm"]
        assert read(mnt / "images/golden") == pattern("real", 16 * PAGE)
        assert read(mnt / "images/part") == pattern("real", 16 * PAGE)[4096:12288]
        assert key(mnt / "images/golden", "protect") == "readonly"
        ring = mnt / "shm/deep/er/ring"
        assert policies(ring) == {"lifetime": "permanent", "commit": "commit", "resize": "fixed",
                                  "delete": "busy", "limit": str(MIB)}
        assert os.stat(ring).st_size == 64 * KIB and os.stat(ring).st_blocks * 512 == 64 * KIB
        assert os.stat(ring).st_mode & 0o7777 == 0o640
        assert os.stat(mnt / "images/part").st_mode & 0o7777 == 0o644
        assert os.stat(mnt / "shm").st_mode & 0o7777 == 0o755
        for name in ("copy", "private"):
            with opened(mnt / name) as fd:
                os.pwrite(fd, b"mine", 0)
                assert os.pread(fd, 4, 0) == b"mine"
        assert key(mnt / "private", "protect") == "writecopy"
        eventually(lambda: not os.path.exists(mnt / "copy"))
    mnt.run(body)
    assert read(f"{place}/real") == pattern("real", 16 * PAGE)


def test_a_list_under_nt_semantics_and_with_owners(begin, user):
    mnt = begin("cached", f"[x]\nsize=1M\nuid={user.uid}\ngid={user.gid}\n[y]\nlifetime=permanent\n",
                "semantics=nt")
    assert policies(mnt / "x") == NT
    assert policies(mnt / "y") == {**NT, "lifetime": "permanent"}
    assert (os.stat(mnt / "x").st_uid, os.stat(mnt / "x").st_gid) == (user.uid, user.gid)
    os.close(os.open(mnt / "x", os.O_RDONLY))           # it has waited for its first opener
    eventually(lambda: not os.path.exists(mnt / "x"))


def test_nobody_sees_a_section_of_a_list_half_made(new_mount, place):
    """It is served while they are made; and whom the kernel has told of one it asks no more."""
    text = "".join(f"[x{n}]\nsize=1M\ncommit=commit\npermissions=0600\nuid=12\n" for n in range(50))
    write(f"{place}/list", text.encode())
    mnt = new_mount("cached", f"size=64M,sections={place}/list", start=False)
    seen, over = set(), threading.Event()

    def look():
        while not over.is_set():
            for n in range(50):
                try:
                    st = os.stat(mnt / f"x{n}")
                except OSError:
                    break
                seen.add((st.st_mode & 0o7777, st.st_uid, st.st_size))
    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        mnt.start()
        for n in range(50):
            st = os.stat(mnt / f"x{n}")
            seen.add((st.st_mode & 0o7777, st.st_uid, st.st_size))
    finally:
        over.set()
        watcher.join()
    assert seen == {(0o600, 12, MIB)}


@pytest.mark.parametrize("text,line,group,name", [
    ("[x]\nsize=lots\n", 2, "x", "size"),
    ("[good]\nsize=1M\n\n[bad]\nprotect=never\n", 5, "bad", "protect"),
    ("[good]\n[good]\n", 2, "good", None),
    ("size=1\n", 1, None, "size"),
    ("[x]\nnonsense=1\n", 2, "x", "nonsense"),
    ("[x\n", 1, None, None),
    ("[x]\nfile=relative\n", 2, "x", "file"),
    ("[good]\nsize=1\n[x]\nfile=/nonexistent/file\n", 4, "x", "file"),
    ("[x]\nfile=/dev/null\n", 2, "x", "file"),
    ("[x]\nbase=none\n", 2, "x", "base"),
    ("[x]\nbase=y\n[y]\nbase=x\n", 4, "y", "base"),
    ("[x]\nsize=1G\ncommit=commit\n", 2, "x", "size"),
    ("[.cow/x]\n", 1, None, None),
    ("[good]\n[good/x]\nsize=1\n", 2, "good/x", None),
    ("[x]\nfile=/etc/passwd\nlength=1G\nprotect=readonly\n", 2, "x", "file"),
], ids=range(15))
def test_a_list_with_a_mistake_stops_the_mount(session, place, text, line, group, name):
    """One sentence names the file, the line, the group and the key; nothing is mounted."""
    write(f"{place}/list", text.encode())
    message = refusal(session, place, "size=32M", f"sections={place}/list")
    assert f"{place}/list" in message and f"line {line}" in message
    assert group is None or f"[{group}]" in message
    assert name is None or re.search(rf"\b{name}\b", message.replace(place, ""))


def test_a_list_that_cannot_be_read_stops_the_mount(session, place):
    assert f"{place}/none" in refusal(session, place, f"sections={place}/none")
    assert "sections" in refusal(session, place, "sections=")
    assert place in refusal(session, place, f"sections={place}")


def test_a_list_whose_last_section_cannot_be_made_leaves_files_alone(session, place):
    write(f"{place}/real", b"short")
    write(f"{place}/list", f"[a]\nfile={place}/real\n[b]\nfile={place}/none\n".encode())
    refusal(session, place, f"sections={place}/list")
    assert read(f"{place}/real") == b"short"
