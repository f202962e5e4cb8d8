import pytest

from pconv_seg.layers import plan, ratios, scaling


@pytest.fixture
def fresh_plans():
    """No plan is kept from before, nor for later: thresholds that a test changes are in them."""
    kept = plan.plan_of, plan.plan_of_size, scaling.plan_on_cpu, ratios.dense_strips
    for function in kept:
        function.cache_clear()
    yield
    for function in kept:
        function.cache_clear()
