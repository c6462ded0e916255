// Takes the screenshots of docs/admin.md: node screenshots.js FOLDER

import { join } from "node:path";
import { Person, startBrowser, stopBrowser } from "./browser.js";
import { fill, Server } from "./server.js";
import { tour } from "./tour.js";

const folder = process.argv[2];
const ends = [];
const t = { after: (end) => ends.unshift(end) };
const pictures = { light: ["keys", "token"], dark: ["keys"], narrow: ["disable-key"] };

await startBrowser();
try {
  for (const [suffix, options] of [
    ["light", { colorScheme: "light", viewport: { width: 960, height: 540 } }],
    ["dark", { colorScheme: "dark", viewport: { width: 960, height: 540 } }],
    ["narrow", { colorScheme: "light", viewport: { width: 360, height: 640 } }],
  ]) {
    const server = await Server.start(t);
    await fill(server);
    const person = await Person.meet(t, server, options);
    const tab = await person.signIn();
    await tour(tab, async (name) => {
      if (!pictures[suffix].includes(name)) return;
      const secret = name === "token" ? tab.getByRole("status", { name: "Token" }) : undefined;
      await tab.screenshot({ path: join(folder, `page-${name}-${suffix}.png`), animations: "disabled", caret: "hide", mask: secret && [secret], maskColor: "#5d8a8c" });
    });
  }
} finally {
  for (const end of ends) await end();
  await stopBrowser();
}
