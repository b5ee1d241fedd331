"""Holds recorded messages of mcpshim to the schema of their revision.

    python validate.py SCHEMAS RECORDED [--but NAME]...

RECORDED holds, for each process that stood between two programs, `client-….in` and `.out` (what a client of mcpshim wrote and
what it got) or `upstream-….in` and `.out` (what mcpshim wrote to a server and what it got). What mcpshim wrote is checked: the
`.out` of clients, the `.in` of upstreams; the other file tells what was asked and which revision was agreed on. Over HTTP there is
also `upstream-….heads`: the headers of the protocol, a line for each of `.in`, which must say what the message says. `--but` names
a tool, prompt or resource whose own definition is at fault, or a member that a server may use in its revision and a client's has no word for.

Prints a line a fault, then what was seen as one JSON object: `"<revision> <side> <kind> <method>": count`. Ends with 1 where there
was a fault.
"""

import base64
import collections
import json
import pathlib
import sys

import jsonschema

NEW = "2026-07-28"
CLAIM = "io.modelcontextprotocol/protocolVersion"
# revisions without a file of their own
AS = {"2024-11-05": "2025-06-18", "2025-03-26": "2025-06-18"}
RESULTS = {
    "initialize": "InitializeResult",
    "server/discover": "DiscoverResult",
    "tools/list": "ListToolsResult",
    "tools/call": "CallToolResult",
    "prompts/list": "ListPromptsResult",
    "prompts/get": "GetPromptResult",
    "resources/list": "ListResourcesResult",
    "resources/templates/list": "ListResourceTemplatesResult",
    "resources/read": "ReadResourceResult",
    "completion/complete": "CompleteResult",
    "subscriptions/listen": "SubscriptionsListenResult",
    "elicitation/create": "ElicitResult",
    "sampling/createMessage": "CreateMessageResult",
    "roots/list": "ListRootsResult",
    "logging/setLevel": "EmptyResult",
    "ping": "EmptyResult",
    "resources/subscribe": "EmptyResult",
    "resources/unsubscribe": "EmptyResult",
}
# which methods each side may use; the schemas have one list a direction
CLIENTS, SERVERS = ("ClientRequest", "ClientNotification"), ("ServerRequest", "ServerNotification")
# of an extension, in no schema of the protocol (io.modelcontextprotocol/tasks)
EXTENSION = {"tasks/get", "tasks/update", "tasks/cancel", "notifications/tasks"}
# what the header Mcp-Name repeats
NAMED = {
    "tools/call": "name",
    "prompts/get": "name",
    "resources/read": "uri",
    "tasks/get": "taskId",
    "tasks/update": "taskId",
    "tasks/cancel": "taskId",
}
# members that only the newer era has at the top of a result, and of a request's `_meta`
NEWER = ["resultType", "ttlMs", "cacheScope", "inputRequests", "requestState"]


class Schema:
    def __init__(self, path):
        self.whole = json.loads(path.read_text())
        self.place = "$defs" if "$defs" in self.whole else "definitions"
        self.made = {}
        self.methods = {}
        for names in (CLIENTS, SERVERS):
            for name in names:
                for method, definition in self.of_union(name):
                    self.methods[names is CLIENTS, method] = definition

    def of_union(self, name):
        union = self.whole[self.place].get(name)
        if union is None:
            return
        # a union of one is that one
        for entry in union.get("anyOf", [{"$ref": f"#/{self.place}/{name}"}]):
            definition = entry["$ref"].rsplit("/", 1)[1]
            method = self.whole[self.place][definition]["properties"]["method"]["const"]
            yield method, definition

    def faults(self, definition, value):
        if definition not in self.made:
            schema = {**self.whole, "$ref": f"#/{self.place}/{definition}"}
            self.made[definition] = jsonschema.validators.validator_for(schema)(schema)
        return list(self.made[definition].iter_errors(value))


def parsed(path):
    for line in path.read_bytes().split(b"\n") if path.exists() else []:
        if not line:
            continue
        line = line.decode(errors="replace")
        try:
            yield json.loads(line), line
        except ValueError:
            yield None, line


class Wire:
    """One connection: what mcpshim wrote, and what it was told."""

    def __init__(self, path, schemas, but):
        self.schemas, self.but = schemas, but
        self.is_client = path.name.startswith("client-")
        ours, theirs = (".out", ".in") if self.is_client else (".in", ".out")
        self.name = path.name
        self.ours = list(parsed(path.with_suffix(ours)))
        self.theirs = list(parsed(path.with_suffix(theirs)))
        self.said = None
        self.heads = [head for head, _ in parsed(path.with_suffix(".heads"))]
        requests = lambda lines: {key(m): m for m, _ in lines if m and "method" in m and "id" in m}
        self.asked_us, self.asked_them = requests(self.theirs), requests(self.ours)
        # who answered an initialize: mcpshim its client, a server mcpshim
        asked, answered = (self.asked_us, self.ours) if self.is_client else (self.asked_them, self.theirs)
        self.agreed = None
        for message, _ in answered:
            if message and "result" in message and asked.get(key(message), {}).get("method") == "initialize":
                self.agreed = message["result"].get("protocolVersion")

    def revision(self, request=None):
        if request and request.get("method") == "initialize":
            return self.agreed or "2025-11-25"
        meta = ((request or {}).get("params") or {}).get("_meta") or {}
        return meta.get(CLAIM) or self.agreed or self.said or NEW

    def check(self, seen):
        heads = self.heads + [None] * (len(self.ours) - len(self.heads))
        for (message, line), head in zip(self.ours, heads):
            # what servers take a request without the header for
            self.said = head.get("mcp-protocol-version", "2025-03-26") if head else None
            for fault in self.check_one(message, seen) + self.check_head(message, head):
                yield f"{self.name}: {fault}\n    {line[:2000]}"

    def check_head(self, message, head):
        """Streamable HTTP: what the headers must repeat of the message."""
        if message is None or head is None:
            return []
        method, params = message.get("method"), message.get("params") or {}
        claim = (params.get("_meta") or {}).get(CLAIM)
        expected = {}
        if claim == NEW:
            named = NAMED.get(method)
            expected = {"mcp-protocol-version": claim, "mcp-method": method, "mcp-name": params.get(named) if named else None}
        elif method != "initialize" and (self.agreed or "") >= "2025-06-18":
            expected = {"mcp-protocol-version": self.agreed}
        found = {name: unwrapped(head.get(name)) for name in expected}
        return [f"the header {name} is {found[name]!r}" for name in expected if found[name] != expected[name]]

    def check_one(self, message, seen):
        if message is None:
            return ["no JSON"]
        side = "to the client" if self.is_client else "to the server"
        method = message.get("method")
        if method is not None:
            kind = "request" if "id" in message else "notification"
            revision = self.revision(message if kind == "request" else None)
            seen[f"{revision} {side} {kind} {method}"] += 1
            schema = self.schemas[AS.get(revision, revision)]
            if method in EXTENSION and revision == NEW:
                return []
            definition = schema.methods.get((not self.is_client, method))
            if definition is None:
                return [f"{method} is not a {kind} of {revision} {side}"]
            return self.faults(schema, definition, message) + self.foreign(revision, message.get("params"))
        asked = self.asked_us.get(key(message))
        revision = self.revision(asked)
        method = (asked or {}).get("method", "nothing")
        kind = "error" if "error" in message else "result"
        seen[f"{revision} {side} {kind} {method}"] += 1
        schema = self.schemas[AS.get(revision, revision)]
        defs = schema.whole[schema.place]
        if kind == "error":
            known = "JSONRPCErrorResponse" if "JSONRPCErrorResponse" in defs else "JSONRPCError"
            if message.get("id") is None:
                # JSON-RPC 2.0: the answer to what could not be read; older schemas have no word for it
                message = {k: v for k, v in message.items() if k != "id"}
                known = known if known == "JSONRPCErrorResponse" else None
            return self.faults(schema, known, message) if known else []
        if asked is None:
            return ["an answer to nothing"]
        envelope = "JSONRPCResultResponse" if "JSONRPCResultResponse" in defs else "JSONRPCResponse"
        found = self.faults(schema, envelope, message)
        result = message["result"]
        definition = RESULTS.get(method)
        kind = result.get("resultType") if revision == NEW else None
        if kind == "input_required":
            definition = "InputRequiredResult"
        if method in EXTENSION or kind == "task":
            return found
        if definition not in defs:
            return found + [f"no {definition} in {revision}"]
        return found + self.faults(schema, definition, result) + self.foreign(revision, result)

    def faults(self, schema, definition, value):
        found = []
        for fault in schema.faults(definition, value):
            best = jsonschema.exceptions.best_match([fault])
            path = list(fault.absolute_path) + [p for p in best.absolute_path if p not in fault.absolute_path]
            if self.but.intersection(p for p in path if isinstance(p, str)):
                continue
            if len(path) > 1 and isinstance(path[1], int):
                entry = value.get(path[0], [])[path[1]]
                if isinstance(entry, dict) and {entry.get("name"), entry.get("uri")} & self.but:
                    continue
            found.append(f"no {definition}: {best.message[:300]} at {path}")
        return found

    def foreign(self, revision, holder):
        if revision == NEW or not isinstance(holder, dict):
            return []
        found = [name for name in NEWER if name in holder]
        meta = holder.get("_meta")
        found += [name for name in meta if name == CLAIM] if isinstance(meta, dict) else []
        return [f"{name} is not of {revision}" for name in found]


def unwrapped(header):
    """A text that no header can hold comes in base64."""
    if header and header.startswith("=?base64?"):
        return base64.b64decode(header.removeprefix("=?base64?").removesuffix("?=")).decode()
    return header


def key(message):
    """`1` and `"1"` are two ids."""
    return json.dumps(message.get("id"))


def main(schemas, recorded, *rest):
    but = {name for flag, name in zip(rest[::2], rest[1::2]) if flag == "--but"}
    schemas = {path.stem: Schema(path) for path in pathlib.Path(schemas).glob("*.json")}
    seen = collections.Counter()
    faults = 0
    for path in sorted(pathlib.Path(recorded).glob("*.in")):
        for fault in Wire(path, schemas, but).check(seen):
            faults += 1
            print(fault)
    print(json.dumps(dict(sorted(seen.items()))))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
