"""A server of FastMCP, over HTTP on loopback: speaks both eras, the older one with sessions.

    python fast.py PORT

It has the features of upstream.py that FastMCP has, under the same names.
"""

import sys
import warnings

from typing_extensions import TypedDict

import anyio
from fastmcp import Context, FastMCP
from mcp_types import Completion, InputRequiredResult, PromptReference, ResourceTemplateReference, ToolAnnotations

# the tests leave nothing beside the sources
sys.dont_write_bytecode = True

from asking import ENTRIES, ask

# the newer era deprecates what the older one needs
warnings.simplefilter("ignore")

server = FastMCP("peer-fastmcp", version="1.0.0", instructions="Use echo to hear yourself.")
cancelled = 0


class Sum(TypedDict):
    sum: float


@server.tool(title="Echo", annotations=ToolAnnotations(read_only_hint=True), meta={"example/kept": {"a": [1]}}, output_schema=None)
def echo(message: str) -> str:
    """Says it again"""
    return message


@server.tool()
def add(a: float, b: float) -> Sum:
    """Adds"""
    return {"sum": a + b}


@server.tool(output_schema=None)
def fail() -> str:
    """Fails"""
    raise ValueError("it is broken")


@server.tool(output_schema=None)
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


@server.tool(name="taken-back", output_schema=None)
def taken_back() -> str:
    """How many calls were taken back"""
    return str(cancelled)


@server.tool(name="ask-name", output_schema=None)
async def ask_name(ctx: Context) -> str | InputRequiredResult:
    """Asks with a form"""
    return await ask(ctx, "name")


@server.tool(name="ask-visit", output_schema=None)
async def ask_visit(ctx: Context) -> str | InputRequiredResult:
    """Asks to open an address"""
    return await ask(ctx, "visit")


@server.tool(name="ask-model", output_schema=None)
async def ask_model(ctx: Context) -> str | InputRequiredResult:
    """Asks the model of the client"""
    return await ask(ctx, "model")


@server.tool(name="ask-roots", output_schema=None)
async def ask_roots(ctx: Context) -> str | InputRequiredResult:
    """Asks for the roots"""
    return await ask(ctx, "roots")


@server.tool(output_schema=None)
async def log(ctx: Context) -> str:
    """Logs at three levels"""
    for level, data in ENTRIES:
        await ctx.log(str(data), level=level, logger_name="peer")
    return "logged"


@server.tool(output_schema=None)
async def grow(what: str, ctx: Context) -> str:
    """Adds to a list"""
    if what == "tools":
        server.tool(extra, name="extra", output_schema=None)
    elif what == "prompts":
        server.prompt(extra, name="extra")
    else:
        server.resource("peer://extra")(extra)
    return "grown"


def extra() -> str:
    """Came later"""
    return "extra"


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


@server.completion
async def completion(ref, argument, context):
    if isinstance(ref, PromptReference):
        values = ["Ada", "Alan", "Grace"]
    elif isinstance(ref, ResourceTemplateReference):
        values = ["1", "12", "2"]
    return Completion(values=[v for v in values if v.startswith(argument.value)])


server.run("http", host="127.0.0.1", port=int(sys.argv[1]), show_banner=False, log_level="error")
