"""What the Python servers of the tests ask of a client, in both eras."""

import json

import mcp_types as types
from mcp_types import InputRequiredResult

LEVELS = ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"]
ENTRIES = [("debug", "a detail"), ("warning", {"what": "a warning", "n": 12345678901234567000}), ("error", ["an error", None])]

# Questions: a result that asks in the newer era, requests in the older.
NAME = {
    "type": "object",
    "properties": {"name": {"type": "string", "title": "Name"}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name"],
}
VISIT = {"message": "Sign in there, please.", "url": "https://peer.example/visit?x=1&y=%20"}
MODEL = {
    "messages": [types.SamplingMessage(role="user", content=types.TextContent(type="text", text="Say something nice."))],
    "max_tokens": 10,
    "system_prompt": "You are nice.",
}
questions = {
    "name": lambda: types.ElicitRequest(params=types.ElicitRequestFormParams(message="What is your name?", requested_schema=NAME)),
    "visit": lambda: types.ElicitRequest(params=types.ElicitRequestURLParams(**VISIT)),
    "model": lambda: types.CreateMessageRequest(params=types.CreateMessageRequestParams(**MODEL)),
    "roots": lambda: types.ListRootsRequest(),
}
requests = {
    "name": lambda session, id: session.elicit_form("What is your name?", NAME, related_request_id=id),
    "visit": lambda session, id: session.elicit_url(**VISIT, elicitation_id="visit-1", related_request_id=id),
    "model": lambda session, id: session.create_message(**MODEL, related_request_id=id),
    "roots": lambda session, id: session.list_roots(),
}


def stateless(ctx):
    return (ctx.session.protocol_version or "") >= "2026-07-28"


async def ask(ctx, kind):
    """The answer as JSON, or the result that asks for it."""
    if not stateless(ctx):
        answer = await requests[kind](ctx.session, ctx.request_id)
    else:
        answer = (ctx.input_responses or {}).get(kind)
        if answer is None:
            return InputRequiredResult(input_requests={kind: questions[kind]()})
    return json.dumps(answer.model_dump(mode="json", by_alias=True, exclude_none=True))
