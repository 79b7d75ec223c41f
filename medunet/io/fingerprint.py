"""The hash of the files of a case, by which a run tells later what it was trained on.

Of contents, not of names or dates: a copy of the data set has the same hashes. Read right after a case was checked,
when its files still lie in the system's cache, this costs little beside unpacking them.
"""

from __future__ import annotations

import hashlib

from medunet.hashing import file_hash
from medunet.io.case import Case, Drawn


def fingerprint(case: Case) -> str:
    """SHA-256 over images (in the order of the channels), mask and region; of a folder, over its files by their names.

    Of structures that stand in a table of the whole data set, those of the case count.

    Raises:
        OSError: a file cannot be read.
    """
    whole = hashlib.sha256()
    for path in case.files:
        for file in sorted(found for found in path.rglob("*") if found.is_file()) if path.is_dir() else [path]:
            whole.update(bytes.fromhex(file_hash(file)))
    if isinstance(case.label, Drawn):
        whole.update(case.label.text.encode())
    return whole.hexdigest()
