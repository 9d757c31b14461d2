"""Calling the API from the command line."""

import asyncio
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp
from yarl import URL

from app.core.errors import RunbooksError
from app.core.plain_text import one_line


def address(api: str, *segments: str, **query: str | int) -> URL:
    """Where the API has something: each segment is one, and each value too, whatever characters it is made of.

    It is sent as it is written here: yarl would take ``..`` for the way up.
    """
    path = "/".join(quote(one, safe="", errors="surrogateescape") for one in segments)
    asked = f"?{urlencode(query, quote_via=quote, errors='surrogateescape')}" if query else ""
    return URL(f"{str(URL(api)).rstrip('/')}/api/v1/{path}{asked}", encoded=True)


def call(method: str, url: URL, token: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """What the API answers.

    Raises RunbooksError when it refuses, or when none is there.
    """
    return asyncio.run(_request(method, url, token, body))


async def _request(method: str, url: URL, token: str, body: dict[str, Any] | None) -> dict[str, Any]:
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
