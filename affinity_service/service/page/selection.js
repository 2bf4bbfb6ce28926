// The tasks that the reader has picked, known to every panel.

export class Selection extends EventTarget {
  #picked = new Set();

  get tasks() {
    return [...this.#picked];
  }

  has(task) {
    return this.#picked.has(task);
  }

  toggle(task, on = !this.#picked.has(task)) {
    if (on === this.#picked.has(task)) return;
    if (on) this.#picked.add(task);
    else this.#picked.delete(task);
    this.dispatchEvent(new Event("change"));
  }

  set(tasks) {
    this.#picked = new Set(tasks);
    this.dispatchEvent(new Event("change"));
  }
}
