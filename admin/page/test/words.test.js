// The command lines that the page shows, for names that were chosen to harm.

import assert from "node:assert/strict";
import { test } from "node:test";
import { identityWord, keyLine, line, quote, userWord } from "../js/format.js";

const id = "01890a5d-ac96-774b-bcce-b302099a8057", other = "01890a5d-ac96-774b-bcce-b302099a8058";
const user = (subject, provider = "local-userpass") => ({ id, identities: [{ provider, subject }] });
const key = (name, subject = "ada@example.com") => ({ id, owner: other, identity: { provider: "local-userpass", subject }, name });

test("a command line names the user that the page shows", () => {
	for (const [subject, want] of [
		["ada@example.com", "ada@example.com"],
		[other, `local-userpass:${other}`], // alone it would be the ID of somebody else
		[other.toUpperCase(), `local-userpass:${other.toUpperCase()}`],
		["a:b", "local-userpass:a:b"],
		["--yes", id],
		["ada\u202e@example.com", id],
		["ada\u0301", id], // not in normal form C
	]) assert.equal(userWord(user(subject)), want, subject);
	assert.equal(userWord(user("42", "custom-token")), "custom-token:42");
	assert.equal(identityWord({ provider: "local-userpass", subject: other }), `local-userpass:${other}`);
});

test("a command line names the key that the page shows", () => {
	const shown = (k) => keyLine(k, ["key", "disable"]);
	assert.equal(shown(key("laptop")), "latchkey key disable ada@example.com laptop");
	assert.equal(shown(key(other)), `latchkey key disable ada@example.com ${id}`);
	assert.equal(shown(key("-x")), `latchkey key disable ada@example.com ${id}`);
	assert.equal(shown(key("laptop", other)), `latchkey key disable local-userpass:${other} laptop`);
	assert.equal(line(["group", "disable"], ["--json"]), "latchkey group disable -- --json");
});

test("a shell takes no word of a command line for anything else", () => {
	assert.equal(line(["key", "disable"], ["o'brien", "$(reboot)"]), "latchkey key disable 'o'\\''brien' '$(reboot)'");
	for (const word of ["=ls", "a b", "`id`", "a;b", "~", "*", "!!", "", "{a,b}", "a&b", "#", "\\"]) assert.match(quote(word), /^'.*'$/s, word);
});
