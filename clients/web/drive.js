// What both drivers of the steps share.

import test from "node:test";
import { Double } from "./double.js";
import { steps } from "./steps.js";

// A step takes a second or two. One that waits for an answer that never comes, as realm-web does if it is told to try
// again without end, fails here.
const LIMIT = { timeout: 60_000 };

/**
 * Makes a test of every step. `prepare(t, data, outside)` is called once with what the steps are given: data, and
 * functions that reach outside of a page. It returns the function that runs the step of a name, and returns the secrets
 * that the step saw.
 */
export function drive(where, prepare) {
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
    for (const name of Object.keys(steps)) {
      await t.test(name, LIMIT, async (t) => {
        t.after(() => double.reset());
        const secrets = await run(name);
        const told = secrets.filter((s) => double.log.includes(s));
        if (told.length > 0) throw new Error(`the log has ${told}`);
      });
    }
  });
}
