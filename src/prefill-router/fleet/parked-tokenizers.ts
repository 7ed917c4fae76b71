/**
 * Tokenizers of worker sets that have gone, kept for a while: workers whose leases all expired at once (a store that was away, a network that
 * was cut) register again within seconds, and must not wait until a vocabulary has been read anew. Bounded in number and in time.
 */
import type { PromptTokenizer } from "../../tokens/prompt-tokenizer.ts";

export interface ParkedTokenizersInit {
  /** A tokenizer that nobody came back for could not be closed. */
  readonly closeFailed: (error: unknown) => void;
  readonly keepMs?: number;
  readonly capacity?: number;
}

/** Longer than any lease of Dynamo's (etcd 10 s, files 10 s) and the pauses of clients that seek their store again (30 s). */
const defaultKeepMs = 120_000;
/** One may take hundreds of megabytes. */
const defaultCapacity = 4;

interface Parked {
  readonly tokenizer: PromptTokenizer;
  readonly timer: NodeJS.Timeout;
}

export class ParkedTokenizers {
  readonly #init: ParkedTokenizersInit;
  /** Oldest first. */
  readonly #parked = new Map<string, Parked>();
  readonly #closing = new Set<Promise<void>>();

  constructor(init: ParkedTokenizersInit) {
    this.#init = init;
  }

  /** Takes it over. `key` names all that it was made of. */
  park(key: string, tokenizer: PromptTokenizer): void {
    this.#drop(key);
    const timer = setTimeout(() => this.#drop(key), this.#init.keepMs ?? defaultKeepMs).unref();
    this.#parked.set(key, { tokenizer, timer });
    const [oldest] = this.#parked.keys();
    if (oldest !== undefined && this.#parked.size > (this.#init.capacity ?? defaultCapacity)) this.#drop(oldest);
  }

  /** Hands it back, the caller's again. */
  take(key: string): PromptTokenizer | undefined {
    const parked = this.#parked.get(key);
    if (parked === undefined) return undefined;
    this.#parked.delete(key);
    clearTimeout(parked.timer);
    return parked.tokenizer;
  }

  async close(): Promise<void> {
    for (const key of this.#parked.keys()) this.#drop(key);
    await Promise.all(this.#closing);
  }

  #drop(key: string): void {
    const tokenizer = this.take(key);
    if (tokenizer === undefined) return;
    const closing: Promise<void> = tokenizer
      .close()
      .catch(this.#init.closeFailed)
      .finally(() => this.#closing.delete(closing));
    this.#closing.add(closing);
  }
}
