// A person at a browser, for tests/it/login.rs: opens a page, fills every form it meets, follows
// every redirect, and stops at the page of mcpshim's own listener.
//
//   node browser.mjs ADDRESS NAME [--stop] [--abort] [--code CODE]
//
// --stop: prints the address of the last redirect in the place of opening it. --abort: takes the
// way out at the first form. Prints {"url", "status", "headers", "body"}.
const [address, name, ...flags] = process.argv.slice(2);
const code = flags.includes('--code') ? flags[flags.indexOf('--code') + 1] : '';
const jar = new Map();

const open = async (url, form) => {
  const headers = { cookie: [...jar].map(([k, v]) => `${k}=${v}`).join('; ') };
  const answer = await fetch(url, {
    redirect: 'manual',
    headers: form ? { ...headers, 'content-type': 'application/x-www-form-urlencoded' } : headers,
    method: form ? 'POST' : 'GET',
    body: form ? new URLSearchParams(form) : undefined,
  });
  for (const line of answer.headers.getSetCookie()) {
    const [pair] = line.split(';');
    const at = pair.indexOf('=');
    if (/expires=Thu, 01 Jan 1970/i.test(line)) jar.delete(pair.slice(0, at));
    else jar.set(pair.slice(0, at), pair.slice(at + 1));
  }
  return answer;
};

const tell = (value) => console.log(JSON.stringify(value));
const idp = new URL(address).origin;
let url = address;
let form;
let out = false;
for (let step = 0; step < 30; step += 1) {
  const home = new URL(url).origin === idp;
  if (!home && flags.includes('--stop')) {
    tell({ url });
    process.exit(0);
  }
  const answer = await open(url, form);
  form = undefined;
  if (answer.status >= 300 && answer.status < 400) {
    url = new URL(answer.headers.get('location'), url).href;
    continue;
  }
  const text = await answer.text();
  const found = /<form[^>]*action="([^"]*)"[^>]*>([\s\S]*?)<\/form>/.exec(text);
  if (!home || !found || out) {
    tell({ url, status: answer.status, headers: Object.fromEntries(answer.headers), body: text });
    process.exit(0);
  }
  const abort = /<a href="([^"]*abort)"/.exec(text);
  if (flags.includes('--abort') && abort) {
    url = new URL(abort[1], url).href;
    continue;
  }
  form = {};
  for (const [input] of found[2].matchAll(/<input[^>]*>/g)) {
    const field = /name="([^"]*)"/.exec(input)?.[1];
    const value = /value="([^"]*)"/.exec(input)?.[1] ?? '';
    if (field) form[field] = { login: name, password: 'x', user_code: code || value }[field] ?? value;
  }
  if (flags.includes('--abort') && form.confirm) {
    form.abort = 'yes';
    out = true;
  }
  url = new URL(found[1].replaceAll('&amp;', '&'), url).href;
}
tell({ url, error: 'too many steps' });
process.exit(1);
