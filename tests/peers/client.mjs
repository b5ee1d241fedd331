// Runs a script of MCP requests through the TypeScript SDK and prints one JSON line a step.
//
//   node client.mjs auto|legacy|v1 SCRIPT PREFIX -- COMMAND ARGS…
//   node client.mjs auto|legacy|v1 SCRIPT PREFIX -- http://ADDRESS
//
// auto and legacy are version 2 of the SDK, v1 is version 1. What is printed and how is in
// README.md; client.py and rmcp/src/main.rs do the same.
import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';

const [mode, scriptPath, prefix, dashes, command, ...args] = process.argv.slice(2);
if (dashes !== '--') throw new Error('usage: client.mjs auto|legacy|v1 SCRIPT PREFIX -- COMMAND ARGS…');
const script = JSON.parse(readFileSync(scriptPath, 'utf8'));

// What differs between the two versions of the SDK.
const info = { name: 'peer-typescript', version: '1' };
async function v1() {
    const { Client } = await import('@modelcontextprotocol/sdk/client/index.js');
    const { StdioClientTransport } = await import('@modelcontextprotocol/sdk/client/stdio.js');
    const { StreamableHTTPClientTransport } = await import('@modelcontextprotocol/sdk/client/streamableHttp.js');
    const types = await import('@modelcontextprotocol/sdk/types.js');
    const schemas = {
        'elicitation/create': types.ElicitRequestSchema,
        'sampling/createMessage': types.CreateMessageRequestSchema,
        'roots/list': types.ListRootsRequestSchema
    };
    return {
        StdioClientTransport,
        StreamableHTTPClientTransport,
        make: capabilities => new Client(info, { capabilities }),
        handle: (client, method, handler) => client.setRequestHandler(schemas[method], (request, extra) => handler(request, extra.signal)),
        call: (client, params, options) => client.callTool(params, undefined, options)
    };
}
async function v2() {
    const { Client, StreamableHTTPClientTransport } = await import('@modelcontextprotocol/client');
    const { StdioClientTransport } = await import('@modelcontextprotocol/client/stdio');
    return {
        StdioClientTransport,
        StreamableHTTPClientTransport,
        make: capabilities => new Client(info, { capabilities, versionNegotiation: { mode } }),
        handle: (client, method, handler) => client.setRequestHandler(method, (request, ctx) => handler(request, ctx.mcpReq.signal)),
        call: (client, params, options) => client.callTool(params, options)
    };
}
const sdk = await (mode === 'v1' ? v1() : v2());

// What the client declares, and how it answers.
const declared = script[0]?.do === 'declare' ? script[0] : {};
const timeout = declared.timeout ?? 60_000;
const capabilities = {};
if (declared.elicitation !== undefined) capabilities.elicitation = Object.fromEntries(declared.elicitation.map(kind => [kind, {}]));
if (declared.sampling) capabilities.sampling = {};
if (declared.roots !== undefined) capabilities.roots = { listChanged: true };
const client = sdk.make(capabilities);

let answers = {};
let asked = [];
let progressed = () => {};
// the answer of the step's script to a question of this kind: one for all, or one after the other
function answer(kind) {
    const said = answers[kind];
    return Array.isArray(said) ? said.shift() : said;
}
function question(kind, fallback, spell) {
    return (request, signal) => {
        asked.push({ method: request.method, params: request.params ?? {} });
        progressed('asked');
        const said = answer(kind(request)) ?? fallback;
        if (said !== 'never') return spell(said);
        return new Promise((_, reject) => {
            const taken_back = () => reject(new Error('taken back'));
            signal.addEventListener('abort', taken_back, { once: true });
            if (signal.aborted) taken_back();
        });
    };
}
if (capabilities.elicitation) {
    sdk.handle(client, 'elicitation/create', question(request => request.params.mode ?? 'form', { action: 'cancel' }, said => said));
}
if (capabilities.sampling) {
    const spell = text => ({ role: 'assistant', model: 'scripted', stopReason: 'endTurn', content: { type: 'text', text } });
    sdk.handle(client, 'sampling/createMessage', question(() => 'sampling', 'nothing', spell));
}
if (capabilities.roots) {
    sdk.handle(client, 'roots/list', question(() => 'roots', declared.roots, roots => ({ roots })));
}

// What the server told unasked, and who waits for it.
let told = [];
let wake = () => {};
client.fallbackNotificationHandler = async ({ method, params = {} }) => {
    told.push({ method, params });
    wake();
};

const transport = command.startsWith('http://')
    ? new sdk.StreamableHTTPClientTransport(new URL(command))
    : new sdk.StdioClientTransport({ command, args, env: process.env, stderr: 'inherit' });
let spoken;
if (mode === 'v1') {
    const set = transport.setProtocolVersion?.bind(transport);
    transport.setProtocolVersion = version => {
        spoken = version;
        set?.(version);
    };
}
await client.connect(transport);
spoken ??= client.getNegotiatedProtocolVersion?.();
const stateless = spoken >= '2026-07-28';

// the stateless era asks for log messages with every request
let level;
const with_level = params => (level === undefined ? params : { ...params, _meta: { 'io.modelcontextprotocol/logLevel': level } });

const lists = {
    tools: [cursor => client.listTools(cursor, { timeout, cacheMode: 'bypass' }), 'tools'],
    prompts: [cursor => client.listPrompts(cursor, { timeout, cacheMode: 'bypass' }), 'prompts'],
    resources: [cursor => client.listResources(cursor, { timeout, cacheMode: 'bypass' }), 'resources'],
    templates: [cursor => client.listResourceTemplates(cursor, { timeout, cacheMode: 'bypass' }), 'resourceTemplates']
};

async function all([list, member]) {
    const entries = [];
    let cursor;
    do {
        const page = await list(cursor === undefined ? {} : { cursor });
        entries.push(...page[member]);
        cursor = page.nextCursor;
    } while (cursor !== undefined);
    return { [member]: entries };
}

const tool = (step, options) => sdk.call(client, with_level({ name: prefix + step.name, arguments: step.arguments }), { timeout, ...options });
const input = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const listening = [];

const run = {
    declare: async () => ({}),
    server: async () => ({ protocol: spoken, capabilities: client.getServerCapabilities(), instructions: client.getInstructions() }),
    list: step => all(lists[step.what]),
    async call(step, out) {
        if (!step.progress) return tool(step);
        out.progress = [];
        return tool(step, { onprogress: p => out.progress.push(p) });
    },
    // until the tool answers with the text: for effects that take time
    async until(step) {
        for (let wait = 50; ; wait *= 2) {
            const result = await tool(step);
            if (result.content[0].text === step.text || wait > 12_800) return result;
            await new Promise(resolve => setTimeout(resolve, wait));
        }
    },
    // takes the call back at its first progress notification, or when it is asked something
    async cancel(step) {
        const abort = new AbortController();
        const at = step.at ?? 'progress';
        let reached = false;
        const onprogress = () => progressed('progress');
        progressed = what => {
            if (what !== at) return;
            reached = true;
            abort.abort('no longer needed');
        };
        return tool(step, { signal: abort.signal, ...(at === 'progress' && { onprogress }) }).then(
            () => ({ cancelled: false }),
            () => ({ cancelled: reached })
        );
    },
    prompt: step => client.getPrompt({ name: prefix + step.name, arguments: step.arguments }, { timeout }),
    read: step => client.readResource({ uri: step.uri }, { timeout, cacheMode: 'bypass' }),
    complete: step => {
        const ref = step.prompt === undefined ? { type: 'ref/resource', uri: step.template } : { type: 'ref/prompt', name: prefix + step.prompt };
        return client.complete({ ref, argument: step.argument }, { timeout });
    },
    async level(step) {
        if (!stateless) await client.setLoggingLevel(step.level, { timeout });
        level = stateless ? step.level : undefined;
        return {};
    },
    async listen(step) {
        if (stateless) {
            const filter = { resourceSubscriptions: step.uris };
            for (const what of ['tools', 'prompts', 'resources']) if (step[what]) filter[`${what}ListChanged`] = true;
            listening.push(await client.listen(filter, { timeout }));
        } else {
            for (const uri of step.uris ?? []) {
                await client.subscribeResource({ uri }, { timeout });
                listening.push({ close: () => client.unsubscribeResource({ uri }, { timeout }) });
            }
        }
        return {};
    },
    async unlisten() {
        for (const subscription of listening.splice(0)) await subscription.close();
        return {};
    },
    // the first `count` notifications of a method, whose params have the members of `where`
    async wait(step) {
        const { count = 1, within = 20_000, where = {} } = step;
        const found = () => told.filter(n => n.method === step.for && Object.entries(where).every(([key, value]) => n.params[key] === value));
        const end = Date.now() + within;
        while (found().length < count && Date.now() < end) {
            await new Promise(resolve => {
                wake = resolve;
                setTimeout(resolve, end - Date.now());
            });
        }
        const came = found().slice(0, count).map(n => n.params);
        told = told.filter(n => n.method !== step.for);
        return { came };
    },
    // lets whoever runs this do something: goes on after a line on standard input
    async hook(step) {
        console.log(JSON.stringify({ hook: step.name }));
        await input.next();
        return {};
    },
    async task() {
        throw new Error('this SDK knows no tasks extension');
    }
};

let failed = false;
for (const [at, step] of script.entries()) {
    const out = { step: at, do: step.do };
    answers = structuredClone(step.answers ?? {});
    asked = [];
    progressed = () => {};
    try {
        out.result = await run[step.do](step, out);
    } catch (error) {
        // a JSON-RPC error has a number; anything else is the SDK's own complaint
        out.error = { code: error.code ?? null, message: String(error.message) };
        failed ||= typeof error.code !== 'number';
    }
    if (step.answers !== undefined) out.asked = asked;
    console.log(JSON.stringify(out));
}
await client.close();
process.exit(failed ? 1 : 0);
