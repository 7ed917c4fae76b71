/** The tokenizer thread: reads models' files, which takes long, and tokenizes what is too long for the loop. One job after the other. */
import { type MessagePort, parentPort } from "node:worker_threads";
import { ByteLevelTokenizer, UnsureText } from "../bpe/byte-level-tokenizer.ts";
import { ChatRenderer } from "../chat/chat-renderer.ts";
import { NativeTokenizer } from "../native-tokenizer.ts";
import { type PromptTexts, readPromptInput } from "../prompt-input.ts";
import type { PromptDialect, TokenizeOutcome } from "../prompt-tokenizer.ts";
import { describeModel, type ModelDescription, readRecord, textOf } from "../tokenizer-files.ts";
import type { ModelSource, ThreadAnswer, ThreadRequest } from "./protocol.ts";

/** The time-out of the job bounds it. */
const templateBounds = { steps: Number.POSITIVE_INFINITY, milliseconds: Number.POSITIVE_INFINITY };
const maxPromptUnits = 256 * 1024 * 1024;

class ThreadModel {
  readonly #source: ModelSource;
  readonly #byteLevel: ByteLevelTokenizer | undefined;
  readonly #chat: ChatRenderer | undefined;
  readonly #description: ModelDescription;
  #native: NativeTokenizer | undefined;

  constructor(source: ModelSource, description: ModelDescription) {
    this.#source = source;
    this.#description = description;
    const { tokenizer, template } = description;
    this.#byteLevel = tokenizer.kind === "byte-level" ? new ByteLevelTokenizer(tokenizer.model, source) : undefined;
    this.#chat = template === undefined ? undefined : new ChatRenderer(template, source.chat);
  }

  get idLimit(): number {
    return this.#byteLevel?.model.idLimit ?? this.#nativeTokenizer().idLimit;
  }

  async tokenize(dialect: PromptDialect, body: Buffer): Promise<TokenizeOutcome> {
    const input = readPromptInput(dialect, body, {
      chat: this.#chat,
      idBound: Math.max(this.idLimit, this.#description.configuredVocabulary),
      templateBounds,
      now: new Date(),
    });
    if (input.kind === "budget") return { kind: "failed", message: "the chat template does not end" };
    if (input.kind !== "texts") return input;
    return this.#encodeAll(input);
  }

  async #encodeAll(input: PromptTexts): Promise<TokenizeOutcome> {
    const prompts: Uint32Array[] = [];
    for (const text of input.texts) {
      if (text.length > maxPromptUnits) return { kind: "failed", message: "the prompt is too long to be tokenized" };
      const ids = await this.#encode(text, input.withSpecialTokens);
      prompts.push(input.maxIds === undefined ? ids : ids.slice(0, input.maxIds));
    }
    const isAuthoritative = input.isAuthoritative && prompts.length === 1 && prompts[0]?.length !== 0;
    return { kind: "tokens", prompts, isAuthoritative };
  }

  async #encode(text: string, withSpecialTokens: boolean): Promise<Uint32Array> {
    if (this.#byteLevel !== undefined) {
      try {
        return this.#byteLevel.encode(text, withSpecialTokens);
      } catch (error) {
        if (!(error instanceof UnsureText)) throw error;
      }
    }
    return this.#nativeTokenizer().encode(text.toWellFormed(), withSpecialTokens);
  }

  #nativeTokenizer(): NativeTokenizer {
    const { files } = this.#source;
    this.#native ??= new NativeTokenizer(
      textOf(files.tokenizer),
      readRecord(files.tokenizerConfig, "tokenizer_config.json"),
    );
    return this.#native;
  }
}

function serve(port: MessagePort): void {
  const models = new Map<number, ThreadModel>();
  const answer = (message: ThreadAnswer, transfer: ArrayBuffer[] = []): void => port.postMessage(message, transfer);
  const handle = async (request: ThreadRequest): Promise<void> => {
    switch (request.kind) {
      case "load": {
        const description = describeModel(request.source.files, request.source.name);
        const model = new ThreadModel(request.source, description);
        models.set(request.model, model);
        answer({ kind: "loaded", job: request.job, description, idLimit: model.idLimit });
        return;
      }
      case "adopt":
        models.set(request.model, new ThreadModel(request.source, request.description));
        return;
      case "forget":
        models.delete(request.model);
        return;
      case "tokenize": {
        const body = Buffer.from(request.body.buffer, request.body.byteOffset, request.body.byteLength);
        const outcome = await models.get(request.model)?.tokenize(request.dialect, body);
        if (outcome === undefined) throw new Error("the model is not loaded");
        const buffers = outcome.kind === "tokens" ? outcome.prompts.map((ids) => ids.buffer) : [];
        answer({ kind: "outcome", job: request.job, outcome }, [...new Set(buffers as ArrayBuffer[])]);
        return;
      }
      default: {
        const never: never = request;
        throw new Error(String(never));
      }
    }
  };
  port.on("message", (request: ThreadRequest) => {
    handle(request).catch((error: unknown) => {
      if (!("job" in request)) throw error;
      answer({ kind: "failed", job: request.job, message: error instanceof Error ? error.message : String(error) });
    });
  });
}

if (parentPort !== null) serve(parentPort);
