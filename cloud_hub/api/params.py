"""Parameters of paths and queries, within the bounds of `fleet.api.types`."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query

from fleet.api.types import INT64, KEY_LIMIT, LATEST_S, NO_NUL

KeyPath = Annotated[str, Path(max_length=KEY_LIMIT, pattern=NO_NUL)]  # a name or id; whether there is one is looked up
NumberPath = Annotated[int, Path(ge=0, le=INT64)]
KeyQuery = Annotated[str, Query(max_length=KEY_LIMIT, pattern=NO_NUL)]
PAGE, LONGEST_PAGE = 200, 1000  # items
LimitQuery = Annotated[int, Query(ge=1, le=LONGEST_PAGE)]
MomentQuery = Annotated[float, Query(ge=0, le=LATEST_S, allow_inf_nan=False)]  # Unix seconds
