/** Reads an engine's answer as it streams past: usage out of it, and the client's model name back into it. */
import type { ApiName } from "./parsed-body.ts";
import type { Usage } from "./usage.ts";

export interface AnswerReaderOptions {
  readonly api: ApiName;
  /** text/event-stream; else one JSON document. */
  readonly streaming: boolean;
  /** Undefined when the model was not rewritten. */
  readonly restoreModel: { readonly from: string; readonly to: string } | undefined;
}

export interface AnswerReader {
  /**
   * Takes the next bytes and returns what to send on in their place: the same view when nothing is changed. Where a model name may be split
   * over chunks, the undecided tail (bounded by the pattern's length) is held back until the next push; with endOfStream nothing is. The
   * list may be empty; it is reused and valid until the next push, the bytes for as long as they are referenced.
   */
  push(chunk: Buffer, endOfStream: boolean): readonly Buffer[];
  /** What has been reported so far. */
  usage(): Usage | undefined;
}
