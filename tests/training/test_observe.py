"""Lines for people, and train.log, which has what the terminal may not show."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from medunet.errors import OutputError, TrainingError
from medunet.training.observe import EpochSummary, log_to


def summary(epoch: int, **keys: object) -> EpochSummary:
    return EpochSummary(epoch, epoch * 10, 0.5, 0.01, 1.0, 2.0, 10.0, 0.1, **keys)  # type: ignore[arg-type]


def test_a_line_for_people_has_the_numbers() -> None:
    line = summary(4, dice_mean=0.75, dice={"liver": 0.75, "cyst": None}, best=True).line()
    assert line == (
        "epoch 4: loss 0.5000, lr 1.00e-02, 1.0 s (10.00 it/s, 10% waiting for data), "
        "validation Dice 0.7500 (liver 0.7500, cyst -), best so far"
    )
    assert summary(4).line().endswith("waiting for data)")


@pytest.fixture
def package_log() -> Iterator[logging.Logger]:
    logger = logging.getLogger("medunet")
    level, handlers = logger.level, logger.handlers[:]
    yield logger
    logger.setLevel(level)
    logger.handlers[:] = handlers


def test_the_log_file_has_more_than_a_quiet_terminal(
    tmp_path: Path, package_log: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    quiet = logging.StreamHandler()
    quiet.setLevel(logging.ERROR)
    package_log.addHandler(quiet)
    package_log.setLevel(logging.WARNING)
    with log_to(tmp_path / "train.log"):
        package_log.info("a fact")
    package_log.info("afterwards")
    assert "INFO a fact" in (tmp_path / "train.log").read_text()
    assert "afterwards" not in (tmp_path / "train.log").read_text()
    assert capsys.readouterr().err == ""
    assert package_log.level == logging.WARNING


def test_what_ended_a_run_is_the_last_line_of_its_log(tmp_path: Path) -> None:
    with pytest.raises(TrainingError), log_to(tmp_path / "train.log"):
        raise TrainingError("The loss became nan.", "Lower it.")
    assert (tmp_path / "train.log").read_text().endswith("ERROR The loss became nan. Lower it.\n")
    with pytest.raises(ZeroDivisionError), log_to(tmp_path / "train.log"):
        raise ZeroDivisionError("a defect")
    assert "Traceback" in (tmp_path / "train.log").read_text()
    with pytest.raises(KeyboardInterrupt), log_to(tmp_path / "train.log"):
        raise KeyboardInterrupt
    assert (tmp_path / "train.log").read_text().endswith("ERROR KeyboardInterrupt\n")


def test_a_log_file_that_cannot_be_made_ends_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"), log_to(tmp_path):
        pass


def test_a_full_disk_does_not_print_tracebacks_for_every_line(
    tmp_path: Path, package_log: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    (tmp_path / "train.log").symlink_to("/dev/full")
    with log_to(tmp_path / "train.log"):
        package_log.info("a fact")
    assert "Traceback" not in capsys.readouterr().err
