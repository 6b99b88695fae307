"""The version of an installed distribution, by the name of its folder.

`importlib.metadata` says the same, and brings zip files, CSV and e-mail along: 1 MB, and 13 ms of a device's start.
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path


def distribution_version(distribution: str, module: str) -> str:
    """The version of `distribution`, which `module` is a package of.

    Raises PackageNotFoundError, as importlib.metadata does, where it is not installed.
    """
    spec = find_spec(module)
    if spec is not None and spec.origin is not None:
        # PEP 376 and PEP 503: `ai_edge_litert-2.3.0.dist-info` lies beside the package.
        name = re.compile(re.escape(distribution).replace(r"\-", "[-_.]") + r"-([^-]+)\.dist-info", re.IGNORECASE)
        beside = Path(spec.origin).parents[1].glob("*.dist-info")
        found = [match[1] for folder in beside if (match := name.fullmatch(folder.name)) is not None]
        if len(found) == 1:
            return found[0]
    from importlib import metadata  # a zip file, an editable installation, or what an upgrade left behind

    return metadata.version(distribution)
