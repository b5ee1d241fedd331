"""What both Python servers of the tests have, under the names that upstream.mjs uses."""

from typing_extensions import TypedDict

import anyio
from mcp_types import Completion, InputRequiredResult, PromptReference, ResourceTemplateReference, ToolAnnotations

from asking import ask


class Sum(TypedDict):
    sum: float


def extra() -> str:
    """Came later"""
    return "extra"


def add_features(server, Context, text):
    """Adds them; `text` is how the SDK is told that a tool answers with text only."""
    cancelled = 0

    @server.tool(title="Echo", annotations=ToolAnnotations(read_only_hint=True), meta={"example/kept": {"a": [1]}}, **text)
    def echo(message: str) -> str:
        """Says it again"""
        return message

    @server.tool()
    def add(a: float, b: float) -> Sum:
        """Adds"""
        return {"sum": a + b}

    @server.tool(**text)
    def fail() -> str:
        """Fails"""
        raise ValueError("it is broken")

    @server.tool(**text)
    async def slow(steps: int, ctx: Context) -> str:
        """Reports progress until it is done or taken back"""
        nonlocal cancelled
        try:
            for step in range(1, steps + 1):
                await ctx.report_progress(step, steps, f"step {step}")
                await anyio.sleep(0.05)
        except anyio.get_cancelled_exc_class():
            cancelled += 1
            raise
        return "done"

    @server.tool(name="taken-back", **text)
    def taken_back() -> str:
        """How many calls were taken back"""
        return str(cancelled)

    @server.tool(name="ask-name", **text)
    async def ask_name(ctx: Context) -> str | InputRequiredResult:
        """Asks with a form"""
        return await ask(ctx, "name")

    @server.tool(name="ask-visit", **text)
    async def ask_visit(ctx: Context) -> str | InputRequiredResult:
        """Asks to open an address"""
        return await ask(ctx, "visit")

    @server.tool(name="ask-model", **text)
    async def ask_model(ctx: Context) -> str | InputRequiredResult:
        """Asks the model of the client"""
        return await ask(ctx, "model")

    @server.tool(name="ask-roots", **text)
    async def ask_roots(ctx: Context) -> str | InputRequiredResult:
        """Asks for the roots"""
        return await ask(ctx, "roots")

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


async def complete(ref, argument, context):
    if isinstance(ref, PromptReference):
        values = ["Ada", "Alan", "Grace"]
    elif isinstance(ref, ResourceTemplateReference):
        values = ["1", "12", "2"]
    return Completion(values=[v for v in values if v.startswith(argument.value)])
