// A server of the TypeScript SDK v2 with the tools, prompts and resources that the official
// conformance suite asks for by name.
//
//   node server.mjs handshake     speaks the handshake era only
//   node server.mjs stateless     speaks the stateless era only
//
// What a name has to do is said by `conformance list` and the suite's own descriptions.
import { createHmac, randomBytes } from 'node:crypto';
import { completable, fromJsonSchema, inputRequired, McpServer, ResourceTemplate } from '@modelcontextprotocol/server';
import { serveStdio, StdioServerTransport } from '@modelcontextprotocol/server/stdio';
import { z } from 'zod';

const PNG = 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg==';
const WAV = 'UklGRiQAAABXQVZFZm10IBAAAAABAAEAQB8AAEAfAAABAAgAZGF0YQAAAAA=';
const secret = randomBytes(32);
const pause = () => new Promise(resolve => setTimeout(resolve, 50));
const text = value => ({ content: [{ type: 'text', text: value }] });
const form = (message, properties, required = Object.keys(properties)) =>
    inputRequired.elicit({ message, requestedSchema: { type: 'object', properties, required } });
const sample = (words, maxTokens) =>
    inputRequired.createMessage({ messages: [{ role: 'user', content: { type: 'text', text: words } }], maxTokens });

const sign = state => `${state}.${createHmac('sha256', secret).update(state).digest('hex')}`;
// the SDK refuses a state for which this throws
function verify(state) {
    const [plain] = state.split('.');
    if (state !== sign(plain)) throw new Error('not one of this server');
    return plain;
}

function make() {
    const server = new McpServer(
        { name: 'conformance', version: '1.0.0' },
        {
            requestState: { verify },
            capabilities: { logging: {}, completions: {}, resources: { subscribe: true, listChanged: true }, tools: { listChanged: true }, prompts: { listChanged: true } }
        }
    );
    const low = server.server;
    low.setRequestHandler('resources/subscribe', async () => ({}));
    low.setRequestHandler('resources/unsubscribe', async () => ({}));
    const tool = (name, run, inputSchema = z.object({})) => server.registerTool(name, { description: `What the suite calls ${name}`, inputSchema }, run);
    const can = ctx => ctx.mcpReq.envelope?.['io.modelcontextprotocol/clientCapabilities'] ?? low.getClientCapabilities() ?? {};

    tool('test_simple_text', async () => text('This is a simple text response for testing.'));
    tool('test_image_content', async () => ({ content: [{ type: 'image', data: PNG, mimeType: 'image/png' }] }));
    tool('test_audio_content', async () => ({ content: [{ type: 'audio', data: WAV, mimeType: 'audio/wav' }] }));
    const embedded = { uri: 'test://embedded-resource', mimeType: 'text/plain', text: 'This is an embedded resource content.' };
    tool('test_embedded_resource', async () => ({ content: [{ type: 'resource', resource: embedded }] }));
    tool('test_multiple_content_types', async () => ({
        content: [
            { type: 'text', text: 'Multiple content types test:' },
            { type: 'image', data: PNG, mimeType: 'image/png' },
            { type: 'resource', resource: { uri: 'test://mixed-content-resource', mimeType: 'application/json', text: '{"test":"data","value":123}' } }
        ]
    }));
    tool('test_error_handling', async () => ({ ...text('This tool intentionally returns an error for testing'), isError: true }));
    const logs = async (_, ctx) => {
        for (const line of ['Tool execution started', 'Tool processing data', 'Tool execution completed']) {
            await ctx.mcpReq.log('info', line);
            await pause();
        }
        return text('logged');
    };
    tool('test_tool_with_logging', logs);
    tool('test_logging_tool', logs);
    tool('test_tool_with_progress', async (_, ctx) => {
        const progressToken = ctx.mcpReq._meta?.progressToken;
        for (const progress of [0, 50, 100]) {
            if (progressToken !== undefined) await ctx.mcpReq.notify({ method: 'notifications/progress', params: { progressToken, progress, total: 100 } });
            await pause();
        }
        return text('done');
    });

    // questions: a result that asks in the stateless era, requests of the SDK's own in the other
    const asks = (name, key, question, done, inputSchema) =>
        tool(
            name,
            async (args, ctx) => {
                const answer = ctx.mcpReq.inputResponses?.[key];
                const asked = () => inputRequired({ inputRequests: { [key]: question(args) } });
                return answer === undefined ? asked() : text(done(answer) ?? JSON.stringify(answer));
            },
            inputSchema
        );
    const result = answer => `action=${answer.action}, content=${JSON.stringify(answer.content ?? {})}`;
    asks('test_sampling', 'sample', ({ prompt }) => sample(prompt, 100), answer => `LLM response: ${answer.content?.text}`, z.object({ prompt: z.string() }));
    asks(
        'test_elicitation',
        'user',
        ({ message }) => form(message, { username: { type: 'string', description: "User's response" }, email: { type: 'string', description: "User's email address" } }),
        answer => `User response: ${result(answer)}`,
        z.object({ message: z.string() })
    );
    const defaults = {
        name: { type: 'string', default: 'John Doe' },
        age: { type: 'integer', default: 30 },
        score: { type: 'number', default: 95.5 },
        status: { type: 'string', enum: ['active', 'inactive', 'pending'], default: 'active' },
        verified: { type: 'boolean', default: true }
    };
    asks('test_elicitation_sep1034_defaults', 'user', () => form('Please look through these', defaults, []), answer => `Elicitation completed: ${result(answer)}`);
    const named = names => names.map((title, at) => ({ const: `value${at + 1}`, title }));
    const options = ['option1', 'option2', 'option3'];
    const enums = {
        untitledSingle: { type: 'string', enum: options },
        titledSingle: { type: 'string', oneOf: named(['First Option', 'Second Option', 'Third Option']) },
        legacyEnum: { type: 'string', enum: ['opt1', 'opt2', 'opt3'], enumNames: ['Option One', 'Option Two', 'Option Three'] },
        untitledMulti: { type: 'array', items: { type: 'string', enum: options } },
        titledMulti: { type: 'array', items: { anyOf: named(['First Choice', 'Second Choice', 'Third Choice']) } }
    };
    asks('test_elicitation_sep1330_enums', 'user', () => form('Please choose', enums, []), answer => `Elicitation completed: ${result(answer)}`);
    const name = { name: { type: 'string' } };
    tool('test_input_required_result_elicitation', async (_, ctx) => {
        const answer = ctx.mcpReq.inputResponses?.user_name;
        if (typeof answer?.content?.name === 'string') return text(`Hello, ${answer.content.name}!`);
        return inputRequired({ inputRequests: { user_name: form('What is your name?', name) } });
    });
    asks('test_input_required_result_sampling', 'capital_question', () => sample('What is the capital of France?', 100), answer => answer.content?.text);
    asks('test_input_required_result_list_roots', 'client_roots', () => inputRequired.listRoots());
    asks('test_streaming_elicitation', 'user_name', () => form('What is your name?', name));
    tool('test_input_required_result_request_state', async (_, ctx) => {
        const state = ctx.mcpReq.requestState();
        if (state === 'confirm' && ctx.mcpReq.inputResponses?.confirm !== undefined) return text('state-ok');
        return inputRequired({ inputRequests: { confirm: form('Please confirm', { ok: { type: 'boolean' } }) }, requestState: sign('confirm') });
    });
    tool('test_input_required_result_tampered_state', async (_, ctx) => {
        const state = ctx.mcpReq.requestState();
        if (state === 'tampered') return text('done');
        return inputRequired({ inputRequests: { confirm: form('Please confirm', { ok: { type: 'boolean' } }) }, requestState: sign('tampered') });
    });
    tool('test_input_required_result_multiple_inputs', async (_, ctx) => {
        const answers = ctx.mcpReq.inputResponses ?? {};
        if (['user_name', 'greeting', 'client_roots'].every(key => answers[key] !== undefined)) return text(JSON.stringify(answers));
        const inputRequests = { user_name: form('What is your name?', name), greeting: sample('Generate a greeting', 50), client_roots: inputRequired.listRoots() };
        return inputRequired({ inputRequests, requestState: sign('several') });
    });
    tool('test_input_required_result_multi_round', async (_, ctx) => {
        const state = ctx.mcpReq.requestState();
        if (state === 'two') return text(JSON.stringify(ctx.mcpReq.inputResponses));
        if (state === 'one') return inputRequired({ inputRequests: { step2: form('Step 2: What is your favorite color?', { color: { type: 'string' } }) }, requestState: sign('two') });
        return inputRequired({ inputRequests: { step1: form('Step 1: What is your name?', name) }, requestState: sign('one') });
    });
    tool('test_input_required_result_capabilities', async (_, ctx) => {
        const answers = ctx.mcpReq.inputResponses;
        if (answers !== undefined) return text(JSON.stringify(answers));
        if (process.argv[2] === 'handshake') {
            // as such servers do: it asks, and goes on without what is refused
            const asked = [low.createMessage(sample('Say hello', 10).params), low.elicitInput(form('What is your name?', name).params)];
            return text(JSON.stringify(await Promise.allSettled(asked)));
        }
        const inputRequests = {};
        if (can(ctx).sampling) inputRequests.sample = sample('Say hello', 10);
        if (can(ctx).elicitation) inputRequests.user_name = form('What is your name?', name);
        return inputRequired({ inputRequests });
    });
    tool('test_missing_capability', async (_, ctx) => {
        const answer = ctx.mcpReq.inputResponses?.sample;
        return answer === undefined ? inputRequired({ inputRequests: { sample: sample('Say hello', 10) } }) : text(JSON.stringify(answer));
    });

    const address = { $anchor: 'addressDef', type: 'object', properties: { street: { type: 'string' }, city: { type: 'string' } } };
    const string = { type: 'string' };
    const schema = {
        $schema: 'https://json-schema.org/draft/2020-12/schema',
        type: 'object',
        $defs: { address },
        properties: { name: string, address: { $ref: '#/$defs/address' }, contactMethod: { type: 'string', enum: ['phone', 'email'] }, phone: string, email: string },
        allOf: [{ anyOf: [{ required: ['phone'] }, { required: ['email'] }] }],
        if: { properties: { contactMethod: { const: 'phone' } }, required: ['contactMethod'] },
        then: { required: ['phone'] },
        else: { required: ['email'] },
        additionalProperties: false
    };
    tool('json_schema_2020_12_tool', async () => text('fits'), fromJsonSchema(schema));

    // what is listed stays the same: whether it may change is not this suite's to ask of a pin
    tool('test_trigger_tool_change', async () => {
        server.sendToolListChanged();
        return text('told');
    });
    tool('test_trigger_prompt_change', async () => {
        server.sendPromptListChanged();
        return text('told');
    });

    const said = words => ({ role: 'user', content: { type: 'text', text: words } });
    server.registerPrompt('test_simple_prompt', { description: 'Simple' }, () => ({ messages: [said('This is a simple prompt for testing.')] }));
    const argument = completable(z.string(), value => ['paris', 'park', 'party'].filter(one => one.startsWith(value)));
    server.registerPrompt('test_prompt_with_arguments', { description: 'Arguments', argsSchema: z.object({ arg1: argument, arg2: z.string() }) }, ({ arg1, arg2 }) => ({
        messages: [said(`Prompt with arguments: arg1='${arg1}', arg2='${arg2}'`)]
    }));
    server.registerPrompt('test_prompt_with_embedded_resource', { description: 'A resource', argsSchema: z.object({ resourceUri: z.string() }) }, ({ resourceUri }) => ({
        messages: [
            { role: 'user', content: { type: 'resource', resource: { uri: resourceUri, mimeType: 'text/plain', text: 'Embedded resource content for testing.' } } },
            said('Please process the embedded resource above.')
        ]
    }));
    server.registerPrompt('test_prompt_with_image', { description: 'An image' }, () => ({
        messages: [{ role: 'user', content: { type: 'image', data: PNG, mimeType: 'image/png' } }, said('Please analyze the image above.')]
    }));
    server.registerPrompt('test_input_required_result_prompt', { description: 'Asks' }, ctx => {
        const answer = ctx.mcpReq.inputResponses?.user_context;
        if (answer !== undefined) return { messages: [said(JSON.stringify(answer))] };
        return inputRequired({ inputRequests: { user_context: form('What context should the prompt use?', { context: { type: 'string' } }) } });
    });

    const is = (uri, mimeType, words) => server.registerResource(uri, uri, { mimeType, description: 'For the suite' }, async () => ({ contents: [{ uri, mimeType, ...words }] }));
    is('test://static-text', 'text/plain', { text: 'This is the content of the static text resource.' });
    is('test://static-binary', 'image/png', { blob: PNG });
    is('test://watched-resource', 'text/plain', { text: 'Watched resource content' });
    server.registerResource('template', new ResourceTemplate('test://template/{id}/data', { list: undefined }), { mimeType: 'application/json' }, async (uri, { id }) => ({
        contents: [{ uri: uri.href, mimeType: 'application/json', text: JSON.stringify({ id, templateTest: true, data: `Data for ID: ${id}` }) }]
    }));
    return server;
}

if (process.argv[2] === 'handshake') await make().connect(new StdioServerTransport());
else serveStdio(make, { legacy: 'reject' });
