"""The data and the config of runs that take a second."""

import pytest
import tiny_run


@pytest.fixture(scope="session")
def tiny_config(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_run.write_config(tmp_path_factory.mktemp("tiny"))
