"""What the models say of the series that they want, and what a report says of whose images they were."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import yaml

from medunet.demo.dicom_export import write_ct_export
from medunet.errors import DicomError, ModelError
from medunet.geometry import Geometry
from medunet.inference.batch import Options, predict
from medunet.inference.identity import as_filed
from medunet.inference.inputs import find_inputs
from medunet.inference.predictor import Predictor, check_together
from medunet.inference.report import CaseReport
from medunet.io.selection import Selection
from medunet.model import Model, load_model
from medunet.model.spec import parse_spec, spec_text

LPS = ((-1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, 1.0))


@pytest.fixture
def study(tiny_dataset: Path, tmp_path: Path) -> Path:
    """The same patient twice, as two series of one size."""
    image = nibabel.load(tiny_dataset / "imagesTr" / "case_01.nii.gz")
    grid = Geometry(image.shape, (1.5, 1.5, 2.0), (5.0, -3.0, 9.0), LPS)
    for number, description in enumerate(("portal", "native")):
        write_ct_export(np.asarray(image.dataobj), grid, tmp_path / f"{number}", seed=number, description=description)
    folder = tmp_path / "study"
    for number in range(2):
        shutil.copytree(tmp_path / f"{number}", folder / f"{number}")
    return folder


def with_rules(model: Path, target: Path, rules: dict[str, Any]) -> Model:
    shutil.copytree(model, target)
    content = yaml.safe_load((target / "model.yaml").read_text())
    content["inference"]["series"] = rules
    (target / "model.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return load_model(target)


def test_a_model_picks_the_series_that_it_was_trained_on(study: Path, tiny_model: Path, tmp_path: Path) -> None:
    model = with_rules(tiny_model, tmp_path / "model", {"description": "native"})
    predictor = Predictor(model, device="cpu")
    chosen = predictor(study)
    assert chosen.source.series is not None
    assert chosen.source.series.description == "native"
    other = predictor(study, series="portal")
    assert other.source.series is not None
    assert other.source.series.description == "portal"
    reports = predict(predictor, study / "0", tmp_path / "out")
    assert [(report.status, "of the kind" in report.error) for report in reports] == [("failed", True)]
    options = Options(selection=Selection("portal"))
    assert [report.status for report in predict(predictor, study / "0", tmp_path / "out", options)] == ["done"]


def test_without_rules_the_same_study_is_ambiguous(study: Path, tiny_model: Path) -> None:
    with pytest.raises(DicomError, match="2 series fit"):
        Predictor(tiny_model, device="cpu")(study)


def test_models_that_want_different_series_do_not_belong_together(tiny_model: Path, tmp_path: Path) -> None:
    one = with_rules(tiny_model, tmp_path / "one", {"contrast": True})
    other = with_rules(tiny_model, tmp_path / "other", {"contrast": False})
    check_together([one, load_model(tiny_model)])
    with pytest.raises(ModelError, match="different series"):
        check_together([one, other])


def test_rules_of_a_configuration_end_in_the_model(
    tmp_path: Path, tiny_model: Path, make_config: Callable[..., Any]
) -> None:
    from medunet.model.spec import new_spec

    rules = {"modality": ["CT"], "slices": [2, 20]}
    spec = new_spec(make_config(tmp_path, {"data.series": rules}), load_model(tiny_model).spec.files, {})
    read = parse_spec(spec_text(spec).encode(), tmp_path)
    assert read.inference.series == make_config(tmp_path, {"data.series": rules}).data.series
    plain = new_spec(make_config(tmp_path), load_model(tiny_model).spec.files, {})
    assert "series" not in yaml.safe_load(spec_text(plain))["inference"]


def test_uids_in_sentences_become_hashes_in_a_report(study: Path) -> None:
    entry = next(each for each in find_inputs(study) if each.series)
    uid, short = entry.series[0].uid, entry.series[0].id
    report = CaseReport("a", "in", series=short, warnings=[f"Series {uid} is odd."], error=f"{uid}?", hint=f"Not {uid}")
    filed = as_filed(report, entry, show=False)
    assert (filed.warnings, filed.error, filed.hint) == ([f"Series {short} is odd."], f"{short}?", f"Not {short}")
    assert as_filed(filed, entry, show=False) == filed
    shown = as_filed(report, entry, show=True)
    assert shown.error == f"{uid}?"
    assert shown.identifiers["series_uid"] == uid
