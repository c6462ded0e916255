// A store with very many keys.

import { createHash } from "node:crypto";
import { writeFile } from "node:fs/promises";
import { Server } from "./server.js";

/** Starts a server whose store has `n` server keys, and returns it and the keys in the order of the list. */
export async function startWith(t, n) {
  // The keys are imported, so that nothing is hashed.
  const server = await Server.start(t, async (server) => {
    const lines = ["hash,name,scopes,created"];
    for (let i = 0; i < n; i++) {
      const number = String(i).padStart(5, "0");
      lines.push(`${createHash("sha256").update(number).digest("hex")},key-${number},files:read,2025-01-01T00:00:00Z`);
    }
    const file = `${server.store}.csv`;
    await writeFile(file, lines.join("\n"));
    await server.command("import", "--scheme", "old", "--hash", "sha256", file);
  });
  const keys = [];
  for (let next = ""; next !== undefined;) {
    const list = await server.api("GET", `/v1/keys?limit=1000&cursor=${next}`);
    keys.push(...list.items);
    next = list.next;
  }
  return { server, keys };
}

/** Scrolls the table to its last row, by so many screens at a time, and calls `look` at each stop. */
export async function scrollToEnd(tab, screens, look = () => {}) {
  for (;;) {
    const { ended, rows } = await tab.evaluate((screens) => new Promise((resolve) => {
      const scroller = document.querySelector("[role=table] .scroller");
      scroller.scrollTop += scroller.clientHeight * screens;
      // After the frame in which the rows are drawn.
      requestAnimationFrame(() => requestAnimationFrame(() => resolve({
        ended: scroller.scrollTop + scroller.clientHeight >= scroller.scrollHeight - 1,
        rows: document.querySelectorAll("[role=row]").length,
      })));
    }), screens);
    look(rows);
    if (ended && await tab.getByRole("table").getAttribute("aria-rowcount") !== "-1") return;
  }
}
