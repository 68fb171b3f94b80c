// Graphile Worker at its quickest: a local queue, and completions in batches.
//
// A job's row is deleted when it succeeds, so what is finished is what is no longer there.

import { bodies, load, run, url } from '../protocol.mjs';

const graphile = load('graphile-worker');
const { Pool } = load('pg');

const CONCURRENT_JOBS = 100;
const LOCAL_QUEUE_JOBS = 500;
const LEFT = 'SELECT count(*)::int AS jobs FROM graphile_worker._private_jobs';

const preset = {
  worker: {
    connectionString: url,
    concurrentJobs: CONCURRENT_JOBS,
    maxPoolSize: 10,
    pollInterval: 2000,
    localQueue: { size: LOCAL_QUEUE_JOBS },
    completeJobBatchDelay: 0,
    failJobBatchDelay: 0,
  },
};

let utilities;
let pool;
let submitted = 0;

await run({
  setUp: () => graphile.runMigrations({ connectionString: url }),
  async open() {
    utilities = await graphile.makeWorkerUtils({ connectionString: url });
    pool = new Pool({ connectionString: url, max: 1 });
  },
  async enqueue(kind, payloads) {
    await utilities.addJobs(payloads.map((payload) => ({ identifier: kind, payload })));
    submitted += payloads.length;
  },
  async enqueueOne(kind, payload) {
    await utilities.addJob(kind, payload);
    submitted += 1;
  },
  async countDone() {
    const { rows } = await pool.query(LEFT);
    return submitted - rows[0].jobs;
  },
  async work() {
    const logger = new graphile.Logger(() => () => {});
    await graphile.run({ preset, taskList: bodies, noHandleSignals: true, logger });
  },
});
