import { describe, expect, it } from "@jest/globals";
import { InflightLimit } from "../../../../src/prefill-router/plugin/inflight-limit.ts";

describe("the bound of requests in flight", () => {
  it("gives so many places, and a place again when one was left, once however often", () => {
    const limit = new InflightLimit(2);
    const first = limit.take();
    const second = limit.take();
    expect([second === undefined, limit.take()]).toEqual([false, undefined]);
    first?.leave();
    first?.leave();
    expect(limit.count).toBe(1);
    expect(limit.take()).toBeDefined();
    expect(limit.take()).toBeUndefined();
  });
});
