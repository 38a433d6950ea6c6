# SPDX-License-Identifier: MIT
"""The kill points of the build with faults: which sites are passed, and where a worker is to end.

The file that both sides have mapped is laid out in ../faults/points.h, as PointsFile."""

import mmap
import os
import struct
import subprocess

MAGIC = 0x31746e696f507353
SITES, FRAMES, KILLS = 1 << 15, 13, 64
HEADER = struct.Struct("=Q6I")                      # magic instrumented full order armed next -
KILL = struct.Struct("=Qq")                         # key left
SITE = struct.Struct(f"=QIII{FRAMES}I")             # key passed order next frames
INSTRUMENTED, FULL, ORDER, ARMED, NEXT = range(8, 28, 4)
SITES_AT = HEADER.size + KILLS * KILL.size
AFTER = 1 << 31
ANY = 0


class Points:
    def __init__(self, path, program):
        self.path, self.program = path, program
        self.frames = {}                            # by key
        with open(path, "w+b") as file:
            file.truncate(SITES_AT + SITES * SITE.size)
            self.map = mmap.mmap(file.fileno(), 0)
        struct.pack_into("=Q", self.map, 0, MAGIC)

    def _get(self, at):
        return struct.unpack_from("=I", self.map, at)[0]

    def _set(self, at, value):
        struct.pack_into("=I", self.map, at, value)

    @property
    def instrumented(self):
        return self._get(INSTRUMENTED) != 0

    def seen(self):
        """How many sites were passed for the first time: when it changes there are new ones."""
        return self._get(ORDER)

    def sites(self):
        """Those that were passed, in order: [(key, how often, after how many of the kills)]."""
        assert not self._get(FULL), "there are more sites than there is room for"
        found = []
        for key, passed, order, after, *frames in SITE.iter_unpack(self.map[SITES_AT:]):
            if key != 0:
                self.frames[key] = frames
                found.append((order, key, passed, after))
        return [entry for _, *entry in sorted(found)]

    def arm(self, *kills):
        """The worker ends at these, one after the other: (site, at which time from then on)."""
        self.disarm()
        for n, kill in enumerate(kills):
            KILL.pack_into(self.map, HEADER.size + n * KILL.size, *kill)
        self._set(NEXT, 0)
        self._set(ARMED, len(kills))

    def disarm(self):
        """How many of them there were."""
        self._set(ARMED, 0)
        return self._get(NEXT)

    def describe(self, key):
        """Where it is: the place, and the calls that led there."""
        if key == ANY:
            return "  any"
        first, *rest = self.frames[key]
        frames = [first & ~AFTER] + [frame for frame in rest if frame]
        text = "  %016x%s\n" % (key, " (after it)" if first & AFTER else "")
        try:
            # What is returned to is behind the call.
            said = subprocess.run(["addr2line", "-fpse", self.program,
                                   *[f"{frame - 1:x}" for frame in frames]],
                                  capture_output=True, text=True).stdout
        except FileNotFoundError:
            said = "\n".join(f"{frame:x}" for frame in frames)
        return text + "".join(f"    {line}\n" for line in said.splitlines())
