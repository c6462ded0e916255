import { drive } from "./drive.js";
import { run, steps } from "./steps.js";

for (const [version, name] of [
  ["1.2.1", "realm-web-1.2.1"],
  ["1.7.1", "realm-web-1.7.1"],
  ["2.0.0", "realm-web-2.0.0"],
  ["2.0.1", "realm-web"],
]) {
  const Realm = await import(name);
  drive(`realm-web ${version} in Node`, Object.keys(steps), (_, data, outside) => {
    return (step) => run(step, { ...data, ...outside, Realm, version });
  });
}
