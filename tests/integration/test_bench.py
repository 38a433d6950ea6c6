# SPDX-License-Identifier: MIT
"""The comparison of copy-on-write views with what one would take instead runs, and tells figures.
What they are is not judged here."""

import json
import os
import sys

import pytest

from util import run

HERE = os.path.dirname(os.path.abspath(__file__))
SHORT = ("--sizes", "1", "--steady", "10", "--rounds", "1", "--seconds", "0.01",
         "--write-seconds", "0.01")


def compare(session, place, *words, ok=True):
    sectionfs = session.programs.sectionfs
    turns = f"{os.path.dirname(sectionfs)}/bench/turns"
    if not os.access(turns, os.X_OK):
        pytest.skip(f"there is no {turns}: make bench has one")
    return run(sys.executable, f"{HERE}/../../bench/cow", "--sectionfs", sectionfs, "--turns", turns,
               "--place", place, *words, ok=ok, timeout=100)


def test_overlays_and_native_files_are_compared(session, place):
    session.watchdog.arm(120)
    result = compare(session, place, *SHORT, "--only", "sectionfs overlay", "--json", f"{place}/figures")
    assert "random write, 4 KiB" in result.stdout and "Bars" in result.stdout
    with open(f"{place}/figures") as file:
        figures = json.load(file)
    assert set(figures["systems"]) == {"native", "sectionfs overlay"}
    assert figures["systems"]["sectionfs overlay"]["first_write_rounds"]
    assert figures["bars"]
    assert os.listdir(place) == ["figures"]             # nothing is left


def test_mistakes_are_told(session, place):
    result = compare(session, place, "--steady", "3", ok=False)
    assert result.returncode == 2
    assert "--steady must be two MiB" in result.stderr
