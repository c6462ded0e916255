"""Writes the test vectors in this directory.

The program is a second implementation of the formats and uses none of the project's Go code.

    pip install argon2-cffi==25.1.0 siphash24==1.9
    python3 generate.py

All inputs are fixed, so another run writes the same files. README.md says what the vectors mean.
"""

import base64
import hashlib
import hmac
import json
import pathlib
import struct
import uuid

import argon2.low_level
import siphash24

HERE = pathlib.Path(__file__).parent
DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def some(label, size):
    """Returns bytes that look random and are the same in every run."""
    return hashlib.shake_256(label.encode()).digest(size)


def some_id(label, version):
    return with_version(some(label, 16), version)


def with_version(id_bytes, version):
    b = bytearray(id_bytes)
    b[6] = b[6] & 0x0F | version << 4
    b[8] = b[8] & 0x3F | 0x80
    return uuid.UUID(bytes=bytes(b))


# Tags and tokens


def siphash(key, message):
    """Returns the 8 bytes of SipHash-2-4, little-endian, as the reference implementation writes them."""
    return siphash24.siphash24(message, key=key).digest()


def word(eight):
    n = int.from_bytes(eight, "big")
    digits = ""
    for _ in range(11):
        n, d = divmod(n, 62)
        digits = DIGITS[d] + digits
    return digits


def words(b):
    return "".join(word(b[i : i + 8]) for i in range(0, len(b), 8))


def token(prefix, tag_secret, key_id, secret):
    digits = words(key_id.bytes + secret)
    tag = siphash(tag_secret, digits.encode())[::-1]  # big-endian in the token, as each word is
    return prefix + "_" + digits + word(tag), tag


def tags():
    reference = bytes(range(16))
    cases = [
        ("what the table of SipHash's authors, which ends with 63 bytes, would have for 66", reference, bytes(range(66))),
        ("all zero", bytes(16), bytes(66)),
        ("all ones", b"\xff" * 16, b"\xff" * 66),
        ("looks random", some("tag secret", 16), some("tag message", 66)),
    ]
    return {"tags": [{"about": a, "key": k.hex(), "message": m.hex(), "tag": siphash(k, m).hex()} for a, k, m in cases]}


def tokens():
    genuine, refused = [], []

    def good(about, prefix, tag_secret, key_id, secret):
        t, tag = token(prefix, tag_secret, key_id, secret)
        genuine.append(
            {"about": about, "prefix": prefix, "tag_secret": tag_secret.hex(), "key_id": str(key_id),
             "secret": secret.hex(), "tag": tag.hex(), "token": t}
        )
        return t

    ts = some("token tag secret", 16)
    t = good("looks random", "lk", ts, some_id("token key", 7), some("token secret", 32))
    good("the shortest prefix", "k", ts, some_id("token key 2", 7), some("token secret 2", 32))
    good("the longest prefix", "abcdefghij012345", ts, some_id("token key 3", 7), some("token secret 3", 32))
    good("all zero: zeros are written out", "lk", bytes(16), uuid.UUID(int=0), bytes(32))
    good("all ones: the greatest word there is", "lk", b"\xff" * 16, uuid.UUID(int=2**128 - 1), b"\xff" * 32)

    def bad(about, kind, token):
        refused.append({"about": about, "kind": kind, "prefix": "lk", "tag_secret": ts.hex(), "token": token})

    digits = t[3:]
    over = "LygHa16AHYG"  # 2^64
    assert word(b"\xff" * 8) == "LygHa16AHYF"
    bad("empty", "malformed", "")
    bad("one digit short", "malformed", t[:-1])
    bad("one digit more", "malformed", t + "0")
    bad("another prefix", "malformed", "lj_" + digits)
    bad("the prefix in capitals", "malformed", "LK_" + digits)
    bad("a hyphen for the underscore", "malformed", "lk-" + digits)
    bad("a space before", "malformed", " " + t[:-1])
    bad("a newline after", "malformed", t[:-1] + "\n")
    bad("a zero byte", "malformed", t[:40] + "\0" + t[41:])
    bad("a digit of base64", "malformed", t[:40] + "+" + t[41:])
    bad("a digit that is not ASCII", "malformed", t[:40] + "\u0663" + t[42:])
    for i in range(7):
        bad(f"word {i} is 2^64", "malformed" if i == 6 else "forged", "lk_" + digits[: 11 * i] + over + digits[11 * i + 11 :])
    bad("all z", "malformed", "lk_" + "z" * 77)
    bad("all zeros", "forged", "lk_" + "0" * 77)
    other = {"0": "1"}.get(digits[-1], "0")
    bad("another tag", "forged", "lk_" + digits[:-1] + other)
    bad("key ID and secret exchanged in part", "forged", "lk_" + digits[22:33] + digits[11:22] + digits[:11] + digits[33:])
    bad("the tag of another domain", "forged", token("lk", some("another domain", 16), some_id("token key", 7), some("token secret", 32))[0])
    for i in range(6):
        body = digits[: 11 * i] + over + digits[11 * i + 11 : 66]
        tag = siphash(ts, body.encode())[::-1]
        bad(f"word {i} is 2^64, and the tag is right", "tagged", "lk_" + body + word(tag))
    return {"regexp": "^[0-9A-Za-z]{1,16}_[0-9A-Za-z]{77}$", "genuine": genuine, "refused": refused}


# Verifiers


def b64(b):
    return base64.b64encode(b).decode().rstrip("=")


def verifiers():
    matching, refused = [], []
    costs = [(8, 1, 1), (64, 1, 1), (65, 2, 1), (64, 3, 4), (1000, 2, 3), (7168, 5, 1), (19456, 2, 1)]
    for i, (m, t, p) in enumerate(costs):
        secret, salt = some(f"secret {i}", 32), some(f"salt {i}", 16)
        phc = argon2.low_level.hash_secret(secret, salt, t, m, p, 32, argon2.Type.ID).decode()
        matching.append({"secret": secret.hex(), "salt": salt.hex(), "memory": m, "passes": t, "lanes": p,
                         "hash": base64.b64decode(phc.split("$")[5] + "=").hex(), "phc": phc})

    def bad(about, phc):
        refused.append({"about": about, "phc": phc})

    salt, digest = b64(some("salt", 16)), b64(some("hash", 32))

    def phc(costs="m=64,t=1,p=1", kind="argon2id", version="v=19", salt=salt, digest=digest):
        return f"${kind}${version}${costs}${salt}${digest}"

    bad("empty", "")
    bad("nothing but separators", "$$$$$")
    bad("cut short", phc()[:-1])
    bad("argon2i", phc(kind="argon2i"))
    bad("argon2d", phc(kind="argon2d"))
    bad("capitals", phc(kind="Argon2id"))
    bad("an older version", phc(version="v=16"))
    bad("no version", phc().replace("$v=19", ""))
    bad("a version with a zero before it", phc(version="v=019"))
    for costs in ["m=0,t=1,p=1", "m=7,t=1,p=1", "m=64,t=0,p=1", "m=64,t=1,p=0", "m=127,t=1,p=16", "m=136,t=1,p=17",
                  "m=1048577,t=1,p=1", "m=64,t=65,p=1", "m=4294967295,t=1,p=1", "m=4294967360,t=1,p=1",
                  "m=64,t=4294967295,p=1", "m=64,t=4294967297,p=1", "m=2048,t=1,p=255", "m=2048,t=1,p=257",
                  "m=18446744073709551680,t=1,p=1", "m=" + "9" * 400 + ",t=1,p=1", "m=064,t=1,p=1", "m=64,t=01,p=1",
                  "m=64,t=1,p=01", "m=+64,t=1,p=1", "m=-64,t=1,p=1", "m=64,t=-1,p=1", "m=64,t=1,p=-1", "m=0x40,t=1,p=1",
                  "m=6_4,t=1,p=1", "m=64.0,t=1,p=1", "m=64,t=1", "m=64,p=1,t=1", "t=1,m=64,p=1", "m=64,t=1,p=1,keyid=AA",
                  "m=64,t=1,p=1,data=AA", "m=64,t=1,p=1,", "M=64,t=1,p=1", "m= 64,t=1,p=1", "m=64, t=1,p=1", "m=64,t=1,p=1 ",
                  "m=,t=1,p=1", ""]:
        bad("bad cost", phc(costs))
    bad("a salt of 15 bytes", phc(salt=b64(some("salt", 15))))
    bad("a salt of 17 bytes", phc(salt=b64(some("salt", 17))))
    bad("no salt", phc(salt=""))
    bad("a hash of 31 bytes", phc(digest=b64(some("hash", 31))))
    bad("a hash of 33 bytes", phc(digest=b64(some("hash", 33))))
    bad("a hash of 64 bytes", phc(digest=b64(some("hash", 64))))
    bad("no hash", phc(digest=""))
    bad("padding", phc(digest=digest + "="))
    bad("the URL alphabet", phc(salt="-" + salt[1:]))
    bad("a line break in base64", phc(salt=salt + "\n"))
    last = "AQgw".find(salt[-1])
    assert last >= 0, "16 bytes leave four bits of the last digit unused, which are zero"
    bad("bits after the end of the salt", phc(salt=salt[:-1] + "BRhx"[last]))
    bad("a space before", " " + phc())
    bad("a newline after", phc() + "\n")
    bad("a zero byte after", phc() + "\0")
    bad("no separator before", phc()[1:])
    bad("one field more", phc() + "$")
    return {"matching": matching, "refused": refused}


# User IDs


def user_id(secret, provider, subject, former):
    message = b"latchkey user\0" + provider.encode() + b"\0" + subject.encode() + b"\0" + struct.pack(">Q", former)
    return with_version(hmac.new(secret, message, hashlib.sha256).digest()[:16], 8)


def user_ids():
    secret = some("user secret", 32)
    cases = [("local-userpass", "ada@example.com", 0), ("local-userpass", "ada@example.com", 1),
             ("local-userpass", "ada@example.com", 256), ("oauth2-google", "ada@example.com", 0),
             ("local-userpass", "Ada@example.com", 0), ("custom-token", "\u00e5da \u2603", 0), ("api-key", "x" * 256, 0)]
    return {"user_ids": [{"user_secret": secret.hex(), "provider": p, "subject": s, "former": n,
                          "id": str(user_id(secret, p, s, n))} for p, s, n in cases]}


for name, vectors in [("tags", tags()), ("tokens", tokens()), ("verifiers", verifiers()), ("user_ids", user_ids())]:
    (HERE / f"{name}.json").write_text(json.dumps(vectors, indent=1, ensure_ascii=True) + "\n")
