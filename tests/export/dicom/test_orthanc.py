"""A real archive: what we write is stored beside its images, found in their study, and sending twice doubles nothing.

Orthanc listens on all addresses whatever it is told, so it runs in a network namespace of its own, as does the client.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest

from medunet.demo.dicom_export import CT_FOLDER
from medunet.export.algorithm import Algorithm
from medunet.export.formats import FORMATS, Making
from medunet.io.volume import Segmentation

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
SENT = ("dicom-seg", "dicom-seg-fractional", "rtstruct", "dicom-sr", "dicom-preview")
"""A label map cannot be: neither Orthanc 1.10 nor dcmtk 3.6.7 offers its SOP class."""

SCRIPT = """
ip link set lo up
Orthanc {folder}/orthanc.json > {folder}/orthanc.log 2>&1 &
server=$!
trap 'kill $server' EXIT
for _ in $(seq 100); do
    echoscu -aec ORTHANC -aet LAB 127.0.0.1 14242 2> /dev/null && break
    sleep 0.1
done
for round in 1 2; do
    storescu -R -aec ORTHANC -aet LAB 127.0.0.1 14242 {images} || exit 3
    storescu -R -aec ORTHANC -aet LAB 127.0.0.1 14242 {objects} || exit 4
done
base=http://127.0.0.1:18042
curl -sf $base/statistics > {folder}/statistics.json || exit 5
curl -sf -H 'Accept: application/dicom+json' "$base/dicom-web/studies/{study}/instances?includefield=00080016" \
    > {folder}/instances.json || exit 6
curl -sf -H 'Accept: application/dicom+json' $base/dicom-web/studies > {folder}/studies.json || exit 7
"""


def missing() -> str:
    """What is not installed, or not allowed; "" if all is there."""
    programs = ("Orthanc", "storescu", "echoscu", "curl", "unshare", "ip")
    absent = [name for name in programs if shutil.which(name) is None]
    if absent or not PLUGIN.exists():
        return f"{', '.join(absent) or PLUGIN.name} is not installed (Debian: orthanc, orthanc-dicomweb, dcmtk)"
    namespace = subprocess.run(["unshare", "-rn", "true"], capture_output=True, check=False)
    return "" if namespace.returncode == 0 else "network namespaces are not allowed here"


@pytest.mark.slow
def test_an_archive_keeps_all_objects_in_the_study_of_the_images(
    segmented: Callable[..., Segmentation], study: Path, tmp_path: Path
) -> None:
    reason = missing()
    if reason:
        pytest.skip(reason)
    segmentation = segmented()
    members = np.arange(len(segmentation.labels)).reshape(-1, 1, 1, 1) == segmentation.array
    making = Making(Algorithm("Abdomen net", "0123456789abcdef" * 4), members.astype(np.float32), SENT)
    objects = [FORMATS[name].write(segmentation, tmp_path / f"case{FORMATS[name].suffix}", making) for name in SENT]
    images = [*(study / CT_FOLDER).iterdir()]
    first = pydicom.dcmread(images[0])
    settings = {
        "Name": "LAB",
        "StorageDirectory": str(tmp_path / "db"),
        "IndexDirectory": str(tmp_path / "db"),
        "Plugins": [str(PLUGIN)],
        "HttpPort": 18042,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomAet": "ORTHANC",
        "DicomPort": 14242,
        "DicomModalities": {"lab": ["LAB", "127.0.0.1", 11114]},
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    (tmp_path / "orthanc.json").write_text(json.dumps(settings))
    script = textwrap.dedent(SCRIPT).format(
        folder=tmp_path,
        images=" ".join(map(str, images)),
        objects=" ".join(map(str, objects)),
        study=first.StudyInstanceUID,
    )
    done = subprocess.run(["unshare", "-rn", "bash", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    statistics = json.loads((tmp_path / "statistics.json").read_text())
    assert (statistics["CountPatients"], statistics["CountStudies"]) == (1, 1)
    assert statistics["CountInstances"] == len(images) + len(objects)
    assert statistics["CountSeries"] == 1 + len(objects)
    assert len(json.loads((tmp_path / "studies.json").read_text())) == 1
    stored = {entry["00080018"]["Value"][0] for entry in json.loads((tmp_path / "instances.json").read_text())}
    assert stored == {str(pydicom.dcmread(path).SOPInstanceUID) for path in (*images, *objects)}
