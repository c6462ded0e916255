import * as Realm from "realm-web";
import { drive } from "./drive.js";
import { run } from "./steps.js";

drive("in Node", (_, data, outside) => (step) => run(step, { ...data, ...outside, Realm }));
