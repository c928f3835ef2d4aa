// graphile-worker: a local queue and batched completions, which its page on performance names.

import { Logger, makeWorkerUtils, run } from "graphile-worker";

const CONCURRENCY = 64;
const logger = new Logger(() => (level, message) => {
  if (level === "error") console.error(message);
});

export async function install(connectionString) {
  const utils = await makeWorkerUtils({ connectionString, logger });
  await utils.migrate();
  await utils.release();
}

export async function connect(connectionString) {
  const utils = await makeWorkerUtils({ connectionString, logger });
  return {
    publish: (job) => utils.addJob("job", job),
    publishMany: (jobs) => utils.addJobs(jobs.map((payload) => ({ identifier: "job", payload }))),
  };
}

export async function work(connectionString, handle) {
  await run({
    taskList: { job: (payload) => handle(payload) },
    preset: {
      worker: {
        connectionString,
        concurrentJobs: CONCURRENCY,
        maxPoolSize: 20,
        completeJobBatchDelay: 0,
        localQueue: { size: 5_000 },
        logger,
      },
    },
  });
}
