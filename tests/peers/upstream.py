"""A server of the Python SDK: speaks both eras, whichever the client opens with.

    python upstream.py             on its standard streams
    python upstream.py http PORT   over HTTP on loopback, the handshake era with sessions
    python upstream.py sse PORT    the same by HTTP+SSE of 2024-11-05, at /sse

It has every feature that the SDK knows, under the names that upstream.mjs uses.
"""

import sys
import warnings

from typing import TypedDict

import anyio
import mcp_types as types
from mcp.server.mcpserver import Context, MCPServer
from mcp_types import Completion, InputRequiredResult, PromptReference, ResourceTemplateReference, ToolAnnotations

# the tests leave nothing beside the sources
sys.dont_write_bytecode = True

from asking import ENTRIES, LEVELS, ask, stateless

# the newer era deprecates what the older one needs
warnings.simplefilter("ignore")

server = MCPServer(
    "peer-python",
    title="A Python peer",
    version="1.0.0",
    instructions="Use echo to hear yourself.",
    log_level="ERROR",
)
cancelled = 0


class Sum(TypedDict):
    sum: float


@server.tool(title="Echo", annotations=ToolAnnotations(read_only_hint=True), meta={"example/kept": {"a": [1]}}, structured_output=False)
def echo(message: str) -> str:
    """Says it again"""
    return message


@server.tool()
def add(a: float, b: float) -> Sum:
    """Adds"""
    return {"sum": a + b}


@server.tool(structured_output=False)
def fail() -> str:
    """Fails"""
    raise ValueError("it is broken")


@server.tool(structured_output=False)
async def slow(steps: int, ctx: Context) -> str:
    """Reports progress until it is done or taken back"""
    global cancelled
    try:
        for step in range(1, steps + 1):
            await ctx.report_progress(step, steps, f"step {step}")
            await anyio.sleep(0.05)
    except anyio.get_cancelled_exc_class():
        cancelled += 1
        raise
    return "done"


@server.tool(name="taken-back", structured_output=False)
def taken_back() -> str:
    """How many calls were taken back"""
    return str(cancelled)


@server.tool(name="ask-name", structured_output=False)
async def ask_name(ctx: Context) -> str | InputRequiredResult:
    """Asks with a form"""
    return await ask(ctx, "name")


@server.tool(name="ask-visit", structured_output=False)
async def ask_visit(ctx: Context) -> str | InputRequiredResult:
    """Asks to open an address"""
    return await ask(ctx, "visit")


@server.tool(name="ask-model", structured_output=False)
async def ask_model(ctx: Context) -> str | InputRequiredResult:
    """Asks the model of the client"""
    return await ask(ctx, "model")


@server.tool(name="ask-roots", structured_output=False)
async def ask_roots(ctx: Context) -> str | InputRequiredResult:
    """Asks for the roots"""
    return await ask(ctx, "roots")


@server.tool(structured_output=False)
async def log(ctx: Context) -> str:
    """Logs at three levels"""
    for level, data in ENTRIES:
        if stateless(ctx) or LEVELS.index(level) >= LEVELS.index(wanted):
            await ctx.log(level, data, logger_name="peer")
    return "logged"


@server.tool(structured_output=False)
async def touch(uri: str, ctx: Context) -> str:
    """Says that a resource was changed"""
    if stateless(ctx):
        await ctx.notify_resource_updated(uri)
    elif uri in subscribed:
        await ctx.session.send_resource_updated(uri)
    return "touched"


@server.tool(structured_output=False)
async def grow(what: str, ctx: Context) -> str:
    """Adds to a list"""
    if what == "tools":
        server.add_tool(extra, name="extra", structured_output=False)
        await (ctx.notify_tools_changed() if stateless(ctx) else ctx.session.send_tool_list_changed())
    elif what == "prompts":
        server.prompt(name="extra")(extra)
        await (ctx.notify_prompts_changed() if stateless(ctx) else ctx.session.send_prompt_list_changed())
    else:
        server.resource("peer://extra")(extra)
        await (ctx.notify_resources_changed() if stateless(ctx) else ctx.session.send_resource_list_changed())
    return "grown"


def extra() -> str:
    """Came later"""
    return "extra"


# What the SDK leaves to its lower level: subscriptions and log levels of the older era.
wanted = "debug"
subscribed = set()


async def subscribe(ctx, params):
    subscribed.add(str(params.uri))
    return types.EmptyResult()


async def unsubscribe(ctx, params):
    subscribed.discard(str(params.uri))
    return types.EmptyResult()


async def set_level(ctx, params):
    global wanted
    wanted = params.level
    return types.EmptyResult()


low = server._lowlevel_server
low.add_request_handler("resources/subscribe", types.SubscribeRequestParams, subscribe)
low.add_request_handler("resources/unsubscribe", types.UnsubscribeRequestParams, unsubscribe)
low.add_request_handler("logging/setLevel", types.SetLevelRequestParams, set_level)


@server.prompt(title="Greet")
def greet(name: str) -> str:
    """A greeting"""
    return f"Greet {name}."


@server.resource("peer://static", mime_type="text/plain")
def static() -> str:
    """Always the same"""
    return "static"


@server.resource("peer://items/{id}", mime_type="application/json")
def item(id: str) -> str:
    """One item"""
    return '{"id":"' + id + '"}'


@server.completion()
async def completion(ref, argument, context):
    if isinstance(ref, PromptReference):
        values = ["Ada", "Alan", "Grace"]
    elif isinstance(ref, ResourceTemplateReference):
        values = ["1", "12", "2"]
    return Completion(values=[v for v in values if v.startswith(argument.value)])


if sys.argv[1:2] == ["http"]:
    server.run("streamable-http", host="127.0.0.1", port=int(sys.argv[2]))
elif sys.argv[1:2] == ["sse"]:
    server.run("sse", host="127.0.0.1", port=int(sys.argv[2]))
else:
    server.run()
