"""A server of FastMCP, over HTTP on loopback: speaks both eras, the older one with sessions.

    python fast.py PORT

It has what features.py holds, under the names that upstream.mjs uses.
"""

import sys
import warnings

from fastmcp import Context, FastMCP

# the tests leave nothing beside the sources
sys.dont_write_bytecode = True

from asking import ENTRIES
from features import add_features, complete, extra

# the newer era deprecates what the older one needs
warnings.simplefilter("ignore")

server = FastMCP("peer-fastmcp", version="1.0.0", instructions="Use echo to hear yourself.")
TEXT = {"output_schema": None}
add_features(server, Context, TEXT)
server.completion(complete)


@server.tool(**TEXT)
async def log(ctx: Context) -> str:
    """Logs at three levels"""
    for level, data in ENTRIES:
        await ctx.log(str(data), level=level, logger_name="peer")
    return "logged"


@server.tool(**TEXT)
async def grow(what: str, ctx: Context) -> str:
    """Adds to a list"""
    if what == "tools":
        server.tool(extra, name="extra", **TEXT)
    elif what == "prompts":
        server.prompt(extra, name="extra")
    else:
        server.resource("peer://extra")(extra)
    return "grown"


server.run("http", host="127.0.0.1", port=int(sys.argv[1]), show_banner=False, log_level="error")
