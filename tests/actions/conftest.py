"""A scene towards the demo's stand-ins: real clients, one tenant."""

from dataclasses import replace

import pytest
from fakes import clients_towards, running_stand_ins

from app.actions.scene import Scene


@pytest.fixture
async def stand_ins():
    async with running_stand_ins() as running:
        yield running


@pytest.fixture
async def clients(stand_ins, tmp_path):
    async with clients_towards(stand_ins, tmp_path) as ready:
        yield ready


@pytest.fixture
def scene(clients) -> Scene:
    return Scene(tenant="default", command_id="execution/7/2/apply/1", expected=None, clients=clients)


@pytest.fixture
def with_client(scene):
    """The scene with one of its clients exchanged."""
    return lambda **clients: replace(scene, clients=replace(scene.clients, **clients))
