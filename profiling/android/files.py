"""A phone's folder of what was copied there: under the hashes of the contents, reused, and cleaned up.

Several sessions may share the folder. Each says in a file of its own what it uses. What only dead sessions used goes
away when the next one says what it uses.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import socket
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from fleetfoot.errors import DeviceError
from fleetfoot.files import sha256
from profiling.android.adb import Adb

FOLDER = "/data/local/tmp/fleetfoot"
_SESSION = "session-"
_HASH_SECONDS = 120.0
_PARTIAL = ".partial"
_BATCH = 20
_living: set[str] = set()


class PhoneFolder:
    """What one session has on a phone.

    Args:
        adb: the connection.
    """

    def __init__(self, adb: Adb) -> None:
        self._adb = adb
        self._host = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
        self._session = f"{_SESSION}{self._host}-{os.getpid()}-{secrets.token_hex(4)}"
        self._used: set[str] = set()
        _living.add(self._session)

    def use(self, names: Iterable[str]) -> None:
        """Says what this session uses from now on, besides what it used already, and removes what nobody does.

        Args:
            names: files in the folder, there already or not.

        Raises:
            DeviceError: the folder cannot be written to, or the connection is lost.
        """
        self._used |= set(names)
        made = self._adb.run(f"mkdir -p {FOLDER} && cd {FOLDER} && : > {self._session}")
        if made.status:
            raise DeviceError(f"cannot write to {FOLDER} on the device: {_why(made.output)}")
        for said in _batches(self._used):
            self._do(f"cd {FOLDER} && echo {said} >> {self._session}")
        self._tidy()

    def put(self, file: Path, mode: int = 0o644) -> str:
        """The path on the phone of a file's copy, which is made where it is not there already, or is damaged.

        Raises:
            DeviceError: no space, no permission, the copy is damaged, or the connection is lost.
        """
        name = sha256(file)
        remote = f"{FOLDER}/{name}"
        if not self._holds(remote, file, name):
            part = f"{remote}{_PARTIAL}"
            self._adb.push(file, part, mode)
            if not self._holds(part, file, name):
                raise DeviceError(f"the copy of {file.name} on the device is damaged: is its storage full, or failing?")
            self._do(f"mv -f {part} {remote}")
        self._do(f"chmod {mode:o} {remote}")
        return remote

    def get(self, name: str, local: Path) -> None:
        """Copies a file from the folder."""
        self._adb.pull(f"{FOLDER}/{name}", local)

    def drop(self, names: Iterable[str]) -> None:
        """Removes files that only this session uses, now that it has done with them."""
        self._used -= set(names)
        self._do(f"cd {FOLDER} && rm -f {' '.join(names)}")

    def close(self) -> None:
        """Removes what this session alone had there; without a connection the next session does it."""
        _living.discard(self._session)
        if self._adb.lost is None and self._used:
            self._used = set()
            self._tidy()
            self._adb.run(f"rmdir {FOLDER} 2>/dev/null")  # which fails as long as others have something there

    def _holds(self, remote: str, file: Path, name: str) -> bool:
        """Whether a file on the phone has the same content, as far as the phone can tell."""
        tools = " || ".join(f"{tool} {remote} 2>/dev/null" for tool in ("sha256sum", "md5sum", "wc -c"))
        answer = self._adb.run(f"[ -f {remote} ] && ( {tools} )", _HASH_SECONDS)
        told = answer.output.split()[0] if answer.status == 0 and answer.output.split() else ""
        if len(told) == len(name):
            return told == name
        if len(told) == 32:
            with file.open("rb") as content:
                return told == hashlib.file_digest(content, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        return told == str(file.stat().st_size)

    def _tidy(self) -> None:
        """Removes what no living session uses."""
        listed = self._adb.run(f"cd {FOLDER} && for s in {_SESSION}*; do echo $s $(cat $s 2>/dev/null); done; echo; ls")
        sessions, _, present = listed.output.partition("\n\n")
        uses = {words[0]: words[1:] for line in sessions.splitlines() if (words := line.split())}
        old = self._adb.run(f"cd {FOLDER} && find . -name '{_SESSION}*' -mtime +1 2>/dev/null").output.split()
        dead = {name.removeprefix("./") for name in old} | {name for name in uses if is_dead(name, self._host)}
        for gone in _batches(unused(uses, dead, present.split())):
            self._do(f"cd {FOLDER} && rm -f {gone}")

    def _do(self, command: str) -> None:
        if (answer := self._adb.run(command)).status:
            raise DeviceError(f"the device's shell failed: {_why(answer.output)}")


def _batches(names: Iterable[str]) -> Iterator[str]:
    """Names for the shell, few at a time, since older devices take commands of 4 KB at most."""
    ordered = sorted(names)
    for start in range(0, len(ordered), _BATCH):
        yield " ".join(ordered[start : start + _BATCH])


def unused(uses: Mapping[str, Iterable[str]], dead: Iterable[str], present: Iterable[str]) -> list[str]:
    """The files that no living session uses, the dead sessions' own among them.

    Args:
        uses: of each session what it uses.
        dead: the sessions that have ended.
        present: what is there.
    """
    living = {name: used for name, used in uses.items() if name not in set(dead)}
    kept = set(living) | {name for used in living.values() for name in used}
    kept |= {f"{name}{_PARTIAL}" for name in kept}
    return sorted(set(present) - kept)


def is_dead(session: str, host: str) -> bool:
    """Whether a session was this computer's, and its process is no more, or has closed it."""
    parts = session.removeprefix(_SESSION).split("-")
    if len(parts) != 3 or parts[0] != host or not parts[1].isdecimal():
        return False
    if int(parts[1]) == os.getpid():
        return session not in _living
    return not _runs(int(parts[1]))


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # somebody else's
    return True


def _why(output: str) -> str:
    line = next((line.strip() for line in output.splitlines() if line.strip()), "it does not say why")
    if "No space left" in line:
        return "no space left on the device: free some"
    return line
