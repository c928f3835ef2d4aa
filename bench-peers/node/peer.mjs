// A library of Node in a child process: the same tasks, arguments and answers as those of src/child.rs.

import pg from "pg";
import * as graphileWorker from "./graphile-worker.mjs";
import * as pgBoss from "./pg-boss.mjs";

const [task, library, url, count, unfinished] = process.argv.slice(2);
const jobs = Number(count);
const peer = { "graphile-worker": graphileWorker, "pg-boss": pgBoss }[library];

const BULK = 1_000;
const WARM_UP = 100;
const PACE_MS = 50;
const TEXT =
  "A payload of about two hundred bytes, which is what an order, a mail or a " +
  "webhook looks like, if it names its subject and leaves the rest to be read.";

let begun = 0;
let holds = false;
const latencies = [];

// Publisher and worker are processes of one machine, and this clock is the machine's.
const now = () => Number(process.hrtime.bigint() / 1000n);
const job = (n) => ({ n, sent_us: now(), text: TEXT });
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
const forever = () => new Promise((done) => setTimeout(done, 2 ** 31 - 1));

// What the handler of each library does.
function handle(job) {
  if (task === "latency") latencies.push((now() - job.sent_us) / 1000);
  begun += 1;
  return holds ? forever() : undefined;
}

async function untilBegun() {
  while (begun < jobs) await sleep(1);
}

// The database has to say so too.
async function untilFinished(observer) {
  await untilBegun();
  while (Number((await observer.query(unfinished)).rows[0].count) > 0) await sleep(5);
}

async function observe() {
  const observer = new pg.Client(url);
  await observer.connect();
  return observer;
}

const tasks = {
  install: () => peer.install(url),

  async publish() {
    const publisher = await peer.connect(url);
    for (let n = 0; n < WARM_UP; n += 1) await publisher.publish(job(n));
    const started = now();
    for (let n = 0; n < jobs; n += 1) await publisher.publish(job(n));
    console.log((now() - started) / 1e6);
  },

  async bulk() {
    const publisher = await peer.connect(url);
    const started = now();
    for (let first = 0; first < jobs; first += BULK) {
      const length = Math.min(BULK, jobs - first);
      await publisher.publishMany(Array.from({ length }, (_, n) => job(first + n)));
    }
    console.log((now() - started) / 1e6);
  },

  async pace() {
    const publisher = await peer.connect(url);
    const started = now();
    for (let n = 0; n < jobs; n += 1) {
      await sleep(Math.max(0, started / 1000 + n * PACE_MS - now() / 1000));
      await publisher.publish(job(n));
    }
  },

  async work() {
    const observer = await observe();
    const started = now();
    await peer.work(url, handle);
    await untilFinished(observer);
    console.log(`${(now() - started) / 1e6} ${begun}`);
  },

  async latency() {
    const observer = await observe();
    await peer.work(url, handle);
    console.log("ready");
    await untilFinished(observer);
    console.log(JSON.stringify(latencies));
  },

  async hold() {
    holds = true;
    await peer.work(url, handle);
    await untilBegun();
    console.log("held");
    await forever();
  },

  async take() {
    const observer = await observe();
    await peer.work(url, handle);
    console.log("ready");
    await untilFinished(observer);
    console.log("taken");
  },

  async idle() {
    await peer.work(url, handle);
    console.log("ready");
    await forever();
  },
};

await tasks[task]();
process.exit(0);
