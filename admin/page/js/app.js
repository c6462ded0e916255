import { call, onSession, onSignedOut, Problem, session, signIn, signOut, Stream } from "./api.js";
import { auditView } from "./audit.js";
import { closeDialogs, mayLeave } from "./dialog.js";
import { announce, button, h, say } from "./dom.js";
import { edgesView, findHub } from "./edges.js";
import { setStoreTime } from "./format.js";
import { groupsView } from "./groups.js";
import { healthView } from "./health.js";
import { keysView } from "./keys.js";
import { usersView } from "./users.js";
const app = document.getElementById("app");
let views = [];
const allViews = [
    ["keys", "Keys"], ["users", "Users"], ["server-keys", "Server keys"], ["groups", "Groups"], ["edges", "Edges"], ["audit", "Audit"], ["health", "Health"],
];
function takeSecret() {
    const secret = /^#sign-in=(.+)$/.exec(location.hash)?.[1];
    if (secret !== undefined)
        history.replaceState(null, "", location.pathname);
    return secret;
}
let frame = null;
class Frame {
    main = h("main", { id: "main" });
    links = new Map();
    live = h("span", { class: "live" });
    stream;
    timer;
    view = null;
    shown = "";
    constructor(actor) {
        const nav = h("nav", { "aria-label": "Views" });
        for (const [route, title] of views) {
            const link = h("a", { href: `#/${route}` }, title);
            this.links.set(route, link);
            nav.append(link);
        }
        app.replaceChildren(h("header", { class: "top" }, h("a", { class: "skip", href: "#main", on: { click: (e) => { e.preventDefault(); this.main.querySelector("h1")?.focus(); } } }, "Skip to the content"), h("span", { class: "brand" }, h("img", { src: "/icon.svg", alt: "", width: "22", height: "22" }), "Latchkey"), nav, h("span", { class: "who" }, this.live, h("span", { class: "faint", title: "The audit trail names this session so." }, actor), button("Sign out", () => void leave(), { class: "small quiet" }))), this.main);
        this.setLive(null);
        addEventListener("hashchange", this.route);
        this.timer = setInterval(() => { if (!document.hidden)
            this.view?.changed(); }, 60_000);
        this.stream = new Stream(() => this.view?.changed(), (live) => this.setLive(live));
        this.route();
    }
    close() {
        removeEventListener("hashchange", this.route);
        clearInterval(this.timer);
        this.stream.close();
        this.view?.close();
        closeDialogs();
    }
    setLive(live) {
        this.live.className = `live ${live ? "on" : "off"}`;
        this.live.textContent = live ? "live" : live === null ? "connecting" : "reconnecting";
        this.live.title = live ? "Changes appear at once." : "Changes do not appear until the server answers again.";
    }
    route = () => {
        const [, name = "keys", id, query] = /^#\/([a-z-]+)(?:\/([0-9a-f-]{36}))?(?:\?(.*))?$/.exec(location.hash) ?? [];
        const known = views.some(([route]) => route === name) ? name : "keys";
        const shown = `${known}?${query ?? ""}`;
        if (shown !== this.shown) {
            if (!mayLeave()) {
                history.pushState(null, "", `#/${this.shown.replace(/\?$/, "")}`);
                return;
            }
            this.shown = shown;
            this.show(known, new URLSearchParams(query ?? ""));
        }
        if (id !== undefined)
            this.view?.open?.(id);
    };
    show(name, query) {
        const before = this.view;
        const title = views.find(([route]) => route === name)[1];
        before?.close();
        closeDialogs();
        for (const [route, link] of this.links) {
            if (route === name)
                link.setAttribute("aria-current", "page");
            else
                link.removeAttribute("aria-current");
        }
        this.links.get(name)?.scrollIntoView({ block: "nearest", inline: "nearest" });
        document.title = `${title} · Latchkey`;
        this.view = this.make(name, query);
        this.main.replaceChildren(this.view.root);
        if (before !== null) {
            announce(title);
            if (!this.links.get(name).contains(document.activeElement))
                this.view.root.querySelector("h1")?.focus({ preventScroll: true });
        }
        else {
            this.view.root.querySelector("input[type=search]")?.focus({ preventScroll: true });
        }
    }
    make(name, query) {
        const go = (route) => { location.hash = route; };
        const mark = (id) => {
            const rest = query.size > 0 ? `?${query}` : "";
            history.replaceState(null, "", `#/${name}${id === "" ? "" : `/${id}`}${rest}`);
        };
        const showKeys = (owner) => go(`/keys?owner=${owner}`);
        const showUser = (id) => go(`/users/${id}`);
        const all = () => go(`/${name}`);
        const group = query.get("group") ?? undefined, owner = query.get("owner") ?? undefined;
        switch (name) {
            case "users": return usersView({ ...(group === undefined ? {} : { group }), showKeys, mark, all });
            case "server-keys": return keysView({ server: true, showUser, mark, all });
            case "groups": return groupsView({ showKeys: (g) => go(`/keys?${new URLSearchParams({ group: g })}`), showUsers: (g) => go(`/users?${new URLSearchParams({ group: g })}`) });
            case "edges": return edgesView();
            case "audit": return auditView({ showKey: (id) => go(`/keys/${id}`), showUser });
            case "health": return healthView();
        }
        return keysView({ server: false, ...(owner === undefined ? {} : { owner }), ...(group === undefined ? {} : { group }), showUser, mark, all });
    }
}
async function leave() {
    try {
        await signOut();
    }
    catch { }
    showSignedOut("You have signed out.");
}
function showSignedOut(why) {
    frame?.close();
    frame = null;
    closeDialogs();
    document.getElementById("status").replaceChildren();
    document.title = "Latchkey";
    history.replaceState(null, "", location.pathname);
    const title = h("h1", { tabindex: "-1" }, "Signed out");
    app.replaceChildren(h("main", { class: "plain" }, h("img", { src: "/icon.svg", alt: "", width: "40", height: "40" }), title, h("p", {}, why), h("p", {}, "To sign in, run this on the machine of the store, and open the URL that it prints:"), h("pre", { tabindex: "0", role: "group", "aria-label": "Command line" }, h("code", {}, "latchkey page --store FILE")), h("p", { class: "faint" }, "A URL is good once, for 5 minutes.")));
    title.focus();
}
async function begin() {
    const secret = takeSecret();
    if (secret !== undefined) {
        try {
            await signIn(secret);
        }
        catch (err) {
            if (session() === null || !(err instanceof Problem)) {
                showSignedOut(err.message);
                return;
            }
            say(err.message);
        }
    }
    const mine = session();
    if (mine === null) {
        showSignedOut("This page administers a store of keys.");
        return;
    }
    try {
        setStoreTime((await call("GET", "/v1/store")).now);
        const hub = await findHub();
        views = allViews.filter(([route]) => route !== "edges" || hub);
    }
    catch (err) {
        if (session() === null)
            return;
        const title = h("h1", { tabindex: "-1" }, "The store cannot be reached");
        app.replaceChildren(h("main", { class: "plain" }, title, h("p", { role: "alert" }, err.message), button("Try again", () => void begin(), { class: "primary" })));
        title.focus();
        return;
    }
    frame?.close();
    frame = new Frame(mine.actor);
}
onSignedOut(() => showSignedOut("The session has ended."));
onSession(() => {
    if (session() === null)
        showSignedOut("Another tab has signed out.");
    else
        void begin();
});
addEventListener("hashchange", () => { if (location.hash.startsWith("#sign-in="))
    void begin(); });
void begin();
