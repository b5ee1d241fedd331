// A server of the TypeScript SDK v2: speaks both eras, whichever the client opens with.
//
//   node upstream.mjs                 on its standard streams
//   node upstream.mjs http PORT       over HTTP on loopback, the handshake era without sessions
//   node upstream.mjs stateless PORT  the same, the newer era only
import { createServer } from 'node:http';
import { Readable } from 'node:stream';
import { createMcpHandler, McpServer, ResourceTemplate, completable } from '@modelcontextprotocol/server';
import { serveStdio } from '@modelcontextprotocol/server/stdio';
import { z } from 'zod';

let cancelled = 0;

function make() {
    const server = new McpServer(
        { name: 'peer-typescript', version: '1.0.0', title: 'A TypeScript peer' },
        { instructions: 'Use echo to hear yourself.' }
    );

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
if (how === undefined) {
    serveStdio(make);
} else {
    const handler = createMcpHandler(make, { legacy: how === 'stateless' ? 'reject' : 'stateless' });
    createServer((request, response) => answer(handler, request, response).catch(() => response.destroy())).listen(Number(port), '127.0.0.1');
}
