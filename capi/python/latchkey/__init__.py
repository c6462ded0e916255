"""Latchkey keeps users and their API keys in one file.

Open a Store, make a user with create_user, and give the user a key with create_key, which returns the
token for the only time. On every request, check the token that the caller presents with login.

All methods of a Store may be called from several threads at once. A call that fails raises Error, whose
code says why. docs/c.md in the repository has the limits of the library.

IDs are UUIDs, times are datetimes with a time zone, and durations are timedeltas. Times that the library
returns are in UTC and to the millisecond. None means that there is no such time, such as no expiry date.
"""

import ctypes
import os
import uuid
from ctypes import byref, sizeof
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Iterable, Iterator, List, Mapping, Optional, Tuple, Union

from . import _library as c
from ._library import Code

__all__ = ["SERVER_OWNER", "Code", "Error", "Finding", "Key", "KeyToken", "Principal", "Store", "User", "restore"]

# The owner of server keys, which belong to no user.
SERVER_OWNER = uuid.UUID(int=(1 << 128) - 1)


class Error(Exception):
    """The error of a call. Its code says what to do, and its text is for people.

    The code is a Code, or an int if a later library has added the code. latchkey.h in the repository says
    what each code means, and which codes each call has. Every call can have CLOSED, CORRUPT, FILE_CHANGED,
    FORKED, INVALID_ARGUMENT, NO_MEMORY, INTERNAL and OTHER. A change can also have READ_ONLY, FILE_GONE,
    SYNC_FAILED, SYSTEM and COMMIT_UNKNOWN, which alone leaves open whether the change was made.
    """

    def __init__(self, code: Union[Code, int], message: str):
        super().__init__(code, message)  # all arguments, so that a pool of processes can pass it on
        self.code = code

    def __str__(self) -> str:
        return self.args[1]


def _code(number):
    """Return the Code with a number, or the number if a later library has added it."""
    try:
        return Code(number)
    except ValueError:
        return number


@dataclass(frozen=True)
class Principal:
    """The caller that a token belongs to.

    provider and subject are the first identity of the user, and empty for a server key. group is that of the
    user or of the server key, or empty. token_id tells the two tokens of a rotation apart; it can be logged.
    """

    key_id: uuid.UUID
    key_name: str
    owner: uuid.UUID  # a user's ID, or SERVER_OWNER
    user_id: Optional[uuid.UUID]  # None for a server key
    provider: str
    subject: str
    group: str
    scopes: Tuple[str, ...]
    expires: Optional[datetime]
    token_id: str

    def require(self, scope: str) -> None:
        """Raise Error with the code NO_SCOPE unless the key permits a scope.

        A key with the scope "files:*" permits "files:read".
        """
        known = c.Principal(size=sizeof(c.Principal))
        held = _Held()
        known.scopes, known.scope_count = held.strings(self.scopes)
        _call("require_scope", byref(known), *_text(scope))


@dataclass(frozen=True)
class KeyToken:
    """A token of a key, without its secret. ends is None unless a rotation has set an end."""

    id: str
    ends: Optional[datetime]
    last_used: Optional[datetime]


@dataclass(frozen=True)
class Key:
    """A key. last_used is to the minute. tokens are one token, or two during an overlap, the newest last."""

    id: uuid.UUID
    owner: uuid.UUID
    name: str
    created: datetime
    expires: Optional[datetime]
    last_used: Optional[datetime]
    disabled: bool
    scopes: Tuple[str, ...]
    networks: Tuple[str, ...]
    metadata: Mapping[str, str]
    group: str
    tokens: Tuple[KeyToken, ...]


@dataclass(frozen=True)
class User:
    """A user, and the pairs of a provider and a subject that identify the user."""

    id: uuid.UUID
    identities: Tuple[Tuple[str, str], ...]
    created: datetime
    disabled: bool
    group: str
    metadata: Mapping[str, str]


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a store."""

    code: Union[Code, int]
    message: str


class Store:
    """The open store in the file at path, which is made if there is none.

    Close it, or use it in a with statement. One store at a time can have a file open for writing. Options:

    read_only: open an existing store for reading
    must_exist: raise Error with NO_FILE rather than making a new store
    recover: use the safety copy if the file is gone or damaged
    app_services_names: accept only names of keys that the hosted service accepted
    lock_timeout: how long to wait for another process; 0 is one second, negative is not at all
    token_prefix: begins the tokens of a new store: 1 to 16 ASCII letters and digits; empty is "lk"
    max_keys_per_user: 0 is 20, negative is no limit
    cost: of new hashes: KiB of memory, passes, lanes; (0, 0, 0) is (7168, 5, 1)
    hash_memory: bytes for hashes; 0 is 64 MiB
    hash_queue: how many calls of a kind may wait for a hash; 0 is 1,024
    cache_size: how many tokens are remembered; 0 is 10,000, negative is none
    safety_copy_every: how often to copy the file to its safety copy; 0 is never
    last_use_every: how often to write last uses; 0 is one hour, negative is never

    Codes: INVALID_OPTIONS, LOCKED, NO_FILE, FILE_GONE, NOT_STORE, NEWER_FORMAT, UNFINISHED.
    """

    def __init__(
        self,
        path: Union[str, "os.PathLike[str]"],
        *,
        read_only: bool = False,
        must_exist: bool = False,
        recover: bool = False,
        app_services_names: bool = False,
        lock_timeout: timedelta = timedelta(0),
        token_prefix: str = "",
        max_keys_per_user: int = 0,
        cost: Tuple[int, int, int] = (0, 0, 0),
        hash_memory: int = 0,
        hash_queue: int = 0,
        cache_size: int = 0,
        safety_copy_every: timedelta = timedelta(0),
        last_use_every: timedelta = timedelta(0),
    ):
        held = _Held()
        numbers = {
            "hash_memory": hash_memory,
            "max_keys_per_user": max_keys_per_user,
            "hash_queue": hash_queue,
            "cache_size": cache_size,
            "cost_memory": cost[0],
            "cost_passes": cost[1],
            "cost_lanes": cost[2],
        }
        options = c.Options(
            size=sizeof(c.Options),
            lock_timeout=_milliseconds(lock_timeout),
            safety_copy_every=_milliseconds(safety_copy_every),
            last_use_every=_milliseconds(last_use_every),
            token_prefix=held.string(token_prefix),
            read_only=read_only,
            must_exist=must_exist,
            recover=recover,
            app_services_names=app_services_names,
            **numbers,
        )
        for name, number in numbers.items():
            if getattr(options, name) != number:  # ctypes cuts numbers off
                raise Error(Code.INVALID_OPTIONS, f"{name} is out of range")
        handle = ctypes.c_uint64()
        _call("open", c.ABI_VERSION, *_text(os.fspath(path)), byref(options), byref(handle))
        self._handle = handle.value

    def close(self) -> None:
        """Close the store, after the calls in progress. A closed store raises Error with the code CLOSED."""
        _call("close", self._handle)

    def __reduce__(self):
        raise TypeError("a Store cannot be copied or passed to another process: open it there")

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_) -> None:
        try:
            self.close()
        except Error as error:
            if error.code != Code.CLOSED:
                raise

    def login(self, token: Union[str, bytes], address: str = "") -> Principal:
        """Return the principal of a token. Call it for every request.

        address is the IP address of the caller. A key with networks is refused without an address in them.

        Codes: INVALID_TOKEN, KEY_DISABLED, KEY_EXPIRED, USER_DISABLED, GROUP_DISABLED, NETWORK_NOT_ALLOWED,
        BUSY, COST_TOO_HIGH, INVALID_NETWORK if address is no IP address.
        """
        if address:
            return _result("principal", "login_from", self._handle, *_text(token), *_text(address))
        return _result("principal", "login", self._handle, *_text(token))

    def create_user(self, provider: str, subject: str, *, group: str = "", metadata: Mapping[str, str] = {}) -> User:
        """Make a user with one identity, such as ("local-userpass", "ada@example.com").

        Codes: IDENTITY_TAKEN, INVALID_IDENTITY, INVALID_GROUP, INVALID_METADATA.
        """
        held = _Held()
        spec = c.UserSpec(size=sizeof(c.UserSpec), identity=held.identity(provider, subject), group=held.string(group))
        spec.metadata, spec.metadata_count = held.pairs(metadata)
        return _result("user", "create_user", self._handle, byref(spec))

    def fetch_user(self, id: uuid.UUID) -> User:
        """Return the user with an ID. Codes: USER_NOT_FOUND."""
        return _result("user", "fetch_user", self._handle, _id(id))

    def fetch_user_by_identity(self, provider: str, subject: str) -> User:
        """Return the user that an identity belongs to.

        Codes: USER_NOT_FOUND, IDENTITY_CONFLICT, INVALID_IDENTITY.
        """
        return _result("user", "fetch_user_by_identity", self._handle, byref(_Held().identity(provider, subject)))

    def fetch_users(self) -> Iterator[User]:
        """Yield all users, in the order of their IDs."""
        after = None
        while True:
            users = _result("users", "fetch_users", self._handle, after and _id(after), 256)
            if not users:
                return
            yield from users
            after = users[-1].id

    def enable_user(self, id: uuid.UUID) -> None:
        """Let the keys of a disabled user log in again. Codes: USER_NOT_FOUND."""
        _call("enable_user", self._handle, _id(id))

    def disable_user(self, id: uuid.UUID) -> None:
        """Stop all keys of a user from logging in, until the user is enabled. Codes: USER_NOT_FOUND."""
        _call("disable_user", self._handle, _id(id))

    def delete_user(self, id: uuid.UUID) -> None:
        """Delete a user and all keys of the user, for good. Codes: USER_NOT_FOUND."""
        _call("delete_user", self._handle, _id(id))

    def link_identity(self, user: uuid.UUID, provider: str, subject: str) -> None:
        """Give a user another identity.

        Codes: USER_NOT_FOUND, IDENTITY_TAKEN, INVALID_IDENTITY, TOO_MANY_IDENTITIES.
        """
        _call("link_identity", self._handle, _id(user), byref(_Held().identity(provider, subject)))

    def unlink_identity(self, user: uuid.UUID, provider: str, subject: str) -> None:
        """Take an identity from a user, so that another user can have it.

        Codes: USER_NOT_FOUND, IDENTITY_NOT_FOUND, LAST_IDENTITY, USER_HAS_KEYS.
        """
        _call("unlink_identity", self._handle, _id(user), byref(_Held().identity(provider, subject)))

    def create_key(
        self,
        user: uuid.UUID,
        name: str,
        *,
        expires: Optional[datetime] = None,
        scopes: Iterable[str] = (),
        networks: Iterable[str] = (),
        metadata: Mapping[str, str] = {},
    ) -> Tuple[Key, str]:
        """Make a key of a user. Return the key and its token, which cannot be seen again.

        A key without scopes is permitted nothing. A key without networks, such as "192.0.2.0/24", is good from
        everywhere. The call waits for a slow hash.

        Codes: USER_NOT_FOUND, ANONYMOUS_USER, INVALID_NAME, KEY_NAME_TAKEN, TOO_MANY_KEYS, INVALID_EXPIRY,
        INVALID_SCOPE, INVALID_NETWORK, INVALID_METADATA, BUSY.
        """
        held = _Held()
        spec = held.key_spec(name, expires, scopes, networks, metadata, "")
        return _key_with_token("create_key", self._handle, _id(user), byref(spec))

    def create_server_key(
        self,
        name: str,
        *,
        expires: Optional[datetime] = None,
        scopes: Iterable[str] = (),
        networks: Iterable[str] = (),
        metadata: Mapping[str, str] = {},
        group: str = "",
    ) -> Tuple[Key, str]:
        """Make a key that no user owns, as create_key does. Its owner is SERVER_OWNER.

        Codes: those of create_key, and INVALID_GROUP.
        """
        held = _Held()
        spec = held.key_spec(name, expires, scopes, networks, metadata, group)
        return _key_with_token("create_server_key", self._handle, byref(spec))

    def fetch_key(self, owner: uuid.UUID, id: uuid.UUID) -> Key:
        """Return a key of owner, a user or SERVER_OWNER. Codes: KEY_NOT_FOUND."""
        return _result("key", "fetch_key", self._handle, _id(owner), _id(id))

    def fetch_keys(self, owner: uuid.UUID) -> List[Key]:
        """Return all keys of owner, in the order of their creation. Codes: USER_NOT_FOUND."""
        return _result("keys", "fetch_keys", self._handle, _id(owner))

    def enable_key(self, owner: uuid.UUID, id: uuid.UUID) -> None:
        """Let a disabled key log in again. Codes: KEY_NOT_FOUND."""
        _call("enable_key", self._handle, _id(owner), _id(id))

    def disable_key(self, owner: uuid.UUID, id: uuid.UUID) -> None:
        """Stop a key from logging in until it is enabled. No login that begins afterwards succeeds.

        Codes: KEY_NOT_FOUND.
        """
        _call("disable_key", self._handle, _id(owner), _id(id))

    def delete_key(self, owner: uuid.UUID, id: uuid.UUID) -> None:
        """Delete a key for good: it never logs in again, and cannot be recovered. Codes: KEY_NOT_FOUND."""
        _call("delete_key", self._handle, _id(owner), _id(id))

    def rotate_key(
        self, owner: uuid.UUID, id: uuid.UUID, *, overlap: timedelta = timedelta(0), until_used: bool = False
    ) -> Tuple[Key, str]:
        """Give a key a new token. Return the key and the token, which cannot be seen again.

        The old token stays good during the overlap, which is 0 by default. until_used ends the overlap early,
        at the first login with the new token. The call waits for a slow hash.

        Codes: KEY_NOT_FOUND, INVALID_ROTATION, BUSY.
        """
        rotation = c.Rotation(size=sizeof(c.Rotation), overlap=_milliseconds(overlap), until_used=until_used)
        if owner == SERVER_OWNER:
            return _key_with_token("rotate_server_key", self._handle, _id(id), byref(rotation))
        return _key_with_token("rotate_key", self._handle, _id(owner), _id(id), byref(rotation))

    def health(self) -> List[Finding]:
        """Return all that is wrong with the store: an empty list if nothing is. It waits at most a second."""
        return _result("findings", "health", self._handle)

    def backup(self, path: Union[str, "os.PathLike[str]"]) -> None:
        """Write a copy of the store to a new file. Keep the copy as safe as the store.

        Codes: FILE_EXISTS, NO_FILE if the directory is missing, INTERRUPTED: begin again.
        """
        _call("backup", self._handle, *_text(os.fspath(path)))


def restore(backup: Union[str, "os.PathLike[str]"], path: Union[str, "os.PathLike[str]"]) -> None:
    """Make the file of a store at path from a backup, after a check of the whole backup.

    Keys that were disabled or deleted after the backup are as they were before.

    Codes: NO_FILE if there is no backup, FILE_EXISTS if there is a file at path, NOT_STORE, CORRUPT,
    NUMBERING, NEWER_FORMAT.
    """
    _call("restore", *_text(os.fspath(backup)), *_text(os.fspath(path)))


def _call(name, *args):
    """Call a function of the library, and raise its error."""
    error = ctypes.POINTER(c.Error)()
    code = getattr(c.library, "lk_" + name)(*args, byref(error))
    if code != Code.OK:
        message = error.contents.message.text if error else "no memory for a message"
        c.library.lk_error_free(error)
        raise Error(_code(code), message)


def _result(kind, name, *args):
    """Make a call that has a result of a kind, and return the result as an object of Python."""
    result = ctypes.POINTER(_RESULTS[kind][0])()
    _call(name, *args, byref(result))
    return _take(kind, result)


def _key_with_token(name, *args):
    """Make a call that returns a key and its token."""
    key, token = ctypes.POINTER(c.Key)(), ctypes.POINTER(c.Token)()
    _call(name, *args, byref(key), byref(token))
    return _take("key", key), _take("token", token)


def _take(kind, result):
    """Return a result of the library as an object of Python, and release the result."""
    try:
        return _RESULTS[kind][1](result.contents)
    finally:
        getattr(c.library, f"lk_{kind}_free")(result)


class _Held:
    """Makes structs of C, and keeps the memory that they point to."""

    def __init__(self):
        self._kept = []

    def string(self, text):
        data, length = _text(text)
        self._kept.append(data)
        return c.String(ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p), length)

    def strings(self, texts):
        if isinstance(texts, (str, bytes)):
            raise TypeError("a list of texts is expected, and not one text")
        return self._list(c.String, [self.string(t) for t in texts])

    def pairs(self, mapping):
        return self._list(c.Pair, [c.Pair(self.string(k), self.string(v)) for k, v in mapping.items()])

    def identity(self, provider, subject):
        identity = c.Identity(self.string(provider), self.string(subject))
        identity.held = self
        return identity

    def key_spec(self, name, expires, scopes, networks, metadata, group):
        spec = c.KeySpec(size=sizeof(c.KeySpec), name=self.string(name), expires=_instant(expires), group=self.string(group))
        spec.scopes, spec.scope_count = self.strings(scopes)
        spec.networks, spec.network_count = self.strings(networks)
        spec.metadata, spec.metadata_count = self.pairs(metadata)
        return spec

    def _list(self, kind, items):
        array = (kind * len(items))(*items)
        self._kept.append(array)
        return ctypes.cast(array, ctypes.POINTER(kind)), len(items)


def _text(text):
    # The library refuses surrogates, which strangers can put into a token.
    data = text if isinstance(text, bytes) else text.encode(errors="surrogatepass")
    return data, len(data)


def _id(id):
    return byref(c.ID((ctypes.c_uint8 * 16)(*id.bytes)))


def _uuid(id):
    return uuid.UUID(bytes=bytes(id.bytes))


_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def _time(milliseconds):
    return _EPOCH + timedelta(milliseconds=milliseconds) if milliseconds else None


def _instant(time):
    if time is None:
        return 0
    return (time - _EPOCH) // timedelta(milliseconds=1) or 1  # 0 is no time


def _milliseconds(duration):
    return duration // timedelta(milliseconds=1)


def _texts(strings, count):
    return tuple(strings[i].text for i in range(count))


def _mapping(pairs, count):
    return {pairs[i].name.text: pairs[i].value.text for i in range(count)}


def _principal(p):
    return Principal(
        key_id=_uuid(p.key_id),
        key_name=p.key_name.text,
        owner=_uuid(p.owner),
        user_id=None if p.server_key else _uuid(p.user_id),
        provider=p.provider.text,
        subject=p.subject.text,
        group=p.group.text,
        scopes=_texts(p.scopes, p.scope_count),
        expires=_time(p.expires),
        token_id=p.token_id.text,
    )


def _key(k):
    return Key(
        id=_uuid(k.id),
        owner=_uuid(k.owner),
        name=k.name.text,
        created=_time(k.created),
        expires=_time(k.expires),
        last_used=_time(k.last_used),
        disabled=bool(k.disabled),
        scopes=_texts(k.scopes, k.scope_count),
        networks=_texts(k.networks, k.network_count),
        metadata=_mapping(k.metadata, k.metadata_count),
        group=k.group.text,
        tokens=tuple(
            KeyToken(t.id.text, _time(t.ends), _time(t.last_used)) for t in (k.tokens[i].contents for i in range(k.token_count))
        ),
    )


def _user(u):
    return User(
        id=_uuid(u.id),
        identities=tuple((u.identities[i].provider.text, u.identities[i].subject.text) for i in range(u.identity_count)),
        created=_time(u.created),
        disabled=bool(u.disabled),
        group=u.group.text,
        metadata=_mapping(u.metadata, u.metadata_count),
    )


def _finding(f):
    return Finding(_code(f.code), f.message.text)


# The struct of each kind of result, and the function that makes an object of Python of it.
_RESULTS = {
    "principal": (c.Principal, _principal),
    "user": (c.User, _user),
    "users": (c.Users, lambda u: [_user(u.users[i].contents) for i in range(u.count)]),
    "key": (c.Key, _key),
    "keys": (c.Keys, lambda k: [_key(k.keys[i].contents) for i in range(k.count)]),
    "token": (c.Token, lambda t: t.text.text),
    "findings": (c.Findings, lambda f: [_finding(f.findings[i].contents) for i in range(f.count)]),
}
