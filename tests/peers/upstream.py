"""A server of the Python SDK: speaks both eras, whichever the client opens with.

    python upstream.py             on its standard streams
    python upstream.py http PORT   over HTTP on loopback, the handshake era with sessions
"""

import sys

from typing import TypedDict

import anyio
from mcp.server.mcpserver import Context, MCPServer
from mcp_types import Completion, PromptReference, ResourceTemplateReference, ToolAnnotations

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
else:
    server.run()
