#!/usr/bin/env python3
"""Compares the types of other crates in the public interface with docs/stability.md.

Usage: public_types.py FILE..., where each file is rustdoc's JSON of a crate of ezq. Fails where the
page leaves out a crate, or lists one that is not there. It reads `index`, `paths` and the signatures;
a toolchain whose format has them under other names finds nothing, which fails as well.
"""

import collections
import json
import pathlib
import re
import sys

PAGE = pathlib.Path(__file__).parent.parent / "docs" / "stability.md"
# Crates whose items are documented as another's.
PARTS = {"serde_core": "serde", "sqlx_core": "sqlx", "sqlx_postgres": "sqlx"}
# Part of every program, or of ezq.
OWN = re.compile(r"^(core|std|alloc|proc_macro|ezq(_\w+)?)$")
# A macro leaves no trace in signatures.
MACROS = {"async_trait"}
# What an item contains is an item of its own.
CONTAINED = {"items", "impls", "implementations", "docs", "attrs", "links", "span"}


def named(value):
    """The ids of all types and traits that a signature names."""
    if isinstance(value, dict):
        if "path" in value and "id" in value:
            yield str(value["id"])
        for key, inner in value.items():
            if key not in CONTAINED:
                yield from named(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from named(inner)


def is_written(item):
    """Whether someone wrote this item, and others can use it."""
    kind, inner = next(iter(item["inner"].items()))
    if kind in ("module", "use", "macro", "proc_macro"):
        return False
    if kind == "impl" and (inner.get("is_synthetic") or inner.get("blanket_impl")):
        return False
    return item["visibility"] in ("public", "default")


def crates_of(file):
    """The other crates in a crate's interface, with one type of each."""
    document = json.loads(pathlib.Path(file).read_text())
    found = {}
    for item in document["index"].values():
        if item["crate_id"] != 0 or not is_written(item):
            continue
        for identifier in named(item["inner"]):
            path = document["paths"].get(identifier)
            if path and path["crate_id"] != 0 and not OWN.match(path["path"][0]):
                crate = PARTS.get(path["path"][0], path["path"][0])
                found.setdefault(crate, "::".join(path["path"]))
    return found


def main():
    table = PAGE.read_text().split("## Types of other crates")[1]
    rows = re.findall(r"^\| `([a-z_-]+)` [0-9.]+ \|", table, re.MULTILINE)
    listed = {name.replace("-", "_") for name in rows} - MACROS

    used = collections.defaultdict(list)
    for file in sys.argv[1:]:
        for crate, example in crates_of(file).items():
            used[crate].append(f"{example} in {pathlib.Path(file).stem}")
    for crate in sorted(used.keys() - listed):
        print(f"docs/stability.md does not list {crate}: {', '.join(used[crate])}")
    for crate in sorted(listed - used.keys()):
        print(f"docs/stability.md lists {crate}, which no public item names")
    return 1 if used.keys() ^ listed else 0


sys.exit(main())
