// The log of the client, newest first, and what the page itself has to say of the connection.

import { byId, make, setText } from "./dom.js";

const LINES = 1000;
/** As many as the client keeps. */
const LEVELS = { debug: 10, info: 20, warning: 30, error: 40, critical: 50 };

export class Log {
  constructor() {
    this.list = byId("log-lines");
    this.entries = [];
    for (const id of ["log-level", "log-filter"]) byId(id).addEventListener("input", () => this.filter());
  }

  /** The whole of GET /v1/log, in place of what was there. */
  load(reply) {
    const own = this.entries.filter((entry) => !entry.number);
    this.entries = [];
    this.list.replaceChildren();
    this.last = 0;
    const lines = [...reply.lines, ...own].sort((one, other) => one.at - other.at);
    for (const line of lines) this.add(line);
    this.note();
  }

  /** A line of the client, or with number 0 of the page. */
  add(line) {
    if (line.number && line.number <= this.last) return;
    this.last = line.number || this.last;
    const time = new Date(line.at * 1000);
    const element = make(
      "li",
      { class: line.level },
      make(
        "time",
        { datetime: time.toISOString(), title: time.toLocaleString() },
        time.toLocaleTimeString([], { hour12: false }),
      ),
      make("span", { class: "level" }, line.number ? line.level : "page"),
      make("span", { class: "text" }, line.text),
    );
    const entry = { ...line, element };
    this.entries.push(entry);
    element.hidden = !this.wanted(entry);
    this.list.prepend(element);
    if (this.entries.length > LINES) this.entries.shift().element.remove();
  }

  /** What the page has to say. */
  tell(text, level = "info") {
    this.add({ number: 0, at: Date.now() / 1000, level, text });
    this.note();
  }

  wanted({ level, text }) {
    return (
      LEVELS[level] >= Number(byId("log-level").value) &&
      text.toLowerCase().includes(byId("log-filter").value.toLowerCase())
    );
  }

  filter() {
    for (const entry of this.entries) entry.element.hidden = !this.wanted(entry);
    this.note();
  }

  note() {
    const shown = this.entries.filter((entry) => !entry.element.hidden).length;
    setText(
      byId("log-note"),
      shown < this.entries.length
        ? `${shown} of ${this.entries.length} lines, newest first`
        : `${shown} lines, newest first`,
    );
  }
}
