// What `protocol.py` is for Python, for the drivers of peers that run on Node.
//
// $BENCH_URL is the place of the state, $BENCH_PACKAGES the folder with `node_modules`.

import fs from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import readline from 'node:readline';

const CHUNK_TASKS = 1000;

export const url = process.env.BENCH_URL;
export const load = createRequire(path.join(process.env.BENCH_PACKAGES, 'here.js'));

const seconds = () => (performance.timeOrigin + performance.now()) / 1000;
const pause = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

const say = (record) => fs.writeSync(1, JSON.stringify(record) + '\n');

const payload = (number, sizeBytes) => ({
  n: number,
  t: seconds(),
  url: 'https://example.org/a/b/c',
  user: 12345,
  tags: ['alpha', 'beta', 'gamma'],
  note: 'x'.repeat(sizeBytes > 200 ? sizeBytes - 120 : 80),
});

export const bodies = {
  noop: async (given) => ({ ok: true, n: given.n }),
  stamp: async (given) => {
    say({ started: given.n, waited_seconds: seconds() - given.t });
    return { ok: true, n: given.n };
  },
};

const actions = (peer) => ({
  async set_up() {
    await peer.setUp();
    return { ready: true };
  },
  async open() {
    await peer.open();
    return { ready: true };
  },
  async enqueue({ kind, count, size_bytes = 0 }) {
    const payloads = Array.from({ length: count }, (_, n) => payload(n, size_bytes));
    const began = seconds();
    for (let first = 0; first < count; first += CHUNK_TASKS) {
      await peer.enqueue(kind, payloads.slice(first, first + CHUNK_TASKS));
    }
    return { count, seconds: seconds() - began };
  },
  async singles({ kind, seconds: limit }) {
    const began = seconds();
    let count = 0;
    for (; seconds() - began < limit; count += 1) {
      await peer.enqueueOne(kind, payload(count, 0));
    }
    return { count, seconds: seconds() - began };
  },
  async pace({ kind, count, per_second }) {
    const began = seconds();
    for (let number = 0; number < count; number += 1) {
      await peer.enqueueOne(kind, payload(number, 0));
      const late = seconds() - began - (number + 1) / per_second;
      if (late < 0) await pause(-late * 1000);
    }
    return { count, seconds: seconds() - began };
  },
  async count_done() {
    return { done: await peer.countDone() };
  },
});

export const run = async (peer) => {
  if (process.argv[2] === 'worker') {
    await peer.work();
    return;
  }
  const known = actions(peer);
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const { do: name, ...asked } = JSON.parse(line);
    say(await known[name](asked));
  }
  process.exit(0);
};
