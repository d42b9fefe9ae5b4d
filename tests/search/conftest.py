"""A small space to search."""

from __future__ import annotations

import pytest

from edgectl.search.space import SrSpace


@pytest.fixture(scope="session")
def space() -> SrSpace:
    """Two cells of few channels."""
    return SrSpace(input=(24, 32), features=[8, 12], cells=2, blocks=["a1", "a2", "b3"], baseline="b3", rates=[2.0, 3.0])
