"""Calling the API from the command line."""

import asyncio
from typing import Any

import aiohttp

from app.core.errors import RunbooksError
from app.core.plain_text import one_line


def call(method: str, url: str, token: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """What the API answers.

    Raises RunbooksError when it refuses, or when none is there.
    """
    return asyncio.run(_request(method, url, token, body))


async def _request(method: str, url: str, token: str, body: dict[str, Any] | None) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {token}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        try:
            async with session.request(method, url, json=body) as answer:
                document: dict[str, Any] = await answer.json(content_type=None) or {}
        except aiohttp.ClientConnectorError as error:
            raise RunbooksError(f"no API answers at {url}: is it running? ({error})") from error
    if answer.status >= 400:
        problems = [f"  {one['path']}: {one['message']}" for one in document.get("problems", [])]
        raise RunbooksError("\n".join(map(one_line, [str(document.get("detail")), *problems])))
    return document
