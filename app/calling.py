"""Calling the API from the command line."""

import asyncio
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp
import orjson
from yarl import URL

from app.core.errors import RunbooksError
from app.core.plain_text import one_line

SHOWN_BYTES = 200  # of an answer that is not the API's


def address(api: str, *segments: str, **query: str | int) -> URL:
    """Where the API has something: each segment is one, and each value too, whatever characters it is made of.

    It is sent as it is written here: yarl would take ``..`` for the way up. Raises RunbooksError when api is no URL.
    """
    path = "/".join(quote(one, safe="", errors="surrogateescape") for one in segments)
    asked = f"?{urlencode(query, quote_via=quote, errors='surrogateescape')}" if query else ""
    return URL(f"{_base(api)}/api/v1/{path}{asked}", encoded=True)


def _base(api: str) -> str:
    try:
        url = URL(api)
    except ValueError:
        url = URL()
    if url.scheme not in {"http", "https"} or not url.host:
        raise RunbooksError(f"API_URL, or --url, must be as http://localhost:8080, and it is {api!r}")
    return str(url).rstrip("/")


def call(method: str, url: URL, token: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """What the API answers.

    Raises RunbooksError when it refuses, when none is there, and when what answers is not this API.
    """
    if not (token.isascii() and token.isprintable()):
        raise RunbooksError("the token holds a character that no JWT has, as a line break")
    status, text = asyncio.run(_request(method, url, token, body))
    document = _object_in(text)
    if document is None or (status >= 400 and "detail" not in document):
        begin = one_line(text[:SHOWN_BYTES].decode(errors="replace"))
        raise RunbooksError(f"{url} answered {status}, and not as this API does: {begin or 'with nothing'}")
    if status >= 400:
        problems = [f"  {one['path']}: {one['message']}" for one in document.get("problems", [])]
        raise RunbooksError("\n".join(map(one_line, [str(document["detail"]), *problems])))
    return document


async def _request(method: str, url: URL, token: str, body: dict[str, Any] | None) -> tuple[int, bytes]:
    headers = {"Authorization": f"Bearer {token}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        try:
            async with session.request(method, url, json=body) as answer:
                return answer.status, await answer.read()
        except aiohttp.ClientConnectorError as error:
            raise RunbooksError(f"no API answers at {url}: is it running? ({error})") from error
        except (aiohttp.ClientError, TimeoutError) as error:
            perhaps = "" if method == "GET" else "; perhaps what was asked for is done"
            raise RunbooksError(f"the answer of {url} did not come, or not whole: {error!r}{perhaps}") from error


def _object_in(text: bytes) -> dict[str, Any] | None:
    """The JSON object in an answer, an empty one in an empty answer; None where there is something else."""
    try:
        found = orjson.loads(text) if text else {}
    except orjson.JSONDecodeError:
        return None
    return found if isinstance(found, dict) else None
