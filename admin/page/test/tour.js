// A tour through every view and every dialog.

import { dialog, gone, press, row, sees } from "./browser.js";

/**
 * Shows one after another, and calls `visit` with a name for each. The tab is signed in, and the store
 * is one that `fill` has filled.
 */
export async function tour(tab, visit) {
  const to = async (view, text) => {
    await tab.evaluate((route) => (location.hash = route), `#/${view}`);
    await row(tab, text).first().waitFor();
  };
  const openRow = (name) => tab.getByRole("cell").getByRole("button", { name, exact: true }).click();
  const visitDialog = async (title, name, ready = async () => {}) => {
    const d = dialog(tab, title);
    await d.waitFor();
    await ready(d);
    await visit(name);
    await tab.keyboard.press("Escape");
    await gone(d);
  };
  const main = tab.getByRole("main");

  await to("keys", "lost-laptop");
  await visit("keys");
  await tab.getByRole("searchbox").fill("nothing like it");
  await sees(tab, "No key fits.");
  await visit("keys-empty");
  await press(tab, "Clear search and filters");
  await row(tab, "lost-laptop").waitFor();
  await press(main, "New key");
  await visitDialog("New key", "new-key", (d) => d.getByLabel("Expires").selectOption("date"));
  await press(main, "Disable lost-laptop");
  await visitDialog("Disable the key?", "disable-key");
  await press(main, "Enable build");
  await visitDialog("Enable the key?", "enable-key");

  await openRow("laptop");
  const details = dialog(tab, "Key");
  await details.waitFor();
  await visit("key");
  await press(details, "Rotate");
  await visitDialog("Rotate the key?", "rotate-key");
  await press(details, "Edit");
  await visitDialog("Edit the key", "edit-key", async (d) => {
    await d.getByLabel("Name").fill("");
    await press(d, "Save");
    await d.getByRole("alert").filter({ hasText: /./ }).first().waitFor();
  });
  await press(details, "Close");
  await openRow("build");
  await press(details, "Delete");
  await visitDialog("Delete the key?", "delete-key");
  await press(details, "Close");

  await to("server-keys", "backup-job");
  await visit("server-keys");
  await openRow("backup-job");
  await visitDialog("Key", "two-tokens");
  await press(main, "New server key");
  const form = dialog(tab, "New server key");
  await form.getByLabel("Name").fill("cron");
  await visit("new-server-key");
  await press(form, "Create");
  const token = dialog(tab, "The new token");
  await token.waitFor();
  await visit("token");
  await press(token, "Done");
  await sees(token, /Close all the same\?/);
  await visit("token-asks");
  await press(token, "Close without storing");
  await gone(token);

  await to("users", "ada@example.com");
  await visit("users");
  await press(main, "New user");
  await visitDialog("New user", "new-user");
  await openRow("ada@example.com");
  const user = dialog(tab, "User");
  await user.waitFor();
  await visit("user");
  for (const [button, title, name] of [["Link identity", "Link an identity", "link"], ["Group", "Move the user to a group", "user-group"], ["Disable", "Disable the user?", "disable-user"]]) {
    await press(user, button);
    await visitDialog(title, name);
  }
  await press(user, "Close");
  await openRow("linus@example.com");
  for (const [button, title, name] of [["Enable", "Enable the user?", "enable-user"], ["Delete", "Delete the user?", "delete-user"]]) {
    await press(user, button);
    await visitDialog(title, name);
  }
  await press(user, "Close");

  await to("groups", "north");
  await visit("groups");
  await press(main, "Disable north");
  await visitDialog("Disable the group?", "disable-group");

  await to("audit", "lost-laptop");
  await visit("audit");
  await press(tab, "Verify the chain");
  await sees(tab, /The trail is a whole chain/);
  await visit("audit-verified");
  await tab.getByRole("row").filter({ hasText: "lost-laptop" }).getByRole("button").first().click();
  const entry = tab.getByRole("dialog", { name: /^Entry / });
  await entry.waitFor();
  await visit("audit-entry");
  await press(entry, "Close");
  await gone(entry);

  await tab.evaluate(() => (location.hash = "#/health"));
  await sees(tab, "Nothing is wrong with the store.");
  await press(tab, "Check for damage");
  await sees(tab, "The check has found no damage.");
  await visit("health");
  await press(tab, "Compact");
  await visitDialog("Compact the file?", "compact");

  await tab.route("**/v1/groups?*", (route) => route.abort());
  await tab.evaluate(() => (location.hash = "#/groups"));
  await tab.getByRole("alert").filter({ hasText: "The server does not answer" }).waitFor();
  await visit("error");
  await press(tab, "Sign out");
  await tab.getByRole("heading", { name: "Signed out" }).waitFor();
  await visit("signed-out");
}
