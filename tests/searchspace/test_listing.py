"""The list of operators on disk is the registry's."""

import json

from searchspace import listing, registry


def test_the_list_on_disk_is_the_registry():
    """Written again by `python -m searchspace.listing`."""
    assert listing.PATH.read_text(encoding="utf-8") == listing.listing()
    entries = json.loads(listing.listing())
    assert [(e["slot"], e["name"]) for e in entries] == sorted(registry.operators())


def test_the_readme_on_disk_is_the_registry():
    assert listing.README.read_text(encoding="utf-8") == listing.readme()
