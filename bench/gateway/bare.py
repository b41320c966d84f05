"""What a relay on this gateway's own HTTP library costs when it does nothing else: the floor.

Bodies pass as they are; it knows no key, no limit and no dialect, and counts nothing.
"""

from __future__ import annotations

import argparse
import asyncio

import aiohttp
from aiohttp import web

from shoal_common.app import run_service


async def serve(port: int, upstream: str) -> None:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as client:

        async def chat(request: web.Request) -> web.StreamResponse:
            body = await request.read()
            headers = {"Content-Type": "application/json"}
            url = f"{upstream}/v1/chat/completions"
            async with client.post(url, data=body, headers=headers) as answer:
                if answer.content_type != "text/event-stream":
                    whole = await answer.read()
                    return web.Response(body=whole, content_type="application/json")
                response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
                await response.prepare(request)
                async for part in answer.content.iter_any():
                    await response.write(part)
                await response.write_eof()
                return response

        app = web.Application()
        app.router.add_post("/v1/chat/completions", chat)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--upstream", required=True)
    chosen = parser.parse_args()
    run_service(lambda: serve(chosen.port, chosen.upstream))


if __name__ == "__main__":
    main()
