"""Names with places in them, such as `images/{case}.*` and `{group}_*`, as regular expressions."""

from __future__ import annotations

import re
from collections.abc import Mapping


def compiled(name: str, places: Mapping[str, str]) -> re.Pattern[str]:
    """The expression that a name stands for.

    Args:
        name: in which everything but the places means itself.
        places: as they are written (`{case}`, `*`), and what each may be, as a regular expression.
    """
    parts = re.split(f"({'|'.join(map(re.escape, places))})", name)
    return re.compile("".join(places.get(part, re.escape(part)) for part in parts))
