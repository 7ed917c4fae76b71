/** The answer reader of every dialect: a usage scanner over what comes in, a model restorer over what goes out. */
import type { AnswerReader, AnswerReaderOptions } from "../answer-reader.ts";
import type { Usage } from "../usage.ts";
import { ModelRestorer } from "./model-restorer.ts";
import { mergeCounts, parseCounts, type UsageCounts, usageFrom } from "./usage-fields.ts";
import { scannedKey, UsageScanner } from "./usage-scanner.ts";

const usageKey = scannedKey('"usage"');
const metaInfoKey = scannedKey('"meta_info"');

/** Memory is bounded whatever the answer's length: one usage object of at most 64 KiB, and a held tail of some hundred bytes. */
export function createAnswerReader(options: AnswerReaderOptions): AnswerReader {
  return new StreamingAnswerReader(options);
}

class StreamingAnswerReader implements AnswerReader {
  readonly #scanner: UsageScanner;
  readonly #restorer: ModelRestorer | undefined;
  readonly #asItCame: Buffer[] = [];
  #counts: UsageCounts | undefined;

  constructor(options: AnswerReaderOptions) {
    const merges = options.streaming && options.api === "anthropic-messages";
    this.#scanner = new UsageScanner(options.api === "sglang-generate" ? metaInfoKey : usageKey, (json) => {
      const counts = parseCounts(json);
      if (counts === undefined) return;
      this.#counts = merges && this.#counts !== undefined ? mergeCounts(this.#counts, counts) : counts;
    });
    const model = options.restoreModel;
    this.#restorer =
      model === undefined || model.from === model.to ? undefined : new ModelRestorer(model.from, model.to);
  }

  push(chunk: Buffer, endOfStream: boolean): readonly Buffer[] {
    this.#scanner.push(chunk);
    if (this.#restorer !== undefined) return this.#restorer.push(chunk, endOfStream);
    this.#asItCame[0] = chunk;
    return this.#asItCame;
  }

  usage(): Usage | undefined {
    return this.#counts === undefined ? undefined : usageFrom(this.#counts);
  }
}
