// What the views have in common.

import { button, h, type Child } from "./dom.js";

// A View is one page of the page.
export type View = {
	root: HTMLElement;
	changed: () => void; // something in the store was changed
	open?: (id: string) => void; // shows one entry
	close: () => void;
};

// A Search is a field that runs a function when somebody has typed something.
export function searchField(label: string, placeholder: string, run: (text: string) => void): { root: HTMLElement; input: HTMLInputElement } {
	const input = h("input", { type: "search", placeholder, "aria-label": label, autocomplete: "off", autocapitalize: "off", spellcheck: "false", maxlength: "300" });
	let timer = 0, last = "";
	const now = (): void => {
		clearTimeout(timer);
		const text = input.value.trim();
		if (text !== last) run(last = text);
	};
	input.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(now, 200); });
	input.addEventListener("keydown", (e) => {
		if (e.key === "Enter") now();
		if (e.key === "Escape" && input.value !== "") { e.preventDefault(); input.value = ""; now(); }
	});
	return { root: h("div", { class: "search", role: "search" }, input), input };
}

// filter returns a labelled choice in the toolbar.
export function filter(label: string, options: [value: string, label: string][], run: () => void): { root: HTMLElement; select: HTMLSelectElement } {
	const select = h("select", { on: { change: run } });
	for (const [value, text] of options) select.append(h("option", { value }, text));
	return { root: h("label", { class: "filter" }, h("span", {}, label), select), select };
}

// heading returns the first line of a view.
export function heading(title: string, ...right: Child[]): { root: HTMLElement; count: HTMLElement } {
	const count = h("span", { class: "count" });
	return { root: h("div", { class: "heading" }, h("h1", { tabindex: "-1" }, title), count, h("div", { class: "right" }, ...right)), count };
}

// nothing returns what a list without rows shows.
export function nothing(text: string, label?: string, run?: () => void): HTMLElement {
	return h("div", { class: "empty" }, h("p", {}, text), label !== undefined && run !== undefined && button(label, run));
}

// A Once gives each different request an idempotency key of its own, and the same request the same
// one, so that a repetition makes nothing twice.
export class Once {
	private body = "";
	private key = "";

	of(body: unknown): string {
		const text = JSON.stringify(body);
		if (text !== this.body) {
			this.body = text;
			this.key = crypto.randomUUID();
		}
		return this.key;
	}
}
