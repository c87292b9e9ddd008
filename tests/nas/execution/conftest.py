"""Databases of each kind for runners that work through one."""

from tests.postgres import *  # noqa: F403 (its fixtures)
