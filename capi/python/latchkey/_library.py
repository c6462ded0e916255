"""The functions and structs of latchkey.h, for ctypes. Nothing outside the package uses them."""

import ctypes
import enum
import os
import pathlib
import sys
from ctypes import POINTER, Structure, c_char_p, c_int32, c_int64, c_size_t, c_uint8, c_uint32, c_uint64, c_void_p

ABI_VERSION = 1


class Code(enum.IntEnum):
    """The codes of latchkey.h, which says what each of them means."""

    OK = 0
    INVALID_ARGUMENT = 1
    INVALID_HANDLE = 2
    CLOSED = 3
    ABI = 4
    FORKED = 5
    NO_MEMORY = 6
    INTERNAL = 7
    OTHER = 8
    SYSTEM = 9
    NO_FILE = 10
    FILE_EXISTS = 11
    INVALID_TOKEN = 100
    KEY_DISABLED = 101
    KEY_EXPIRED = 102
    USER_DISABLED = 103
    GROUP_DISABLED = 104
    NETWORK_NOT_ALLOWED = 105
    BUSY = 106
    NO_SCOPE = 107
    USER_NOT_FOUND = 200
    KEY_NOT_FOUND = 201
    KEY_NAME_TAKEN = 202
    IDENTITY_TAKEN = 203
    IDENTITY_CONFLICT = 204
    IDENTITY_NOT_FOUND = 205
    LAST_IDENTITY = 206
    USER_HAS_KEYS = 207
    TOO_MANY_KEYS = 208
    TOO_MANY_IDENTITIES = 209
    ANONYMOUS_USER = 210
    INVALID_NAME = 211
    INVALID_SCOPE = 212
    INVALID_NETWORK = 213
    INVALID_METADATA = 214
    INVALID_GROUP = 215
    INVALID_IDENTITY = 216
    INVALID_EXPIRY = 217
    INVALID_ROTATION = 218
    INVALID_OPTIONS = 300
    LOCKED = 301
    FILE_GONE = 302
    FILE_CHANGED = 303
    READ_ONLY = 304
    NOT_STORE = 305
    NEWER_FORMAT = 306
    NUMBERING = 307
    CORRUPT = 308
    UNFINISHED = 309
    COST_TOO_HIGH = 310
    COMMIT_UNKNOWN = 311
    SYNC_FAILED = 312
    INTERRUPTED = 313
    READER_HOLDS_UP = 400
    SAFETY_COPY_FAILED = 401
    LAST_USE_FAILED = 402
    ROTATION_NOT_DURABLE = 403
    CLOCK_BEHIND = 404
    RECOVERED = 405
    NO_IDENTITY = 406


class String(Structure):
    _fields_ = [("data", c_void_p), ("length", c_size_t)]

    @property
    def text(self):
        """The string as a str."""
        return ctypes.string_at(self.data, self.length).decode() if self.length else ""


class ID(Structure):
    _fields_ = [("bytes", c_uint8 * 16)]


class Pair(Structure):
    _fields_ = [("name", String), ("value", String)]


class Identity(Structure):
    _fields_ = [("provider", String), ("subject", String)]


class Error(Structure):
    _fields_ = [("size", c_size_t), ("message", String), ("code", c_int32)]


class Options(Structure):
    _fields_ = [
        ("size", c_size_t),
        ("lock_timeout", c_int64),
        ("hash_memory", c_int64),
        ("safety_copy_every", c_int64),
        ("last_use_every", c_int64),
        ("token_prefix", String),
        ("read_only", c_int32),
        ("must_exist", c_int32),
        ("recover", c_int32),
        ("app_services_names", c_int32),
        ("max_keys_per_user", c_int32),
        ("hash_queue", c_int32),
        ("cache_size", c_int32),
        ("cost_memory", c_uint32),
        ("cost_passes", c_uint32),
        ("cost_lanes", c_uint32),
    ]


class Principal(Structure):
    _fields_ = [
        ("size", c_size_t),
        ("key_id", ID),
        ("owner", ID),
        ("user_id", ID),
        ("expires", c_int64),
        ("key_name", String),
        ("provider", String),
        ("subject", String),
        ("group", String),
        ("token_id", String),
        ("scopes", POINTER(String)),
        ("scope_count", c_size_t),
        ("server_key", c_int32),
    ]


class KeySpec(Structure):
    _fields_ = [
        ("size", c_size_t),
        ("name", String),
        ("expires", c_int64),
        ("scopes", POINTER(String)),
        ("scope_count", c_size_t),
        ("networks", POINTER(String)),
        ("network_count", c_size_t),
        ("metadata", POINTER(Pair)),
        ("metadata_count", c_size_t),
        ("group", String),
    ]


class KeyToken(Structure):
    _fields_ = [("size", c_size_t), ("id", String), ("ends", c_int64), ("last_used", c_int64)]


class Key(Structure):
    _fields_ = [
        ("size", c_size_t),
        ("id", ID),
        ("owner", ID),
        ("name", String),
        ("created", c_int64),
        ("expires", c_int64),
        ("last_used", c_int64),
        ("scopes", POINTER(String)),
        ("scope_count", c_size_t),
        ("networks", POINTER(String)),
        ("network_count", c_size_t),
        ("metadata", POINTER(Pair)),
        ("metadata_count", c_size_t),
        ("group", String),
        ("tokens", POINTER(POINTER(KeyToken))),
        ("token_count", c_size_t),
        ("disabled", c_int32),
    ]


class Keys(Structure):
    _fields_ = [("size", c_size_t), ("keys", POINTER(POINTER(Key))), ("count", c_size_t)]


class Token(Structure):
    _fields_ = [("size", c_size_t), ("text", String)]


class Rotation(Structure):
    _fields_ = [("size", c_size_t), ("overlap", c_int64), ("until_used", c_int32)]


class UserSpec(Structure):
    _fields_ = [
        ("size", c_size_t),
        ("identity", Identity),
        ("group", String),
        ("metadata", POINTER(Pair)),
        ("metadata_count", c_size_t),
    ]


class User(Structure):
    _fields_ = [
        ("size", c_size_t),
        ("id", ID),
        ("created", c_int64),
        ("identities", POINTER(Identity)),
        ("identity_count", c_size_t),
        ("metadata", POINTER(Pair)),
        ("metadata_count", c_size_t),
        ("group", String),
        ("disabled", c_int32),
    ]


class Users(Structure):
    _fields_ = [("size", c_size_t), ("users", POINTER(POINTER(User))), ("count", c_size_t)]


class Finding(Structure):
    _fields_ = [("size", c_size_t), ("message", String), ("code", c_int32)]


class Findings(Structure):
    _fields_ = [("size", c_size_t), ("findings", POINTER(POINTER(Finding))), ("count", c_size_t)]


_STORE, _TEXT, _ID, _OUT, _ERROR = c_uint64, (c_char_p, c_size_t), POINTER(ID), POINTER, POINTER(POINTER(Error))

# The parameters of each function. A function that returns a code ends with _ERROR.
_FUNCTIONS = {
    "open": (c_uint32, *_TEXT, _OUT(Options), _OUT(_STORE), _ERROR),
    "close": (_STORE, _ERROR),
    "login": (_STORE, *_TEXT, _OUT(_OUT(Principal)), _ERROR),
    "login_from": (_STORE, *_TEXT, *_TEXT, _OUT(_OUT(Principal)), _ERROR),
    "require_scope": (_OUT(Principal), *_TEXT, _ERROR),
    "create_key": (_STORE, _ID, _OUT(KeySpec), _OUT(_OUT(Key)), _OUT(_OUT(Token)), _ERROR),
    "create_server_key": (_STORE, _OUT(KeySpec), _OUT(_OUT(Key)), _OUT(_OUT(Token)), _ERROR),
    "fetch_key": (_STORE, _ID, _ID, _OUT(_OUT(Key)), _ERROR),
    "fetch_keys": (_STORE, _ID, _OUT(_OUT(Keys)), _ERROR),
    "enable_key": (_STORE, _ID, _ID, _ERROR),
    "disable_key": (_STORE, _ID, _ID, _ERROR),
    "delete_key": (_STORE, _ID, _ID, _ERROR),
    "rotate_key": (_STORE, _ID, _ID, _OUT(Rotation), _OUT(_OUT(Key)), _OUT(_OUT(Token)), _ERROR),
    "rotate_server_key": (_STORE, _ID, _OUT(Rotation), _OUT(_OUT(Key)), _OUT(_OUT(Token)), _ERROR),
    "create_user": (_STORE, _OUT(UserSpec), _OUT(_OUT(User)), _ERROR),
    "fetch_user": (_STORE, _ID, _OUT(_OUT(User)), _ERROR),
    "fetch_user_by_identity": (_STORE, _OUT(Identity), _OUT(_OUT(User)), _ERROR),
    "fetch_users": (_STORE, _ID, c_size_t, _OUT(_OUT(Users)), _ERROR),
    "enable_user": (_STORE, _ID, _ERROR),
    "disable_user": (_STORE, _ID, _ERROR),
    "delete_user": (_STORE, _ID, _ERROR),
    "link_identity": (_STORE, _ID, _OUT(Identity), _ERROR),
    "unlink_identity": (_STORE, _ID, _OUT(Identity), _ERROR),
    "health": (_STORE, _OUT(_OUT(Findings)), _ERROR),
    "backup": (_STORE, *_TEXT, _ERROR),
    "restore": (*_TEXT, *_TEXT, _ERROR),
    "error_free": (_OUT(Error),),
    "principal_free": (_OUT(Principal),),
    "key_free": (_OUT(Key),),
    "keys_free": (_OUT(Keys),),
    "token_free": (_OUT(Token),),
    "user_free": (_OUT(User),),
    "users_free": (_OUT(Users),),
    "findings_free": (_OUT(Findings),),
}


def _load():
    name = {"win32": "latchkey.dll", "darwin": "liblatchkey.dylib"}.get(sys.platform, "liblatchkey.so")
    path = pathlib.Path(__file__).with_name(name)
    library = ctypes.CDLL(os.fspath(path))
    library.lk_abi_version.restype = c_uint32
    if library.lk_abi_version() != ABI_VERSION:
        raise ImportError(f"{path} has version {library.lk_abi_version()} of the interface, and this package needs {ABI_VERSION}")
    for name, parameters in _FUNCTIONS.items():
        function = getattr(library, "lk_" + name)
        function.argtypes = parameters
        function.restype = c_int32 if parameters[-1] is _ERROR else None
    return library


library = _load()
