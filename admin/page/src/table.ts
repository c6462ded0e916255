// A table of any length, of which only the rows that can be seen are in the document.

import { announce, button, h, newID, type Child } from "./dom.js";
import { count } from "./format.js";
import { Problem } from "./api.js";

export type Page<T> = { items: T[]; next?: string };

// A Source is where the rows come from.
export type Source<T> = {
	id: (item: T) => string; // unique
	// load returns the entries behind an entry, or the first ones.
	load: (after: T | undefined, limit: number, signal: AbortSignal, background: boolean) => Promise<Page<T>>;
	// resume returns the entries from a cursor on.
	resume: (cursor: string, limit: number, signal: AbortSignal) => Promise<Page<T>>;
};

export type Column<T> = { title: string; class: string; cell: (item: T) => Child[] };

type Options<T> = {
	label: string;
	noun: string; // "key"
	columns: Column<T>[];
	empty: () => Node; // what is shown if there are no rows
	changed?: () => void; // after the rows have changed
};

const pageSize = 200;
const overscan = 10;

export class Table<T> {
	readonly root: HTMLElement;
	private readonly scroller: HTMLElement;
	private readonly space: HTMLElement;
	private readonly note: HTMLElement;
	private readonly table: HTMLElement;

	private source: Source<T> | null = null;
	private items: T[] = [];
	private fresh: number[] = []; // of each item: the generation in which it was read
	private generation = 0;
	private next: string | undefined; // where the entries go on that were not loaded
	private loading = false;
	private problem: Problem | null = null;
	private abort = new AbortController();
	private rows = new Map<string, { item: T; index: number; element: HTMLElement }>();
	private rowHeight = 44;
	private frame = 0;
	private timer = 0;

	constructor(private readonly o: Options<T>) {
		const head = h("div", { role: "row", class: "row head" });
		for (const c of o.columns) head.append(h("span", { role: "columnheader", class: c.class }, c.title === "" ? h("span", { class: "hidden" }, "Actions") : c.title));
		this.space = h("div", { role: "presentation", class: "space" });
		this.scroller = h("div", { class: "scroller", tabindex: "0", role: "rowgroup", "aria-label": `Rows of ${o.label}` }, this.space);
		this.note = h("div", { class: "note" });
		this.table = h("div", { role: "table", class: "table", "aria-label": o.label, id: newID() }, h("div", { role: "rowgroup", class: "headgroup" }, head), this.scroller);
		this.root = h("div", { class: "tablebox" }, this.table, this.note);
		this.scroller.addEventListener("scroll", () => this.draw(), { passive: true });
		this.scroller.addEventListener("keydown", (e) => this.move(e));
		new ResizeObserver(() => this.resize()).observe(this.scroller);
	}

	// show shows the entries of another source, from the first one on.
	show(source: Source<T>): void {
		this.abort.abort();
		this.abort = new AbortController();
		this.source = source;
		this.loading = false;
		this.problem = null;
		void this.begin();
	}

	// close stops all requests.
	close(): void {
		this.abort.abort();
		clearTimeout(this.timer);
		cancelAnimationFrame(this.frame);
	}

	// stale marks all rows as old. Those that can be seen are read again.
	stale(): void {
		this.generation++;
		this.later();
	}

	// put replaces an entry that was changed here.
	put(item: T): void {
		const id = this.source!.id(item), i = this.items.findIndex((other) => this.source!.id(other) === id);
		if (i >= 0) this.items[i] = item;
		this.draw();
	}

	// remove takes an entry away that was deleted here.
	remove(id: string): void {
		const i = this.items.findIndex((item) => this.source!.id(item) === id);
		if (i < 0) return;
		this.items.splice(i, 1);
		this.fresh.splice(i, 1);
		this.draw();
		this.tell();
	}

	// summary returns how many entries there are.
	summary(): string {
		if (this.items.length === 0 && (this.loading || this.problem !== null)) return "";
		return this.next === undefined ? count(this.items.length, this.o.noun) : `${this.items.length.toLocaleString()}+ ${this.o.noun}s`;
	}

	private async begin(): Promise<void> {
		const abort = this.abort.signal, generation = this.generation;
		this.loading = true;
		this.table.setAttribute("aria-busy", "true");
		// What is there stays until the answer comes, unless it takes long.
		const slow = setTimeout(() => { this.set([], undefined, generation); this.draw(); }, 400);
		try {
			const page = await this.source!.load(undefined, pageSize, abort, false);
			if (abort.aborted) return;
			this.scroller.scrollTop = 0;
			this.set(page.items, page.next, generation);
			this.problem = null;
		} catch (err) {
			if (abort.aborted) return;
			this.set([], undefined, generation);
			this.problem = err as Problem;
		} finally {
			clearTimeout(slow);
		}
		this.loading = false;
		this.table.removeAttribute("aria-busy");
		this.tell();
		this.draw();
		announce(this.problem ? this.problem.message : this.items.length === 0 ? `No ${this.o.noun} found` : this.summary());
		if (generation !== this.generation) this.later();
	}

	private set(items: T[], next: string | undefined, generation: number): void {
		this.items = items;
		this.next = next;
		this.fresh = items.map(() => generation);
	}

	private async more(): Promise<void> {
		if (this.loading || this.next === undefined) return;
		const abort = this.abort.signal, generation = this.generation;
		this.loading = true;
		try {
			const page = await this.source!.resume(this.next, pageSize, abort);
			if (abort.aborted) return;
			this.items.push(...page.items);
			for (const _ of page.items) this.fresh.push(generation);
			this.next = page.next;
			this.problem = null;
		} catch (err) {
			if (abort.aborted) return;
			this.problem = err as Problem;
		}
		this.loading = false;
		this.tell();
		this.draw();
	}

	// later reads the stale rows that can be seen, soon.
	private later(): void {
		if (this.timer !== 0) return;
		this.timer = setTimeout(() => {
			this.timer = 0;
			void this.refresh();
		}, 250);
	}

	private async refresh(): Promise<void> {
		if (this.source === null || this.loading) return;
		if (this.problem !== null || this.items.length === 0) {
			this.show(this.source);
			return;
		}
		const abort = this.abort.signal, generation = this.generation;
		let [low, high] = this.visible();
		if (!this.fresh.slice(low, high).some((g) => g < generation)) return;
		if (low < overscan * 2) low = 0;
		const toEnd = high >= this.items.length && this.next === undefined;
		this.loading = true;
		try {
			const limit = Math.min(high - low + 20, 1000);
			const page = await this.source.load(this.items[low - 1], limit, abort, true);
			if (abort.aborted) return;
			const focused = this.focused();
			let fresh = page.items;
			if (page.next === undefined) {
				this.next = undefined;
				this.splice(low, this.items.length, fresh, generation);
			} else if (toEnd) {
				this.next = page.next;
				this.splice(low, this.items.length, fresh, generation);
			} else {
				// The answer ends somewhere among the old entries.
				const at = new Map(this.items.map((item, i) => [this.source!.id(item), i]));
				let end = -1;
				for (let i = fresh.length - 1; i >= 0 && end < 0; i--) {
					end = at.get(this.source.id(fresh[i]!)) ?? -1;
					if (end >= 0) fresh = fresh.slice(0, i + 1);
				}
				if (end < low) {
					this.next = page.next;
					this.splice(low, this.items.length, page.items, generation);
				} else {
					this.splice(low, end + 1, fresh, generation);
				}
			}
			this.tell();
			this.draw();
			focused();
		} catch {
			if (abort.aborted) return;
			// The stream says when the server is back.
		} finally {
			if (!abort.aborted) this.loading = false;
		}
		if (!abort.aborted && generation !== this.generation) this.later();
	}

	private splice(low: number, high: number, items: T[], generation: number): void {
		this.items.splice(low, high - low, ...items);
		this.fresh.splice(low, high - low, ...items.map(() => generation));
	}

	private tell(): void {
		this.o.changed?.();
	}

	private resize(): void {
		const height = parseFloat(getComputedStyle(this.scroller).getPropertyValue("--row")) || 44;
		if (height !== this.rowHeight) {
			this.scroller.scrollTop *= height / this.rowHeight;
			this.rowHeight = height;
			for (const row of this.rows.values()) row.index = -1; // each row has another place
		}
		this.draw();
	}

	// visible returns the first row that is drawn, and the row after the last one.
	private visible(): [number, number] {
		const first = Math.floor(this.scroller.scrollTop / this.rowHeight);
		const shown = Math.ceil(this.scroller.clientHeight / this.rowHeight);
		return [Math.max(0, Math.min(first, this.items.length) - overscan), Math.min(this.items.length, first + shown + overscan)];
	}

	private draw(): void {
		if (this.frame === 0) this.frame = requestAnimationFrame(() => { this.frame = 0; this.drawNow(); });
	}

	private drawNow(): void {
		if (this.source === null) return;
		const [low, high] = this.visible();
		const active = document.activeElement;
		const wanted = new Set<string>();
		const order: { id: string; index: number }[] = [];
		for (let i = low; i < high; i++) {
			const id = this.source.id(this.items[i]!);
			wanted.add(id);
			order.push({ id, index: i });
		}
		for (const [id, row] of this.rows) {
			if (wanted.has(id)) continue;
			if (row.element.contains(active)) { // whoever has the focus keeps it
				const i = this.items.findIndex((item) => this.source!.id(item) === id);
				if (i >= 0) {
					order[i < low ? "unshift" : "push"]({ id, index: i });
					continue;
				}
				this.rows.delete(id);
				row.element.remove();
				this.scroller.focus({ preventScroll: true });
				continue;
			}
			this.rows.delete(id);
			row.element.remove();
		}
		let before: Element | null = this.space.firstElementChild;
		for (const { id, index } of order) {
			const item = this.items[index]!;
			let row = this.rows.get(id);
			if (row === undefined || row.item !== item) {
				const element = this.row(item);
				if (row !== undefined) {
					const label = row.element.contains(active) ? active!.getAttribute("data-part") : null;
					if (before === row.element) before = element;
					row.element.replaceWith(element);
					if (label !== null) (element.querySelector<HTMLElement>(`[data-part="${label}"]`) ?? this.scroller).focus({ preventScroll: true });
				} else {
					this.space.insertBefore(element, before);
				}
				row = { item, index: -1, element };
				this.rows.set(id, row);
			}
			if (row.index !== index) {
				row.index = index;
				row.element.style.transform = `translateY(${index * this.rowHeight}px)`;
				row.element.setAttribute("aria-rowindex", String(index + 2));
			}
			if (row.element === before) before = before.nextElementSibling;
			else if (row.element.nextElementSibling !== before) this.space.insertBefore(row.element, before);
		}
		this.space.style.height = `${this.items.length * this.rowHeight}px`;
		this.table.setAttribute("aria-rowcount", this.next === undefined ? String(this.items.length + 1) : "-1");
		this.drawNote();
		if (this.next !== undefined && this.problem === null && high > this.items.length - 100) void this.more();
		if (this.fresh.slice(low, high).some((g) => g < this.generation)) this.later();
	}

	private drawNote(): void {
		const state = this.problem ? "problem" : this.items.length > 0 ? "" : this.loading ? "loading" : this.next === undefined ? "empty" : "loading";
		const bare = state !== "" && this.items.length === 0;
		if (bare && this.scroller.contains(document.activeElement)) document.querySelector<HTMLElement>("h1")?.focus({ preventScroll: true });
		this.root.classList.toggle("bare", bare);
		if (this.note.dataset["state"] === state && state !== "problem") return;
		this.note.dataset["state"] = state;
		this.note.replaceChildren();
		if (state === "loading") {
			this.note.append(h("p", { class: "wait" }, "Loading…"));
		} else if (state === "empty") {
			this.note.append(this.o.empty());
		} else if (this.problem) {
			this.note.append(h("div", { role: "alert", class: "failed" }, h("p", {}, this.problem.message),
				button("Try again", () => {
					this.problem = null;
					if (this.items.length === 0) this.show(this.source!);
					else this.draw();
				})));
		}
	}

	private row(item: T): HTMLElement {
		const row = h("div", { role: "row", class: "row" });
		for (const c of this.o.columns) row.append(h("span", { role: "cell", class: c.class }, ...c.cell(item)));
		return row;
	}

	// focused returns a function that gives the focus back to the row that has it now.
	private focused(): () => void {
		const active = document.activeElement;
		if (!active || !this.space.contains(active)) return () => {};
		return () => {
			if (document.activeElement === document.body) this.scroller.focus({ preventScroll: true });
		};
	}

	// move moves the focus from row to row.
	private move(event: KeyboardEvent): void {
		const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
		if (step === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
		const active = document.activeElement;
		let to = Math.round(this.scroller.scrollTop / this.rowHeight);
		for (const row of this.rows.values()) if (row.element.contains(active)) to = row.index + step;
		if (to < 0 || to >= this.items.length) return;
		event.preventDefault();
		const top = to * this.rowHeight, view = this.scroller;
		if (top < view.scrollTop) view.scrollTop = top;
		if (top + this.rowHeight > view.scrollTop + view.clientHeight) view.scrollTop = top + this.rowHeight - view.clientHeight;
		this.drawNow();
		this.rows.get(this.source!.id(this.items[to]!))?.element.querySelector<HTMLElement>("[data-part=open]")?.focus({ preventScroll: true });
	}
}
