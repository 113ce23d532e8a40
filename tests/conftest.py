"""Fixtures that more than one test file uses."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

# How long an example takes says how busy the machine is.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The reference data beside the project; a test that needs it is skipped where it is absent."""
    path = Path(__file__).resolve().parent.parent.parent / "shared"
    if not (path / "golden").is_dir():
        pytest.skip("the reference data (../shared) is not here")
    return path
