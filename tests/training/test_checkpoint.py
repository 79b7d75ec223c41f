"""Checkpoints come back as they were saved, or in a sentence; the old one stays until the new one is whole."""

from __future__ import annotations

import pickle
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from medunet.errors import OutputError, TrainingError
from medunet.training.checkpoint import load_checkpoint, save_checkpoint

CPU = torch.device("cpu")


def test_tensors_and_numbers_come_back(tmp_path: Path) -> None:
    state = {"network": {"w": torch.arange(5.0)}, "progress": {"iteration": 3, "best": None, "losses": [0.5, 0.25]}}
    save_checkpoint(tmp_path / "new" / "last.pt", state)
    found = load_checkpoint(tmp_path / "new" / "last.pt", CPU)
    assert torch.equal(found["network"]["w"], state["network"]["w"])  # type: ignore[index]
    assert found["progress"] == state["progress"]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["last.pt"]


@pytest.mark.parametrize("keep", [0, 3, 200, -1], ids=["empty", "three bytes", "the head", "all but the last byte"])
def test_a_cut_off_file_is_refused(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"network": {"w": torch.zeros(1000)}})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(TrainingError, match="cannot be read: it is cut off"):
        load_checkpoint(path, CPU)


def test_a_changed_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"network": {"w": torch.full((1000,), 3.14)}})
    content = bytearray(path.read_bytes())
    place = content.find(torch.full((4,), 3.14).numpy().tobytes())
    content[place + 5] ^= 1
    path.write_bytes(content)
    with pytest.raises(TrainingError, match="cannot be read"):
        load_checkpoint(path, CPU)


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.write_text, (Path("evil"), "code was run"))


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"version": 1, "network": Evil()}, tmp_path / "last.pt")
    with pytest.raises(TrainingError, match="cannot be read"):
        load_checkpoint(tmp_path / "last.pt", CPU)
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(TrainingError, match="cannot be read"):
        load_checkpoint(tmp_path / "plain.pt", CPU)
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("content", [{"version": 99}, {"network": {}}, [1, 2]])
def test_another_version_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "last.pt")
    with pytest.raises(TrainingError, match="has version"):
        load_checkpoint(tmp_path / "last.pt", CPU)


FULL = """
import resource, sys, torch
from pathlib import Path
from medunet.errors import OutputError
from medunet.training.checkpoint import save_checkpoint

resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    save_checkpoint(Path(sys.argv[1]), {"w": torch.zeros(1_000_000)})
except OutputError as error:
    print(error)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="needs a limit on file sizes")
def test_a_file_that_cannot_grow_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    assert resource.RLIMIT_FSIZE
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"w": torch.ones(3)})
    done = subprocess.run([sys.executable, "-c", FULL, path], capture_output=True, text=True, check=True)
    assert "last.pt cannot be written: File too large" in done.stdout
    assert torch.equal(load_checkpoint(path, CPU)["w"], torch.ones(3))
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.pt"]


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"w": torch.ones(3)})

    def full(*_: object) -> None:
        raise RuntimeError("unexpected pos 64 vs 0") from None

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OutputError, match="the previous checkpoint is still there"):
        save_checkpoint(path, {"w": torch.zeros(3)})
    assert torch.equal(load_checkpoint(path, CPU)["w"], torch.ones(3))
