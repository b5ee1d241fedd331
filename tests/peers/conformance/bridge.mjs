// Lets the official conformance suite, which speaks HTTP, reach what speaks on its standard streams.
//
//   node bridge.mjs handshake|stateless PREFIX -- COMMAND ARGS…
//
// Writes the port it listens at on loopback as its first line. It relays: what a server says is
// written to the request it belongs to. It changes ids and progress tokens, because each of the
// suite's connections numbers its own, and the names of tools and prompts: PREFIX is put before
// those that are called and taken from those that are listed. Direct runs have an empty one. In
// the handshake era each session is a process; in the stateless era one process serves all.
import { spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { createServer } from 'node:http';
import { createInterface } from 'node:readline';

const [era, prefix, , command, ...args] = process.argv.slice(2);
const META = 'io.modelcontextprotocol/';
const children = new Set();

class Peer {
    constructor() {
        this.next = 1;
        this.open = new Map();
        this.news = undefined;
        this.child = spawn(command, args, { stdio: ['pipe', 'pipe', 'inherit'] });
        children.add(this.child);
        this.child.on('exit', () => {
            children.delete(this.child);
            for (const call of this.open.values()) call.response.destroy();
        });
        this.child.stdin.on('error', () => {});
        createInterface({ input: this.child.stdout }).on('line', line => this.hears(JSON.parse(line)));
    }

    write(message) {
        this.child.stdin.write(`${JSON.stringify(message)}\n`);
    }

    ask(message, response, session) {
        const id = this.next++;
        const call = { id: message.id, response, session, method: message.method, token: message.params?._meta?.progressToken };
        this.open.set(id, call);
        const sent = structuredClone(message);
        sent.id = id;
        if (call.token !== undefined) sent.params._meta.progressToken = id;
        if (prefix !== '') called(sent);
        response.on('close', () => {
            if (!this.open.delete(id) || era !== 'stateless') return;
            this.write({ jsonrpc: '2.0', method: 'notifications/cancelled', params: { requestId: id } });
        });
        this.write(sent);
    }

    hears(message) {
        if (message.method === undefined) {
            const call = this.open.get(message.id);
            if (call === undefined) return;
            this.open.delete(message.id);
            message.id = call.id;
            const subscription = message.result?._meta;
            if (subscription?.[`${META}subscriptionId`] !== undefined) subscription[`${META}subscriptionId`] = call.id;
            if (prefix !== '' && message.result !== undefined) listed(call.method, message.result);
            return end(call, message);
        }
        const params = message.params ?? {};
        const token = params.progressToken;
        const listen = params._meta?.[`${META}subscriptionId`];
        const call = this.open.get(listen ?? token ?? [...this.open.keys()].at(-1));
        if (call !== undefined && token !== undefined) params.progressToken = call.token;
        if (call !== undefined && listen !== undefined) params._meta[`${META}subscriptionId`] = call.id;
        if (call !== undefined) event(call, message);
        else if (this.news !== undefined) this.news.write(`event: message\ndata: ${JSON.stringify(message)}\n\n`);
    }
}

// mcpshim has a tool of its own
const exposed = name => (name === undefined || name.startsWith('mcpshim_') ? name : `${prefix}${name}`);

function called({ method, params }) {
    if (method === 'tools/call' || method === 'prompts/get') params.name = exposed(params.name);
    if (method === 'completion/complete' && params.ref?.type === 'ref/prompt') params.ref.name = exposed(params.ref.name);
}

function listed(method, result) {
    const entries = { 'tools/list': result.tools, 'prompts/list': result.prompts }[method] ?? [];
    for (const entry of entries) if (entry.name.startsWith(prefix)) entry.name = entry.name.slice(prefix.length);
}

function event(call, message) {
    if (!call.response.headersSent) {
        const session = call.session === undefined ? {} : { 'mcp-session-id': call.session };
        call.response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-cache', ...session });
    }
    call.response.write(`event: message\ndata: ${JSON.stringify(message)}\n\n`);
}

// MCP 2026-07-28, streamable HTTP: some errors of a request are the status of its answer
const STATUS = { '-32601': 404, '-32602': 400, '-32020': 400, '-32021': 400, '-32022': 400 };

function end(call, message) {
    const streams = era === 'handshake' || call.response.headersSent;
    if (streams) {
        event(call, message);
        return call.response.end();
    }
    answer(call.response, STATUS[message.error?.code] ?? 200, message);
}

function answer(response, status, message) {
    response.writeHead(status, { 'content-type': 'application/json' });
    response.end(message === undefined ? undefined : JSON.stringify(message));
}

const refuse = (response, status, code, message, id = null) => answer(response, status, { jsonrpc: '2.0', id, error: { code, message } });

const sessions = new Map();
const only = era === 'stateless' ? new Peer() : undefined;

function take(request, response, body) {
    const session = request.headers['mcp-session-id'];
    let peer = only ?? sessions.get(session);
    if (request.method === 'DELETE') {
        peer?.child.stdin.end();
        sessions.delete(session);
        return answer(response, 200);
    }
    if (request.method !== 'POST') {
        if (peer === undefined || era === 'stateless') return answer(response, 405);
        response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-cache', 'mcp-session-id': session });
        response.flushHeaders();
        peer.news = response;
        return response.on('close', () => (peer.news = peer.news === response ? undefined : peer.news));
    }
    let message;
    try {
        message = JSON.parse(body);
    } catch {
        return refuse(response, 400, -32700, 'Parse error');
    }
    let name = session;
    if (message.method === 'initialize' && era === 'handshake') {
        peer = new Peer();
        sessions.set((name = randomUUID()), peer);
    }
    if (peer === undefined) return refuse(response, session === undefined ? 400 : 404, -32600, 'no such session', message.id);
    if (message.id === undefined || message.method === undefined) {
        peer.write(message);
        return response.writeHead(202).end();
    }
    if (era === 'stateless') {
        const [said, meant] = [request.headers['mcp-protocol-version'], message.params?._meta?.[`${META}protocolVersion`]];
        if (said !== undefined && meant !== undefined && said !== meant) return refuse(response, 400, -32020, 'the header says another protocol version', message.id);
    }
    peer.ask(message, response, name);
}

createServer((request, response) => {
    const local = host => host === undefined || /^(https?:\/\/)?(127\.0\.0\.1|localhost)(:\d+)?$/.test(host);
    if (!local(request.headers.host) || !local(request.headers.origin)) return refuse(response, 403, -32600, 'not from here');
    const parts = [];
    request.on('data', part => parts.push(part)).on('end', () => take(request, response, Buffer.concat(parts).toString()));
}).listen(0, '127.0.0.1', function () {
    process.stdout.write(`${this.address().port}\n`);
});
// it ends with who started it
process.stdin.resume().on('end', () => {
    for (const child of children) child.stdin.end();
    setTimeout(() => process.exit(), 200);
});
