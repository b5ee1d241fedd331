// A server of the TypeScript SDK v2: speaks both eras, whichever the client opens with.
//
//   node upstream.mjs                 on its standard streams
//   node upstream.mjs modern          the same, the newer era only
//   node upstream.mjs http PORT       over HTTP on loopback, the handshake era without sessions
//   node upstream.mjs stateless PORT  the same, the newer era only
//
// It has every feature of the protocol; which tool shows which is in README.md.
import { createServer } from 'node:http';
import { Readable } from 'node:stream';
import { acceptedContent, createMcpHandler, inputRequired, McpServer, ResourceTemplate, completable, UrlElicitationRequiredError } from '@modelcontextprotocol/server';
import { serveStdio } from '@modelcontextprotocol/server/stdio';
import { z } from 'zod';

let cancelled = 0;
// one process serves one client on standard streams and makes a server for each request over HTTP
let notifier;
const grown = { tools: false, prompts: false, resources: false };
const subscribed = new Set();
let outside = 'nothing';

const text = value => ({ content: [{ type: 'text', text: typeof value === 'string' ? value : JSON.stringify(value) }] });
const question = {
    name: () =>
        inputRequired.elicit({
            message: 'What is your name?',
            requestedSchema: {
                type: 'object',
                properties: {
                    name: { type: 'string', title: 'Name', minLength: 1 },
                    age: { type: 'integer', minimum: 0, maximum: 150 },
                    colour: { type: 'string', enum: ['red', 'green'], default: 'green' },
                    sure: { type: 'boolean' }
                },
                required: ['name']
            }
        }),
    visit: () => inputRequired.elicitUrl({ message: 'Sign in there, please.', url: 'https://peer.example/visit?x=1&y=%20' }),
    model: () =>
        inputRequired.createMessage({
            messages: [{ role: 'user', content: { type: 'text', text: 'Say something nice.' } }],
            systemPrompt: 'You are nice.',
            temperature: 0.5,
            maxTokens: 10
        }),
    roots: () => inputRequired.listRoots()
};

function make() {
    const server = new McpServer(
        { name: 'peer-typescript', version: '1.0.0', title: 'A TypeScript peer' },
        {
            instructions: 'Use echo to hear yourself.',
            capabilities: { logging: {}, resources: { subscribe: true, listChanged: true }, tools: { listChanged: true }, prompts: { listChanged: true } }
        }
    );
    const { server: low } = server;
    low.setRequestHandler('resources/subscribe', async ({ params }) => {
        subscribed.add(params.uri);
        return {};
    });
    low.setRequestHandler('resources/unsubscribe', async ({ params }) => {
        subscribed.delete(params.uri);
        return {};
    });

    server.registerTool(
        'echo',
        { title: 'Echo', description: 'Says it again', inputSchema: z.object({ message: z.string() }), annotations: { readOnlyHint: true }, _meta: { 'example/kept': { a: [1, null] } } },
        async ({ message }) => ({ content: [{ type: 'text', text: message }], _meta: { 'example/also': true } })
    );
    server.registerTool(
        'add',
        { description: 'Adds', inputSchema: z.object({ a: z.number(), b: z.number() }), outputSchema: z.object({ sum: z.number() }) },
        async ({ a, b }) => ({ content: [{ type: 'text', text: JSON.stringify({ sum: a + b }) }], structuredContent: { sum: a + b } })
    );
    server.registerTool('fail', { description: 'Fails', inputSchema: z.object({}) }, async () => ({
        content: [{ type: 'text', text: 'it is broken' }],
        isError: true
    }));
    server.registerTool(
        'slow',
        { description: 'Reports progress until it is done or taken back', inputSchema: z.object({ steps: z.number().int() }) },
        async ({ steps }, ctx) => {
            const progressToken = ctx.mcpReq._meta?.progressToken;
            for (let progress = 1; progress <= steps; progress++) {
                if (ctx.mcpReq.signal.aborted) break;
                if (progressToken !== undefined) {
                    await ctx.mcpReq.notify({ method: 'notifications/progress', params: { progressToken, progress, total: steps, message: `step ${progress}` } });
                }
                await new Promise(resolve => setTimeout(resolve, 50));
            }
            if (ctx.mcpReq.signal.aborted) cancelled++;
            return { content: [{ type: 'text', text: 'done' }] };
        }
    );
    server.registerTool('taken-back', { description: 'How many calls were taken back', inputSchema: z.object({}) }, async () => ({
        content: [{ type: 'text', text: String(cancelled) }]
    }));
    server.registerTool('picture', { description: 'Other kinds of content', inputSchema: z.object({}) }, async () => ({
        content: [
            { type: 'image', data: 'iVBORw0KGgo=', mimeType: 'image/png', annotations: { audience: ['user'], priority: 0.5 } },
            { type: 'resource_link', uri: 'peer://static', name: 'static' },
            { type: 'resource', resource: { uri: 'peer://inline', mimeType: 'text/plain', text: 'Grüße, \u2028 世界 😀' } }
        ]
    }));

    // Questions: a result that asks in the newer era, requests of the SDK's own in the older.
    const asks = (name, description, key) =>
        server.registerTool(name, { description, inputSchema: z.object({}) }, async (_, ctx) => {
            const answer = ctx.mcpReq.inputResponses?.[key];
            return answer === undefined ? inputRequired({ inputRequests: { [key]: question[key]() } }) : text(answer);
        });
    asks('ask-name', 'Asks with a form', 'name');
    asks('ask-visit', 'Asks to open an address', 'visit');
    asks('ask-model', 'Asks the model of the client', 'model');
    asks('ask-roots', 'Asks for the roots', 'roots');
    server.registerTool('ask-twice', { description: 'Asks for two things at once, then for one', inputSchema: z.object({}) }, async (_, ctx) => {
        const { name, roots } = ctx.mcpReq.inputResponses ?? {};
        const state = ctx.mcpReq.requestState();
        if (state === undefined) return inputRequired({ inputRequests: { name: question.name(), roots: question.roots() }, requestState: 'first "é" ' });
        if (state === 'first "é" ') return inputRequired({ inputRequests: { name: question.name() }, requestState: JSON.stringify({ name, roots }) });
        return text({ first: JSON.parse(state), second: name });
    });
    server.registerTool('ask-later', { description: 'Asks to be called again, then for a name', inputSchema: z.object({}) }, async (_, ctx) => {
        const state = ctx.mcpReq.requestState();
        if (state === undefined) return inputRequired({ requestState: 'busy' });
        const name = acceptedContent(ctx.mcpReq.inputResponses, 'name');
        return name === undefined ? inputRequired({ inputRequests: { name: question.name() }, requestState: 'asked' }) : text({ state, name });
    });
    server.registerTool('ask-forever', { description: 'Never has enough', inputSchema: z.object({}) }, async () =>
        inputRequired({ inputRequests: { name: question.name() } })
    );
    server.registerTool('ask-first', { description: 'Wants an address opened before it is called', inputSchema: z.object({}) }, async (_, ctx) => {
        if (ctx.mcpReq.inputResponses?.visit !== undefined) return text('visited');
        if (ctx.mcpReq.envelope !== undefined) return inputRequired({ inputRequests: { visit: question.visit() } });
        throw new UrlElicitationRequiredError([{ mode: 'url', elicitationId: 'first-1', ...question.visit().params }]);
    });
    // A question that belongs to no call; the older era only.
    server.registerTool('ask-outside', { description: 'Asks for the roots a moment after its answer', inputSchema: z.object({}) }, async () => {
        outside = 'waiting';
        setTimeout(() => low.listRoots().then(r => (outside = JSON.stringify(r)), e => (outside = `refused: ${e.message}`)), 50);
        return text('soon');
    });
    server.registerTool('asked-outside', { description: 'What came of it', inputSchema: z.object({}) }, async () => text(outside));

    server.registerTool('log', { description: 'Logs at three levels', inputSchema: z.object({}) }, async (_, ctx) => {
        await ctx.mcpReq.log('debug', 'a detail', 'peer');
        await ctx.mcpReq.log('warning', { what: 'a warning', n: 12345678901234567000 }, 'peer');
        await ctx.mcpReq.log('error', ['an error', null], 'peer');
        return text('logged');
    });
    server.registerTool('touch', { description: 'Says that a resource was changed', inputSchema: z.object({ uri: z.string() }) }, async ({ uri }) => {
        if (notifier !== undefined) notifier.resourceUpdated(uri);
        else if (low.getNegotiatedProtocolVersion?.() >= '2026-07-28' || subscribed.has(uri)) await low.sendResourceUpdated({ uri });
        return text('touched');
    });
    const extra = {
        tools: () => server.registerTool('extra', { description: 'Came later', inputSchema: z.object({}) }, async () => text('extra')),
        prompts: () => server.registerPrompt('extra', { description: 'Came later' }, () => ({ messages: [] })),
        resources: () => server.registerResource('extra', 'peer://extra', {}, async uri => ({ contents: [{ uri: uri.href, text: 'extra' }] }))
    };
    for (const what of Object.keys(extra)) if (grown[what]) extra[what]();
    server.registerTool('grow', { description: 'Adds to a list', inputSchema: z.object({ what: z.enum(['tools', 'prompts', 'resources']) }) }, async ({ what }) => {
        if (!grown[what]) {
            grown[what] = true;
            extra[what]();
            notifier?.[`${what}Changed`]();
        }
        return text('grown');
    });
    server.registerTool('seen', { description: 'What it knows of who calls', inputSchema: z.object({}) }, async (_, ctx) => {
        const { 'io.modelcontextprotocol/clientCapabilities': capabilities, 'io.modelcontextprotocol/clientInfo': client } = ctx.mcpReq.envelope ?? {};
        return text({ meta: ctx.mcpReq._meta ?? {}, client: client ?? low.getClientVersion(), capabilities: capabilities ?? low.getClientCapabilities() });
    });

    server.registerPrompt('ask-prompt', { description: 'A prompt that asks' }, ctx => {
        const name = ctx.mcpReq.inputResponses?.name;
        if (name === undefined) return inputRequired({ inputRequests: { name: question.name() } });
        return { messages: [{ role: 'user', content: { type: 'text', text: JSON.stringify(name) } }] };
    });
    server.registerResource('asks', 'peer://asks', { mimeType: 'application/json' }, async (uri, ctx) => {
        const name = ctx.mcpReq.inputResponses?.name;
        if (name === undefined) return inputRequired({ inputRequests: { name: question.name() } });
        return { contents: [{ uri: uri.href, mimeType: 'application/json', text: JSON.stringify(name) }] };
    });
    server.registerPrompt(
        'greet',
        { title: 'Greet', description: 'A greeting', argsSchema: z.object({ name: completable(z.string(), value => ['Ada', 'Alan', 'Grace'].filter(n => n.startsWith(value))) }) },
        ({ name }) => ({ messages: [{ role: 'user', content: { type: 'text', text: `Greet ${name}.` } }] })
    );
    server.registerResource('static', 'peer://static', { mimeType: 'text/plain', description: 'Always the same' }, async uri => ({
        contents: [{ uri: uri.href, mimeType: 'text/plain', text: 'static' }]
    }));
    server.registerResource(
        'item',
        new ResourceTemplate('peer://items/{id}', { list: undefined, complete: { id: value => ['1', '12', '2'].filter(id => id.startsWith(value)) } }),
        { mimeType: 'application/json' },
        async (uri, { id }) => ({ contents: [{ uri: uri.href, mimeType: 'application/json', text: JSON.stringify({ id }) }] })
    );
    return server;
}

// the SDK's handler speaks fetch; Node does not
async function answer(handler, request, response) {
    const gone = new AbortController();
    response.on('close', () => gone.abort());
    const body = request.method === 'POST' ? Readable.toWeb(request) : undefined;
    const { method, headers } = request;
    const asked = new Request(`http://127.0.0.1${request.url}`, { method, headers, body, duplex: 'half', signal: gone.signal });
    const answered = await handler.fetch(asked);
    response.writeHead(answered.status, Object.fromEntries(answered.headers));
    if (answered.body === null) return response.end();
    const reader = answered.body.getReader();
    response.on('close', () => reader.cancel().catch(() => {}));
    for (;;) {
        const { done, value } = await reader.read();
        if (done) return response.end();
        response.write(value);
    }
}

const [how, port] = process.argv.slice(2);
if (how === undefined || how === 'modern') {
    serveStdio(make, { legacy: how === 'modern' ? 'reject' : 'serve' });
} else {
    const handler = createMcpHandler(make, { legacy: how === 'stateless' ? 'reject' : 'stateless' });
    notifier = handler.notify;
    createServer((request, response) => answer(handler, request, response).catch(() => response.destroy())).listen(Number(port), '127.0.0.1');
}
