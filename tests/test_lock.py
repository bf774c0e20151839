"""One process at a time in a folder."""

import errno
import fcntl
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from genint.manifests.errors import UsageError
from genint.manifests.lock import only_process

HOLD = """
import os, sys, time
from pathlib import Path
from genint.manifests.lock import only_process
with only_process(Path(sys.argv[1]), "busy"):
    child = os.fork()
    if child:
        print(child, flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_told_who_is_there_since_when_and_a_surviving_child_keeps_nobody_out(
    tmp_path: Path,
) -> None:
    path = tmp_path / "lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    child = int(holder.stdout.readline())
    described = rf"^busy \(process {holder.pid} on .+, since 20\d\d-\d\d-\d\d [\d:]+ UTC\)$"
    with pytest.raises(UsageError, match=described), only_process(path, "busy"):
        pass
    holder.kill()
    holder.wait()
    os.kill(child, 0)  # still there, with a descriptor of the file
    with only_process(path, "busy"):
        pass
    os.kill(child, 9)
    holder.stdout.close()


def test_the_own_process_is_kept_out_too_and_the_file_is_empty_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "new" / "lock"
    with only_process(path, "busy"):
        with pytest.raises(UsageError, match=rf"busy \(process {os.getpid()} on "), only_process(path, "busy"):
            pass
        assert path.read_bytes()
    assert path.read_bytes() == b""
    with only_process(path, "busy"):
        pass


def test_a_file_system_without_locks_is_named_and_work_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_lock(*arguments: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "lockf", no_lock)
    with only_process(tmp_path / "lock", "busy"):
        pass
    assert re.search(rf"warning: {tmp_path}/lock: no locks on this file system", capsys.readouterr().err)
