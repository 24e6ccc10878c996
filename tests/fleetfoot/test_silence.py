from __future__ import annotations

import os

import pytest

from fleetfoot.silence import silenced


def test_what_libraries_write_to_standard_error_is_kept_back(capfd: pytest.CaptureFixture[str]) -> None:
    with silenced() as written:
        os.write(2, b"chatter from C++\n")
        assert written() == "chatter from C++"
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "after\n"


def test_standard_error_is_back_after_a_failure(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyError), silenced():
        os.write(2, b"chatter\n")
        raise KeyError
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "after\n"


def test_silence_inside_silence_keeps_each_its_own(capfd: pytest.CaptureFixture[str]) -> None:
    with silenced() as outer:
        with silenced() as inner:
            os.write(2, b"deep")
            assert inner() == "deep"
        os.write(2, b"shallow")
        assert outer() == "shallow"
    assert capfd.readouterr().err == ""


def test_no_file_descriptor_stays_open() -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with silenced():
            pass
    assert len(os.listdir("/proc/self/fd")) == before
