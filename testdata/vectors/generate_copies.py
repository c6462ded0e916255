"""Writes copies.json and arrivals.json in this directory.

The program is a second implementation of what one store of a domain gives to another, and of how
the other one merges it. It uses none of the project's Go code. It needs nothing but Python.

    python3 generate_copies.py

All inputs are fixed, so another run writes the same files. README.md says what the vectors mean.
"""

import sys
import uuid

sys.dont_write_bytecode = True
from generate_records import *

DOMAIN = some_id("domain", 4)
TABLES = {"users": 1, "keys": 2, "groups": 3, "deadusers": 4, "deadkeys": 5, "lastuse": 6}


def encode(table, key, sealed, domain=DOMAIN, version=1):
    number = TABLES.get(table, table)
    return bytes([version]) + field(1, number) + field(2, uid(domain)) + field(3, key) + field(4, sealed)


def copies():
    out = {"domain": DOMAIN, "copies": [], "refused": [], "streams": []}

    def add(about, table, key, message, version=2):
        sealed = seal(table, key, message, version)
        out["copies"].append({"about": about, "table": table, "key": key.hex(), "record": sealed.hex(),
                              "copy": encode(table, key, sealed).hex(), "later": version > 2})

    add("a key", "keys", uid(LAPTOP), key_message(key()))
    add("a key with something in every field", "keys", uid(LAPTOP), key_message(FULL_KEY))
    add("a user", "users", uid(ADA), user_message(FULL_USER))
    add("a group", "groups", b"north", group_message(group(flag=flag_of(writer("w1", 1)))))
    add("a group that has nothing", "groups", "gr\u00fcn".encode(), b"")
    add("what is left of a user", "deadusers", uid(ADA), dead_user_message(dead_user(groups=[reg("north", at(3))])))
    add("what is left of a key", "deadkeys", uid(LAPTOP), dead_key_message(dead_key()))
    add("a last use", "lastuse", uid(LAPTOP) + some("v1", 8), field(1, 29_455_384))
    add("a key of a later version", "keys", uid(LAPTOP), b"anything", version=3)

    def refuse(about, error, copy):
        out["refused"].append({"about": about, "error": error, "copy": copy.hex()})

    sealed = seal("groups", b"north", b"")
    whole = encode("groups", b"north", sealed)
    refuse("nothing", "damaged", b"")
    refuse("version 0", "damaged", b"\0" + whole[1:])
    refuse("a later version", "newer", b"\2" + whole[1:])
    refuse("a table that came later", "newer", encode(7, b"north", sealed))
    refuse("no table", "damaged", encode(0, b"north", sealed))
    refuse("cut short", "damaged", whole[:-1])
    refuse("under another key", "damaged", encode("groups", b"south", sealed))
    refuse("under another table", "damaged", encode("users", uid(ADA), seal("keys", uid(ADA), b"")))
    refuse("a domain of 15 bytes", "damaged", bytes([1]) + field(1, 3) + field(2, b"d" * 15) + field(3, b"north") + field(4, sealed))
    refuse("an empty name", "damaged", encode("groups", b"", seal("groups", b"", b"")))
    refuse("a name of 129 bytes", "damaged", encode("groups", b"n" * 129, seal("groups", b"n" * 129, b"")))
    refuse("an ID of 17 bytes", "damaged", encode("users", uid(ADA) + b"x", seal("users", uid(ADA) + b"x", b"")))
    refuse("no record", "damaged", encode("groups", b"north", b""))
    refuse("a record of an earlier version", "damaged", encode("groups", b"north", seal("groups", b"north", b"", version=1)))

    def stream(about, *bodies):
        frames = b"".join(varint(len(b)) + b for b in bodies)
        out["streams"].append({"about": about, "bodies": [b.hex() for b in bodies], "stream": frames.hex()})

    stream("nothing")
    stream("one copy", whole)
    stream("copies and an empty body", whole, b"", encode("users", uid(ADA), seal("users", uid(ADA), user_message(user()))))
    return out


# Arrivals. The state of a store is a dictionary from a table and a key to fields.


def tombstone_of_user(u):
    return {"groups": u["groups"], "unknown": ""}


def tombstone_of_key(k):
    return {"owner": k["owner"], "groups": k["groups"], "foreign": k["foreign"], "unknown": ""}


MERGE = {"keys": merge_key, "users": merge_user, "groups": merge_group, "deadkeys": merge_dead_key, "deadusers": merge_dead_user}


def join(state, table, id, fields):
    """Merges a record with the one in its place. It reports whether that was possible."""
    if (table, id) in state:
        fields = MERGE[table](state[table, id], fields)
    if fields is not None:
        state[table, id] = fields
    return fields is not None


def bury_key(state, id, fields):
    had = state.get(("keys", id))
    if had is not None:
        fields = merge_dead_key(tombstone_of_key(had), fields)
    if fields is None or not join(state, "deadkeys", id, fields):
        return False
    state.pop(("keys", id), None)
    return True


def arrive(state, table, id, fields):
    """Merges a record into a store. It reports whether the record was not refused."""
    if table == "users" and ("deadusers", id) in state:
        table, fields = "deadusers", tombstone_of_user(fields)
    if table == "deadusers":
        had = state.pop(("users", id), None)
        if had is not None:
            fields = merge_dead_user(tombstone_of_user(had), fields)
        join(state, table, id, fields)
        for key in [i for (t, i), k in state.items() if t == "keys" and k["owner"] == id]:
            bury_key(state, key, tombstone_of_key(state["keys", key]))
        return True
    if table == "keys" and (("deadkeys", id) in state or ("deadusers", fields["owner"]) in state):
        table, fields = "deadkeys", tombstone_of_key(fields)
    if table == "deadkeys":
        return bury_key(state, id, fields)
    return join(state, table, id, fields)


MESSAGE = {"keys": key_message, "users": user_message, "groups": group_message, "deadkeys": dead_key_message, "deadusers": dead_user_message}
PHONE = some_id("phone", 7)
BOB = some_id("bob", 8)


def copy_of(table, id, fields):
    k = id.encode() if table == "groups" else uid(id)
    return encode(table, k, seal(table, k, MESSAGE[table](fields)))


def arrivals():
    out = {"domain": DOMAIN, "arrivals": []}

    def add(about, *records, ordered=False):
        state, refused = {}, []
        for i, (table, id, fields) in enumerate(records):
            if not arrive(state, table, id, fields):
                refused.append(i)
        left = sorted(copy_of(table, id, fields).hex() for (table, id), fields in state.items())
        arriving = [copy_of(*r).hex() for r in records]
        out["arrivals"].append({"about": about, "arriving": arriving, "ordered": ordered, "refused": refused, "left": left})

    ada, laptop, phone = ("users", ADA, user()), ("keys", LAPTOP, key()), ("keys", PHONE, key(name=reg("phone", at(1, "there"))))
    gone, lost = ("deadusers", ADA, dead_user()), ("deadkeys", LAPTOP, dead_key())
    add("a user and a key", ada, laptop)
    add("a key without a user", laptop)
    add("a deleted key", ada, laptop, lost)
    add("a deleted user takes the keys along", ada, laptop, phone, gone)
    add("a deleted user takes along a key that was changed", laptop, gone, ("keys", LAPTOP, key(name=reg("desktop", at(9)))))
    add("two stores have deleted one key", lost, ("deadkeys", LAPTOP, dead_key(foreign=True, unknown=later("x"))), laptop)
    moved = [reg("south", at(7, "there")), reg("north", at(2))]
    server = str(uuid.UUID(int=2**128 - 1))
    add("a tombstone gets the groups of a key that was moved meanwhile",
        ("keys", LAPTOP, key(owner=server, groups=moved)), ("deadkeys", LAPTOP, dead_key(owner=server, groups=[reg("north", at(2))])))
    add("a tombstone gets the groups of a user who was moved meanwhile",
        ("users", ADA, user(groups=moved)), ("deadusers", ADA, dead_user(groups=[reg("north", at(2))])))
    add("a tombstone learns that the key came from outside", ("keys", LAPTOP, key(foreign=True)), lost)
    add("disabled here, enabled there", ("keys", LAPTOP, key(flag=flag_of(writer("w1", 1)))), ("keys", LAPTOP, key(flag=flag_of(writer("w2", 1, 1)))), ada)
    add("two keys with one name", ada, laptop, ("keys", PHONE, key()))
    add("two users with one identity", ada, ("users", BOB, user()))
    add("a group", ("groups", "north", group(flag=flag_of(writer("w1", 1)))), ("groups", "north", group(flag=flag_of(writer("w1", 1, 1)))))
    add("what a later build has written", ("keys", LAPTOP, key(unknown=later("x"))), ("keys", LAPTOP, key(unknown=later("y", "z"))), ada)
    add("a key of another owner is refused", laptop, ("keys", LAPTOP, key(owner=BOB, name=reg("desktop", at(9)))), ordered=True)
    add("a tombstone of another owner is refused", laptop, ("deadkeys", LAPTOP, dead_key(owner=BOB)), ordered=True)
    add("a key is refused that another owner's tombstone has", lost, ("keys", LAPTOP, key(owner=BOB)), ordered=True)
    return out


if __name__ == "__main__":
    write(copies=copies(), arrivals=arrivals())
