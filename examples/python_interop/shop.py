"""A Python program that shares queues with ezq: it sends and reads events by plain SQL.

It needs Python's standard library and `psql`. In a program of yours the statements go through the
driver you have, such as psycopg, and `send` belongs into the transaction that writes your rows.

The database's URL is in DATABASE_URL, the queues' names are the arguments.
"""

import json
import os
import subprocess
import sys
import uuid
from datetime import datetime, timezone
from urllib.parse import parse_qs, unquote, urlsplit


def environment(url):
    """libpq's variables for a URL: on a command line everybody could read the password."""
    parts = urlsplit(url)
    told = {
        "PGHOST": parts.hostname,
        "PGPORT": parts.port,
        "PGUSER": parts.username,
        "PGPASSWORD": parts.password,
        "PGDATABASE": parts.path.lstrip("/"),
    }
    for name, values in parse_qs(parts.query).items():
        told["PG" + name.upper()] = values[-1]
    texts = {name: unquote(str(value)) for name, value in told.items() if value}
    return {**os.environ, **texts}


def sql(statement, **values):
    """Runs one statement; psql quotes the values where it says :'name'."""
    command = ["psql", "--no-psqlrc", "--quiet", "--tuples-only", "--no-align"]
    command += ["--set", "ON_ERROR_STOP=1"]
    for name, value in values.items():
        command += ["--set", f"{name}={value}"]
    done = subprocess.run(
        command,
        input=statement,
        env=environment(os.environ["DATABASE_URL"]),
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        sys.exit(f"psql: {done.stderr.strip()}")
    return done.stdout.strip()


def send(queue, event):
    # The second statement wakes consumers, which would find the event at their next look.
    sql(
        "begin; select pgmq.send(:'queue', :'event'::jsonb);"
        " select pg_notify('ezq_wake', :'queue'); commit;",
        queue=queue,
        event=json.dumps(event),
    )


def read(queue):
    """The next event, leased for 30 s, or None."""
    row = sql(
        "select jsonb_build_object('id', msg_id, 'event', message)"
        " from pgmq.read(:'queue'::text, 30, 1);",
        queue=queue,
    )
    return json.loads(row) if row else None


def flat(event_type, **fields):
    """The form of Python ezq: the type among the fields."""
    return {"_type": event_type, **fields}


def cloud_event(event_type, data):
    """CloudEvents 1.0, ezq's own form: with an id, a source and a time."""
    return {
        "specversion": "1.0",
        "id": str(uuid.uuid4()),
        "source": "python-shop",
        "type": event_type,
        "time": datetime.now(timezone.utc).isoformat(),
        "data": data,
    }


def main(outbox, inbox):
    send(outbox, flat("OrderPlaced", order=1, customer="Ada \"the\" O'Neil"))
    send(outbox, cloud_event("order.placed", {"order": 2, "customer": "Grace"}))
    print("python: sent order 1 in the flat form, order 2 as a CloudEvent", flush=True)

    # A line on standard input tells that the answers are in the queue.
    sys.stdin.readline()
    while (message := read(inbox)) is not None:
        event = message["event"]
        if "_type" in event:
            form, name, order = "flat", event["_type"], event["order"]
        else:
            form, name, order = "CloudEvent", event["type"], event["data"]["order"]
        print(f"python: read {name} of order {order} ({form})", flush=True)
        sql(
            "select pgmq.delete(:'queue'::text, :'id'::bigint);",
            queue=inbox,
            id=message["id"],
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
