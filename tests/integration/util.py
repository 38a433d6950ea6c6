# SPDX-License-Identifier: MIT
"""What the integration tests stand on: processes, mounts, and system calls that Python lacks.

Nothing in here knows what sectionfs is supposed to do; that is in the tests.
Nothing a test makes may outlive it, so everything here is made so that it can be found again:

 - the test session has a mount namespace of its own, so no mount can reach the rest of the system;
 - it is a child subreaper, so whatever a test or a daemon forks stays among its descendants;
 - helper processes and mounts register themselves, and their parents' death kills them.
"""

import collections
import contextlib
import ctypes
import errno
import fcntl
import hashlib
import mmap
import os
import pickle
import re
import select
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import weakref

PAGE = 4096
KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int,
                      ctypes.c_int, ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
libc.msync.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]

CLONE_NEWNS = 0x00020000
MS_NOSUID, MS_BIND, MS_MOVE, MS_REC, MS_PRIVATE = 2, 4096, 8192, 16384, 1 << 18
MNT_DETACH = 2
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER = 1, 4, 36
MADV_DONTFORK, MADV_PAGEOUT = 10, 21
FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE, FALLOC_ZERO_RANGE = 1, 2, 16
RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT = 1, 2, 4
AT_FDCWD, AT_SYMLINK_FOLLOW = -100, 0x400

User = collections.namedtuple("User", "name uid gid")


# --- System calls -----------------------------------------------------------------------------

def check(result, what=None):
    """A C return value that means failure becomes an OSError."""
    if result in (-1, ctypes.c_void_p(-1).value):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), what)
    return result


def mount(source, target, kind, flags=0, data=None):
    encode = lambda text: None if text is None else os.fsencode(text)
    check(libc.mount(encode(source), encode(target), encode(kind), ctypes.c_ulong(flags),
                     encode(data)), target)


def umount(target, flags=0):
    check(libc.umount2(os.fsencode(target), flags), target)


def prctl(option, value):
    check(libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0))


def fallocate(fd, mode, offset, length):
    check(libc.fallocate(fd, mode, offset, length))


def punch(fd, offset, length):
    fallocate(fd, FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE, offset, length)


def renameat2(old, new, flags):
    check(libc.renameat2(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), flags), old)


def link_fd(fd, path):
    """Gives a name to an open file, as linkat with AT_SYMLINK_FOLLOW on /proc/self/fd does."""
    check(libc.linkat(AT_FDCWD, b"/proc/self/fd/%d" % fd, AT_FDCWD, os.fsencode(path),
                      AT_SYMLINK_FOLLOW), path)


def extents(path):
    """The physical extents of a file, or None where its filesystem does not tell. One that is told in
    pieces, because clones share some of it for as long as they are not gone, is one."""
    with open(path, "rb") as file:
        room = 512
        request = bytearray(struct.pack("=QQIIII", 0, (1 << 64) - 1, 1, 0, room, 0))
        request.extend(bytes(56 * room))
        try:
            fcntl.ioctl(file, 0xC020660B, request)          # FS_IOC_FIEMAP
        except OSError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.ENOTTY):
                return None
            raise
    count = struct.unpack_from("=QQIIII", request)[3]
    found = []
    for i in range(count):
        logical, physical, length = struct.unpack_from("=QQQ", request, 32 + 56 * i)
        if found and (logical, physical) == (sum(found[-1][::2]), sum(found[-1][1:])):
            found[-1] = (*found[-1][:2], found[-1][2] + length)
        else:
            found.append((logical, physical, length))
    return found


class View:
    """A mapping that holds no descriptor. (The mmap module keeps a duplicate of its own, which
    would be one more handle: wherever the last close matters, this is the one to use.)"""

    def __init__(self, fd, length, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ | mmap.PROT_WRITE,
                 offset=0, inherited=False):
        self.length = length
        self.address = check(libc.mmap(None, length, prot, flags, fd, offset))
        if not inherited:
            check(libc.madvise(self.address, length, MADV_DONTFORK))
        mappings.add(self)

    def read(self, offset, length):
        assert 0 <= offset <= offset + length <= self.length
        return ctypes.string_at(self.address + offset, length)

    def write(self, offset, data):
        assert 0 <= offset <= offset + len(data) <= self.length
        ctypes.memmove(self.address + offset, data, len(data))

    def sync(self):
        check(libc.msync(self.address, self.length, 4))     # MS_SYNC

    def advise(self, advice):
        check(libc.madvise(self.address, self.length, advice))

    def close(self):
        if self.address is not None:
            check(libc.munmap(self.address, self.length))
            self.address = None


mappings = weakref.WeakSet()


def mapped(fd, length, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ | mmap.PROT_WRITE, offset=0):
    """mmap.mmap, remembered so that a failed test lets go of it, and not inherited by children."""
    result = mmap.mmap(fd, length, flags, prot, offset=offset)
    result.madvise(MADV_DONTFORK)
    mappings.add(result)
    return result


# --- Small helpers ----------------------------------------------------------------------------

def pattern(seed, length=PAGE):
    """Bytes that no other seed gives and that never repeat at a page's distance."""
    return hashlib.shake_128(repr(seed).encode()).digest(length)


def sha(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(MIB):
            digest.update(chunk)
    return digest.hexdigest()


def read(path):
    with open(path, "rb") as file:
        return file.read()


def write(path, data):
    """Creates or overwrites. Nothing else touches the file, so no buffering surprises."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        write_all(fd, data)
    finally:
        os.close(fd)


def write_all(fd, data):
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left):]


@contextlib.contextmanager
def opened(path, flags=os.O_RDWR, mode=0o666):
    fd = os.open(path, flags, mode)
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def refused(*codes):
    """The block must fail with an OSError of one of these errno values."""
    want = "/".join(errno.errorcode[code] for code in codes)
    try:
        yield
    except OSError as error:
        got = errno.errorcode.get(error.errno, str(error.errno))
        assert error.errno in codes, f"refused with {got} instead of {want}: {error}"
    else:
        raise AssertionError(f"succeeded instead of being refused with {want}")


def eventually(condition, timeout=10, what=None):
    """Polls until the condition is true; returns its value. AssertionErrors count as not yet."""
    end = time.monotonic() + timeout
    delay = 0.001
    while True:
        problem = None
        try:
            value = condition()
            if value:
                return value
        except AssertionError as error:
            problem = error
        if time.monotonic() > end:
            if problem is not None:
                raise problem
            raise AssertionError(f"not within {timeout} s: {what or condition}")
        time.sleep(delay)
        delay = min(delay * 2, 0.05)


def pairs(text):
    """Text made of "key: value" lines as a dict; whole numbers as int."""
    result = {}
    for line in text.splitlines():
        key, colon, value = line.partition(": ")
        if not colon:
            key, colon, value = line.partition(":")
        assert colon, f"not a 'key: value' line: {line!r}"
        result.setdefault(key, int(value) if re.fullmatch(r"-?\d+", value) else value)
    return result


def run(*command, user=None, groups=(), timeout=60, ok=True, **options):
    """Runs a program to its end, as another user if told; its output is text."""
    if user is not None:
        options.update(user=user.uid, group=user.gid, extra_groups=list(groups))
    options.setdefault("env", clean_environment())
    options.setdefault("stdin", subprocess.DEVNULL)
    result = subprocess.run([str(word) for word in command], capture_output=True, text=True,
                            timeout=timeout, **options)
    if ok:
        assert result.returncode == 0, (f"{' '.join(map(str, command))}: status "
                                        f"{result.returncode}: {result.stderr or result.stdout}")
    return result


def clean_environment():
    keep = {key: value for key, value in os.environ.items()
            if key.endswith("SAN_OPTIONS") or key.startswith(("G_", "LSAN", "GCOV", "LD_"))}
    path = os.environ.get("PATH", "")
    return {**keep, "PATH": f"{path}:/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin",
            "LC_ALL": "C", "TZ": "UTC"}


def meminfo(key):
    """A /proc/meminfo value in bytes."""
    with open("/proc/meminfo") as file:
        for line in file:
            if line.startswith(key + ":"):
                return int(line.split()[1]) * KIB
    raise KeyError(key)


# --- Processes --------------------------------------------------------------------------------

def process_table():
    """{pid: (parent, state, start time)}"""
    table = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                with open(f"/proc/{name}/stat") as file:
                    fields = file.read().rpartition(")")[2].split()
                table[int(name)] = (int(fields[1]), fields[0], int(fields[19]))
    return table


def descendants(root):
    """{(pid, start time)} of every living process below root. Zombies count as dead."""
    table = process_table()
    found, frontier = set(), {root}
    while frontier:
        frontier = {pid for pid, row in table.items() if row[0] in frontier and pid not in found}
        found |= frontier
    return {(pid, table[pid][2]) for pid in found if table[pid][1] not in "ZX"}


def identity(pid):
    row = process_table().get(pid)
    return None if row is None or row[1] in "ZX" else (pid, row[2])


def threads_below(root):
    """What every thread of every process below root is doing in the kernel, as text."""
    lines = []
    table = process_table()
    for pid, _ in sorted(descendants(root)):
        with contextlib.suppress(OSError):
            with open(f"/proc/{pid}/cmdline") as file:
                lines.append(f"process {pid} of {table[pid][0]}: "
                             + file.read().replace("\0", " ")[:200])
            for task in sorted(os.listdir(f"/proc/{pid}/task"), key=int):
                lines.append(f"  {task} " + _thread(f"/proc/{pid}/task/{task}"))
    return "\n".join(lines)


def _thread(path):
    said = []
    for name in "comm", "stat", "wchan", "syscall", "stack":
        try:
            with open(f"{path}/{name}") as file:
                text = file.read().strip()
        except OSError as error:
            text = os.strerror(error.errno)
        if name == "stat":
            text = text.rpartition(")")[2].split()[0]
        said.append(text.replace("\n", "\n      "))
    return " ".join(said[:4]) + "\n      " + said[4]


def alive(process):
    return identity(process[0]) == process


def kill(pid, number=signal.SIGKILL):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def reap(pids):
    """Collects orphans that have come to this process, their subreaper."""
    for pid in pids:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


class ChildDied(Exception):
    """A child process ended in the middle of a step. status: as in subprocess (-9: SIGKILL)."""

    def __init__(self, status):
        super().__init__(f"the child process ended with status {status}")
        self.status = status


def become(user, groups, keep):
    """In a new child: die with the parent, hold no descriptor of its, be the right user."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)
    keep = {0, 1, 2, *keep}
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in keep:
            with contextlib.suppress(OSError):
                os.close(int(name))
    if user is not None:
        os.setgroups(list(groups))
        os.setgid(user.gid)
        os.setuid(user.uid)
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)             # changing the uid has cleared it
        prctl(PR_SET_DUMPABLE, 1)               # and hidden it from the user's other processes
    os.umask(0o022)


def portable(error):
    """An exception that can be sent to the parent, with its traceback as a note."""
    text = "".join(traceback.format_exception(error))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        error = RuntimeError(f"{type(error).__name__}: {error}")
    error.add_note("in the child process:\n" + text)
    return error


class Child:
    """A process of its own, driven a step at a time. Its variables stay from one step to the next.

        child.do("fd = os.open(path, os.O_RDWR)", path=...)
        child.get("os.read(fd, 5)")

    An exception in the child is raised here. The child is forked, so it has every name of this
    module, but none of this process's descriptors (but those in keep), and none of its mappings
    (but those made as inherited). names: its first variables.
    """

    all = set()

    def __init__(self, user=None, groups=(), keep=(), names=None):
        self.user = user
        self.socket, other = socket.socketpair()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                become(user, groups, [other.fileno(), *keep])
                self._serve(other, dict(globals(), **names or {}))
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)
        other.close()
        self.socket.settimeout(60)
        self.status = None
        self.all.add(self)

    def _serve(self, sock, names):
        while True:
            kind, code, variables = self._receive(sock)
            names.update(variables)
            try:
                if kind == "fd":
                    names[code] = socket.recv_fds(sock, 1, 1)[1][0]
                    value = None
                elif kind == "get":
                    value = eval(code, names)
                else:
                    value = exec(code, names)
                answer = (True, value)
            except BaseException as error:
                answer = (False, portable(error))
            self._send(sock, answer)

    @staticmethod
    def _send(sock, value):
        data = pickle.dumps(value)
        sock.sendall(struct.pack("=I", len(data)) + data)

    @staticmethod
    def _receive(sock):
        def exactly(count):
            data = b""
            while len(data) < count:
                more = sock.recv(count - len(data))
                if not more:
                    raise EOFError
                data += more
            return data
        return pickle.loads(exactly(struct.unpack("=I", exactly(4))[0]))

    def begin(self, code, _kind="do", **variables):
        """Starts a step without waiting for it."""
        try:
            self._send(self.socket, (_kind, code, variables))
        except BrokenPipeError:
            raise ChildDied(self.wait()) from None

    def finish(self):
        """Waits for the step that begin started and returns its value."""
        __tracebackhide__ = True
        try:
            good, value = self._receive(self.socket)
        except (EOFError, ConnectionResetError):
            raise ChildDied(self.wait()) from None
        if not good:
            raise value
        return value

    def do(self, code, **variables):
        __tracebackhide__ = True
        self.begin(code, **variables)
        self.finish()

    def get(self, expression, **variables):
        __tracebackhide__ = True
        self.begin(expression, _kind="get", **variables)
        return self.finish()

    def give(self, fd, name):
        """Sends a descriptor (SCM_RIGHTS); the child has it as the variable name."""
        self.begin(name, _kind="fd")
        socket.send_fds(self.socket, [b"."], [fd])
        self.finish()

    def wait(self):
        if self.status is None:
            self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            self.socket.close()
            self.all.discard(self)
        return self.status

    def kill(self, number=signal.SIGKILL):
        if self.status is None:
            kill(self.pid, number)
            self.wait()


def call(function, *arguments, user=None, groups=(), timeout=120, keep=()):
    """Runs a function in a forked child, as another user if told; returns or raises what it did."""
    __tracebackhide__ = True
    sys.stdout.flush()
    sys.stderr.flush()
    out, into = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            become(user, groups, [into, *keep])
            try:
                answer = (True, function(*arguments))
            except BaseException as error:
                answer = (False, portable(error))
            with os.fdopen(into, "wb") as file:
                file.write(pickle.dumps(answer))
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(into)
    data = b""
    end = time.monotonic() + timeout
    try:
        with os.fdopen(out, "rb", buffering=0) as file:
            while True:
                if not select.select([file], [], [], max(0, end - time.monotonic()))[0]:
                    raise TimeoutError(f"{function} took more than {timeout} s in a child")
                chunk = file.read(65536)
                if not chunk:
                    break
                data += chunk
    except BaseException:
        kill(pid)
        raise
    finally:
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if not data:
        raise ChildDied(status)
    good, value = pickle.loads(data)
    if not good:
        raise value
    return value


def let_go(path):
    """Drops what this process still holds below path: children, mappings, descriptors."""
    for child in list(Child.all):
        child.kill()
    for mapping in list(mappings):
        with contextlib.suppress(BufferError, OSError):
            mapping.close()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            target = os.readlink(f"/proc/self/fd/{name}")
            if target == path or target.startswith(path + "/"):
                os.close(int(name))


class Watchdog:
    """A process that ends the daemons of a test that hangs. A thread could not: a page fault that
    the daemon never answers blocks with Python's global lock held. Once the daemons are gone the
    kernel fails every request that waits, and the test fails as it should."""

    def __init__(self):
        ours, theirs = socket.socketpair()
        self.parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                become(None, (), [theirs.fileno()])
                signal.signal(signal.SIGINT, signal.SIG_IGN)
                self._watch(theirs)
            finally:
                os._exit(0)
        theirs.close()
        self.socket = ours

    def arm(self, seconds):
        self.socket.sendall(b"%d\n" % seconds)

    def disarm(self):
        self.arm(0)

    def stop(self):
        self.socket.close()
        os.waitpid(self.pid, 0)

    def _watch(self, sock):
        end = None
        while True:
            wait = None if end is None else max(0, end - time.monotonic())
            if select.select([sock], [], [], wait)[0]:
                data = sock.recv(4096)
                if not data:
                    return
                seconds = int(data.split()[-1])
                end = time.monotonic() + seconds if seconds else None
            else:
                end = None
                os.write(2, b"\nwatchdog: this test hangs; ending its processes\n")
                for pid, _ in sorted(descendants(self.parent)):
                    if pid != os.getpid():
                        kill(pid)


# --- Mounts -----------------------------------------------------------------------------------

def mounts_at(path):
    """[(type, source, options)] of everything mounted on exactly this path, undermost first."""
    found = []
    with open("/proc/self/mountinfo") as file:
        for line in file:
            left, _, right = line.rstrip("\n").partition(" - ")
            fields = left.split(" ")
            where = re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), fields[4])
            if where == path:
                kind, source, options = right.split(" ", 2)
                found.append((kind, source, fields[5] + "," + options))
    return found


def mount_ids():
    with open("/proc/self/mountinfo") as file:
        return {line.split(" ")[0] for line in file}


def mounts_below(path):
    with open("/proc/self/mountinfo") as file:
        where = [line.split(" ")[4] for line in file]
    where = [re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), name) for name in where]
    return [name for name in where if name == path or name.startswith(path + "/")]


class Programs:
    """The binaries under test. The unprivileged user gets a copy, since the build tree may lie
    in a folder that only its owner can enter."""

    def __init__(self, public):
        self.sectionfs = self._find("SECTIONFS", "sectionfs")
        self.sectionctl = self._find("SECTIONCTL", "sectionctl")
        self.public = public

    @staticmethod
    def _find(variable, name):
        top = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        for place in (os.environ.get(variable), os.path.join(top, name),
                      os.path.join(top, "src", name), shutil.which(name)):
            if place and os.access(place, os.X_OK):
                return os.path.abspath(place)
        return None

    def for_user(self, path):
        copy = os.path.join(self.public, os.path.basename(path))
        if not os.path.exists(copy):
            shutil.copyfile(path, copy)
            os.chmod(copy, 0o755)
        return copy


class Mount:
    """One running sectionfs, in the foreground unless told otherwise, with its log in a file."""

    # What no daemon may ever say, whatever is asked of it.
    BAD_LOG = re.compile(r"WARNING|CRITICAL|ERROR|\b[Aa]ssert|Sanitizer|runtime error:")

    def __init__(self, programs, path, log, mode="passthrough", options="", user=None,
                 background=False, arguments=()):
        self.path, self.log, self.mode, self.user = path, log, mode, user
        self.background = background
        self.log_is_fine = None         # a pattern of bad lines that a test has provoked
        self.status = None
        self.known = set()              # every process of this mount that was ever seen
        self.process = None
        self.keeper = None              # its pid, once started
        words = [options] if options else []
        if mode == "cached":
            words.insert(0, "passthrough=off")
        binary = programs.for_user(programs.sectionfs) if user else programs.sectionfs
        self.command = [binary, path, *(["-f"] if not background else []), *arguments]
        if words:
            self.command += ["-o", ",".join(words)]

    def __truediv__(self, name):
        return f"{self.path}/{name}"

    def cow(self, name):
        return f"{self.path}/.cow/{name}"

    def info(self, name):
        return f"{self.path}/.info/{name}"

    def start(self):
        options = {}
        if self.user:
            options = {"user": self.user.uid, "group": self.user.gid, "extra_groups": []}
        if self.background:
            result = run(*self.command, timeout=30, **(
                {"user": self.user} if self.user else {}))
            assert mounts_at(self.path), "exit status 0, but nothing is mounted"
            self.keeper = self.stats()["keeper_pid"]
            with open(self.log, "w") as log:
                log.write(result.stderr)
        else:
            with open(self.log, "wb") as log:
                self.process = subprocess.Popen(
                    self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/",
                    env=clean_environment(),
                    preexec_fn=lambda: prctl(PR_SET_PDEATHSIG, signal.SIGTERM), **options)
            self.keeper = self.process.pid
            eventually(self._mounted, 30, "the mount did not come up")
        self.note_processes()
        return self

    def _mounted(self):
        if self.process.poll() is not None:
            raise RuntimeError(f"{' '.join(self.command)}: ended with status "
                               f"{self.process.returncode} before it was mounted:\n"
                               + self.log_text())
        return "serving" in self.log_text()      # said once the mount answers

    def note_processes(self):
        own = identity(self.keeper)
        if own:
            self.known |= {own} | descendants(self.keeper)

    def log_text(self):
        if not os.path.exists(self.log):        # in the background, or never started
            return ""
        with open(self.log, errors="replace") as file:
            return file.read()

    def run(self, function, *arguments, **options):
        """Runs a function in a child that may use the mount: as its owner if that is not root."""
        __tracebackhide__ = True
        return call(function, *arguments, user=self.user, **options)

    def child(self, **options):
        return Child(user=self.user, **options)

    def tool(self, *command, **options):
        return run(*command, user=self.user, **options)

    @contextlib.contextmanager
    def stopped(self):
        """It does not answer meanwhile."""
        pid = self.stats()["worker_pid"]
        os.kill(pid, signal.SIGSTOP)

        def has_stopped():
            return all(read(f"/proc/{pid}/task/{thread}/stat").rsplit(b")", 1)[1].split()[0] == b"T"
                       for thread in os.listdir(f"/proc/{pid}/task"))

        try:
            eventually(has_stopped)
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def stats(self):
        if self.user:
            return pairs(self.tool("cat", self / ".stats").stdout)
        with open(self / ".stats") as file:
            return pairs(file.read())

    def settled(self, before, *keys, timeout=15):
        """Waits until these figures of .stats are back where they were: the kernel tells the
        daemon of a last close after close has returned."""
        keys = keys or ("handles", "sections", "size_used", "size_overlays")

        def back():
            now = self.stats()
            assert {k: now[k] for k in keys} == {k: before[k] for k in keys}
            return True
        eventually(back, timeout)

    def wait_gone(self, timeout=15):
        """Waits until the daemon has ended by itself; complains as stop does."""
        return self._finish(timeout)

    def stop(self, number=signal.SIGTERM, timeout=20):
        """Ends the daemon. Returns what was not as it should be, as a list of sentences."""
        let_go(self.path)
        self.note_processes()
        if any(alive(process) and process[0] == self.keeper for process in self.known):
            kill(self.keeper, number)
        return self._finish(timeout)

    def _finish(self, timeout):
        problems = []
        end = time.monotonic() + timeout

        def left():
            if self.process:
                self.process.poll()
                reap(pid for pid, _ in self.known if pid != self.process.pid)
            else:
                reap(pid for pid, _ in self.known)
            return [process for process in self.known if alive(process)]
        while (left() or mounts_at(self.path)) and time.monotonic() < end:
            if not left():
                end = min(end, time.monotonic() + 1)    # nobody is there who could still unmount
            time.sleep(0.005)
        for pid, _ in left():
            problems.append(f"process {pid} of the mount was still there after {timeout} s")
            kill(pid)
        if self.process:
            try:
                self.status = self.process.wait(10)
            except subprocess.TimeoutExpired:
                problems.append("the daemon could not even be killed")
        while mounts_at(self.path):
            problems.append(f"{self.path} was still mounted")
            umount(self.path, MNT_DETACH)
        eventually(lambda: not left(), 10)
        return problems

    def log_problems(self):
        lines = [line for line in self.log_text().splitlines() if self.BAD_LOG.search(line)
                 and not (self.log_is_fine and re.search(self.log_is_fine, line))]
        return [f"in the daemon's log: {line}" for line in lines[:10]]


class TmpfsMount:
    """A plain tmpfs with the same face, to try the tests themselves (--reference)."""

    mode, user = "tmpfs", None

    def __init__(self, path, options=""):
        self.path, self.options = path, options

    __truediv__ = Mount.__truediv__
    run, child, tool = Mount.run, Mount.child, Mount.tool

    def start(self):
        mount("tmpfs", self.path, "tmpfs", 0, self.options or None)
        os.chmod(self.path, 0o1777)
        return self

    def stop(self):
        let_go(self.path)
        umount(self.path)
        return []

    def log_problems(self):
        return []


# --- The session ------------------------------------------------------------------------------

def private_namespace():
    """From here on no mount made by this process or its children is seen by anybody else."""
    check(libc.unshare(CLONE_NEWNS))
    mount(None, "/", None, MS_REC | MS_PRIVATE)


def public_fuse_device(directory):
    """Where no udev runs, only root may open /dev/fuse. In this namespace, everybody may.
    Returns why not, or None."""
    try:
        mode = os.stat("/dev/fuse").st_mode
        if not stat.S_ISCHR(mode):
            return "/dev/fuse is no device"
        if mode & 0o666 == 0o666:
            return None
        place = os.path.join(directory, "dev")
        os.mkdir(place)
        mount("tmpfs", place, "tmpfs", MS_NOSUID, "size=64k,mode=755")
        node = os.path.join(place, "fuse")
        os.mknod(node, stat.S_IFCHR | 0o666, os.stat("/dev/fuse").st_rdev)
        os.chmod(node, 0o666)
        mount(node, "/dev/fuse", None, MS_BIND)
        return None
    except OSError as error:
        return f"/dev/fuse cannot be opened to everybody: {error}"


def add_user():
    """A user for this session alone. Those of sessions that were killed are removed first."""
    prefix = "sfstest"
    with open("/etc/passwd") as file:
        names = [line.split(":")[0] for line in file]
    for name in names:
        if re.fullmatch(prefix + r"\d+", name) and not os.path.exists(
                "/proc/" + name[len(prefix):]):
            run("userdel", name, ok=False)
    name = f"{prefix}{os.getpid()}"
    run("useradd", "--system", "--no-create-home", "--user-group", "--shell", "/usr/sbin/nologin",
        name)
    with open("/etc/passwd") as file:
        for line in file:
            fields = line.split(":")
            if fields[0] == name:
                return User(name, int(fields[2]), int(fields[3]))
    raise RuntimeError("useradd said yes, but there is no such user")


def remove_user(user):
    run("userdel", user.name, ok=False)


def work_directory():
    """On a disk: it has to hold a swap file, sparse files and files with extents."""
    base = os.environ.get("SECTIONFS_TEST_DIR", "/var/tmp")
    path = os.path.realpath(tempfile.mkdtemp(prefix="sectionfs-test-", dir=base))
    os.chmod(path, 0o755)
    return path
