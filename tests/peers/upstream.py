"""A server of the Python SDK: speaks both eras, whichever the client opens with.

    python upstream.py             on its standard streams
    python upstream.py http PORT   over HTTP on loopback, the handshake era with sessions
    python upstream.py sse PORT    the same by HTTP+SSE of 2024-11-05, at /sse

It has every feature that the SDK knows, under the names that upstream.mjs uses.
"""

import sys
import warnings

import mcp_types as types
from mcp.server.mcpserver import Context, MCPServer

# the tests leave nothing beside the sources
sys.dont_write_bytecode = True

from asking import ENTRIES, LEVELS, stateless
from features import add_features, complete, extra

# the newer era deprecates what the older one needs
warnings.simplefilter("ignore")

server = MCPServer(
    "peer-python",
    title="A Python peer",
    version="1.0.0",
    instructions="Use echo to hear yourself.",
    log_level="ERROR",
)
TEXT = {"structured_output": False}
add_features(server, Context, TEXT)
server.completion()(complete)


@server.tool(**TEXT)
async def log(ctx: Context) -> str:
    """Logs at three levels"""
    for level, data in ENTRIES:
        if stateless(ctx) or LEVELS.index(level) >= LEVELS.index(wanted):
            await ctx.log(level, data, logger_name="peer")
    return "logged"


@server.tool(**TEXT)
async def touch(uri: str, ctx: Context) -> str:
    """Says that a resource was changed"""
    if stateless(ctx):
        await ctx.notify_resource_updated(uri)
    elif uri in subscribed:
        await ctx.session.send_resource_updated(uri)
    return "touched"


@server.tool(**TEXT)
async def grow(what: str, ctx: Context) -> str:
    """Adds to a list"""
    if what == "tools":
        server.add_tool(extra, name="extra", **TEXT)
        await (ctx.notify_tools_changed() if stateless(ctx) else ctx.session.send_tool_list_changed())
    elif what == "prompts":
        server.prompt(name="extra")(extra)
        await (ctx.notify_prompts_changed() if stateless(ctx) else ctx.session.send_prompt_list_changed())
    else:
        server.resource("peer://extra")(extra)
        await (ctx.notify_resources_changed() if stateless(ctx) else ctx.session.send_resource_list_changed())
    return "grown"


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


if sys.argv[1:2] == ["http"]:
    server.run("streamable-http", host="127.0.0.1", port=int(sys.argv[2]))
elif sys.argv[1:2] == ["sse"]:
    server.run("sse", host="127.0.0.1", port=int(sys.argv[2]))
else:
    server.run()
