"""The structured report: volumes, identities, and what it refers to, as highdicom and pydicom read it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest

from medunet.errors import UsageError
from medunet.export.algorithm import Algorithm
from medunet.export.dicom.seg import write_seg
from medunet.export.dicom.sr import write_sr
from medunet.geometry import Geometry
from medunet.io.volume import Segmentation
from medunet.labels import LabelMap

ALGORITHM = Algorithm("Abdomen net", "0123456789abcdef" * 4)
Make = Callable[..., Segmentation]


def volumes(report: highdicom.sr.Comprehensive3DSR, kind: str = "volumetric") -> dict[str, float]:
    groups = (
        report.content.get_volumetric_roi_measurement_groups()
        if kind == "volumetric"
        else report.content.get_image_measurement_groups()
    )
    found = {}
    for group in groups:
        (measured,) = group.get_measurements()
        assert measured.unit.value == "mm3"
        assert measured.name.value == "118565006"
        found[group.tracking_identifier] = measured.value
    return found


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_it_reports_on_the_segments_that_lie_beside_it(segmented: Make, tmp_path: Path, kind: str) -> None:
    segmentation = segmented()
    seg = pydicom.dcmread(write_seg(segmentation, tmp_path / "seg.dcm", ALGORITHM, kind=kind))
    report = highdicom.sr.srread(write_sr(segmentation, tmp_path / "sr.dcm", ALGORITHM, kind=kind))
    ml = segmentation.volumes_ml()
    assert volumes(report) == pytest.approx({name: 1000 * value for name, value in ml.items()}, rel=1e-6)
    described = [item for item in seg.SegmentSequence if item.SegmentNumber > 0]
    groups = report.content.get_volumetric_roi_measurement_groups()
    for group, item in zip(groups, described, strict=True):
        assert (group.tracking_uid, group.tracking_identifier) == (item.TrackingUID, item.TrackingID)
        reference = group.referenced_segment
        assert reference.referenced_sop_instance_uid == seg.SOPInstanceUID
        assert reference.referenced_sop_class_uid == seg.SOPClassUID
        assert list(reference.referenced_segment_numbers) == [item.SegmentNumber]
        assert group.finding_type.value == item.SegmentedPropertyTypeCodeSequence[0].CodeValue
    evidence = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    assert seg.SeriesInstanceUID in {series.SeriesInstanceUID for series in evidence}
    assert report.StudyInstanceUID == seg.StudyInstanceUID


def test_the_site_is_said_with_its_side(segmented: Make, mask: np.ndarray, tmp_path: Path) -> None:
    labels = LabelMap.from_mapping({"background": 0, "tumour_kidney_left": 1, "kidney_right": 2, "spot": 3})
    report = highdicom.sr.srread(write_sr(segmented(mask, labels), tmp_path / "sr.dcm", ALGORITHM))
    tumour, kidney, spot = report.content.get_volumetric_roi_measurement_groups()
    for group, side in ((tumour, "Left"), (kidney, "Right")):
        (site,) = group.finding_sites
        assert (site.value.meaning, site.laterality.meaning) == ("Kidney", side)
    assert tumour.finding_type.meaning == "Neoplasm"
    assert spot.finding_sites == []


def test_without_a_segmentation_it_refers_to_the_images_alone(segmented: Make, tmp_path: Path) -> None:
    segmentation = segmented()
    report = highdicom.sr.srread(write_sr(segmentation, tmp_path / "sr.dcm", ALGORITHM, kind=None))
    assert report.content.get_volumetric_roi_measurement_groups() == []
    ml = segmentation.volumes_ml()
    assert volumes(report, "image") == pytest.approx({name: 1000 * value for name, value in ml.items()}, rel=1e-6)
    assert segmentation.source.series is not None
    text = str(report)
    assert "1.2.840.10008.5.1.4.1.1.66" not in text
    assert all(item.sop_uid in text for item in segmentation.source.series.slices)


def test_a_replay_is_the_same_report_and_other_masks_have_others(
    segmented: Make, mask: np.ndarray, tmp_path: Path
) -> None:
    def uids(segmentation: Segmentation, kind: str | None = "BINARY") -> tuple[str, str]:
        dataset = pydicom.dcmread(write_sr(segmentation, tmp_path / "sr.dcm", ALGORITHM, kind=kind))
        return dataset.SOPInstanceUID, dataset.SeriesInstanceUID

    assert uids(segmented()) == uids(segmented())
    assert uids(segmented())[0] != uids(segmented(), None)[0]
    assert not set(uids(segmented())) & set(uids(segmented(np.zeros_like(mask))))


def test_what_was_not_found_has_no_volume(segmented: Make, mask: np.ndarray, tmp_path: Path) -> None:
    report = highdicom.sr.srread(write_sr(segmented(np.zeros_like(mask)), tmp_path / "sr.dcm", ALGORITHM))
    assert set(volumes(report).values()) == {0.0}


def test_a_mask_without_dicom_images_is_refused(
    grid: Geometry, mask: np.ndarray, labels: LabelMap, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="is no DICOM series"):
        write_sr(Segmentation(mask, grid, labels), tmp_path / "sr.dcm")
    assert list(tmp_path.iterdir()) == []
