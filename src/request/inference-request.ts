/**
 * The one object every layer sees: headers, body bytes as they came, what the parser found, and what routing decided about it.
 * The body is never re-serialised; a model rewrite and every other edit is a splice applied when the bytes leave.
 */
import type { ByteRange, ParsedBody } from "./parsed-body.ts";

/** Request headers by lower-case name; of a repeated header the last value wins, as in the reference. */
export type HeaderLookup = ReadonlyMap<string, string>;

/** Names a value that one plugin produces for a request and others read; compare by identity. */
export class AttributeKey<Value> {
  /** Phantom: makes keys of different value types distinct to the compiler. */
  declare readonly valueType: Value;
  readonly name: string;
  constructor(name: string) {
    this.name = name;
  }
}

/** Bytes that take the place of a range of the body when it leaves. */
export interface BodyEdit extends ByteRange {
  readonly bytes: Buffer;
}

const noBody = Buffer.alloc(0);
const noEdits: readonly BodyEdit[] = Object.freeze([]);

export class InferenceRequest {
  /** x-request-id, kept or minted. Clients may repeat one: never a key for bookings. */
  readonly id: string;
  readonly method: string;
  /** Path without the query. */
  readonly path: string;
  readonly headers: HeaderLookup;
  readonly parsed: ParsedBody;
  /** Milliseconds of the monotonic clock (performance.now()) at which the request's headers arrived. */
  readonly receivedAtMs: number;

  /** The model that leaves: equal to parsed.model until a rewrite changes it. Set by routing. */
  targetModel: string;
  /** Name of the InferenceObjective, "" when none was named. Set by routing. */
  objective = "";
  /** Higher is more important; negative is sheddable. Set by routing. */
  priority = 0;
  fairnessId = "default-flow";
  /** Estimated or exact prompt tokens; set by a token producer, before that body bytes / 4. */
  promptTokens: number;

  #body: Buffer;
  #edits: BodyEdit[] | undefined;
  readonly #attributes = new Map<AttributeKey<unknown>, unknown>();

  constructor(init: {
    readonly id: string;
    readonly method: string;
    readonly path: string;
    readonly headers: HeaderLookup;
    readonly body: Buffer;
    readonly parsed: ParsedBody;
    readonly receivedAtMs: number;
  }) {
    this.id = init.id;
    this.method = init.method;
    this.path = init.path;
    this.headers = init.headers;
    this.#body = init.body;
    this.parsed = init.parsed;
    this.receivedAtMs = init.receivedAtMs;
    this.targetModel = init.parsed.model;
    this.promptTokens = Math.ceil(init.body.length / 4);
  }

  /** Contiguous body as the client sent it; empty for a header-only request and once released. The request owns it. */
  get body(): Buffer {
    return this.#body;
  }

  /** Drops the body: it has left and an answer is coming, which may take minutes. Ranges in `parsed` point at nothing afterwards. */
  releaseBody(): void {
    this.#body = noBody;
    this.#edits = undefined;
  }

  /** Replaces a range of the body when it leaves; an empty range inserts. Ranges of several edits must not overlap, nor touch a model name. */
  edit(edit: BodyEdit): void {
    this.#edits ??= [];
    this.#edits.push(edit);
  }

  get edits(): readonly BodyEdit[] {
    return this.#edits ?? noEdits;
  }

  attribute<Value>(key: AttributeKey<Value>): Value | undefined {
    return this.#attributes.get(key) as Value | undefined;
  }

  setAttribute<Value>(key: AttributeKey<Value>, value: Value): void {
    this.#attributes.set(key, value);
  }
}
