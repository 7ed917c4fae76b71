/** Subscriptions of a worker set: one a scope and topic, for as long as a worker is in the scope, and never without bound. */
import { describe, expect, it } from "@jest/globals";
import { createEventCounters } from "../../../../src/dynamo/event-plane/event-counters.ts";
import type { EventPlane } from "../../../../src/dynamo/event-plane/event-plane.ts";
import type { EventChannelRecord, EventScope } from "../../../../src/dynamo/records.ts";
import { EventFeeds } from "../../../../src/prefill-router/fleet/event-feeds.ts";
import { silentLogger } from "../../../../src/telemetry/log.ts";

function createPlane(): { readonly plane: EventPlane; readonly told: string[]; readonly open: Set<string> } {
  const told: string[] = [];
  const open = new Set<string>();
  const plane: EventPlane = {
    isAway: false,
    counters: createEventCounters(),
    onReturn: () => () => {},
    publish: () => Promise.reject(new Error("not here")),
    close: () => Promise.resolve(),
    subscribe: ({ component }, topic) => {
      const name = `${component}/${topic}`;
      told.push(`+${name}`);
      open.add(name);
      return Promise.resolve({
        opened: ({ publisherId }) => void told.push(`${name} ${publisherId}`),
        closed: () => {},
        close: () => {
          told.push(`-${name}`);
          open.delete(name);
          return Promise.resolve();
        },
      });
    },
  };
  return { plane, told, open };
}

const scope = (component: string): EventScope => ({ namespace: "ns", component, endpoint: "generate" });
const ignore = (): void => {};
const channel = (component: string, publisherId: bigint): EventChannelRecord => ({
  type: "EventChannel",
  scope: scope(component),
  topic: "t",
  publisherId,
  transport: { kind: "zmq", endpoint: "tcp://127.0.0.1:1" },
});

describe("the feeds of a worker set", () => {
  it("subscribe once to a scope and topic, and tell it of the channels known before and after", async () => {
    const { plane, told } = createPlane();
    const feeds = new EventFeeds(plane, ({ component }) => [channel(component ?? "", 1n)], silentLogger);
    await Promise.all([feeds.hear(scope("a"), "t", ignore), feeds.hear(scope("a"), "t", ignore)]);
    feeds.opened(channel("a", 2n));
    feeds.opened(channel("b", 3n));
    await feeds.close();
    expect(told).toEqual(["+a/t", "a/t 1", "a/t 2", "-a/t"]);
  });

  it("end with the last worker of their scope, and begin again with the next", async () => {
    const { plane, told } = createPlane();
    const feeds = new EventFeeds(plane, () => [], silentLogger);
    for (const component of ["a", "b"]) await feeds.hear(scope(component), "t", ignore);
    feeds.retain([scope("b")]);
    await feeds.hear(scope("a"), "t", ignore);
    await feeds.close();
    expect(told).toEqual(["+a/t", "+b/t", "+a/t", "-a/t", "-b/t", "-a/t"]);
  });

  it("are bounded, however many scopes workers name", async () => {
    const { plane, open } = createPlane();
    let errors = 0;
    const feeds = new EventFeeds(plane, () => [], { ...silentLogger, error: () => errors++ });
    for (let index = 0; index < 1000; index++) await feeds.hear(scope(`c${index}`), "t", ignore);
    expect([open.size, errors]).toEqual([256, 1]);
    feeds.retain([scope("c0")]);
    await feeds.hear(scope("new"), "t", ignore);
    expect([...open]).toEqual(expect.arrayContaining(["c0/t", "new/t"]));
    await feeds.close();
    expect(open.size).toBe(0);
  });
});
