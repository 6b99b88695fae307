"""Model cards: what is known of a release, for people who have to decide whether it fits their use.

`facts` reads what the hub knows, `markdown` writes it down. Nothing is made up: what nobody has said or measured is
called unknown.
"""

from __future__ import annotations
