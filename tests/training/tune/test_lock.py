"""One process holds a lock, and the system lets go of it however that process ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from medunet.errors import OutputError
from medunet.training.tune.lock import Lock

HOLD = """
import sys
from pathlib import Path
from medunet.training.tune.lock import Lock
print(Lock(Path(sys.argv[1])).try_take(), flush=True)
sys.stdin.read()
"""


def test_a_lock_is_held_until_its_process_is_gone(tmp_path: Path) -> None:
    lock = Lock(tmp_path / "below" / "one")
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(lock.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        lock.path.parent.mkdir(exist_ok=True)
        assert other.stdout.readline() == "True\n"
        assert not lock.try_take()
        other.kill()
        other.wait()
        assert lock.try_take()
        lock.release()
        lock.release()


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        Lock(tmp_path / "file" / "one").try_take()
