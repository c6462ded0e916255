"""Writes records.json, merges.json and store.json in this directory.

The program is a second implementation of the tables of a store, and uses none of the project's Go
code. It needs nothing but Python.

    python3 generate_records.py

All inputs are fixed, so another run writes the same files. README.md says what the vectors mean.
"""

import hashlib
import ipaddress
import json
import pathlib
import struct
import uuid

HERE = pathlib.Path(__file__).parent
LAST = 253402300799  # 9999-12-31T23:59:59Z


# Fields on the wire


def varint(n):
    out = bytearray()
    while n >= 0x80:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    return bytes(out) + bytes([n])


def element(number, value):
    """Returns an element of a repeated field, which is written even if it is empty."""
    return varint(number << 3 | 2) + varint(len(value)) + value


def field(number, value):
    """Returns a field, or nothing for a value that is zero, false or empty."""
    if isinstance(value, (bool, int)):
        return varint(number << 3) + varint(int(value)) if value else b""
    if isinstance(value, str):
        value = value.encode()
    return element(number, value) if value else b""


def read_varint(b, i):
    n = shift = 0
    while True:
        n |= (b[i] & 0x7F) << shift
        shift, i = shift + 7, i + 1
        if b[i - 1] < 0x80:
            return n, i


def raw_fields(b):
    """Returns the number and the bytes of each field of a message."""
    out, i = [], 0
    while i < len(b):
        start = i
        tag, i = read_varint(b, i)
        if tag & 7 == 0:
            _, i = read_varint(b, i)
        elif tag & 7 == 2:
            size, i = read_varint(b, i)
            i += size
        else:
            i += {1: 8, 5: 4}[tag & 7]
        out.append((tag >> 3, b[start:i]))
    return out


def crc32c(b):
    crc = 0xFFFFFFFF
    for byte in b:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


assert crc32c(b"123456789") == 0xE3069283


def seal(table, key, message, version=2):
    record = bytes([version]) + message
    return record + struct.pack(">I", crc32c(table.encode() + key + record))


# Writing records. A record is a dictionary, as it is in the vectors.


def uid(text):
    return uuid.UUID(text).bytes


def order(s):
    """Returns what stamps are compared by."""
    return (s["counter"], uid(s["replica"])) if s else (0, bytes(16))


def stamps_of(r):
    all = [g["stamp"] for g in r.get("groups", [])] + [i["stamp"] for i in r.get("identities", [])] + [r.get("dropped")]
    all += [r[name]["stamp"] for name in ("name", "expires", "scopes", "networks", "metadata") if name in r]
    return [s for s in all if s]


def replicas_of(r):
    return sorted({uid(s["replica"]) for s in stamps_of(r)})


def stamp(s, replicas):
    return field(1, s["counter"]) + field(2, replicas.index(uid(s["replica"]))) if s else b""


def value(name, v):
    """Returns the fields 3 of a register."""
    if name in ("name", "groups"):
        return field(3, v)
    if name == "expires":
        return field(3, v)
    if name == "metadata":
        return b"".join(element(3, field(1, k) + field(2, v[k])) for k in sorted(v, key=str.encode))
    if name == "networks":
        return b"".join(element(3, network(n)) for n in v)
    return b"".join(element(3, s.encode()) for s in v)


def network(text):
    n = ipaddress.ip_interface(text)
    return n.ip.packed + bytes([n.network.prefixlen])


def replaces(r):
    return r.get("replaces", 0)


def register(number, name, r, replicas):
    return field(number, stamp(r["stamp"], replicas) + value(name, r["value"]) + field(15, replaces(r)))


def flag(f):
    m = b"".join(element(1, field(1, bytes.fromhex(w["writer"])) + field(2, w["disabled"]) + field(3, w["enabled"])) for w in f["writers"])
    return m + field(2, f["base"]) + field(3, f["sealed"])


def base(b):
    return field(1, b["generation"]) + field(2, bytes.fromhex(b["id"]))


def verifier(v):
    m = field(1, bytes.fromhex(v["id"])) + field(2, v["phc"]) + field(3, bytes.fromhex(v["replaces"])) + field(4, v["generation"])
    m += field(5, v["end_s"]) + field(6, v["until_used"]) + field(7, v["retired"]) + field(8, base(v["base"]))
    m += field(9, bytes.fromhex(v["handle"])) + field(10, v["tag"])
    return m + bytes.fromhex(v["unknown"])


def verifiers(vs):
    m = b"".join(element(1, verifier(v)) for v in vs["all"]) + b"".join(element(2, base(b)) for b in vs["superseded"])
    return m + field(3, vs["floor"]) + field(4, vs["base_floor"]) + field(5, vs["sealed"])


def groups(number, r, replicas):
    return b"".join(element(number, stamp(g["stamp"], replicas) + value("groups", g["value"])) for g in r["groups"])


def key_message(k):
    replicas = replicas_of(k)
    m = field(1, k["created_ms"]) + field(2, uid(k["owner"])) + b"".join(element(3, r) for r in replicas)
    m += field(4, flag(k["flag"])) + register(5, "name", k["name"], replicas) + field(6, verifiers(k["verifiers"]))
    for number, name in [(7, "expires"), (8, "scopes"), (9, "networks"), (10, "metadata")]:
        m += register(number, name, k[name], replicas)
    return m + groups(11, k, replicas) + field(12, k["foreign"]) + bytes.fromhex(k["unknown"])


def user_message(u):
    replicas = replicas_of(u)
    m = field(1, u["created_ms"]) + b"".join(element(2, r) for r in replicas) + field(3, flag(u["flag"]))
    for i in u["identities"]:
        im = stamp(i["stamp"], replicas) + field(3, i["provider"]) + field(4, i["subject"]) + field(5, i["unlinked"])
        m += element(4, im + bytes.fromhex(i["unknown"]))
    m += register(5, "metadata", u["metadata"], replicas) + groups(6, u, replicas)
    return m + field(7, stamp(u["dropped"], replicas)) + bytes.fromhex(u["unknown"])


def group_message(g):
    return field(1, flag(g["flag"])) + bytes.fromhex(g["unknown"])


def dead_user_message(d):
    replicas = replicas_of(d)
    return b"".join(element(2, r) for r in replicas) + groups(6, d, replicas) + bytes.fromhex(d["unknown"])


def dead_key_message(d):
    replicas = replicas_of(d)
    m = field(2, uid(d["owner"])) + b"".join(element(3, r) for r in replicas) + groups(11, d, replicas)
    return m + field(12, d["foreign"]) + bytes.fromhex(d["unknown"])


def tags_message(t):
    m = b"".join(element(1, field(1, s["number"]) + field(2, bytes.fromhex(s["secret"])) + field(3, s["state"]) + field(4, s["changed_ms"])) for s in t["all"])
    return m + field(2, t["floor"])


# Merging


def merge_unknown(a, b):
    all = [{}, {}]
    for values, text in zip(all, (a, b)):
        for number, raw in raw_fields(bytes.fromhex(text)):
            values[number] = values.get(number, b"") + raw
    numbers = sorted(all[0].keys() | all[1].keys())
    return b"".join(max(all[0].get(n, b""), all[1].get(n, b"")) for n in numbers).hex()


def merge_register(name, a, b):
    key = lambda r: (order(r["stamp"]), r["value"].encode() if name == "name" else value(name, r["value"]), -replaces(r))
    return max(a, b, key=key)


def merge_groups(a, b):
    latest = {}
    for g in a + b:
        if g["value"] not in latest or order(g["stamp"]) > order(latest[g["value"]]["stamp"]):
            latest[g["value"]] = g
    return sorted(latest.values(), key=lambda g: (order(g["stamp"]), g["value"].encode()), reverse=True)[:9]


def merge_flag(a, b):
    counts = {}
    for w in a["writers"] + b["writers"]:
        d, c = counts.get(w["writer"], (0, 0))
        counts[w["writer"]] = max(d, w["disabled"]), max(c, w["enabled"])
    sealed = a["sealed"] or b["sealed"] or len(counts) > 256
    writers = [] if sealed else [{"writer": w, "disabled": d, "enabled": c} for w, (d, c) in sorted(counts.items())]
    return {"writers": writers, "base": max(a["base"], b["base"]), "sealed": sealed}


def base_order(b):
    return (b["generation"], bytes.fromhex(b["id"] or "00" * 8))


def floor_of(floor, numbers, most):
    kept = sorted(n for n in numbers if n >= floor)
    return kept[-most - 1] + 1 if len(kept) > most else floor


SEALED = {"all": [], "superseded": [], "floor": 0, "base_floor": 0, "sealed": True}


def merge_verifiers(a, b):
    if a["sealed"] or b["sealed"]:
        return SEALED
    by_id = {}
    for v in a["all"] + b["all"]:
        old = by_id.get(v["id"])
        if old is None:
            by_id[v["id"]] = v
            continue
        ends = [e for e in (old["end_s"], v["end_s"]) if e]
        by_id[v["id"]] = {
            "id": v["id"], "phc": max(old["phc"], v["phc"], key=str.encode), "replaces": max(old["replaces"], v["replaces"]),
            "generation": max(old["generation"], v["generation"]), "end_s": min(ends, default=0),
            "until_used": old["until_used"] or v["until_used"], "retired": old["retired"] or v["retired"],
            "base": max(old["base"], v["base"], key=base_order), "handle": max(old["handle"], v["handle"]), "tag": max(old["tag"], v["tag"]), "unknown": merge_unknown(old["unknown"], v["unknown"])}
    bases = {base_order(s): s for s in a["superseded"] + b["superseded"]}
    floor = floor_of(max(a["floor"], b["floor"]), [v["generation"] for v in by_id.values()], 64)
    base_floor = floor_of(max(a["base_floor"], b["base_floor"]), [g for g, _ in bases], 512)
    if floor == 1 << 64 or base_floor == 1 << 64:
        return SEALED
    bases = {o: s for o, s in bases.items() if s["generation"] >= base_floor}
    all = []
    for _, v in sorted(by_id.items()):
        if v["generation"] < floor:
            continue
        if v["retired"] or v["base"]["generation"] < base_floor or base_order(v["base"]) in bases:
            v = v | {"retired": True, "phc": "", "until_used": False}
        all.append(v)
    return {"all": all, "superseded": [s for _, s in sorted(bases.items())], "floor": floor, "base_floor": base_floor, "sealed": False}


def merge_identities(a, b, dropped):
    by_name = {}
    for i in a + b:
        name = i["provider"].encode(), i["subject"].encode()
        old = by_name.get(name)
        if old is None or order(i["stamp"]) > order(old["stamp"]):
            by_name[name] = i
        elif order(i["stamp"]) == order(old["stamp"]):
            by_name[name] = old | {"unlinked": old["unlinked"] or i["unlinked"], "unknown": merge_unknown(old["unknown"], i["unknown"])}
    keep = lambda: {n: i for n, i in by_name.items() if not dropped or order(i["stamp"]) > order(dropped)}
    by_name = keep()
    if len(by_name) > 128:
        dropped = sorted((i["stamp"] for i in by_name.values()), key=order)[-129]
        by_name = keep()
    return [i for _, i in sorted(by_name.items())], dropped


def merge_key(a, b):
    if a["owner"] != b["owner"]:
        return None
    k = {"created_ms": min(a["created_ms"], b["created_ms"]), "owner": a["owner"], "flag": merge_flag(a["flag"], b["flag"]),
         "verifiers": merge_verifiers(a["verifiers"], b["verifiers"]), "groups": merge_groups(a["groups"], b["groups"]),
         "foreign": a["foreign"] or b["foreign"], "unknown": merge_unknown(a["unknown"], b["unknown"])}
    return k | {name: merge_register(name, a[name], b[name]) for name in ("name", "expires", "scopes", "networks", "metadata")}


def merge_user(a, b):
    dropped = max(a["dropped"], b["dropped"], key=order)
    identities, dropped = merge_identities(a["identities"], b["identities"], dropped)
    return {"created_ms": min(a["created_ms"], b["created_ms"]), "flag": merge_flag(a["flag"], b["flag"]), "identities": identities,
            "metadata": merge_register("metadata", a["metadata"], b["metadata"]), "groups": merge_groups(a["groups"], b["groups"]),
            "dropped": dropped, "unknown": merge_unknown(a["unknown"], b["unknown"])}


def merge_group(a, b):
    return {"flag": merge_flag(a["flag"], b["flag"]), "unknown": merge_unknown(a["unknown"], b["unknown"])}


def merge_dead_user(a, b):
    return {"groups": merge_groups(a["groups"], b["groups"]), "unknown": merge_unknown(a["unknown"], b["unknown"])}


def merge_dead_key(a, b):
    if a["owner"] != b["owner"]:
        return None
    return merge_dead_user(a, b) | {"owner": a["owner"], "foreign": a["foreign"] or b["foreign"]}


def merge_tags(a, b):
    by_number = {}
    for t in a["all"] + b["all"]:
        old = by_number.get(t["number"], t)
        state = max(old["state"], t["state"])
        changes = [s["changed_ms"] for s in (old, t) if s["state"] == state and s["changed_ms"]]
        by_number[t["number"]] = {"number": t["number"], "secret": max(old["secret"], t["secret"]), "state": state, "changed_ms": min(changes, default=0)}
    floor = floor_of(max(a["floor"], b["floor"]), by_number, 32)
    all = [t | {"secret": "" if t["state"] >= 2 else t["secret"]} for n, t in sorted(by_number.items()) if n >= floor]
    return {"all": all, "floor": floor}


# Records to begin with


def some(label, size):
    """Returns bytes that look random and are the same in every run."""
    return hashlib.shake_256(label.encode()).digest(size)


def some_id(label, version):
    b = bytearray(some(label, 16))
    b[6], b[8] = b[6] & 0x0F | version << 4, b[8] & 0x3F | 0x80
    return str(uuid.UUID(bytes=bytes(b)))


def at(counter, replica="here"):
    return {"counter": counter, "replica": some_id(replica, 4)}


def reg(v, s=None, replaces=0):
    return {"value": v, "stamp": s} | ({"replaces": replaces} if replaces else {})


def later(*values, number=900):
    return b"".join(field(number + i, v) for i, v in enumerate(values)).hex()


def writer(name, disabled, enabled=0):
    return {"writer": some(name, 8).hex(), "disabled": disabled, "enabled": enabled}


def flag_of(*writers, base=0, sealed=False):
    return {"writers": sorted(writers, key=lambda w: w["writer"]), "base": base, "sealed": sealed}


def base_of(generation=0, name=None):
    return {"generation": generation, "id": some(name, 8).hex() if name else ""}


def verifier_of(name, generation=0, replaces=None, **changes):
    return {"id": some(name, 8).hex(), "phc": "$argon2id$" + name, "replaces": some(replaces, 8).hex() if replaces else "",
            "generation": generation, "end_s": 0, "until_used": False, "retired": False, "base": base_of(), "handle": "", "tag": 0, "unknown": ""} | changes


def retired(name, generation=0, replaces=None, **changes):
    return verifier_of(name, generation, replaces, phc="", retired=True, **changes)


def verifiers_of(*all, superseded=(), floor=0, base_floor=0, sealed=False):
    return {"all": sorted(all, key=lambda v: v["id"]), "superseded": sorted(superseded, key=base_order), "floor": floor,
            "base_floor": base_floor, "sealed": sealed}


def identity(subject, s, unlinked=False, provider="local-userpass", unknown=""):
    return {"provider": provider, "subject": subject, "stamp": s, "unlinked": unlinked, "unknown": unknown}


ADA, LAPTOP = some_id("ada", 8), some_id("laptop", 7)


def key(**changes):
    k = {"created_ms": 1767323045678, "owner": ADA, "flag": flag_of(), "name": reg("laptop", at(1)), "verifiers": verifiers_of(verifier_of("v1")),
         "expires": reg(0), "scopes": reg([]), "networks": reg([]), "metadata": reg({}), "groups": [], "foreign": False, "unknown": ""}
    return k | changes


def user(**changes):
    u = {"created_ms": 1767323045678, "flag": flag_of(), "identities": [identity("ada@example.com", at(1))], "metadata": reg({}),
         "groups": [], "dropped": None, "unknown": ""}
    return u | changes


def group(**changes):
    return {"flag": flag_of(), "unknown": ""} | changes


def dead_user(**changes):
    return {"groups": [], "unknown": ""} | changes


def dead_key(**changes):
    return {"owner": ADA, "groups": [], "foreign": False, "unknown": ""} | changes


def tags(*all, floor=0):
    return {"all": [{"number": n, "secret": s, "state": t, "changed_ms": sum(c)} for n, s, t, *c in all], "floor": floor}


KINDS = {
    "keys": (LAPTOP, key_message, merge_key),
    "users": (ADA, user_message, merge_user),
    "groups": ("north", group_message, merge_group),
    "deadkeys": (LAPTOP, dead_key_message, merge_dead_key),
    "deadusers": (ADA, dead_user_message, merge_dead_user),
    "tags": ("", tags_message, merge_tags),
}


def table_key(table):
    id = KINDS[table][0]
    return id.encode() if table in ("groups", "tags") else uid(id)


FULL_KEY = key(
    flag=flag_of(writer("w1", 3, 3), writer("w2", 2, 1), base=5),
    verifiers=verifiers_of(
        retired("v1"), verifier_of("v2", 1, "v1", end_s=1798859045, base=base_of(1, "v2")),
        verifier_of("v3", 2, "v2", until_used=True, base=base_of(1, "v2"), tag=2, unknown=later("verifier", number=90)),
        superseded=[base_of()]),
    name=reg("Ada's \u2603", at(5, "there")), expires=reg(1798859045, at(6), 5), scopes=reg(["files:*", "files:read"], at(7), 200),
    networks=reg(["10.1.2.3/8", "2001:db8::1/64"], at(8, "there"), 1), metadata=reg({"": "x", "note": "", "site": "Oslo"}, at(9)),
    groups=[reg("", at(10)), reg("north", at(2))], foreign=True, unknown=later(7, "from a later version", number=900))
FULL_USER = user(
    flag=flag_of(writer("w1", 1)), metadata=reg({"plan": "free"}, at(9, "there")), groups=[reg("north", at(3))], dropped=at(1, "there"),
    identities=[identity("\u00e5da", at(4, "there"), True, "custom-token"), identity("ada@example.com", at(2), unknown=later("x", number=90))],
    unknown=later("from a later version"))


def records():
    out = {"records": [], "refused": []}

    def add(table, about, fields):
        message = KINDS[table][1](fields)
        record = {"about": about, "table": table, "id": KINDS[table][0], "record": seal(table, table_key(table), message).hex()}
        out["records"].append(record | {"fields": fields})

    add("keys", "new", key())
    add("keys", "with something in every field", FULL_KEY)
    add("keys", "a server key", key(owner=str(uuid.UUID(int=2**128 - 1)), name=reg("backup-job", at(1))))
    add("keys", "made before 1970, expires in the last second that there is", key(created_ms=0, expires=reg(LAST, at(2))))
    add("keys", "with floors", key(verifiers=verifiers_of(verifier_of("v9", 9, "v8", base=base_of(9, "v9")), floor=3, base_floor=4)))
    add("keys", "made elsewhere", key(foreign=True, verifiers=verifiers_of(
        verifier_of("v1", phc="$sha256$" + some("digest", 32).hex(), handle=some("digest", 32)[:16].hex()))))
    add("keys", "sealed in every way", key(flag=flag_of(sealed=True), verifiers=SEALED))
    add("keys", "moved to no group and never in one before", key(groups=[reg("", at(2))]))
    add("users", "new", user())
    add("users", "with something in every field", FULL_USER)
    add("users", "without identities", user(identities=[]))
    add("groups", "enabled", group())
    add("groups", "disabled", group(flag=flag_of(writer("w1", 2, 1)), unknown=later("x")))
    add("deadkeys", "a tombstone", dead_key())
    add("deadkeys", "a tombstone of a key from outside", dead_key(groups=[reg("south", at(4)), reg("north", at(1, "there"))], foreign=True, unknown=later("x")))
    add("deadusers", "a tombstone", dead_user())
    add("deadusers", "a tombstone with groups", dead_user(groups=[reg("south", at(4)), reg("north", at(1, "there"))], unknown=later("x")))
    add("tags", "of a new domain", tags((0, some("tag 0", 16).hex(), 1)))
    add("tags", "in each state", tags((3, "", 2, 1767323045678), (4, some("tag 4", 16).hex(), 1), (5, some("tag 5", 16).hex(), 0, 1767323045679), floor=3))

    def refused(about, error, record, id=LAPTOP):
        out["refused"].append({"about": about, "error": error, "id": id, "record": record.hex()})

    def message(about, m):
        refused(about, "damaged", seal("keys", uid(LAPTOP), m))

    whole = bytes.fromhex(out["records"][0]["record"])
    refused("one bit changed", "damaged", whole[:20] + bytes([whole[20] ^ 1]) + whole[21:])
    refused("cut short", "damaged", whole[:-1])
    refused("a byte more", "damaged", whole + b"\0")
    refused("empty", "damaged", b"")
    refused("nothing but a checksum", "damaged", struct.pack(">I", crc32c(b"keys" + uid(LAPTOP))))
    refused("another key's", "damaged", whole, some_id("another key", 7))
    refused("of another table", "damaged", seal("users", uid(LAPTOP), whole[1:-4]))
    refused("an earlier version", "damaged", seal("keys", uid(LAPTOP), whole[1:-4], version=1))
    refused("a later version", "newer", seal("keys", uid(LAPTOP), whole[1:-4], version=3))
    owner, replica = field(2, uid(ADA)), field(3, uid(some_id("here", 4)))
    message("without an owner", whole[1:8])
    message("a field that runs over the end", owner + varint(5 << 3 | 2) + varint(9) + b"short")
    message("a field of 2^63 bytes", owner + varint(5 << 3 | 2) + varint(1 << 63))
    message("a group, which proto3 does not have", owner + varint(5 << 3 | 3))
    message("an owner of 15 bytes", field(2, bytes(15)))
    message("a stamp of a replica that is not there", owner + replica + field(5, field(1, 1) + field(2, 1)))
    message("a writer of 7 bytes", owner + field(4, element(1, field(1, bytes([1]) * 7))))
    message("a verifier without an ID", owner + field(6, element(1, field(2, "$argon2id$"))))
    message("two verifiers with one ID", owner + field(6, element(1, field(1, bytes([1]) * 8)) * 2))
    message("expires after the year 9999", owner + field(7, field(3, LAST + 1)))
    message("made after the year 9999", field(1, (LAST + 1) * 1000) + owner)
    message("a network of IPv4 with 33 bits", owner + field(9, element(3, bytes([10, 0, 0, 0, 33]))))
    message("a name of 257 bytes", owner + field(5, field(3, "x" * 257)))
    message("65 scopes", owner + field(8, b"".join(element(3, b"%d" % i) for i in range(65))))
    message("17 networks", owner + field(9, element(3, bytes([10, 0, 0, 0, 8])) * 17))
    message("65 entries of metadata", owner + field(10, b"".join(element(3, field(1, str(i))) for i in range(65))))
    message("4,097 bytes of metadata", owner + field(10, element(3, field(2, "x" * 4097))))
    return out


def merges():
    out = []

    def add(table, about, a, b):
        id, message, merge = KINDS[table]
        ab, ba = merge(a, b), merge(b, a)
        assert ab == ba, about
        if ab is not None:
            assert merge(ab, a) == ab and merge(ab, b) == ab and merge(ab, ab) == ab, about
        out.append({"about": about, "table": table, "id": id, "a": message(a).hex(), "b": message(b).hex(),
                    "merged": None if ab is None else message(ab).hex()})

    add("keys", "a key with itself", FULL_KEY, FULL_KEY)
    add("keys", "a new key and one with something in every field", key(), FULL_KEY)
    add("keys", "different owners: refused", key(), key(owner=some_id("eve", 8)))
    add("deadkeys", "different owners: refused", dead_key(), dead_key(owner=some_id("eve", 8)))
    add("keys", "created: the earlier", key(created_ms=5), key(created_ms=4))
    add("keys", "foreign: if either is", key(foreign=True), key())

    for about, a, b in [
        ("disabled here, disabled and enabled there", flag_of(writer("w1", 1)), flag_of(writer("w2", 1, 1))),
        ("an enabling that has seen the disabling", flag_of(writer("w1", 1)), flag_of(writer("w1", 1, 1))),
        ("an enabling that has seen one disabling of two", flag_of(writer("w1", 2)), flag_of(writer("w1", 1, 1))),
        ("more enabled than disabled", flag_of(writer("w1", 2, 5)), flag_of(writer("w1", 4, 1))),
        ("two bases", flag_of(base=7), flag_of(writer("w1", 1), base=9)),
        ("256 writers", flag_of(*[writer(f"a{i}", 1) for i in range(128)]), flag_of(*[writer(f"b{i}", 1) for i in range(128)])),
        ("257 writers: sealed", flag_of(*[writer(f"a{i}", 1, 1) for i in range(128)]), flag_of(*[writer(f"b{i}", 1, 1) for i in range(129)], base=3)),
        ("sealed wins", flag_of(sealed=True, base=2), flag_of(writer("w1", 1, 1), base=3)),
    ]:
        add("keys", f"flag: {about}", key(flag=a), key(flag=b))
        add("groups", f"flag: {about}", group(flag=a), group(flag=b))
    add("users", "flag: disabled here, disabled and enabled there", user(flag=flag_of(writer("w1", 1))), user(flag=flag_of(writer("w2", 1, 1))))

    for name, low, high in [
        ("name", "a", "b"), ("name", "b", "aa"), ("expires", 300, 200), ("expires", 0, 200), ("scopes", ["a"], ["b"]), ("scopes", ["a"], []),
        ("networks", ["10.0.0.0/8"], ["10.0.0.0/9", "::1/128"]), ("metadata", {"a": "1", "b": "2"}, {"b": "3"}),
    ]:
        for about, s, t in [
            ("a higher counter", at(5, "there"), at(6)), ("a higher replica", at(5, min("here", "there", key=lambda r: uid(some_id(r, 4)))),
                                                          at(5, max("here", "there", key=lambda r: uid(some_id(r, 4))))),
            ("never set before", None, at(1)), ("equal stamps: the greater value", at(5), at(5)),
        ]:
            add("keys", f"{name}: {about}", key(**{name: reg(low, s)}), key(**{name: reg(high, t)}))
        add("keys", f"{name}: what the higher counter has replaced", key(**{name: reg(low, at(5), 3)}), key(**{name: reg(high, at(6), 2)}))
        add("keys", f"{name}: equal stamps and values: the one that replaces less", key(**{name: reg(low, at(5), 3)}), key(**{name: reg(low, at(5), 2)}))
    add("users", "metadata: a higher counter", user(metadata=reg({"a": "1"}, at(2))), user(metadata=reg({"b": ""}, at(3))))

    v1, v2, v3 = verifier_of("v1"), verifier_of("v2", 1, "v1"), verifier_of("v3", 1, "v1")
    at_once = verifiers_of(retired("v1"), v2 | {"base": base_of(1, "v2")}, superseded=[base_of()])
    at_once_too = verifiers_of(retired("v1"), v3 | {"base": base_of(1, "v3")}, superseded=[base_of()])
    many = [verifier_of(f"m{i}", i, f"m{i - 1}" if i else None) for i in range(64)]
    bases = [base_of(i, f"m{i}") for i in range(400)]
    for about, a, b in [
        ("the union", verifiers_of(v1, v2), verifiers_of(v1, v3)),
        ("retired wins", verifiers_of(v1), verifiers_of(retired("v1"))),
        ("the earlier end", verifiers_of(v1 | {"end_s": 500}, v2), verifiers_of(v1 | {"end_s": 400}, v2)),
        ("an end and none", verifiers_of(v1 | {"end_s": 500}), verifiers_of(v1)),
        ("a rotation without overlap, and what was made from the old one", at_once, verifiers_of(v1 | {"end_s": 500}, v3)),
        ("a rotation without overlap, and what was made from the new one", at_once,
         verifiers_of(retired("v1"), v2 | {"base": base_of(1, "v2")}, verifier_of("v4", 2, "v2", base=base_of(1, "v2")), superseded=[base_of()])),
        ("two rotations without overlap that knew nothing of each other", at_once, at_once_too),
        ("64 verifiers and one more", verifiers_of(*many), verifiers_of(*many[:63], verifier_of("m64", 64, "m63"))),
        ("65 of one generation", verifiers_of(*[verifier_of(f"n{i}", 7) for i in range(40)]), verifiers_of(*[verifier_of(f"n{i}", 7) for i in range(30, 66)])),
        ("a floor", verifiers_of(v1, v2), verifiers_of(v2, floor=1)),
        ("a floor of bases", verifiers_of(v1, v2 | {"base": base_of(1, "v2")}), verifiers_of(base_floor=1)),
        ("more than 512 bases", verifiers_of(many[0], superseded=bases[:300]), verifiers_of(many[63] | {"base": base_of(63, "m63")}, superseded=bases[100:] + [
            base_of(500 + i, f"o{i}") for i in range(150)])),
        ("a generation at the end of the numbers: sealed", verifiers_of(*[verifier_of(f"p{i}", 2**64 - 1) for i in range(40)]),
         verifiers_of(*[verifier_of(f"p{i}", 2**64 - 1) for i in range(40, 65)])),
        ("sealed wins", SEALED, verifiers_of(v1)),
        ("two versions of one verifier", verifiers_of(v1 | {"phc": "a", "replaces": "02" * 8, "generation": 3, "base": base_of(1, "x"), "tag": 5, "until_used": True}),
         verifiers_of(v1 | {"phc": "b", "replaces": "01" * 8, "generation": 2, "base": base_of(2, "y"), "tag": 4, "unknown": later("x", number=90)})),
        ("two handles of one verifier", verifiers_of(v1 | {"handle": "02" * 16}), verifiers_of(v1 | {"handle": "01" * 16})),
        ("a handle, and the verifier retired", verifiers_of(v1 | {"handle": "02" * 16}), verifiers_of(retired("v1"))),
    ]:
        add("keys", f"verifiers: {about}", key(verifiers=a), key(verifiers=b))

    many = [reg(f"g{i}", at(20 - i)) for i in range(9)]
    for about, a, b in [
        ("the last nine", many, [reg("new", at(30)), reg("old", at(1))]),
        ("each once, with the highest stamp", [reg("a", at(5)), reg("b", at(4))], [reg("b", at(6)), reg("a", at(3))]),
        ("equal stamps: the greater name first", [reg("a", at(5))], [reg("b", at(5))]),
        ("none", [], [reg("", at(5)), reg("a", at(2))]),
    ]:
        add("keys", f"groups: {about}", key(groups=a), key(groups=b))
        add("users", f"groups: {about}", user(groups=a), user(groups=b))
        add("deadkeys", f"groups: {about}", dead_key(groups=a), dead_key(groups=b, foreign=True))
        add("deadusers", f"groups: {about}", dead_user(groups=a), dead_user(groups=b))

    for about, a, b in [
        ("linked, and another one", [identity("a", at(2))], [identity("b", at(2, "there"))]),
        ("unlinked later", [identity("a", at(2))], [identity("a", at(3), True)]),
        ("linked later", [identity("a", at(4, "there"))], [identity("a", at(3), True)]),
        ("at once: unlinked", [identity("a", at(2), unknown=later("x", "b", number=90))], [identity("a", at(2), True, unknown=later("y", number=90))]),
        ("unknown fields go with the stamp", [identity("a", at(2), unknown=later("z", number=90))], [identity("a", at(3), unknown=later("y", number=90))]),
        ("one subject of two providers", [identity("a", at(2))], [identity("a", at(2), True, "oauth2-google")]),
        ("more than 128", [identity(f"a{i:03}", at(i + 1)) for i in range(100)], [identity(f"b{i:03}", at(i + 1, "there"), i % 2 == 0) for i in range(100)]),
    ]:
        names = lambda i: (i["provider"].encode(), i["subject"].encode())
        add("users", f"identities: {about}", user(identities=sorted(a, key=names)), user(identities=sorted(b, key=names)))
    add("users", "identities: dropped before", user(dropped=at(5)), user(identities=[identity("a", at(5)), identity("b", at(6))]))
    add("users", "a new user and one with something in every field", user(), FULL_USER)

    for table, make in [("keys", key), ("users", user), ("groups", group), ("deadkeys", dead_key), ("deadusers", dead_user)]:
        a, b = later("b", "", "a"), later("a", "x", "aa")
        add(table, "unknown fields: the greater for each number", make(unknown=a), make(unknown=b))
    twice = (field(900, 1) + field(900, 2)).hex()
    add("keys", "unknown fields: all of one number are one value", key(unknown=twice), key(unknown=field(900, 2).hex()))

    zero, one = (0, some("tag 0", 16).hex(), 1), (1, some("tag 1", 16).hex(), 0)
    add("tags", "the union", tags(zero), tags(one))
    add("tags", "the higher state", tags(zero, one), tags((0, "", 2), (1, some("tag 1", 16).hex(), 1)))
    add("tags", "the change to the higher state", tags((0, "01" * 16, 0, 5)), tags((0, "01" * 16, 1, 7)))
    add("tags", "the earlier of two changes", tags((0, "01" * 16, 1, 7), (1, "", 2, 9)), tags((0, "01" * 16, 1, 5), (1, "", 2)))
    add("tags", "two secrets with one number", tags((0, "01" * 16, 1)), tags((0, "02" * 16, 0)))
    add("tags", "more than 32", tags(*[(n, "03" * 16, 1) for n in range(30)]), tags(*[(n, "03" * 16, 1) for n in range(10, 40)]))
    return {"merges": out}


def store():
    out = {"meta": [], "indexes": []}

    def meta(name, message, **fields):
        out["meta"].append({"key": name, "record": seal("meta", name.encode(), message).hex(), "fields": fields})

    def index(table, key, value, **fields):
        out["indexes"].append({"table": table, "key": key.hex(), "value": value.hex(), "fields": fields})

    domain, user_secret = some_id("domain", 4), some("user secret", 32)
    all_tags = tags((3, "", 2, 1767323045678), (4, some("tag 4", 16).hex(), 1), (5, some("tag 5", 16).hex(), 0)) | {"floor": 2}
    meta("format", field(1, 1), version=1)
    meta("domain", field(1, uid(domain)) + field(2, user_secret) + field(3, "lk"), id=domain, user_secret=user_secret.hex(), prefix="lk")
    meta("tags", tags_message(all_tags), **all_tags)
    meta("replica", field(1, uid(some_id("here", 4))) + field(2, True), id=some_id("here", 4), shared=True)
    meta("clock", field(1, 1767323045678) + field(2, 3), time_ms=1767323045678, resets=3)

    index("identities", b"local-userpass\0ada@example.com", uid(ADA), provider="local-userpass", subject="ada@example.com", id=ADA)
    index("names", uid(ADA) + b"laptop\0" + uid(LAPTOP), b"", owner=ADA, name="laptop", id=LAPTOP)
    index("members", b"plant 7\0" + uid(ADA), b"", group="plant 7", id=ADA)
    index("handles", some("digest", 32)[:16] + uid(LAPTOP), b"", handle=some("digest", 32)[:16].hex(), id=LAPTOP)
    phc, hash_key = "$argon2id$v=19$m=64,t=1,p=1$gL6Apb/Mokmy8/YdzmAfvQ$YHmbZ+LKTATi/0Rf6xp9hUgG9KYbOCB1m7QbZ783Sns", uid(LAPTOP) + some("v1", 8)
    index("hashes", hash_key, seal("hashes", hash_key, field(1, phc)), id=LAPTOP, verifier=some("v1", 8).hex(), phc=phc)
    hash_key = uid(LAPTOP) + some("v2", 8)
    index("hashes", hash_key, seal("hashes", hash_key, field(1, phc) + field(2, b"\x12\x34")), id=LAPTOP, verifier=some("v2", 8).hex(), phc=phc, hint="1234")
    minute, use_key = 29_455_384, uid(LAPTOP) + some("v1", 8)  # 2026-01-02 03:04
    index("lastuse", use_key, seal("lastuse", use_key, field(1, minute)), id=LAPTOP, verifier=some("v1", 8).hex(), minute=minute)
    return out


def write(**files):
    for name, vectors in files.items():
        (HERE / f"{name}.json").write_text(json.dumps(vectors, indent=1, ensure_ascii=True) + "\n")


if __name__ == "__main__":
    write(records=records(), merges=merges(), store=store())
