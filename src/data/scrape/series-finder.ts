/**
 * Finds the samples of a few metric names in a page without reading the rest of it. A metrics page hardly changes its shape between two
 * scrapes, so the finder remembers where each run of lines of a name began and looks there first; when one is not there, and every two
 * seconds in any case, it searches the whole page.
 */
import { readSample, Sample } from "./exposition.ts";

export interface SampleSink {
  /** A page begins, or begins again: forget what was told of it. */
  begin(): void;
  /** One sample of the wanted name of this index; `sample` is valid until the call returns. */
  sample(name: number, page: Buffer, sample: Sample): void;
}

export interface WantedName {
  readonly name: string;
  /** Constant over an engine's life (cache geometry): read only when the whole page is searched. */
  readonly isConstant: boolean;
}

/** A name that appears anew, or again elsewhere in the page, is seen in the first page after this time. A search costs some twenty times as much as looking at known places. */
const searchEveryMs = 2_000;
/** How far before its expected place a run is looked for. */
const searchBackBytes = 512;

/** Lines of wanted names read from one page: far more than any engine has, few enough that a lying page cannot hold the event loop. */
const maxLines = 10_000;

const lf = 10;

interface Run {
  readonly name: number;
  /** Offset of its first line in the last page. */
  offset: number;
}

/** One for each endpoint and engine: it remembers one page's shape. */
export class SeriesFinder {
  readonly #names: readonly WantedName[];
  readonly #bytes: readonly Buffer[];
  /** The name with the line break before it. */
  readonly #needles: readonly Buffer[];
  readonly #sample = new Sample();
  /** In page order, constant names left out. */
  #runs: readonly Run[] = [];
  #searchAtMs = Number.NEGATIVE_INFINITY;
  #linesLeft = 0;

  constructor(names: readonly WantedName[]) {
    this.#names = names;
    this.#bytes = names.map(({ name }) => Buffer.from(name, "latin1"));
    this.#needles = names.map(({ name }) => Buffer.from(`\n${name}`, "latin1"));
  }

  /**
   * Tells the sink every sample of the wanted names. Returns whether the whole page was searched, constant names included. `nowMs` is of a
   * monotonic clock.
   */
  read(page: Buffer, nowMs: number, sink: SampleSink): boolean {
    sink.begin();
    if (nowMs < this.#searchAtMs && this.#readAtKnownPlaces(page, sink)) return false;
    sink.begin();
    this.#search(page, sink);
    this.#searchAtMs = nowMs + searchEveryMs;
    return true;
  }

  #readAtKnownPlaces(page: Buffer, sink: SampleSink): boolean {
    let drift = 0;
    let end = 0;
    this.#linesLeft = maxLines;
    for (const run of this.#runs) {
      const offset = this.#locate(page, run.name, run.offset + drift);
      // Before the end of the run before it: runs have merged or changed places, and lines would be read twice.
      if (offset < end) return false;
      drift = offset - run.offset;
      run.offset = offset;
      end = this.#readRun(page, offset, run.name, sink);
    }
    return true;
  }

  /** The first line of the run of a name that is expected at an offset; -1 when it is not near. */
  #locate(page: Buffer, name: number, expected: number): number {
    let offset = expected;
    if (!this.#isLineOf(page, expected, name)) {
      offset = this.#findFrom(page, name, Math.max(0, expected - searchBackBytes));
      if (offset < 0) return -1;
    }
    // Lines of the run may have come in before the one that was first.
    for (;;) {
      if (offset < 2) return offset;
      const before = page.lastIndexOf(lf, offset - 2) + 1;
      if (!this.#isLineOf(page, before, name)) return offset;
      offset = before;
    }
  }

  #search(page: Buffer, sink: SampleSink): void {
    const runs: Run[] = [];
    this.#linesLeft = maxLines;
    for (let name = 0; name < this.#names.length; name++) {
      let offset = this.#isLineOf(page, 0, name) ? 0 : this.#findFrom(page, name, 0);
      while (offset >= 0 && this.#linesLeft > 0) {
        if (this.#names[name]?.isConstant === false) runs.push({ name, offset });
        const end = this.#readRun(page, offset, name, sink);
        // One byte back: the line break before a following line is part of what is searched for.
        offset = this.#findFrom(page, name, end - 1);
      }
    }
    this.#runs = runs.sort((a, b) => a.offset - b.offset);
  }

  /** Start of the first line of the name after the line break at or after `from`; -1 when there is none. */
  #findFrom(page: Buffer, name: number, from: number): number {
    const needle = this.#needles[name];
    if (needle === undefined) return -1;
    let at = page.indexOf(needle, from);
    while (at >= 0 && !isNameEnd(page[at + needle.length])) at = page.indexOf(needle, at + needle.length);
    return at < 0 ? -1 : at + 1;
  }

  /** Reads lines of the name from `offset` until another line comes; returns its start. */
  #readRun(page: Buffer, offset: number, name: number, sink: SampleSink): number {
    const length = this.#bytes[name]?.length ?? 0;
    let at = offset;
    do {
      if (readSample(page, at + length, this.#sample)) sink.sample(name, page, this.#sample);
      at = this.#sample.next;
      this.#linesLeft--;
    } while (at < page.length && this.#linesLeft > 0 && this.#isLineOf(page, at, name));
    return at;
  }

  #isLineOf(page: Buffer, at: number, name: number): boolean {
    const bytes = this.#bytes[name];
    if (bytes === undefined || at < 0 || (at > 0 && page[at - 1] !== lf)) return false;
    // From its end: names differ there.
    for (let index = bytes.length - 1; index >= 0; index--) {
      if (page[at + index] !== bytes[index]) return false;
    }
    return isNameEnd(page[at + bytes.length]);
  }
}

function isNameEnd(byte: number | undefined): boolean {
  return byte === 123 || byte === 32 || byte === 9;
}
