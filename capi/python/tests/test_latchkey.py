"""Tests of the package, as it is in the wheel. LATCHKEY_HEADER names latchkey.h."""

import ctypes
import importlib.metadata
import os
import pathlib
import pickle
import re
import subprocess
import sys
import tempfile
import threading
import unittest
import uuid
from datetime import datetime, timedelta, timezone

import latchkey
from latchkey import Code
from latchkey import _library as c

HEADER = pathlib.Path(os.environ["LATCHKEY_HEADER"])


class StoreTest(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.TemporaryDirectory()
        self.addCleanup(self.dir.cleanup)
        self.path = os.path.join(self.dir.name, "keys-é.db")

    def open(self, **options):
        store = latchkey.Store(self.path, cost=(64, 1, 1), lock_timeout=timedelta(milliseconds=-1), **options)

        def close():
            try:
                store.close()
            except latchkey.Error as error:
                self.assertEqual(error.code, Code.CLOSED)

        self.addCleanup(close)
        return store

    def refused(self, code, call, *args, **kwargs):
        with self.assertRaises(latchkey.Error) as caught:
            call(*args, **kwargs)
        self.assertEqual(caught.exception.code, code)
        return str(caught.exception)

    def test_a_key_logs_in_until_it_is_revoked(self):
        store = self.open()
        ada = store.create_user("local-userpass", "ada@example.com", metadata={"room": "4"})
        self.assertEqual(ada.identities, (("local-userpass", "ada@example.com"),))
        key, token = store.create_key(ada.id, "läptop", scopes=["files:*", "mail:read"], metadata={"colour": "grün"})
        who = store.login(token)
        self.assertEqual((who.key_id, who.owner, who.user_id, who.key_name), (key.id, ada.id, ada.id, "läptop"))
        self.assertEqual(who.scopes, ("files:*", "mail:read"))
        who.require("files:read")
        self.refused(Code.NO_SCOPE, who.require, "mail:write")
        store.disable_key(ada.id, key.id)
        text = self.refused(Code.KEY_DISABLED, store.login, token)
        self.assertNotIn(token, text)
        store.enable_key(ada.id, key.id)
        self.assertEqual(store.login(token.encode()).subject, "ada@example.com")
        store.disable_user(ada.id)
        self.refused(Code.USER_DISABLED, store.login, token)
        store.enable_user(ada.id)
        store.delete_key(ada.id, key.id)
        self.refused(Code.INVALID_TOKEN, store.login, token)
        self.refused(Code.KEY_NOT_FOUND, store.fetch_key, ada.id, key.id)

    def test_what_a_key_carries_comes_back(self):
        store = self.open()
        before = datetime.now(timezone.utc) - timedelta(seconds=1)
        ada = store.create_user("local-userpass", "ada@example.com", group="north")
        expires = datetime(2100, 1, 1, tzinfo=timezone.utc)
        made, token = store.create_key(
            ada.id, "laptop", expires=expires, networks=["192.0.2.0/24"], scopes=["b", "a"], metadata={"x": "1", "a": ""}
        )
        key = store.fetch_key(ada.id, made.id)
        self.assertEqual(key, made)
        self.assertEqual(store.fetch_keys(ada.id), [key])
        self.assertEqual((key.name, key.expires, key.networks, key.scopes), ("laptop", expires, ("192.0.2.0/24",), ("a", "b")))
        self.assertEqual(key.metadata, {"x": "1", "a": ""})
        self.assertGreater(key.created, before)
        self.assertIsNone(key.last_used)
        self.assertFalse(key.disabled)
        self.refused(Code.NETWORK_NOT_ALLOWED, store.login, token)
        self.refused(Code.NETWORK_NOT_ALLOWED, store.login, token, "198.51.100.1")
        self.refused(Code.INVALID_NETWORK, store.login, token, "nowhere")
        who = store.login(token, "192.0.2.7")
        self.assertEqual((who.expires, who.group), (expires, "north"))

    def test_a_rotation_gives_a_new_token(self):
        store = self.open()
        ada = store.create_user("local-userpass", "ada@example.com")
        key, old = store.create_key(ada.id, "laptop")
        rotated, new = store.rotate_key(ada.id, key.id, overlap=timedelta(hours=1))
        self.assertEqual(len(rotated.tokens), 2)
        store.login(old)
        store.login(new)
        _, newest = store.rotate_key(ada.id, key.id)
        self.refused(Code.INVALID_TOKEN, store.login, new)
        store.login(newest)
        self.refused(Code.INVALID_ROTATION, store.rotate_key, ada.id, key.id, until_used=True)

    def test_a_server_key_has_no_user(self):
        store = self.open()
        key, token = store.create_server_key("service", group="north")
        self.assertEqual((key.owner, key.group), (latchkey.SERVER_OWNER, "north"))
        who = store.login(token)
        self.assertIsNone(who.user_id)
        _, new = store.rotate_key(latchkey.SERVER_OWNER, key.id)
        self.refused(Code.INVALID_TOKEN, store.login, token)
        store.delete_key(latchkey.SERVER_OWNER, key.id)
        self.refused(Code.INVALID_TOKEN, store.login, new)

    def test_users_are_found_and_deleted(self):
        store = self.open()
        made = {store.create_user("local-userpass", f"user-{i}@example.com").id for i in range(1001)}
        self.assertEqual({u.id for u in store.fetch_users()}, made)
        self.assertEqual(len(latchkey._result("users", "fetch_users", store._handle, None, 5000)), 1000)
        ada = store.fetch_user_by_identity("local-userpass", "user-7@example.com")
        self.refused(Code.IDENTITY_TAKEN, store.create_user, "local-userpass", "user-7@example.com")
        store.link_identity(ada.id, "custom-token", "ada")
        self.assertEqual(len(store.fetch_user(ada.id).identities), 2)
        store.unlink_identity(ada.id, "local-userpass", "user-7@example.com")
        self.refused(Code.LAST_IDENTITY, store.unlink_identity, ada.id, "custom-token", "ada")
        store.delete_user(ada.id)
        self.refused(Code.USER_NOT_FOUND, store.fetch_user, ada.id)
        self.refused(Code.USER_NOT_FOUND, store.create_key, uuid.uuid4(), "laptop")

    def test_a_backup_is_restored(self):
        store = self.open()
        _, token = store.create_server_key("service")
        backup, restored = pathlib.Path(self.dir.name, "backup"), pathlib.Path(self.dir.name, "restored.db")
        store.backup(backup)
        self.refused(Code.FILE_EXISTS, store.backup, backup)
        self.assertEqual(store.health(), [])
        latchkey.restore(backup, restored)
        with latchkey.Store(restored, read_only=True) as other:
            other.login(token)
            self.refused(Code.READ_ONLY, other.create_server_key, "another")
        self.refused(Code.CLOSED, other.login, token)

    @unittest.skipIf(sys.platform == "win32", "Windows keeps open files")
    def test_a_deleted_file_is_a_finding(self):
        store = self.open()
        os.remove(self.path)
        self.refused(Code.FILE_GONE, store.create_server_key, "service")
        self.assertEqual([f.code for f in store.health()], [Code.FILE_GONE])

    def test_mistakes_are_errors(self):
        store = self.open()
        self.refused(Code.LOCKED, self.open)
        self.refused(Code.INVALID_TOKEN, store.login, b"\xff\xfe")
        self.refused(Code.INVALID_TOKEN, store.login, "")
        self.refused(Code.INVALID_NAME, store.create_server_key, "")
        self.refused(Code.INVALID_SCOPE, store.create_server_key, "a", scopes=[""])
        self.refused(Code.INVALID_NETWORK, store.create_server_key, "a", networks=["x"])
        self.refused(Code.NO_FILE, latchkey.Store, self.path + "x", must_exist=True)
        store.close()
        self.refused(Code.CLOSED, store.close)
        self.refused(Code.CLOSED, store.login, "x")

    def test_a_with_statement_may_close_its_store(self):
        with self.assertRaises(ZeroDivisionError):
            with self.open() as store:
                store.close()
                1 // 0
        with self.open() as store:
            store.close()
        self.refused(Code.CLOSED, store.close)

    def test_text_that_is_not_unicode_is_an_error(self):
        store = self.open()
        self.refused(Code.INVALID_TOKEN, store.login, "\ud800")
        self.refused(Code.INVALID_ARGUMENT, store.create_server_key, "\ud800")
        self.refused(Code.INVALID_ARGUMENT, store.create_server_key, "a", metadata={"a": "\ud800"})
        self.refused(Code.INVALID_ARGUMENT, store.backup, "\udcff")

    def test_a_text_is_no_list_of_its_letters(self):
        store = self.open()
        self.assertRaises(TypeError, store.create_server_key, "a", scopes="files:read")
        self.assertRaises(TypeError, store.create_server_key, "a", networks="192.0.2.0/24")

    def test_numbers_are_not_cut_off(self):
        for name in ("hash_memory", "max_keys_per_user", "hash_queue", "cache_size"):
            self.refused(Code.INVALID_OPTIONS, latchkey.Store, self.path, **{name: 2**64 + 2**32 + 2**26})
        for i in range(3):
            cost = [64, 1, 1]
            cost[i] += 2**32
            self.refused(Code.INVALID_OPTIONS, latchkey.Store, self.path, cost=cost)
        store = self.open()
        for time in (datetime(1970, 1, 1, tzinfo=timezone.utc), datetime(1969, 12, 31, tzinfo=timezone.utc)):
            self.refused(Code.INVALID_EXPIRY, store.create_server_key, "a", expires=time)

    def test_an_error_goes_to_another_process_and_a_store_does_not(self):
        store = self.open()
        with self.assertRaises(latchkey.Error) as caught:
            store.login("x")
        error = pickle.loads(pickle.dumps(caught.exception))
        self.assertEqual((error.code, str(error)), (Code.INVALID_TOKEN, "invalid token"))
        self.assertRaises(TypeError, pickle.dumps, store)

    def test_threads_end_when_the_store_closes(self):
        store = self.open()
        key, token = store.create_server_key("service")
        codes = []

        def work():
            while True:
                try:
                    store.login(token)
                except latchkey.Error as error:
                    if error.code != Code.KEY_DISABLED:
                        codes.append(error.code)
                        return

        threads = [threading.Thread(target=work) for _ in range(4)]
        for t in threads:
            t.start()
        for _ in range(20):
            store.disable_key(latchkey.SERVER_OWNER, key.id)
            self.refused(Code.KEY_DISABLED, store.login, token)
            store.enable_key(latchkey.SERVER_OWNER, key.id)
        store.close()
        for t in threads:
            t.join()
        self.assertEqual(codes, [Code.CLOSED] * 4)

    @unittest.skipUnless(hasattr(os, "fork"), "Windows has no fork")
    def test_a_child_of_fork_gets_an_error(self):
        store = self.open()
        child = os.fork()
        if child == 0:
            try:
                store.login("x")
            except latchkey.Error as error:
                os._exit(17 if error.code == Code.FORKED else 1)
            os._exit(2)
        self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), 17)


class WheelTest(unittest.TestCase):
    def test_the_licences_of_what_is_in_the_library(self):
        texts = "".join(f.read_text() for f in importlib.metadata.files("latchkey-store") if "licenses" in f.parts)
        for text in ("Apache License", "Go go1", "google/uuid", "bbolt", "x/crypto"):
            self.assertIn(text, texts)


class HeaderTest(unittest.TestCase):
    """The package repeats what latchkey.h says, and must not differ from it."""

    def test_codes(self):
        block = re.search(r"enum lk_codes \{(.*?)\};", HEADER.read_text(), re.S).group(1)
        self.assertEqual({c.name: c.value for c in Code}, {n: int(v) for n, v in re.findall(r"LK_(\w+) = (\d+)", block)})

    def test_functions(self):
        declared = re.findall(r"^(\w+) (\w+)\((.*)\);$", HEADER.read_text(), re.M)
        self.assertGreater(len(declared), 30)
        for result, name, parameters in declared:
            if name in ("lk_abi_version", "lk_code_text", "lk_server_owner"):
                continue
            self.assertEqual(len(c._FUNCTIONS[name[3:]]), len(parameters.split(",")), name)
            self.assertEqual(getattr(c.library, name).restype is not None, result == "lk_code", name)
        self.assertLess(set(c._FUNCTIONS), {name[3:] for _, name, _ in declared})

    @unittest.skipIf(sys.platform == "win32", "the compiler is elsewhere")
    def test_structs(self):
        structs = [s for s in vars(c).values() if isinstance(s, type) and issubclass(s, ctypes.Structure) and s is not ctypes.Structure]
        names = {"KeySpec": "key_spec", "KeyToken": "key_token", "UserSpec": "user_spec"}
        lines, want = [], []
        for s in structs:
            name = "lk_" + names.get(s.__name__, s.__name__.lower())
            lines.append(f'printf("%zu\\n", sizeof({name}));')
            want.append(ctypes.sizeof(s))
            for field, *_ in s._fields_:
                lines.append(f'printf("%zu\\n", offsetof({name}, {field}));')
                want.append(getattr(s, field).offset)
        with tempfile.TemporaryDirectory() as dir:
            source, program = os.path.join(dir, "sizes.c"), os.path.join(dir, "sizes")
            pathlib.Path(source).write_text("#include <stdio.h>\n#include <latchkey.h>\nint main(void) {\n" + "\n".join(lines) + "return 0; }\n")
            subprocess.run(["gcc", "-I", HEADER.parent, "-o", program, source], check=True)
            got = subprocess.run([program], check=True, capture_output=True, text=True).stdout.split()
        self.assertEqual([int(n) for n in got], want)


if __name__ == "__main__":
    unittest.main()
