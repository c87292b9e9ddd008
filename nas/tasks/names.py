"""Data sets that come with packages; every other name after --data is a path."""

from __future__ import annotations

PLAYS, IMAGES = "plays", ("digits", "mnist")
BUILT_IN = (PLAYS, *IMAGES)
