"""Runs a script of MCP requests through the Python SDK and prints one JSON line a step.

    python client.py auto|legacy SCRIPT PREFIX -- COMMAND ARGS…
    python client.py auto|legacy SCRIPT PREFIX -- http://ADDRESS

What is printed and how is in README.md; client.mjs and rmcp/src/main.rs do the same.
"""

import json
import os
import sys
import time

import anyio
from mcp import Client
from mcp.client.stdio import StdioServerParameters
from mcp.shared.exceptions import MCPError
from mcp_types import Implementation, PromptReference, ResourceTemplateReference


def plain(result):
    return result.model_dump(mode="json", by_alias=True, exclude_none=True)


async def every(fetch, member):
    entries, cursor = [], None
    while True:
        page = plain(await fetch(cursor=cursor, cache_mode="bypass"))
        entries += page[member]
        cursor = page.get("nextCursor")
        if cursor is None:
            return {member: entries}


class Steps:
    def __init__(self, client, prefix):
        self.client = client
        self.prefix = prefix

    async def list(self, step, out):
        fetch, member = {
            "tools": (self.client.list_tools, "tools"),
            "prompts": (self.client.list_prompts, "prompts"),
            "resources": (self.client.list_resources, "resources"),
            "templates": (self.client.list_resource_templates, "resourceTemplates"),
        }[step["what"]]
        return await every(fetch, member)

    async def _call(self, step, **options):
        return await self.client.call_tool(self.prefix + step["name"], step["arguments"], **options)

    async def call(self, step, out):
        if not step.get("progress"):
            return plain(await self._call(step))
        out["progress"] = []

        async def progressed(progress, total, message):
            seen = {"progress": progress, "total": total, "message": message}
            out["progress"].append({k: v for k, v in seen.items() if v is not None})

        return plain(await self._call(step, progress_callback=progressed))

    async def until(self, step, out):
        """Until the tool answers with the text: for effects that take time."""
        end = time.monotonic() + 20
        while True:
            result = plain(await self._call(step))
            if result["content"][0]["text"] == step["text"] or time.monotonic() > end:
                return result
            await anyio.sleep(0.05)

    async def cancel(self, step, out):
        """Takes the call back at its first progress notification."""
        with anyio.move_on_after(60) as scope:
            taken_back = False

            async def progressed(progress, total, message):
                nonlocal taken_back
                taken_back = True
                scope.cancel()

            await self._call(step, progress_callback=progressed)
        return {"cancelled": taken_back and scope.cancelled_caught}

    async def prompt(self, step, out):
        return plain(await self.client.get_prompt(self.prefix + step["name"], step["arguments"]))

    async def read(self, step, out):
        return plain(await self.client.read_resource(step["uri"], cache_mode="bypass"))

    async def complete(self, step, out):
        if "prompt" in step:
            ref = PromptReference(name=self.prefix + step["prompt"])
        else:
            ref = ResourceTemplateReference(uri=step["template"])
        return plain(await self.client.complete(ref, step["argument"]))


async def main():
    mode, script, prefix, dashes, command, *args = sys.argv[1:]
    assert dashes == "--", __doc__
    with open(script, encoding="utf-8") as file:
        script = json.load(file)
    failed = False
    if command.startswith("http://"):
        server = command
    else:
        server = StdioServerParameters(command=command, args=args, env=dict(os.environ))
    info = Implementation(name="peer-python", version="1")
    async with Client(server, mode=mode, client_info=info, read_timeout_seconds=60) as client:
        steps = Steps(client, prefix)
        for at, step in enumerate(script):
            out = {"step": at, "do": step["do"]}
            try:
                out["result"] = await getattr(steps, step["do"])(step, out)
            except MCPError as error:
                out["error"] = {"code": error.code, "message": error.message}
            except Exception as error:  # the SDK's own complaint
                out["error"] = {"code": None, "message": f"{type(error).__name__}: {error}"}
                failed = True
            print(json.dumps(out, ensure_ascii=False), flush=True)
    sys.exit(1 if failed else 0)


anyio.run(main)
