"""What the tests of data sets share."""

import pytest
from mmengine.registry import DefaultScope


@pytest.fixture(autouse=True)
def scope():
    """Pipelines find mmseg's transforms, whatever scope another test has left."""
    with DefaultScope.overwrite_default_scope("mmseg"):
        yield
