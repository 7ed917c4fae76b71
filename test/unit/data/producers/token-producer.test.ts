import { describe, expect, it } from "@jest/globals";
import { promptTokensKey } from "../../../../src/data/attributes.ts";
import { TokenProducer, tokenProducerDefinition } from "../../../../src/data/producers/token-producer.ts";
import { requestOf, textRequest } from "./pool.ts";

describe("token-producer", () => {
  it("estimates four bytes of prompt text a token, over all prompts and none of the rest of the body", () => {
    const request = textRequest(["x".repeat(41), "y".repeat(20)]);
    void new TokenProducer().produce(request);
    expect(request.promptTokens).toBe(16);
    expect(request.attribute(promptTokensKey)).toBeUndefined();
  });

  it("counts token ids exactly and publishes them", () => {
    const ids = [Uint32Array.of(1, 2, 3), Uint32Array.of(4)];
    const request = requestOf({ kind: "tokens", chains: ids }, { body: Buffer.alloc(400) });
    void new TokenProducer().produce(request);
    expect(request.promptTokens).toBe(4);
    expect(request.attribute(promptTokensKey)).toEqual({ ids, exact: true });
  });

  it("leaves the guess from the body's length where no prompt can be read", () => {
    const request = requestOf({ kind: "opaque" }, { body: Buffer.alloc(400) });
    void new TokenProducer().produce(request);
    expect(request.promptTokens).toBe(100);
  });

  it.each([
    [{}, []],
    [{ estimate: {} }, []],
    [{ vllm: { url: "http://localhost:8000" } }, []],
    [{ modelName: "m", udsTokenizerConfig: {} }, ["udsTokenizerConfig"]],
    [{ estimate: { image: {}, video: {} } }, ["estimate.image", "estimate.video"]],
  ])("refuses of %j what is not built yet", (parameters, refused) => {
    const faults = tokenProducerDefinition.validate?.(parameters) ?? [];
    expect(faults.map((fault) => fault.split(":")[0])).toEqual(refused);
    expect(faults.every((fault) => fault.includes("not built yet"))).toBe(true);
  });
});
