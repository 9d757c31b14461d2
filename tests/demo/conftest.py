import pytest
from fakes import running_stand_ins


@pytest.fixture
async def stand_ins():
    async with running_stand_ins() as running:
        yield running
