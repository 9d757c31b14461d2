"""The HTTP API: an aiohttp application beside Faust's."""
