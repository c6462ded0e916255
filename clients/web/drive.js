// The common part of the drivers of steps.

import test from "node:test";
import { Double } from "./double.js";

// A step takes a second or two. The limit ends a step that waits for ever, which happens if realm-web
// is told again and again to retry.
const LIMIT = { timeout: 60_000 };

/**
 * Makes a test of every step in a list of names. `prepare(t, data, outside)` is called once, with data for the steps and
 * with functions that reach outside a page. It returns a function that runs the step with a name and
 * returns the secrets that the step has seen.
 */
export function drive(where, steps, prepare) {
  test(where, async (t) => {
    const double = await Double.start(t);
    const outside = {
      restart: (...flags) => double.restart(...flags),
      advance: (time) => double.control("POST", "clock", { advance: time }),
      fault: (fault) => double.control("POST", "faults", fault),
      endFaults: () => double.control("DELETE", "faults"),
      mail: (email) => double.mail(email),
    };
    const run = await prepare(t, { url: double.url, seeded: double.seeded }, outside);
    for (const name of steps) {
      await t.test(name, LIMIT, async (t) => {
        t.after(() => double.reset());
        const secrets = await run(name);
        const told = secrets.filter((s) => double.log.includes(s));
        if (told.length > 0) throw new Error(`the log has ${told}`);
      });
    }
  });
}
