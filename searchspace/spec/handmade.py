"""Kinds of networks that need no search, as recorded in a trial's origin, in the order of a report."""

from __future__ import annotations

IN_INT8 = " in int8"
PLAIN = "plain"  # of the plain family of a new space
ORIGINAL = "original"  # an imported model itself
LAYERS_LEFT_OUT = "layers left out"
NARROWER = "narrower"  # all widths cut by the same share, with or without left-out layers
ORIGINALS = (ORIGINAL, ORIGINAL + IN_INT8)
CUTS = tuple(kind + number for kind in (LAYERS_LEFT_OUT, NARROWER) for number in ("", IN_INT8))
HANDMADE = (PLAIN, *ORIGINALS, *CUTS)
