import { fileURLToPath } from "node:url";
import { afterEach, describe, expect, it } from "@jest/globals";
import { promptTokensKey } from "../../../../src/data/attributes.ts";
import { createLocalBackend, LocalTokenBackend } from "../../../../src/data/producers/token-local-backend.ts";
import { TokenProducer } from "../../../../src/data/producers/token-producer.ts";
import { silentLogger } from "../../../../src/telemetry/log.ts";
import type { PromptTokenizer, TokenizeOutcome } from "../../../../src/tokens/prompt-tokenizer.ts";
import { requestOf } from "./pool.ts";

const folder = fileURLToPath(new URL("../../../fixtures/dynamo/model", import.meta.url));
const open: { close(): Promise<void> }[] = [];

afterEach(async () => {
  for (const closable of open.splice(0)) await closable.close();
});

const completion = (text = "hello hello") =>
  requestOf({ kind: "opaque" }, { body: Buffer.from(JSON.stringify({ model: "m", prompt: text })) });

/** A tokenizer that answers when told. */
function waiting(): {
  tokenizer: PromptTokenizer;
  readonly answer: (outcome: TokenizeOutcome) => void;
  readonly cancelled: boolean;
} {
  let done: ((outcome: TokenizeOutcome) => void) | undefined;
  let cancelled = false;
  return {
    tokenizer: {
      tokenize: (_dialect, _body, callback) => {
        done = callback;
        return {
          cancel: () => {
            cancelled = true;
          },
        };
      },
      decode: () => "",
      vocabularySize: 1,
      close: () => Promise.resolve(),
    },
    answer: (outcome) => done?.(outcome),
    get cancelled() {
      return cancelled;
    },
  };
}

describe("tokens of a local model", () => {
  it("are exact, and at once when the tokenizer is there", async () => {
    const backend = createLocalBackend({ folder, modelName: "m", timeoutMs: 5000, log: silentLogger });
    open.push(backend);
    const producer = new TokenProducer(backend);
    const first = completion();
    await producer.produce(first);
    expect(first.attribute(promptTokensKey)?.exact).toBe(true);
    const second = completion();
    expect(producer.produce(second)).toBeUndefined();
    expect(second.attribute(promptTokensKey)).toEqual(first.attribute(promptTokensKey));
    expect(second.promptTokens).toBe(first.attribute(promptTokensKey)?.ids[0]?.length);
  });

  it("need a folder with a tokenizer.json", () => {
    const options = { folder: `${folder}/none`, modelName: "m", timeoutMs: 1, log: silentLogger };
    expect(() => createLocalBackend(options)).toThrow(/holds no tokenizer\.json/);
  });

  it("are done without when the tokenizer cannot be loaded", async () => {
    const producer = new TokenProducer(new LocalTokenBackend(Promise.reject(new Error("bad")), 10, silentLogger));
    const request = completion();
    await producer.produce(request);
    expect(request.attribute(promptTokensKey)).toBeUndefined();
    expect(producer.failures).toBe(1);
    await producer.close();
  });

  it.each<[TokenizeOutcome, number]>([
    [{ kind: "none" }, 0],
    [{ kind: "invalid", message: "m" }, 1],
    [{ kind: "timeout", message: "m" }, 1],
    [{ kind: "failed", message: "m" }, 1],
  ])("are done without when a long prompt ends as %j", async (outcome, failures) => {
    const { tokenizer, answer } = waiting();
    const producer = new TokenProducer(new LocalTokenBackend(Promise.resolve(tokenizer), 10, silentLogger));
    const request = completion();
    const producing = producer.produce(request);
    await new Promise((resolve) => setImmediate(resolve));
    answer(outcome);
    await producing;
    expect(request.attribute(promptTokensKey)).toBeUndefined();
    expect(producer.failures).toBe(failures);
  });

  it("stop being made when the producer closes", async () => {
    const slow = waiting();
    const producer = new TokenProducer(new LocalTokenBackend(Promise.resolve(slow.tokenizer), 10, silentLogger));
    const producing = producer.produce(completion());
    await new Promise((resolve) => setImmediate(resolve));
    await producer.close();
    expect(slow.cancelled).toBe(true);
    slow.answer({ kind: "none" });
    await producing;
  });
});
