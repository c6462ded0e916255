// The checks of the steps, for Node and for the browser.

export function equal(got, want, what) {
  const [g, w] = [JSON.stringify(sorted(got)), JSON.stringify(sorted(want))];
  if (g !== w) throw new Error(`${what}: got ${g}, want ${w}`);
}

export function matches(got, pattern, what) {
  if (!pattern.test(got)) throw new Error(`${what}: got ${JSON.stringify(got)}, want ${pattern}`);
}

/**
 * Waits for a call, which must be refused with exactly this status, code and text. undefined stands
 * for a missing field. Every refusal except the empty one has a link to a line of the log, at the
 * double's own address.
 */
export async function refused(call, url, { status, code, text }) {
  let error;
  try {
    await call;
  } catch (e) {
    error = e;
  }
  if (!error) throw new Error(`not refused, want status ${status}, code ${code}, text ${text}`);
  if (error.statusCode === undefined) throw error;
  const got = { status: error.statusCode, code: error.errorCode, text: error.error };
  if (text instanceof RegExp) {
    matches(got.text, text, "text of the refusal");
    got.text = text = "";
  }
  equal(got, { status, code, text }, "refusal");
  if (text === undefined) {
    equal(error.link, undefined, "link of an empty refusal");
  } else {
    matches(error.link, /^[^?]+\/groups\/[0-9a-f]{24}\/apps\/[0-9a-f]{24}\/logs\?co_id=[0-9a-f]{24}$/, "link");
    equal(error.link.startsWith(url + "/groups/"), true, `${error.link} is at ${url}`);
  }
  return error;
}

function sorted(value) {
  if (Array.isArray(value)) return value.map(sorted);
  if (value === undefined) return "(undefined)";
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.keys(value).sort().map((k) => [k, sorted(value[k])]));
}
