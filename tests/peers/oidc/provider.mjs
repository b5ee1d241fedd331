// A real OpenID provider on loopback, for tests/it/login.rs: oidc-provider with a front that counts
// requests and, when a test asks for it, spoils answers as broken or hostile providers do.
//
// Prints one line {"issuer", "jwks"} when it listens, and ends when its standard input ends.
// Control, by the test alone: POST /control {…} merges into the settings below, GET /control tells
// settings and counts.
import { createServer } from 'node:http';
import { generateKeyPairSync, randomBytes } from 'node:crypto';
import Provider from 'oidc-provider';

const settings = {
  ttl: 3600, // life of ID tokens, in seconds
  groups: ['g-eng'], // null: no claim
  extra: {}, // further claims
  metadata: {}, // members of the discovery document to replace; null removes one
  token: {}, // members of the token endpoint's answer to replace; null removes one
  nonce: null, // the nonce to sign in the place of the one that was asked for
  down: false, // every answer is a 503
};
const counts = {};
let last = {}; // what the token endpoint gave last
const count = (name) => { counts[name] = (counts[name] ?? 0) + 1; };

const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
const key = { ...privateKey.export({ format: 'jwk' }), kid: 'test', use: 'sig', alg: 'RS256' };
const { n, e, kty, kid, use, alg } = key;

const server = createServer();
server.keepAliveTimeout = 600_000; // a busy machine must not find its connection closed
await new Promise((listening) => server.listen(0, '127.0.0.1', listening));
const issuer = `http://127.0.0.1:${server.address().port}`;

const capital = (id) => id.charAt(0).toUpperCase() + id.slice(1);
const provider = new Provider(issuer, {
  jwks: { keys: [key] },
  clients: [{
    client_id: 'mcpshim',
    application_type: 'native',
    token_endpoint_auth_method: 'none',
    grant_types: ['authorization_code', 'refresh_token', 'urn:ietf:params:oauth:grant-type:device_code'],
    response_types: ['code'],
    redirect_uris: ['http://127.0.0.1/callback'],
  }],
  conformIdTokenClaims: false,
  claims: { openid: ['sub'], profile: ['name', 'hasgroups'], groups: ['groups'] },
  scopes: ['openid', 'offline_access'],
  features: {
    devInteractions: { enabled: true },
    deviceFlow: { enabled: true },
    revocation: { enabled: true },
  },
  ttl: { IdToken: () => settings.ttl, AccessToken: 600, RefreshToken: 3600, Grant: 3600, Session: 3600, Interaction: 600, DeviceCode: 120 },
  issueRefreshToken: async (_ctx, client) => client.grantTypeAllowed('refresh_token'),
  rotateRefreshToken: true,
  cookies: { keys: [randomBytes(16).toString('hex')] },
  findAccount: (_ctx, id) => ({
    accountId: id,
    claims: () => {
      const claims = { sub: id, name: capital(id), ...settings.extra };
      if (settings.groups !== null) claims.groups = settings.groups;
      return claims;
    },
  }),
});
const inner = provider.callback();

const mark = randomBytes(16).toString('hex');
const body = async (request) => {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  return Buffer.concat(chunks);
};
const json = (response, status, value) => {
  response.writeHead(status, { 'content-type': 'application/json' });
  response.end(JSON.stringify(value));
};
const replaced = (value, changes) => {
  const out = { ...value, ...changes };
  for (const [name, change] of Object.entries(changes)) if (change === null) delete out[name];
  return out;
};

// asks the provider itself and spoils its JSON answer
const spoiled = async (request, response, changes) => {
  const sent = request.method === 'POST' ? await body(request) : undefined;
  if (sent) count(new URLSearchParams(sent.toString()).get('grant_type') ?? 'post');
  const answer = await fetch(issuer + request.url, {
    method: request.method,
    headers: { 'x-mark': mark, 'content-type': request.headers['content-type'] ?? '' },
    body: sent,
  });
  const value = await answer.json();
  if (sent && answer.ok) last = value;
  json(response, answer.status, answer.ok ? replaced(value, changes()) : value);
};

server.on('request', async (request, response) => {
  const path = request.url.split('?')[0];
  if (path === '/control') {
    if (request.method === 'POST') Object.assign(settings, JSON.parse(await body(request)));
    json(response, 200, { settings, counts, last });
  } else if (request.headers['x-mark'] === mark) {
    inner(request, response);
  } else if (settings.down) {
    response.writeHead(503).end();
  } else if (path === '/.well-known/openid-configuration') {
    await spoiled(request, response, () => settings.metadata);
  } else if (path === '/token') {
    await spoiled(request, response, () => settings.token);
  } else {
    if (path === '/token/revocation') count('revocation');
    if (path === '/auth' && settings.nonce !== null) {
      request.url = request.url.replace(/([?&]nonce=)[^&]*/, `$1${settings.nonce}`);
    }
    inner(request, response);
  }
});

// the provider prints hints there, long after the test has read its line
process.stdout.on('error', () => {});
process.stdin.on('end', () => process.exit(0)).resume();
console.log(JSON.stringify({ issuer, jwks: { keys: [{ n, e, kty, kid, use, alg }] } }));
