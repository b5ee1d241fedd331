// Runs a script of MCP requests through the TypeScript SDK and prints one JSON line a step.
//
//   node client.mjs auto|legacy SCRIPT PREFIX -- COMMAND ARGS…
//   node client.mjs auto|legacy SCRIPT PREFIX -- http://ADDRESS
//
// What is printed and how is in README.md; client.py and rmcp/src/main.rs do the same.
import { readFileSync } from 'node:fs';
import { Client, StreamableHTTPClientTransport } from '@modelcontextprotocol/client';
import { StdioClientTransport } from '@modelcontextprotocol/client/stdio';

const [mode, scriptPath, prefix, dashes, command, ...args] = process.argv.slice(2);
if (dashes !== '--') throw new Error('usage: client.mjs auto|legacy SCRIPT PREFIX -- COMMAND ARGS…');
const script = JSON.parse(readFileSync(scriptPath, 'utf8'));

const client = new Client({ name: 'peer-typescript', version: '1' }, { capabilities: {}, versionNegotiation: { mode } });
const transport = command.startsWith('http://')
    ? new StreamableHTTPClientTransport(new URL(command))
    : new StdioClientTransport({ command, args, env: process.env, stderr: 'inherit' });
await client.connect(transport);

const timeout = 60_000;
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
        const page = await list(cursor === undefined ? undefined : { cursor });
        entries.push(...page[member]);
        cursor = page.nextCursor;
    } while (cursor !== undefined);
    return { [member]: entries };
}

const run = {
    list: step => all(lists[step.what]),
    async call(step, out) {
        const options = { timeout };
        if (step.progress) {
            out.progress = [];
            options.onprogress = p => out.progress.push(p);
        }
        return client.callTool({ name: prefix + step.name, arguments: step.arguments }, options);
    },
    // until the tool answers with the text: for effects that take time
    async until(step) {
        const end = Date.now() + 20_000;
        for (;;) {
            const result = await client.callTool({ name: prefix + step.name, arguments: step.arguments }, { timeout });
            if (result.content[0].text === step.text || Date.now() > end) return result;
            await new Promise(resolve => setTimeout(resolve, 50));
        }
    },
    // takes the call back at its first progress notification
    async cancel(step) {
        const abort = new AbortController();
        let progressed = false;
        const onprogress = () => {
            progressed = true;
            abort.abort('no longer needed');
        };
        const call = client.callTool({ name: prefix + step.name, arguments: step.arguments }, { timeout, signal: abort.signal, onprogress });
        return call.then(
            () => ({ cancelled: false }),
            () => ({ cancelled: progressed })
        );
    },
    prompt: step => client.getPrompt({ name: prefix + step.name, arguments: step.arguments }, { timeout }),
    read: step => client.readResource({ uri: step.uri }, { timeout, cacheMode: 'bypass' }),
    complete: step => {
        const ref = step.prompt === undefined ? { type: 'ref/resource', uri: step.template } : { type: 'ref/prompt', name: prefix + step.prompt };
        return client.complete({ ref, argument: step.argument }, { timeout });
    }
};

let failed = false;
for (const [at, step] of script.entries()) {
    const out = { step: at, do: step.do };
    try {
        out.result = await run[step.do](step, out);
    } catch (error) {
        // a JSON-RPC error has a number; anything else is the SDK's own complaint
        out.error = { code: error.code ?? null, message: String(error.message) };
        failed ||= typeof error.code !== 'number';
    }
    console.log(JSON.stringify(out));
}
await client.close();
process.exit(failed ? 1 : 0);
