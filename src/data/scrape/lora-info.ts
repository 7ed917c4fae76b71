/**
 * Adapters of an engine from its info series, whose labels hold the lists and whose value is the time of the last change. Engines leave old
 * label sets behind: of each engine's series the newest counts, and engines behind one port are united.
 */
import { labelValue, type Sample } from "./exposition.ts";

const engineLabel = "engine";
/** More engines behind one port than this are a lying page. */
const maxEngines = 64;
/** Adapters read from one list. */
const maxAdapters = 4096;
const none: ReadonlySet<string> = new Set();

interface Newest {
  value: number;
  running: string;
  waiting: string;
  slots: string;
}

export class LoraInfo {
  readonly #engines = new Map<string, Newest>();
  #running = "";
  #waiting = "";
  active: ReadonlySet<string> = none;
  waiting: ReadonlySet<string> = none;
  slots = 0;

  /** A page begins. */
  begin(): void {
    this.#engines.clear();
  }

  add(page: Buffer, { labelsStart, labelsEnd, value }: Sample): void {
    const engine = labelValue(page, labelsStart, labelsEnd, engineLabel) ?? "";
    const newest = this.#engines.get(engine);
    if (newest !== undefined && newest.value > value) return;
    if (newest === undefined && this.#engines.size >= maxEngines) return;
    this.#engines.set(engine, {
      value,
      running: labelValue(page, labelsStart, labelsEnd, "running_lora_adapters") ?? "",
      waiting: labelValue(page, labelsStart, labelsEnd, "waiting_lora_adapters") ?? "",
      slots: labelValue(page, labelsStart, labelsEnd, "max_lora") ?? "",
    });
  }

  /** Folds the page's series into the fields; sets stay the same objects while nothing changes. */
  finish(): void {
    let running = "";
    let waiting = "";
    let slots = 0;
    for (const newest of this.#engines.values()) {
      running = running === "" ? newest.running : `${running},${newest.running}`;
      waiting = waiting === "" ? newest.waiting : `${waiting},${newest.waiting}`;
      const own = Number(newest.slots);
      if (own > 0 && Number.isSafeInteger(own)) slots += own;
    }
    this.slots = slots;
    if (running !== this.#running) {
      this.#running = running;
      this.active = adaptersOf(running);
    }
    if (waiting !== this.#waiting) {
      this.#waiting = waiting;
      this.waiting = adaptersOf(waiting);
    }
  }
}

function adaptersOf(list: string): ReadonlySet<string> {
  const adapters = new Set<string>();
  for (const part of list.split(",")) {
    const adapter = part.trim();
    if (adapter !== "") adapters.add(adapter);
    if (adapters.size >= maxAdapters) break;
  }
  return adapters;
}
