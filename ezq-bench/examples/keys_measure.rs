use std::time::{Duration, Instant};
use ezq::prelude::*;
use ezq::{Engine as _, Handler, QueueName};
use ezq::pgmq::embedded::EmbeddedPostgres;
use ezq::sqlx;
use serde::{Deserialize, Serialize};
#[derive(Event, Serialize, Deserialize)]
#[event(type = "m", key = "k")]
struct M { k: i64, n: i64 }
async fn fill(ezq: &Ezq, q: &QueueName, sql: &str) {
    ezq.pgmq().ensure_queue(q).await.unwrap();
    ezq.publish(&M { k: 1, n: 0 }).queue(q).await.unwrap();
    ezq.purge(q).await.unwrap();
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql.replace("TT", &format!("pgmq.q_{q}")))).execute(ezq.pool()).await.unwrap();
}
async fn claims(ezq: &Ezq, q: &QueueName, what: &str, n: usize, settle: bool) {
    let mut t = vec![]; let mut got = vec![];
    for _ in 0..n {
        let r = ezq::engine::LeaseRequest { queue: q.clone(), max: 100, ttl: Duration::from_secs(60), before: None };
        let s = Instant::now();
        let l = ezq.pgmq().lease(r).await.unwrap();
        t.push(s.elapsed().as_secs_f64() * 1e3); got.push(l.deliveries.len());
        if settle { let v = l.deliveries.into_iter().map(|d| (d.receipt, ezq::Settle::Ack { outgoing: vec![] })).collect(); ezq.pgmq().settle(q, v).await.unwrap(); }
    }
    let first = t[0]; let mut s = t[1..].to_vec(); s.sort_by(f64::total_cmp);
    println!("{what}: first {first:.1} ms, median {:.1} ms, max {:.1} ms; {} claimed in {n} calls", s[s.len()/2], s[s.len()-1], got.iter().sum::<usize>());
}
#[tokio::main]
async fn main() {
    let pg = EmbeddedPostgres::builder().durable(true).start().await.unwrap();
    let ezq = Ezq::builder().database_url(pg.url()).without_discovered_handlers().register(Handler::on("h", |_: M| async {})).connect().await.unwrap();
    let q = |s: &str| QueueName::new(s).unwrap();
    let body = "'{\"specversion\":\"1.0\",\"id\":\"x\",\"source\":\"b\",\"type\":\"m\",\"data\":{\"k\":1,\"n\":1}}'::jsonb";
    let hot = format!("INSERT INTO TT (vt,message,headers) SELECT clock_timestamp(), {body}, '{{\"x-pgmq-group\":\"hot\"}}' FROM generate_series(1,100000)");
    let keys = |n: usize| format!("INSERT INTO TT (vt,message,headers) SELECT clock_timestamp(), {body}, jsonb_build_object('x-pgmq-group','k'||g) FROM generate_series(1,{n}) g");
    let a = q("a"); fill(&ezq, &a, &format!("{hot};{}", keys(1000))).await;
    claims(&ezq, &a, "100k hot ahead of 1000 keys", 12, true).await;
    let b = q("b"); fill(&ezq, &b, &keys(100_000)).await;
    claims(&ezq, &b, "100k keys, kept", 100, false).await;
    claims(&ezq, &b, "100k keys, acked", 100, true).await;
    let c = q("c"); fill(&ezq, &c, &format!("INSERT INTO TT (vt,message,headers) SELECT now()+interval '1 hour', {body}, jsonb_build_object('x-pgmq-group','k'||g) FROM generate_series(1,100000) g")).await;
    claims(&ezq, &c, "100k delayed keys", 20, false).await;
    let d = q("d"); fill(&ezq, &d, &format!("INSERT INTO TT (vt,message,headers) SELECT now()+interval '1 hour', {body}, jsonb_build_object('x-pgmq-group','k'||g) FROM generate_series(1,100000) g;{}", keys(100_000))).await;
    claims(&ezq, &d, "100k delayed heads with 100k due behind (whole rounds)", 5, false).await;
    let s = Instant::now(); let n = ezq.blocked_keys(&d, 100).await.unwrap().len(); println!("blocked_keys(100 of 100k): {n} in {:?}", s.elapsed());
    let s = Instant::now(); let n = ezq.blocked_keys(&b, 100).await.unwrap().len(); println!("blocked_keys in 80k free keys: {n} in {:?}", s.elapsed());
    for c in [16usize, 64, 256] {
        let e = q(&format!("e{c}")); fill(&ezq, &e, &format!("INSERT INTO TT (vt,message,headers) SELECT clock_timestamp(), {body}, '{{\"x-pgmq-group\":\"hot\"}}' FROM generate_series(1,20000)")).await;
        let s = Instant::now(); let r = ezq.consumer().queue(&e).concurrency(c).until_idle().run().await.unwrap();
        println!("one hot key, 20k events, concurrency {c}: {:.0}/s  {r}", 20000.0 / s.elapsed().as_secs_f64());
    }
    let f = q("f"); fill(&ezq, &f, &format!("INSERT INTO TT (vt,message,headers) SELECT clock_timestamp(), {body}, jsonb_build_object('x-pgmq-group','k'||g%1000) FROM generate_series(1,50000) g")).await;
    let s = Instant::now(); let r = ezq.consumer().queue(&f).concurrency(64).until_idle().run().await.unwrap();
    println!("1000 keys, 50k events, concurrency 64: {:.0}/s  {r}", 50000.0 / s.elapsed().as_secs_f64());
    let g = q("g"); fill(&ezq, &g, &format!("INSERT INTO TT (vt,message,headers) SELECT clock_timestamp(), {body}, NULL FROM generate_series(1,50000) g")).await;
    let s = Instant::now(); let r = ezq.consumer().queue(&g).concurrency(64).until_idle().run().await.unwrap();
    println!("no key on an indexed queue, 50k events, concurrency 64: {:.0}/s  {r}", 50000.0 / s.elapsed().as_secs_f64());
}
