// pg-boss: large batches without a pause while they are full, and LISTEN for a job that comes alone.

import { PgBoss } from "pg-boss";

const QUEUE = "jobs";

async function start(connectionString, options = {}) {
  const boss = new PgBoss({ connectionString, ...options });
  boss.on("error", (error) => console.error(error));
  await boss.start();
  return boss;
}

export async function install(connectionString) {
  const boss = await start(connectionString);
  await boss.createQueue(QUEUE, { notify: true });
  await boss.stop({ graceful: false });
}

export async function connect(connectionString) {
  const boss = await start(connectionString, { supervise: false, schedule: false });
  return {
    publish: (job) => boss.send(QUEUE, job),
    publishMany: (jobs) => boss.insert(QUEUE, jobs.map((data) => ({ data }))),
  };
}

export async function work(connectionString, handle) {
  const boss = await start(connectionString, { useListenNotify: true });
  await boss.work(
    QUEUE,
    {
      batchSize: 5_000,
      burstWhenBatchFull: true,
      pollingIntervalSeconds: 0.5,
    },
    (jobs) => Promise.all(jobs.map((job) => handle(job.data))),
  );
}
