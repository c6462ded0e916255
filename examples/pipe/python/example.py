"""A program in Python that keeps users and keys in a Latchkey store, by way of the command latchkey.

    python3 example.py keys.db
"""

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import Future


class LatchkeyError(Exception):
    """The answer to a call that has failed. Branch on code; message is for people."""

    def __init__(self, error):
        super().__init__(error["message"])
        self.code = error["code"]


class Latchkey:
    """A running latchkey pipe. Calls can be made from any number of threads."""

    def __init__(self, store):
        # A console's Ctrl-C is for this program, which then ends the pipe in order.
        own_group = {"start_new_session": True} if os.name == "posix" else {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
        self.process = subprocess.Popen(
            ["latchkey", "pipe", "--init", "--store", store],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8", **own_group)
        first = self.process.stdout.readline()
        if not first:
            raise OSError("latchkey has ended with status %d" % self.process.wait())
        self.greeting = json.loads(first)
        if "error" in self.greeting:
            raise LatchkeyError(self.greeting["error"])
        if self.greeting["protocol"] != 1:
            raise OSError("this latchkey speaks another protocol")
        self.writing = threading.Lock()
        self.lock = threading.Lock()
        self.waiting = {}  # from the id of a request to its future
        self.last = 0
        self.ended = False
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        for line in self.process.stdout:
            answer = json.loads(line)
            if answer.get("id") is None:  # an event, or a line that was no request
                continue
            with self.lock:
                future = self.waiting.pop(answer["id"])
            if "error" in answer:
                future.set_exception(LatchkeyError(answer["error"]))
            else:
                future.set_result(answer["result"])
        with self.lock:
            self.ended = True
            left = list(self.waiting.values())
        for future in left:
            future.set_exception(OSError("latchkey has ended"))

    def call(self, name, /, **fields):
        """Makes a call and returns its result."""
        future = Future()
        with self.lock:
            if self.ended:
                raise OSError("latchkey has ended")
            self.last += 1
            line = json.dumps({**fields, "id": self.last, "call": name}) + "\n"
            self.waiting[self.last] = future
        with self.writing:  # and not lock, which the reader needs until the command reads on
            self.process.stdin.write(line)
            self.process.stdin.flush()
        return future.result()

    def close(self):
        """Ends the pipe, which closes the store. Calls under way are answered first."""
        self.process.stdin.close()
        self.reader.join()
        self.process.stdout.close()
        return self.process.wait()


def main(store):
    latchkey = Latchkey(store)
    try:
        identity = {"provider": "local-userpass", "subject": "ada@example.com"}
        user = latchkey.call("create_user", identity=identity)
        made = latchkey.call("create_key", owner=user["id"], name="laptop")
        token = made["token"]  # shown once: give it to the user, and do not log it
        print("made a user and a key")

        who = latchkey.call("login", token=token)
        print("good: the token is that of", who["identity"]["subject"])

        latchkey.call("disable_key", owner=user["id"], key=made["key"]["id"])
        try:
            latchkey.call("login", token=token)
        except LatchkeyError as e:
            print("refused:", e.code)
    finally:
        latchkey.close()


if __name__ == "__main__":
    main(sys.argv[1])
