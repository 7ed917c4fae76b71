/**
 * When the first signs of an answer come through Envoy, against the prefill that they tell the end of: the headers of a stream come before it in
 * an aggregated layout, so that only the first byte of the body may count (docs/protocol.md has the figures).
 */
import { describe, expect, it } from "@jest/globals";
import { type Answer, send } from "./client.ts";
import { startGateway } from "./picker.ts";
import { type DynamoOptions, type DynamoStack, startDynamo } from "./stack.ts";

/** About 450 ms of prefill at a fifth of an engine's speed. */
const content = "word ".repeat(2_000);
const slow = { workers: 1, prefill: 1, decode: 1, speedup: 0.2 };

async function ask(url: string, stack: DynamoStack, stream: boolean, index: number): Promise<Answer> {
  const answer = await send(`${url}/v1/chat/completions`, {
    body: { model: stack.model, max_tokens: 4, stream, messages: [{ role: "user", content: `${index} ${content}` }] },
  });
  expect(answer.status).toBe(200);
  return answer;
}

describe.each<[string, DynamoOptions, boolean, "after prefill" | "before prefill"]>([
  ["a stream, aggregated", slow, true, "before prefill"],
  ["unary, aggregated", slow, false, "after prefill"],
  ["a stream, disaggregated", { ...slow, layout: "disaggregated" }, true, "after prefill"],
  ["unary, disaggregated", { ...slow, layout: "disaggregated" }, false, "after prefill"],
])("the headers of %s", (_, options, stream, when) => {
  it(`come ${when}, the first byte after it, when the picker counts it as done`, async () => {
    const stack = await startDynamo(options);
    try {
      const gateway = await startGateway(stack, { layout: options.layout ?? "aggregated" });
      try {
        const prefillTokens = async (): Promise<number> => {
          let sum = 0;
          for (const { router } of await gateway.sets()) {
            for (const { activePrefillTokens } of [...router.loads.prefill, ...router.loads.decode]) {
              sum += activePrefillTokens;
            }
          }
          return sum;
        };
        let isAnswered = false;
        const seen: number[] = [];
        const watching = (async () => {
          while (!isAnswered) seen.push(await prefillTokens());
        })();
        const { headersMs, firstByteMs = 0 } = await ask(gateway.url, stack, stream, 0).finally(() => {
          isAnswered = true;
        });
        await watching;
        if (process.env["FIGURES"] !== undefined) {
          process.stderr.write(`${stream} ${options.layout}: headers ${headersMs}, first byte ${firstByteMs}\n`);
        }
        expect(firstByteMs).toBeGreaterThan(300);
        if (when === "before prefill") expect(firstByteMs - headersMs).toBeGreaterThan(200);
        else expect(firstByteMs - headersMs).toBeLessThan(200);
        // Booked for most of its prefill: had the headers counted as its end, it would be seen a few times only.
        expect(seen.filter((tokens) => tokens > 1_000).length).toBeGreaterThan(seen.length / 3);
        await gateway.idle();
      } finally {
        await gateway.close();
      }
    } finally {
      await stack.close();
    }
  });
});
