/**
 * The tokenizer of one model. Short prompts are tokenized at once, on the loop; what would hold it, and every model that needs the native
 * tokenizer, goes to the tokenizer thread. Bounds here keep a call on the loop within about two milliseconds.
 */
import { setImmediate } from "node:timers/promises";
import type { Logger } from "../telemetry/log.ts";
import { ByteLevelTokenizer, type CutText, TooMuchWork, UnsureText } from "./bpe/byte-level-tokenizer.ts";
import { classOf } from "./bpe/character-classes.ts";
import { type ChatOptions, ChatRenderer } from "./chat/chat-renderer.ts";
import { NativeTokenizer } from "./native-tokenizer.ts";
import { type PromptTexts, readPromptInput } from "./prompt-input.ts";
import type { PromptDialect, PromptTokenizer, TokenizeOutcome } from "./prompt-tokenizer.ts";
import { TokenizerThread } from "./thread/tokenizer-thread.ts";
import { readRecord, type TokenizerFiles, textOf } from "./tokenizer-files.ts";

export interface PromptTokenizerOptions {
  /** The model's served name: logs, and families known by name. */
  readonly modelName: string;
  readonly logger: Logger;
  /** For a prompt on the thread, its waiting included. 5,000 as Dynamo's. */
  readonly timeoutMs?: number;
  /** Ids of earlier messages, on the loop and again on the thread; 0 keeps none. */
  readonly segmentCacheBytes?: number;
  /** What the model's card says of prompts. */
  readonly chat?: Partial<ChatOptions>;
  /** One a process unless a test brings its own. */
  readonly thread?: TokenizerThread;
}

const defaultTimeoutMs = 5_000;
const defaultSegmentCacheBytes = 64 * 1024 * 1024;
/** JSON of that size is read in well under a millisecond. */
const maxInlineBytes = 128 * 1024;
/** Characters outside the cache of messages: known words take about 15 ns each. */
const maxInlineUnits = 64 * 1024;
/** Characters of words never met before, which take up to 200 ns each. */
const maxInlineMergedUnits = 6 * 1024;
/** Two milliseconds of steps; the clock also runs while another process has the processor. */
const inlineTemplate = { steps: 20_000, milliseconds: 4 };

const processThread = new TokenizerThread();

/** Rejects, with the reason, when the tokenizer's files cannot be read; a chat template that cannot is logged, and chats have no tokens. */
export async function createPromptTokenizer(
  files: TokenizerFiles,
  options: PromptTokenizerOptions,
): Promise<PromptTokenizer> {
  const thread = options.thread ?? processThread;
  const chat: ChatOptions = {
    thinkingMode: undefined,
    thinksByDefault: false,
    argumentsAsObjects: false,
    isDoubtful: false,
    ...options.chat,
  };
  const segmentCacheBytes = options.segmentCacheBytes ?? defaultSegmentCacheBytes;
  const { logger, modelName } = options;
  const source = { files, name: modelName, chat, segmentCacheBytes };
  const { model, description, idLimit } = await thread.load(source, logger);
  const { tokenizer, template, templateFailure } = description;
  if (tokenizer.kind === "native") {
    logger.info({ model: modelName, reason: tokenizer.reason }, "the native tokenizer is used, on its thread");
  } else {
    logger.info({ model: modelName, vocabulary: idLimit }, "the byte-level tokenizer is used");
  }
  if (templateFailure !== undefined) {
    logger.warn(
      { model: modelName, reason: templateFailure },
      "the chat template cannot be used; chats are routed without tokens",
    );
  }
  const created = new ModelPromptTokenizer({
    thread,
    model,
    files,
    byteLevel:
      tokenizer.kind === "byte-level" ? new ByteLevelTokenizer(tokenizer.model, { segmentCacheBytes }) : undefined,
    chat: template === undefined ? undefined : new ChatRenderer(template, chat),
    vocabularySize: Math.max(idLimit, description.configuredVocabulary),
    timeoutMs: options.timeoutMs ?? defaultTimeoutMs,
  });
  if (tokenizer.kind === "byte-level") await warmUp(created);
  return created;
}

/** As many as Unicode has pages of alphabets: each round has one classed, too. */
const warmUpRounds = 0x34;

/** The first prompts would otherwise run uncompiled, some twenty times slower: a slice a turn of the loop, before the model serves. */
async function warmUp(tokenizer: PromptTokenizer): Promise<void> {
  const ignore = (): void => {};
  for (let round = 0; round < warmUpRounds; round++) {
    classOf(round << 8);
    const content =
      `${round} signals don't carry trains; they've set the points, über 1,024 times (naïve: 線路)!\n\n`.repeat(8);
    const messages = [
      { role: "user", content },
      { role: "assistant", content: `r${round}` },
      { role: "user", content: "?" },
    ];
    tokenizer.tokenize("completions", Buffer.from(JSON.stringify({ prompt: content })), ignore);
    tokenizer.tokenize("chat", Buffer.from(JSON.stringify({ messages })), ignore);
    await setImmediate();
  }
}

interface Parts {
  readonly thread: TokenizerThread;
  readonly model: number;
  readonly files: TokenizerFiles;
  readonly byteLevel: ByteLevelTokenizer | undefined;
  readonly chat: ChatRenderer | undefined;
  readonly vocabularySize: number;
  readonly timeoutMs: number;
}

const nothingToCancel = { cancel: (): void => {} };

class ModelPromptTokenizer implements PromptTokenizer {
  readonly #parts: Parts;
  #native: NativeTokenizer | undefined;

  constructor(parts: Parts) {
    this.#parts = parts;
  }

  get vocabularySize(): number {
    return this.#parts.vocabularySize;
  }

  tokenize(dialect: PromptDialect, body: Buffer, done: (outcome: TokenizeOutcome) => void): { cancel(): void } {
    const outcome = this.#tokenizeHere(dialect, body);
    if (outcome !== undefined) {
      done(outcome);
      return nothingToCancel;
    }
    const { thread, model, timeoutMs } = this.#parts;
    return thread.tokenize(model, dialect, body, timeoutMs, done);
  }

  /** Loads the native tokenizer, where that is the model's, on the loop. */
  decode(ids: Uint32Array): string {
    const { byteLevel, files } = this.#parts;
    if (byteLevel !== undefined) return byteLevel.decode(ids);
    this.#native ??= new NativeTokenizer(
      textOf(files.tokenizer),
      readRecord(files.tokenizerConfig, "tokenizer_config.json"),
    );
    return this.#native.decode(ids);
  }

  close(): Promise<void> {
    return this.#parts.thread.release(this.#parts.model);
  }

  /** Undefined: it is for the thread. */
  #tokenizeHere(dialect: PromptDialect, body: Buffer): TokenizeOutcome | undefined {
    const { byteLevel, chat, vocabularySize } = this.#parts;
    if (body.length > maxInlineBytes || byteLevel === undefined) return undefined;
    const input = readPromptInput(dialect, body, {
      chat,
      idBound: vocabularySize,
      templateBounds: inlineTemplate,
      now: new Date(),
    });
    if (input.kind === "budget") return undefined;
    return input.kind === "texts" ? encodeHere(byteLevel, input) : input;
  }
}

function encodeHere(tokenizer: ByteLevelTokenizer, input: PromptTexts): TokenizeOutcome | undefined {
  const cuts: CutText[] = [];
  let unknownUnits = 0;
  for (const text of input.texts) {
    const cut = tokenizer.cut(text);
    unknownUnits += cut.unknownUnits;
    if (unknownUnits > maxInlineUnits) return undefined;
    cuts.push(cut);
  }
  try {
    const prompts = cuts.map((cut) => {
      const ids = tokenizer.encodeCut(cut, input.withSpecialTokens, maxInlineMergedUnits / cuts.length);
      return input.maxIds === undefined ? ids : ids.subarray(0, input.maxIds);
    });
    return {
      kind: "tokens",
      prompts,
      isAuthoritative: input.isAuthoritative && prompts.length === 1 && prompts[0]?.length !== 0,
    };
  } catch (error) {
    if (error instanceof UnsureText || error instanceof TooMuchWork) return undefined;
    throw error;
  }
}
