"""Runs a script of MCP requests through the Python SDK and prints one JSON line a step.

    python client.py auto|legacy SCRIPT PREFIX -- COMMAND ARGS…
    python client.py auto|legacy SCRIPT PREFIX -- http://ADDRESS

What is printed and how is in README.md; client.mjs and rmcp/src/main.rs do the same.
"""

import json
import os
import sys
import warnings
from contextlib import AsyncExitStack

import anyio
import mcp_types as types
from mcp import Client
from mcp.client.stdio import StdioServerParameters
from mcp.shared.exceptions import MCPError
from mcp_types import Implementation, PromptReference, ResourceTemplateReference

# the newer era deprecates what the older one needs
warnings.simplefilter("ignore")


def plain(result):
    return result.model_dump(mode="json", by_alias=True, exclude_none=True)


class Answers:
    """What the client declares, how it answers questions, and what it was told unasked."""

    def __init__(self, declared):
        self.declared = declared
        self.answers = {}
        self.asked = []
        self.on_asked = lambda: None
        self.told = []
        self.came = anyio.Event()

    def callbacks(self):
        made = {"message_handler": self.message}
        if "elicitation" in self.declared:
            made["elicitation_callback"] = self.elicitation
        if self.declared.get("sampling"):
            made["sampling_callback"] = self.sampling
        if "roots" in self.declared:
            made["list_roots_callback"] = self.roots
        return made

    async def answer(self, kind, method, params, fallback):
        self.asked.append({"method": method, "params": plain(params) if params is not None else {}})
        self.on_asked()
        said = self.answers.get(kind, fallback)
        if isinstance(said, list) and kind != "roots":
            said = said.pop(0)
        if said == "never":
            await anyio.sleep_forever()
        return said

    async def elicitation(self, context, params):
        kind = "url" if isinstance(params, types.ElicitRequestURLParams) else "form"
        said = await self.answer(kind, "elicitation/create", params, {"action": "cancel"})
        return types.ElicitResult(**said)

    async def sampling(self, context, params):
        text = await self.answer("sampling", "sampling/createMessage", params, "nothing")
        content = types.TextContent(type="text", text=text)
        return types.CreateMessageResult(role="assistant", model="scripted", stop_reason="endTurn", content=content)

    async def roots(self, context):
        roots = await self.answer("roots", "roots/list", None, self.declared["roots"])
        return types.ListRootsResult(roots=[types.Root(**root) for root in roots])

    async def message(self, message):
        if isinstance(message, Exception):
            return
        self.told.append({"params": {}} | plain(message))
        self.came.set()
        self.came = anyio.Event()


async def every(fetch, member):
    entries, cursor = [], None
    while True:
        page = plain(await fetch(cursor=cursor, cache_mode="bypass"))
        entries += page[member]
        cursor = page.get("nextCursor")
        if cursor is None:
            return {member: entries}


class Steps:
    def __init__(self, client, prefix, answers, listening):
        self.client = client
        self.prefix = prefix
        self.answers = answers
        self.listening = listening
        self.stateless = client.protocol_version >= "2026-07-28"
        self.meta = None

    async def declare(self, step, out):
        return {}

    async def server(self, step, out):
        capabilities = plain(self.client.server_capabilities)
        return {"protocol": self.client.protocol_version, "capabilities": capabilities, "instructions": self.client.instructions}

    async def list(self, step, out):
        fetch, member = {
            "tools": (self.client.list_tools, "tools"),
            "prompts": (self.client.list_prompts, "prompts"),
            "resources": (self.client.list_resources, "resources"),
            "templates": (self.client.list_resource_templates, "resourceTemplates"),
        }[step["what"]]
        return await every(fetch, member)

    async def _call(self, step, **options):
        return await self.client.call_tool(self.prefix + step["name"], step["arguments"], meta=self.meta, **options)

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
        wait = 0.05
        while True:
            result = plain(await self._call(step))
            if result["content"][0]["text"] == step["text"] or wait > 12.8:
                return result
            await anyio.sleep(wait)
            wait *= 2

    async def cancel(self, step, out):
        """Takes the call back at its first progress notification, or when it is asked something."""
        with anyio.move_on_after(60) as scope:
            taken_back = False

            def take_back():
                nonlocal taken_back
                taken_back = True
                scope.cancel()

            async def progressed(progress, total, message):
                take_back()

            if step.get("at") == "asked":
                self.answers.on_asked = take_back
                await self._call(step)
            else:
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

    async def level(self, step, out):
        if self.stateless:
            self.meta = {"io.modelcontextprotocol/logLevel": step["level"]}
        else:
            await self.client.set_logging_level(step["level"])
        return {}

    async def listen(self, step, out):
        uris = step.get("uris", [])
        if self.stateless:
            lists = {f"{what}_list_changed": step.get(what, False) for what in ("tools", "prompts", "resources")}
            await self.listening.enter_async_context(self.client.listen(**lists, resource_subscriptions=uris))
            return {}
        for uri in uris:
            await self.client.subscribe_resource(uri)
            self.listening.push_async_callback(self.client.unsubscribe_resource, uri)
        return {}

    async def unlisten(self, step, out):
        await self.listening.aclose()
        return {}

    async def wait(self, step, out):
        """The first `count` notifications of a method, whose params have the members of `where`."""
        count, where = step.get("count", 1), step.get("where", {})

        def found():
            told = [told["params"] for told in self.answers.told if told["method"] == step["for"]]
            return [params for params in told if where.items() <= params.items()]

        with anyio.move_on_after(step.get("within", 20_000) / 1000):
            while len(found()) < count:
                await self.answers.came.wait()
        came = found()[:count]
        self.answers.told = [told for told in self.answers.told if told["method"] != step["for"]]
        return {"came": came}

    async def hook(self, step, out):
        """Lets whoever runs this do something: goes on after a line on standard input."""
        print(json.dumps({"hook": step["name"]}), flush=True)
        await anyio.to_thread.run_sync(sys.stdin.readline)
        return {}

    async def task(self, step, out):
        raise NotImplementedError("this SDK knows no tasks extension")


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
    declared = script[0] if script and script[0]["do"] == "declare" else {}
    answers = Answers(declared)
    limit = declared.get("timeout", 60_000) / 1000
    async with (
        Client(server, mode=mode, client_info=info, read_timeout_seconds=limit, **answers.callbacks()) as client,
        AsyncExitStack() as listening,
    ):
        steps = Steps(client, prefix, answers, listening)
        for at, step in enumerate(script):
            out = {"step": at, "do": step["do"]}
            answers.answers = json.loads(json.dumps(step.get("answers", {})))
            answers.asked = []
            answers.on_asked = lambda: None
            try:
                out["result"] = await getattr(steps, step["do"])(step, out)
            except MCPError as error:
                out["error"] = {"code": error.code, "message": error.message}
            except Exception as error:  # the SDK's own complaint
                out["error"] = {"code": None, "message": f"{type(error).__name__}: {error}"}
                failed = True
            if "answers" in step:
                out["asked"] = answers.asked
            print(json.dumps(out, ensure_ascii=False), flush=True)
    sys.exit(1 if failed else 0)


anyio.run(main)
