"""Writes to customers whose orders a Redis stream tells of: mail.py URL STREAM COUNT.

The entries have the shape of django-broadcaster's: the field `cloud_event` holds the event as
CloudEvents JSON. A consumer group divides the stream among programs of this kind. The events come at
least once, so it remembers the ids that it has seen.
"""

import json
import sys

import redis

url, stream, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
client = redis.Redis.from_url(url)
try:
    client.xgroup_create(stream, "mail", id="0", mkstream=True)
except redis.ResponseError as error:
    if "BUSYGROUP" not in str(error):
        raise

seen = set()
while len(seen) < count:
    answer = client.xreadgroup("mail", "mail-1", {stream: ">"}, count=10, block=5000)
    if not answer:
        sys.exit(f"mail: only {len(seen)} of {count} events came within 5 s")
    for _, entries in answer:
        for entry, fields in entries:
            event = json.loads(fields[b"cloud_event"])
            if event["id"] not in seen:
                seen.add(event["id"])
                data = event["data"]
                print(f"mail: to {data['customer']} for order {data['order']}, {event['type']}", flush=True)
            client.xack(stream, "mail", entry)
