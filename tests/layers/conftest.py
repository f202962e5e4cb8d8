import pytest

from pconv_seg.layers import scaling


@pytest.fixture
def fresh_plans():
    """No plan is kept from before, nor for later: thresholds that a test changes are in them."""
    plans = scaling.plan_of, scaling.plan_of_size, scaling.plan_on_cpu, scaling._dense_strips
    for function in plans:
        function.cache_clear()
    yield
    for function in plans:
        function.cache_clear()
