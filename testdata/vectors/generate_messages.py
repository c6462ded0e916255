"""Writes messages.json in this directory.

The program is a second implementation of what hub and edge say to each other. It uses none of the
project's Go code. It needs nothing but Python.

    python3 generate_messages.py

All inputs are fixed, so another run writes the same file. README.md says what the vectors mean.
"""

import hashlib
import hmac
import sys
import uuid

sys.dont_write_bytecode = True
from generate_copies import DOMAIN, encode
from generate_records import *

NUMBERS = {"users": 1, "keys": 2, "groups": 3, "deadusers": 4, "deadkeys": 5, "identities": 7, "names": 8, "members": 9, "handles": 10}
KINDS = {"welcome": 1, "beat": 2, "entry": 3, "next_pin": 4, "record": 5, "cloned": 6, "forget": 7, "replace": 9,
         "mark": 11, "secrets": 13, "new_policy": 15}

HUB, ERA, EDGE = some_id("hub", 4), some_id("era", 4), some_id("edge", 8)
NOW = 1_767_225_600_123  # in January 2026
SECRET = some("the hub's secret", 32)


def frame(body):
    return varint(len(body)) + body


# A message is a dictionary, as it is in the vectors.


def cursor(c):
    if c is None:
        return b""
    ids = uid(c["incarnation"]) + uid(c["era"]) if "incarnation" in c else b""
    out = field(1, ids) + field(2, c.get("sequence", 0))
    if "last_table" in c:
        out += field(3, NUMBERS[c["last_table"]]) + field(4, bytes.fromhex(c["last_key"]))
    out += field(5, c.get("policy", 0))
    if "copying" in c:
        out += field(6, NUMBERS[c["copying"]]) + field(7, bytes.fromhex(c.get("copy_key", "")))
    return out + field(10, c.get("news", 0))


def policy(p):
    return b"".join(field(1, g) for g in p["groups"]) + field(2, p.get("push", 0)) + field(3, p.get("version", 0))


def copy_of(r):
    return encode(r["table"], bytes.fromhex(r["key"]), bytes.fromhex(r["record"]))


def signed(r):
    return field(1, copy_of(r)) + field(2, bytes.fromhex(r.get("mac", "")))


def named(r, first=1):
    return field(first, NUMBERS[r["table"]]) + field(first + 1, bytes.fromhex(r["key"]))


def message(kind, m):
    fields = {
        "welcome": lambda: field(1, m["format"]) + field(2, m["time"]) + field(3, m.get("resets", 0)) + field(4, policy(m["policy"]))
        + field(5, uid(m["edge"])) + field(6, m.get("how", 0)) + field(7, cursor(m["at"])),
        "entry": lambda: named(m) + field(3, bytes.fromhex(m["value"])) + field(4, bytes.fromhex(m.get("mac", ""))),
        "record": lambda: signed(m),
        "forget": lambda: named(m),
        "replace": lambda: signed(m) if m.get("record") else named(m, 3),
        "mark": lambda: cursor(m),
        "secrets": lambda: field(1, m["export"]),
        "new_policy": lambda: policy(m),
        "beat": lambda: field(1, m["time"]) + field(2, m.get("resets", 0)),
        "next_pin": lambda: field(1, bytes.fromhex(m["pin"])),
        "cloned": lambda: b"",
    }
    return bytes([KINDS[kind]]) + fields[kind]()


def summary(s):
    return field(1, NUMBERS[s["table"]]) + field(2, s.get("range", 0)) + field(3, s.get("count", 0)) + field(4, bytes.fromhex(s.get("sum", "")))


def item(i):
    return named(i) + field(3, bytes.fromhex(i["hash"])) + field(4, i.get("own", False)) + field(5, i.get("signed", False))


def hello(h):
    return (b"".join(field(1, n) for n in h["formats"]) + field(2, h["build"]) + field(3, uid(h["instance"])) + field(4, uid(h["replica"]))
            + field(5, cursor(h["cursor"])) + field(6, h["policy"]) + field(7, bytes.fromhex(h["tags"])) + field(8, h["follow"])
            + field(9, uid(h["before"]) if "before" in h else b"") + all_of(11, uid, h.get("earlier")))


def all_of(number, f, elements):
    return b"".join(field(number, f(e)) for e in elements or [])


def push(p):
    return (field(1, cursor(p["cursor"])) + field(2, p["policy"]) + all_of(3, copy_of, p.get("records")) + all_of(4, copy_of, p.get("claims"))
            + all_of(5, signed, p.get("signed")) + all_of(6, copy_of, p.get("uses")))


def push_reply(r):
    return field(1, r.get("refused", "")) + field(2, r.get("policy", 0))


def compare(c):
    return (field(1, cursor(c["cursor"])) + field(2, c["policy"]) + all_of(3, summary, c.get("summaries")) + all_of(4, summary, c.get("listed"))
            + all_of(5, item, c.get("items")))


def compare_reply(r):
    return (all_of(1, summary, r.get("differ")) + all_of(2, lambda m: message(m["kind"], m["fields"]), r.get("messages"))
            + all_of(3, item, r.get("wanted")) + field(4, r.get("more", False)) + field(5, r.get("refused", "")))


BODIES = {"hello": hello, "push": push, "push_reply": push_reply, "compare": compare, "compare_reply": compare_reply}


def range_of(table, key):
    return hashlib.sha256(key).digest()[0] if table == "groups" else key[-1]


def hash_of(table, key, sealed):
    return hashlib.sha256(table.encode() + b"\0" + key + b"\0" + sealed).digest()[:16]


def mac_of(table, key, sealed, domain=DOMAIN):
    return hmac.new(SECRET, uid(domain) + table.encode() + b"\0" + key + b"\0" + sealed, hashlib.sha256).digest()[:16]


def vectors():
    out = {"domain": DOMAIN, "secret": SECRET.hex(), "messages": [], "bodies": [], "refused": [], "skipped": [], "sums": [], "macs": []}

    def stored(table, key, message):
        sealed = seal(table, key, message)
        return {"table": table, "key": key.hex(), "record": sealed.hex()}

    def bearing(r):
        return r | {"mac": mac_of(r["table"], bytes.fromhex(r["key"]), bytes.fromhex(r["record"])).hex()}

    north = stored("groups", b"north", group_message(group(flag=flag_of(writer("w1", 1)))))
    ada = stored("users", uid(ADA), user_message(user()))
    laptop = stored("keys", uid(LAPTOP), key_message(key()))
    dead = stored("deadkeys", uid(LAPTOP), dead_key_message(dead_key()))
    used = {"table": "lastuse", "key": (uid(LAPTOP) + some("v1", 8)).hex(),
            "record": seal("lastuse", uid(LAPTOP) + some("v1", 8), field(1, 29_455_384)).hex()}
    everything = {"groups": ["*"]}
    shop = {"groups": ["north", "s\u00fcd"], "push": 2, "version": 7}
    start = {"incarnation": HUB, "era": ERA, "sequence": 1_000_000}
    place = start | {"last_table": "deadusers", "last_key": uid(ADA).hex(), "policy": 7}
    copying = start | {"policy": 7, "copying": "names", "copy_key": (uid(ADA) + b"laptop\0" + uid(LAPTOP)).hex()}

    def say(about, kind, fields):
        out["messages"].append({"about": about, "kind": kind, "fields": fields, "frame": frame(message(kind, fields)).hex()})

    say("the beginning of a stream", "welcome", {"format": 1, "time": NOW, "policy": everything, "edge": EDGE, "at": start})
    say("the beginning of a stream, with something in every field", "welcome",
        {"format": 1, "time": NOW, "resets": 3, "policy": shop, "edge": EDGE, "how": 2, "at": place})
    say("an entry of a table", "entry", {"table": "users", "key": ada["key"], "value": ada["record"]})
    say("an entry without a value", "entry", {"table": "names", "key": copying["copy_key"], "value": ""})
    say("an entry with a MAC", "entry", {"table": "groups", "key": north["key"], "value": north["record"], "mac": bearing(north)["mac"]})
    say("a record", "record", laptop)
    say("a record with a MAC", "record", bearing(dead))
    say("a user is forgotten", "forget", {"table": "users", "key": ada["key"]})
    say("a group is forgotten", "forget", {"table": "groups", "key": north["key"]})
    say("a record is replaced", "replace", bearing(north))
    say("a record is replaced by nothing", "replace", {"table": "keys", "key": laptop["key"]})
    say("a mark behind a commit", "mark", start)
    say("a mark within a commit", "mark", place)
    say("a mark behind news", "mark", start | {"policy": 7, "news": 300})
    say("a mark in a first copy", "mark", copying)
    say("a mark before the first table of a first copy", "mark", start | {"copying": "groups"})
    say("tag secrets", "secrets", {"export": "-----BEGIN LATCHKEY DOMAIN SECRETS-----\n"})
    say("another policy", "new_policy", shop)
    say("the hub is there", "beat", {"time": NOW})
    say("the hub is there, and its time was reset", "beat", {"time": NOW, "resets": 127})
    say("the hub's next key", "next_pin", {"pin": some("pin", 32).hex()})
    say("another device has the credential", "cloned", {})

    def tell(about, kind, fields):
        out["bodies"].append({"about": about, "kind": kind, "fields": fields, "body": (b"\1" + BODIES[kind](fields)).hex()})

    listed = {"table": "keys", "range": 255}
    tell("an edge that has nothing asks for a stream", "hello",
         {"formats": [1], "build": "v1.0.0", "instance": some_id("instance", 4), "replica": some_id("replica", 4), "cursor": None,
          "policy": 0, "tags": "", "follow": False})
    tell("an edge asks for a stream", "hello",
         {"formats": [1, 2], "build": "v1.0.0", "instance": some_id("instance", 4), "replica": some_id("replica", 4), "cursor": place,
          "policy": 7, "tags": some("tags", 16).hex(), "follow": True, "before": some_id("before", 4)})
    tell("an edge that was opened more often asks for a stream", "hello",
         {"formats": [1], "build": "v1.0.0", "instance": some_id("instance", 4), "replica": some_id("replica", 4),
          "cursor": start | {"policy": 7, "news": 300}, "policy": 7, "tags": "", "follow": True, "before": some_id("before", 4),
          "earlier": [some_id("earlier", 4), some_id("earliest", 4)]})
    tell("an edge says how far it has come", "push", {"cursor": start, "policy": 7})
    tell("an edge pushes", "push", {"cursor": start, "policy": 7, "records": [laptop, ada], "claims": [north], "signed": [bearing(dead)], "uses": [used]})
    tell("a push was taken", "push_reply", {})
    tell("a push was refused", "push_reply", {"refused": "the policy does not permit it", "policy": 8})
    tell("an edge begins to compare", "compare",
         {"cursor": start, "policy": 7, "summaries": [listed | {"count": 2, "sum": some("sum", 16).hex()}, {"table": "groups"}]})
    tell("an edge lists a range", "compare",
         {"cursor": start, "policy": 7, "listed": [listed], "items": [
             {"table": "keys", "key": laptop["key"], "hash": some("hash", 16).hex(), "own": True},
             {"table": "deadkeys", "key": dead["key"], "hash": some("other", 16).hex(), "signed": True}]})
    tell("the hub says what differs", "compare_reply", {"differ": [listed], "messages": [{"kind": "mark", "fields": start}]})
    tell("the hub sends what differs", "compare_reply",
         {"messages": [{"kind": "record", "fields": laptop}, {"kind": "forget", "fields": {"table": "users", "key": ada["key"]}},
                       {"kind": "replace", "fields": {"table": "keys", "key": laptop["key"]}}],
          "wanted": [{"table": "groups", "key": north["key"], "hash": some("hash", 16).hex()}], "more": True})
    tell("the edge has to begin again", "compare_reply", {"refused": "the policy has changed"})

    def refuse(about, error, body):
        out["refused"].append({"about": about, "error": error, "body": body.hex()})

    refuse("nothing", "bad", b"")
    refuse("an odd kind that came later", "newer", bytes([17]))
    refuse("cut short", "bad", message("record", laptop)[:-1])
    refuse("a copy of a later version", "newer", bytes([5]) + field(1, b"\2" + copy_of(laptop)[1:]))
    refuse("no copy", "bad", bytes([5]) + field(2, some("mac", 16)))
    refuse("a MAC of 15 bytes", "bad", bytes([5]) + field(1, copy_of(laptop)) + field(2, b"m" * 15))
    refuse("a table that came later", "newer", bytes([7]) + field(1, 11) + field(2, uid(ADA)))
    refuse("a table that has no records", "bad", bytes([7]) + field(1, 8) + field(2, uid(ADA)))
    refuse("an ID of 17 bytes", "bad", bytes([7]) + field(1, 1) + field(2, uid(ADA) + b"x"))
    refuse("a name of 129 bytes", "bad", bytes([7]) + field(1, 3) + field(2, b"n" * 129))
    refuse("a cursor with one ID", "bad", bytes([11]) + field(1, uid(HUB)))
    refuse("a place without a table", "bad", bytes([11]) + cursor(start) + field(4, uid(ADA)))
    refuse("a key of no table", "bad", bytes([11]) + cursor(start) + field(7, uid(ADA)))
    refuse("groups out of order", "bad", bytes([15]) + policy({"groups": ["south", "north"]}))
    refuse("a group twice", "bad", bytes([15]) + policy({"groups": ["north", "north"]}))
    refuse("all groups and another one", "bad", bytes([15]) + policy({"groups": ["*", "north"]}))
    refuse("no group", "bad", bytes([15]) + policy({"groups": []}))
    refuse("a policy that came later", "newer", bytes([15]) + policy({"groups": ["*"], "push": 4}))
    refuse("no time", "bad", bytes([2]) + field(2, 1))
    refuse("a time after the year 9999", "bad", bytes([2]) + field(1, (LAST + 1) * 1000))
    refuse("a pin of 31 bytes", "bad", bytes([4]) + field(1, b"p" * 31))
    refuse("a format that came later", "newer",
           message("welcome", {"format": 2, "time": NOW, "policy": everything, "edge": EDGE, "at": start}))
    refuse("a welcome to what came later", "newer",
           message("welcome", {"format": 1, "time": NOW, "policy": everything, "edge": EDGE, "how": 3, "at": start}))

    def skip(about, bodies, left):
        out["skipped"].append({"about": about, "stream": b"".join(frame(b) for b in bodies).hex(), "left": frame(left).hex()})

    beat = message("beat", {"time": NOW})
    skip("an even kind that came later", [bytes([18]) + b"anything", beat], beat)
    skip("a field that came later", [beat + field(100, b"anything")], beat)

    for r in (north, ada, laptop):
        k, sealed = bytes.fromhex(r["key"]), bytes.fromhex(r["record"])
        out["sums"].append(r | {"range": range_of(r["table"], k), "hash": hash_of(r["table"], k, sealed).hex()})
    out["sum"] = (sum(int(s["hash"], 16) for s in out["sums"]) % 2**128).to_bytes(16, "big").hex()
    out["macs"] = [bearing(r) for r in (north, ada, dead)]
    return out


if __name__ == "__main__":
    write(messages=vectors())
