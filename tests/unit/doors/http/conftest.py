import pytest

from support.http_door import World


@pytest.fixture
def world() -> World:
    return World()
