/** What a simulated worker says its prompts become, in vLLM's forms. */
import { afterAll, beforeAll, describe, expect, it } from "@jest/globals";
import { type RunningWorker, startWorker } from "../../../src/sim/worker/start-worker.ts";

let worker: RunningWorker;

beforeAll(async () => {
  worker = await startWorker({ host: "127.0.0.1", port: 0, servedModelNames: ["m"] });
});
afterAll(() => worker.close());

async function post(path: string, body: object): Promise<{ readonly status: number; readonly json: unknown }> {
  const response = await fetch(worker.url + path, { method: "POST", body: JSON.stringify(body) });
  return { status: response.status, json: await response.json() };
}

describe("the render endpoints of a simulated worker", () => {
  it("answer a chat with the tokens that its tokenizer makes of it", async () => {
    const body = { model: "m", messages: [{ role: "user", content: "hello" }], max_tokens: 5 };
    const rendered = await post("/v1/chat/completions/render", body);
    const tokenized = (await post("/tokenize", body)).json as { tokens: number[] };
    expect(rendered).toMatchObject({
      status: 200,
      json: { token_ids: tokenized.tokens, features: null, model: "m", sampling_params: { max_tokens: 5 } },
    });
  });

  it("answer completions with one object a prompt", async () => {
    const { json } = await post("/v1/completions/render", { prompt: ["a", [1, 2]] });
    expect((json as { token_ids: number[] }[]).map(({ token_ids }) => token_ids.length)).toEqual([1, 2]);
  });

  it("refuse what the engine would refuse", async () => {
    expect(await post("/v1/chat/completions/render", { model: "m" })).toMatchObject({
      status: 400,
      json: { error: { param: "messages" } },
    });
  });
});
