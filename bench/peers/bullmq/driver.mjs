// BullMQ on Redis: one worker, a hundred jobs at once, finished jobs kept.

import { bodies, load, run, url } from '../protocol.mjs';

const { Queue, Worker } = load('bullmq');

const CONCURRENCY = 100;
const QUEUE = 'bench';
const { hostname, port } = new URL(url);
const connection = { host: hostname, port: Number(port), maxRetriesPerRequest: null };

let queue;

await run({
  async setUp() {},
  async open() {
    queue = new Queue(QUEUE, { connection });
  },
  async enqueue(kind, payloads) {
    await queue.addBulk(payloads.map((data) => ({ name: kind, data })));
  },
  async enqueueOne(kind, data) {
    await queue.add(kind, data);
  },
  countDone: () => queue.getCompletedCount(),
  async work() {
    const body = (job) => bodies[job.name](job.data);
    new Worker(QUEUE, body, { connection, concurrency: CONCURRENCY });
  },
});
